//! Policies → PolicyEndpoints.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use palisade::api::PolicyEndpoint;
use serde_json::json;
use tokio::time::sleep;

use crate::api_server::ApiServer;
use crate::cluster::{Cluster, read, until};
use crate::instance::{Instance, SLICE_ENTRIES};

async fn shop(cluster: &Cluster) {
    cluster.namespace("shop").await;
    cluster.namespace("ops").await;
    cluster.pod("shop", "web", "web", "10.0.1.1").await;
    for n in 1..=40 {
        cluster
            .pod("ops", &format!("client-{n}"), "client", &format!("10.0.2.{n}"))
            .await;
    }
    let clients = json!({
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{
            "from": [{"namespaceSelector": {"matchLabels": {"team": "ops"}}, "podSelector": {"matchLabels": {"app": "client"}}}],
            "ports": [{"port": "http"}],
        }],
    });
    cluster.policy("shop", "clients", clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_byte_for_byte_what_resolving_says_also_after_changes() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = Cluster::new(server.client().await).await;
    shop(&cluster).await;
    let out = json!({
        "podSelector": {}, "policyTypes": ["Egress"],
        "egress": [
            {"to": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]}}]},
            {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.2.0/25"]}}], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 8000, "endPort": 9000}]},
        ],
    });
    cluster.policy("shop", "out", out).await;
    let instance = Instance::start(server.client().await, "one");
    cluster.resolved(SLICE_ENTRIES).await;
    assert!(
        cluster.endpoints().await.len() > 4,
        "the clients take several slices"
    );

    cluster.pod("shop", "db", "db", "10.0.1.2").await;
    cluster.resolved(SLICE_ENTRIES).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}],
    }});
    cluster
        .of::<Service>("shop")
        .create(&PostParams::default(), &read(service))
        .await
        .unwrap();
    let slice = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.1.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
    });
    cluster
        .of::<EndpointSlice>("shop")
        .create(&PostParams::default(), &read(slice))
        .await
        .unwrap();
    cluster.resolved(SLICE_ENTRIES).await;
    let published = serde_json::to_string(&cluster.endpoints().await).unwrap();
    let ip = cluster
        .of::<Service>("shop")
        .get("web")
        .await
        .unwrap()
        .spec
        .unwrap()
        .cluster_ip
        .unwrap();
    assert!(published.contains(&ip), "egress to the Service is published");
    cluster.delete::<Pod>("ops", "client-7").await;
    cluster.delete::<NetworkPolicy>("shop", "out").await;
    cluster.resolved(SLICE_ENTRIES).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pods_change_rewrites_one_slice() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = Cluster::new(server.client().await).await;
    shop(&cluster).await;
    let instance = Instance::start(server.client().await, "one");
    cluster.resolved(SLICE_ENTRIES).await;
    let (before, written) = (cluster.versions().await, instance.metrics.endpoints_written.get());
    assert!(before.len() >= 4, "{before:?}");
    cluster.delete::<Pod>("ops", "client-3").await;
    cluster.resolved(SLICE_ENTRIES).await;
    let after = cluster.versions().await;
    let changed = after
        .iter()
        .filter(|(name, version)| before.get(*name) != Some(version));
    assert_eq!(changed.count(), 1, "before {before:?}, after {after:?}");
    assert_eq!(instance.metrics.endpoints_written.get() - written, 1);
    assert_eq!(instance.metrics.publish_errors.get(), 0);
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stale_is_deleted_what_is_anothers_is_left_and_what_was_tampered_with_is_restored() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = Cluster::new(server.client().await).await;
    shop(&cluster).await;
    cluster.policy("ops", "shut", json!({"podSelector": {}})).await;
    let instance = Instance::start(server.client().await, "one");
    cluster.resolved(SLICE_ENTRIES).await;
    instance.stop().await;

    // While nobody looks: a policy goes, another shrinks, and somebody writes endpoints of his own, nonsense among them.
    cluster.delete::<NetworkPolicy>("ops", "shut").await;
    for n in 4..=40 {
        cluster.delete::<Pod>("ops", &format!("client-{n}")).await;
    }
    let foreign = json!({
        "apiVersion": "networking.k8s.aws/v1alpha1", "kind": "PolicyEndpoint",
        "metadata": {"name": "by-hand", "namespace": "ops"},
        "spec": {"policyRef": {"name": "x", "namespace": "ops"}, "ingress": [{"cidr": "999.0.0.1/99"}]},
    });
    let endpoints = cluster.of::<PolicyEndpoint>("ops");
    let raw = cluster.of::<palisade::cluster::tree::Tree<PolicyEndpoint>>("ops");
    raw.patch("by-hand", &PatchParams::apply("hand"), &Patch::Apply(&foreign))
        .await
        .unwrap();

    let instance = Instance::start(server.client().await, "two");
    until("only the foreign one and one slice are left", || async {
        let raw = cluster.all::<palisade::cluster::tree::Tree<PolicyEndpoint>>();
        raw.list(&ListParams::default()).await.unwrap().items.len() == 2
    })
    .await;
    assert!(raw.get("by-hand").await.is_ok());
    kube::Api::delete(&endpoints, "by-hand", &kube::api::DeleteParams::default())
        .await
        .ok();
    cluster.resolved(SLICE_ENTRIES).await;

    let name = cluster.endpoints().await[0].metadata.name.clone().unwrap();
    let wider = json!({"spec": {"ingress": [{"cidr": "0.0.0.0/0"}]}});
    let ours = cluster.of::<palisade::cluster::tree::Tree<PolicyEndpoint>>("shop");
    ours.patch(&name, &PatchParams::default(), &Patch::Merge(wider))
        .await
        .unwrap();
    cluster.resolved(SLICE_ENTRIES).await;
    let nonsense = json!({"spec": {"ingress": [{"cidr": "0.0.0.0/99"}]}});
    ours.patch(&name, &PatchParams::default(), &Patch::Merge(nonsense))
        .await
        .unwrap();
    sleep(Duration::from_millis(300)).await;
    cluster.resolved(SLICE_ENTRIES).await;
    ours.delete(&name, &kube::api::DeleteParams::default())
        .await
        .unwrap();
    cluster.resolved(SLICE_ENTRIES).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_realised_is_an_event_and_a_condition_and_heals() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = Cluster::new(server.client().await).await;
    cluster.namespace("shop").await;
    cluster.pod("shop", "web", "web", "10.0.1.1").await;
    let named = |name| json!({"podSelector": {}, "ingress": [{"ports": [{"port": name}]}]});
    cluster.policy("shop", "named", named("nowhere")).await;
    let instance = Instance::start(server.client().await, "one");
    let condition = || async {
        let endpoint = cluster.endpoints().await.into_iter().next()?;
        let condition = endpoint.status?.conditions.into_iter().next()?;
        assert_eq!(condition.type_, "Resolved");
        Some((condition.status, condition.message))
    };
    until("the condition says so", || async {
        condition().await.is_some_and(|(status, message)| {
            status == "False" && message.contains("nowhere/TCP") && message.contains("spec.ingress[0].ports")
        })
    })
    .await;
    until("an Event says so", || async {
        let events = cluster
            .of::<Event>("shop")
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        assert!(events.len() <= 1, "each once: {events:?}");
        events.iter().any(|event| {
            let regarding = event.regarding.as_ref().unwrap();
            regarding.kind.as_deref() == Some("NetworkPolicy")
                && regarding.name.as_deref() == Some("named")
                && event.note.as_deref().is_some_and(|note| note.contains("nowhere"))
        })
    })
    .await;
    cluster.resolved(SLICE_ENTRIES).await;
    instance.stop().await;

    // Another leader does not tell it again, and clears it when it is mended.
    let instance = Instance::start(server.client().await, "two");
    until("it leads", || async { instance.leads() }).await;
    sleep(Duration::from_secs(1)).await;
    let events = cluster
        .of::<Event>("shop")
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    assert_eq!(events.len(), 1, "{events:?}");
    cluster.policy("shop", "named", named("http")).await;
    until("the condition is cleared", || async {
        condition().await == Some(("True".into(), String::new()))
    })
    .await;
    cluster.resolved(SLICE_ENTRIES).await;
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_lacks_our_fields_is_told_and_publishing_goes_on_once_it_is_ours() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let mut definitions = palisade::cluster::crds::definitions();
    let ours = definitions[0].clone();
    let version = &mut definitions[0].spec.versions[0];
    version.subresources = None;
    let schema = version.schema.as_mut().unwrap();
    let schema = schema.open_api_v3_schema.as_mut().unwrap();
    let properties = schema.properties.as_mut().unwrap();
    properties.remove("status");
    let spec = properties.get_mut("spec").unwrap();
    spec.properties.as_mut().unwrap().remove("slice");
    let cluster = Cluster::with_definitions(server.client().await, definitions.into()).await;
    cluster.namespace("shop").await;
    cluster.pod("shop", "web", "web", "10.0.1.1").await;
    cluster
        .policy("shop", "any", json!({"podSelector": {}, "ingress": [{}]}))
        .await;
    let instance = Instance::start(server.client().await, "one");
    until("it is counted", || async {
        instance.metrics.publish_errors.get() > 0
    })
    .await;
    assert_eq!(
        cluster.endpoints().await,
        [],
        "an API server refuses fields that it does not know"
    );
    let all = cluster.all::<CustomResourceDefinition>();
    let params = PatchParams::apply("test").force();
    let name = "policyendpoints.networking.k8s.aws";
    all.patch(name, &params, &Patch::Apply(ours)).await.unwrap();
    cluster.resolved(SLICE_ENTRIES).await;
    instance.stop().await;
}

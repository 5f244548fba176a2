//! `palisade check`, `explain`, `matrix` and `diff` of a cluster: what they say of a real API server is what they say of the same
//! objects in a folder, and errors name the remedy.

mod api_server;

use std::fmt::Debug;
use std::path::Path;
use std::process::{Command, Output};

use api_server::ApiServer;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use palisade::cluster::connection::Connection;
use palisade::cluster::listing;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Nothing of the caller's environment but which cluster is meant.
fn palisade(kubeconfig: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palisade"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .output()
        .expect("the binary runs")
}

fn failure(kubeconfig: &Path, arguments: &[&str]) -> String {
    let output = palisade(kubeconfig, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

async fn create<K>(client: &Client, namespace: &str, object: Value) -> K
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + Debug,
{
    let object: K = serde_json::from_value(object).expect("an object");
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &object)
        .await
        .expect("it can be created")
}

async fn pod(client: &Client, namespace: &str, name: &str, address: &str) {
    let object = json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": "node",
            "containers": [{"name": "c", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
    });
    create::<Pod>(client, namespace, object).await;
    let status = json!({"status": {
        "phase": "Running", "hostIP": "192.0.2.1", "podIP": address, "podIPs": [{"ip": address}],
    }});
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(status);
    pods.patch_status(name, &PatchParams::default(), &patch)
        .await
        .expect("a status");
}

async fn shop(client: &Client) {
    for name in ["shop", "ops"] {
        let object = json!({"metadata": {"name": name, "labels": {"team": name}}});
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(object).expect("a namespace");
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .expect("it can be created");
    }
    pod(client, "shop", "web", "10.0.1.1").await;
    pod(client, "shop", "db", "10.0.1.2").await;
    for n in 1..=5 {
        pod(client, "ops", &format!("client-{n}"), &format!("10.0.2.{n}")).await;
    }
    let service = json!({"metadata": {"name": "db"}, "spec": {"selector": {"app": "db"}, "ports": [{"port": 5432, "targetPort": 8080}]}});
    create::<Service>(client, "shop", service).await;
    let slice = json!({
        "metadata": {"name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.1.2"]}], "ports": [{"port": 8080, "name": ""}],
    });
    create::<EndpointSlice>(client, "shop", slice).await;
    let web = json!({"metadata": {"name": "web"}, "spec": {
        "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "ops"}}}], "ports": [{"port": "http"}]}],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": 8080}]}],
    }});
    create::<NetworkPolicy>(client, "shop", web).await;
    let unresolved = json!({"metadata": {"name": "unresolved"}, "spec": {
        "podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [{"port": "none"}]}, {"from": [{"podSelector": {}}]}],
    }});
    create::<NetworkPolicy>(client, "shop", unresolved).await;
}

async fn write<K>(client: &Client, folder: &Path, api_version: &str, kind: &str)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let listed = api.list(&ListParams::default()).await.expect("a list");
    let as_written = |object: &K| {
        let mut object = serde_json::to_value(object).expect("JSON");
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        serde_json::to_string(&object).expect("JSON")
    };
    let documents: Vec<String> = listed.items.iter().map(as_written).collect();
    std::fs::write(folder.join(format!("{kind}.yaml")), documents.join("\n---\n"))
        .expect("a writable folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_answered_for_as_a_folder_of_its_objects_is() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let client = server.client().await;
    shop(&client).await;
    let folder = tempfile::tempdir().expect("a folder");
    write::<Namespace>(&client, folder.path(), "v1", "Namespace").await;
    write::<Pod>(&client, folder.path(), "v1", "Pod").await;
    write::<Service>(&client, folder.path(), "v1", "Service").await;
    write::<EndpointSlice>(&client, folder.path(), "discovery.k8s.io/v1", "EndpointSlice").await;
    write::<NetworkPolicy>(&client, folder.path(), "networking.k8s.io/v1", "NetworkPolicy").await;
    let services: Api<Service> = Api::namespaced(client.clone(), "shop");
    let service = services.get("db").await.expect("the Service");
    let cluster_ip = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .expect("a ClusterIP");
    let from = folder.path().to_str().expect("UTF-8");
    let edited = tempfile::tempdir().expect("a folder");
    std::fs::write(
        edited.path().join("web.yaml"),
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: shop}, spec: {podSelector: {}}}",
    )
    .expect("a writable folder");
    let with = edited.path().to_str().expect("UTF-8");
    for (arguments, code) in [
        (vec!["check"], 1),
        (vec!["explain", "ops/client-1", "shop/web", "8080/TCP"], 0),
        (
            vec!["explain", "ops/client-1", "shop/db", "8080/TCP", "-o", "json"],
            0,
        ),
        (vec!["explain", "shop/web", &cluster_ip, "5432/TCP"], 0),
        (vec!["matrix", "--port", "8080/TCP", "--port", "ICMP"], 0),
        (vec!["matrix", "--port", "8080/TCP", "-o", "json"], 0),
        (vec!["diff", "--with", with], 1),
        (vec!["diff", "--delete", "shop/web", "-o", "json"], 1),
    ] {
        let live = palisade(server.kubeconfig(), &arguments);
        let of_folder = palisade(Path::new("/none"), &[&arguments[..], &["--from", from]].concat());
        assert_eq!(live.status.code(), Some(code), "{arguments:?}: {live:?}");
        assert_eq!(
            of_folder.status.code(),
            Some(code),
            "{arguments:?}: {of_folder:?}"
        );
        let text = |output: Output| String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(text(live), text(of_folder), "{arguments:?}");
    }

    let connection = Connection {
        client,
        server: "the server".to_string(),
    };
    let in_one = listing::list(&connection, 500).await.expect("a list");
    let in_pages = listing::list(&connection, 2).await.expect("a list");
    assert_eq!(in_pages, in_one);
    assert_eq!(
        (in_one.snapshot.pods.len(), in_one.snapshot.policies.len()),
        (7, 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_which_permission_or_connection_is_missing() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut kubeconfig = Kubeconfig::read_from(server.kubeconfig()).expect("a kubeconfig");
    for user in &mut kubeconfig.auth_infos {
        user.auth_info.as_mut().expect("a user").impersonate = Some("nobody".to_string());
    }
    let nobody = folder.path().join("nobody");
    std::fs::write(&nobody, serde_json::to_string(&kubeconfig).expect("JSON")).expect("a writable folder");
    let question = ["matrix", "--port", "80/TCP"];
    let refused = failure(&nobody, &question);
    for part in [
        "\"nobody\" cannot list resource",
        "(403)",
        "verb list",
        "networkpolicies.networking.k8s.io",
        "--from",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }

    let missing = failure(&folder.path().join("missing"), &question);
    for part in ["cannot tell where the API server is", "KUBECONFIG", "--from"] {
        assert!(missing.contains(part), "{part}: {missing}");
    }

    server.stop();
    let down = failure(server.kubeconfig(), &question);
    let address = format!("https://127.0.0.1:{}", server.port());
    for part in [address.as_str(), "refused", "KUBECONFIG", "--from"] {
        assert!(down.contains(part), "{part}: {down}");
    }
}

//! What changes cost the API server.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::sleep;

use crate::api_server::ApiServer;
use crate::cluster::{Cluster, until};
use crate::instance::Instance;

/// Pods of which a policy's peers are.
const PEERS: usize = 2000;
const POLICIES: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, of a minute"]
async fn what_one_pods_change_and_one_label_change_cost() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = Cluster::new(server.client().await).await;
    cluster.namespace("many").await;
    let pods = stream::iter(0..PEERS).map(|n| {
        let cluster = cluster.clone();
        async move {
            let address = format!("10.1.{}.{}", n / 250, n % 250 + 1);
            cluster.pod("many", &format!("peer-{n}"), "peer", &address).await;
        }
    });
    pods.buffer_unordered(16).collect::<Vec<()>>().await;
    cluster.pod("many", "web", "web", "10.2.0.1").await;
    let policy = |app: &str| {
        json!({
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}], "ports": [{"port": 8080}]}],
        })
    };
    cluster.policy("many", "peers", policy("peer")).await;
    for n in 0..POLICIES {
        cluster
            .policy("many", &format!("special-{n}"), policy("special"))
            .await;
    }
    let instance = Instance::with_slices(server.client().await, palisade::resolve::SLICE_ENTRIES);
    cluster.resolved(palisade::resolve::SLICE_ENTRIES).await;
    println!("slices: {}", cluster.endpoints().await.len());

    let metrics = &instance.metrics;
    let pods = cluster.of::<Pod>("many");
    let mut took = Vec::new();
    let begun_with = (
        metrics.endpoints_written.get(),
        metrics.endpoint_bytes_written.get(),
    );
    for n in 0..40 {
        let written = metrics.endpoints_written.get();
        let status = json!({"status": {"podIP": format!("10.3.0.{}", n + 1), "podIPs": [{"ip": format!("10.3.0.{}", n + 1)}]}});
        let begun = Instant::now();
        pods.patch_status("peer-7", &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
        while metrics.endpoints_written.get() == written {
            sleep(Duration::from_micros(200)).await;
        }
        took.push(begun.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    took.sort();
    println!(
        "one pod's address, 40 times: {} objects, {} bytes; from the request to the first write's answer p50 {:?}, longest {:?}",
        metrics.endpoints_written.get() - begun_with.0,
        metrics.endpoint_bytes_written.get() - begun_with.1,
        took[took.len() / 2],
        took[took.len() - 1],
    );

    let begun_with = (
        metrics.endpoints_written.get(),
        metrics.endpoint_bytes_written.get(),
    );
    let begun = Instant::now();
    let label = json!({"metadata": {"labels": {"app": "special"}}});
    pods.patch("peer-9", &PatchParams::default(), &Patch::Merge(label))
        .await
        .unwrap();
    let expected = begun_with.0 + POLICIES as u64 + 1;
    until("all are written", || async {
        metrics.endpoints_written.get() >= expected
    })
    .await;
    println!(
        "one label, {POLICIES} policies and the one that loses it: {} objects, {} bytes, {:?}",
        metrics.endpoints_written.get() - begun_with.0,
        metrics.endpoint_bytes_written.get() - begun_with.1,
        begun.elapsed(),
    );
    cluster.resolved(palisade::resolve::SLICE_ENTRIES).await;
    assert_eq!(metrics.endpoints_written.get(), expected, "and nothing else");
    instance.stop().await;
}

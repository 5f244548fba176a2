//! An API server that lets the leader do nothing, or not now.

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api_server::ApiServer;
use crate::cluster::{Cluster, until};
use crate::instance::{Instance, SLICE_ENTRIES, TTL};

const POLICIES: usize = 40;

fn named(port: &str) -> Value {
    json!({"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]})
}

async fn shop(server: &ApiServer) -> Cluster {
    let cluster = Cluster::new(server.client().await).await;
    cluster.namespace("shop").await;
    cluster.pod("shop", "web", "web", "10.0.1.1").await;
    cluster.policy("shop", "one", named("http")).await;
    cluster.policy("shop", "two", named("http")).await;
    cluster
}

/// How many times the Event of the policy was told.
async fn told(cluster: &Cluster) -> i32 {
    let events = cluster.of::<Event>("shop").list(&ListParams::default()).await;
    let events = events.unwrap().items;
    assert!(events.len() <= 1, "{events:?}");
    let counted = |event: &Event| event.series.as_ref().map_or(1, |series| series.count);
    events.first().map_or(0, counted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifests_rights_are_enough_for_all_that_a_controller_does() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = shop(&server).await;
    server.grant();
    let first = Instance::start(server.own_client().await, "first");
    cluster.resolved(SLICE_ENTRIES).await;
    let second = Instance::start(server.own_client().await, "second");
    // An Event is made, and counted when it is told again.
    cluster.policy("shop", "one", named("nowhere")).await;
    until("an Event is made", || async { told(&cluster).await == 1 }).await;
    cluster.policy("shop", "one", named("http")).await;
    cluster.resolved(SLICE_ENTRIES).await;
    cluster.policy("shop", "one", named("nowhere")).await;
    until("it is counted", || async { told(&cluster).await > 1 }).await;
    cluster.delete::<NetworkPolicy>("shop", "two").await;
    cluster.resolved(SLICE_ENTRIES).await;
    first.stop().await;
    until("the other takes over", || async { second.leads() }).await;
    cluster.policy("shop", "two", named("http")).await;
    cluster.resolved(SLICE_ENTRIES).await;
    let metrics = second.metrics.clone();
    second.stop().await;
    assert_eq!(server.forbidden(), 0.0);
    assert_eq!(
        (
            metrics.publish_errors.get(),
            metrics.watch_errors.get(),
            metrics.lease_errors.get()
        ),
        (0, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_rights_a_leader_loses_nothing_and_goes_on_when_it_has_them_again() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = shop(&server).await;
    server.grant();
    let instance = Instance::start(server.own_client().await, "one");
    cluster.resolved(SLICE_ENTRIES).await;
    let published = cluster.versions().await;

    // Its watches are open, and it has the Lease.
    server.revoke("clusterrolebinding");
    cluster
        .policy("shop", "one", json!({"podSelector": {}, "ingress": [{}]}))
        .await;
    until("it may not write", || async {
        instance.metrics.publish_errors.get() > 0
    })
    .await;
    assert!(instance.leads());
    server.grant();
    cluster.resolved(SLICE_ENTRIES).await;
    assert_eq!(cluster.versions().await.len(), published.len());

    // Its watches are cut, and then the Lease is not its to renew.
    let published = cluster.versions().await;
    server.revoke("clusterrolebinding");
    server.stop();
    server.go_on();
    let errors = instance.metrics.watch_errors.get();
    until("it leads", || async { instance.leads() }).await;
    until("it may not list", || async {
        instance.metrics.watch_errors.get() > errors + 5
    })
    .await;
    cluster.delete::<NetworkPolicy>("shop", "two").await;
    cluster.policy("shop", "one", named("http")).await;
    server.revoke("rolebinding");
    let errors = instance.metrics.lease_errors.get();
    until("its term ends", || async { !instance.leads() }).await;
    assert!(instance.metrics.lease_errors.get() > errors);
    assert_eq!(cluster.versions().await, published);
    server.grant();
    cluster.resolved(SLICE_ENTRIES).await;
    assert!(instance.leads());
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_turned_away_asks_seldom_and_goes_on_when_it_is_let_in() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = shop(&server).await;
    for n in 0..POLICIES {
        cluster.policy("shop", &format!("more-{n}"), named("http")).await;
    }
    server.grant();
    let instance = Instance::start(server.own_client().await, "one");
    cluster.resolved(SLICE_ENTRIES).await;
    let published = cluster.versions().await;
    server.turn_away();
    let begun = Instant::now();
    until("it is turned away", || async {
        instance.metrics.lease_errors.get() > 0
    })
    .await;
    assert!(instance.leads(), "its term lasts");
    // All that is to be written is turned away as well.
    for n in 0..POLICIES {
        cluster
            .policy("shop", &format!("more-{n}"), json!({"podSelector": {}}))
            .await;
    }
    until("its term ends", || async { !instance.leads() }).await;
    sleep(2 * TTL).await;
    assert_eq!(cluster.versions().await, published, "nothing moves");
    let (asked, seconds) = (server.turned_away(), begun.elapsed().as_secs_f64());
    assert!(
        asked > 0.0 && asked / seconds < 15.0,
        "{asked} requests in {seconds} s"
    );
    server.let_in();
    let let_in = Instant::now();
    cluster.resolved(SLICE_ENTRIES).await;
    println!(
        "{asked} requests in {seconds:.0} s; right again {:?} after",
        let_in.elapsed()
    );
    assert!(
        let_in.elapsed() < Duration::from_secs(15),
        "{:?}",
        let_in.elapsed()
    );
    assert!(instance.leads());
    instance.stop().await;
}

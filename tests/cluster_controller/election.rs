//! Who publishes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::sleep;

use crate::api_server::{self, ApiServer};
use crate::cluster::{Cluster, read, until};
use crate::instance::{Instance, SLICE_ENTRIES, TTL};

async fn two_policies(server: &ApiServer) -> Cluster {
    let cluster = Cluster::new(server.client().await).await;
    cluster.namespace("shop").await;
    cluster.pod("shop", "web", "web", "10.0.1.1").await;
    for name in ["one", "two"] {
        let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]});
        cluster.policy("shop", name, spec).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_leader_is_killed_another_goes_on_and_rewrites_nothing_that_is_right() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = two_policies(&server).await;
    let first = Instance::start(server.client().await, "first");
    cluster.resolved(SLICE_ENTRIES).await;
    let second = Instance::start(server.client().await, "second");
    sleep(TTL + Duration::from_secs(1)).await;
    assert!(first.leads() && !second.leads(), "the leader renews");
    let before = cluster.versions().await;

    first.kill().await;
    let killed = Instant::now();
    cluster
        .policy("shop", "two", json!({"podSelector": {}, "ingress": [{}]}))
        .await;
    cluster.resolved(SLICE_ENTRIES).await;
    let took = killed.elapsed();
    assert!(took <= TTL + Duration::from_secs(5), "{took:?}");
    assert!(
        took >= TTL - TTL / 3 - Duration::from_millis(200),
        "a live leader's Lease is not taken: {took:?}"
    );
    assert!(second.leads());
    assert_eq!(
        second.metrics.endpoints_written.get(),
        1,
        "the other one is adopted as it is"
    );
    let after = cluster.versions().await;
    assert_eq!(
        before
            .iter()
            .filter(|(name, version)| after.get(*name) == Some(version))
            .count(),
        1
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_stop_hands_over_at_once() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = two_policies(&server).await;
    let first = Instance::start(server.client().await, "first");
    until("the first leads", || async { first.leads() }).await;
    let second = Instance::start(server.client().await, "second");
    sleep(Duration::from_secs(1)).await;
    first.stop().await;
    let stopped = Instant::now();
    until("the second leads", || async { second.leads() }).await;
    assert!(stopped.elapsed() < TTL, "{:?}", stopped.elapsed());
    cluster
        .policy("shop", "two", json!({"podSelector": {}, "ingress": [{}]}))
        .await;
    cluster.resolved(SLICE_ENTRIES).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_with_null_fields_or_of_another_clock_heals() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = two_policies(&server).await;
    let leases = cluster.of::<Lease>("kube-system");
    for (name, spec) in [
        ("nothing", json!(null)),
        ("empty", json!({})),
        (
            "nobody",
            json!({"leaseDurationSeconds": 3, "leaseTransitions": 4}),
        ),
        ("half", json!({"holderIdentity": "gone"})),
        // Its holder's clock was years ahead, and it is gone.
        (
            "future",
            json!({"holderIdentity": "gone", "leaseDurationSeconds": 2, "renewTime": "2099-01-01T00:00:00.000000Z"}),
        ),
    ] {
        let lease = json!({"metadata": {"name": name}, "spec": spec});
        leases.create(&PostParams::default(), &read(lease)).await.unwrap();
        let instance = Instance::of_lease(server.client().await, "me", name);
        until(&format!("{name} heals"), || async { instance.leads() }).await;
        let spec = leases.get(name).await.unwrap().spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("me"));
        assert!(spec.renew_time.is_some() && spec.lease_transitions.is_some());
        instance.stop().await;
        let spec = leases.get(name).await.unwrap().spec.unwrap();
        assert_eq!(spec.holder_identity.unwrap_or_default(), "", "it is given back");
    }
    // Its holder's clock is years behind, and it is alive: it is not taken.
    let lease = json!({"metadata": {"name": "past"}, "spec": {
        "holderIdentity": "alive", "leaseDurationSeconds": 3, "renewTime": "2001-01-01T00:00:00.000000Z",
    }});
    leases.create(&PostParams::default(), &read(lease)).await.unwrap();
    let instance = Instance::of_lease(server.client().await, "me", "past");
    for _ in 0..6 {
        sleep(Duration::from_secs(1)).await;
        let mut lease = leases.get("past").await.unwrap();
        assert_eq!(
            lease.spec.as_ref().unwrap().holder_identity.as_deref(),
            Some("alive")
        );
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert("renewed".into(), format!("{:?}", Instant::now()));
        leases
            .replace("past", &PostParams::default(), &lease)
            .await
            .unwrap();
    }
    assert!(!instance.leads());
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_days_off_neither_ends_a_term_nor_makes_it_longer() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = two_policies(&server).await;
    let first = Instance::start(server.client().await, "first");
    until("the first leads", || async { first.leads() }).await;
    let second = Instance::start(server.client().await, "second");
    let leases = cluster.of::<Lease>("kube-system");
    // As if its clock were set again and again, or its holder's differed from all others'.
    let renewed = |hours: i64| {
        let leases = leases.clone();
        async move {
            let at = Timestamp::now() + SignedDuration::from_hours(hours);
            let spec = json!({"spec": {"renewTime": format!("{at:.6}"), "acquireTime": format!("{at:.6}")}});
            let patch = Patch::Merge(spec);
            leases
                .patch("palisade", &PatchParams::default(), &patch)
                .await
                .unwrap()
        }
    };
    let begun = Instant::now();
    while begun.elapsed() < 3 * TTL {
        for hours in [24, -24] {
            renewed(hours).await;
            sleep(TTL / 6).await;
            assert!(first.leads() && !second.leads(), "{hours} hours");
        }
    }
    assert_eq!(first.metrics.lease_errors.get(), 0);
    first.kill().await;
    let killed = Instant::now();
    let lease = renewed(24).await;
    until("the second leads", || async { second.leads() }).await;
    let took = killed.elapsed();
    assert!(took >= TTL && took <= TTL + Duration::from_secs(5), "{took:?}");
    let transitions = lease.spec.unwrap().lease_transitions.unwrap_or_default();
    let lease = leases.get("palisade").await.unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(transitions + 1));
    assert!(
        lease.renew_time.unwrap().0 < Timestamp::now() + SignedDuration::from_mins(1),
        "by its own clock"
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_leaders_do_no_harm() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = two_policies(&server).await;
    let one = Instance::of_lease(server.client().await, "one", "lease-one");
    let other = Instance::of_lease(server.client().await, "other", "lease-other");
    until("both lead", || async { one.leads() && other.leads() }).await;
    for n in 1..=20 {
        cluster
            .pod("shop", &format!("pod-{n}"), "more", &format!("10.0.3.{n}"))
            .await;
    }
    cluster.resolved(SLICE_ENTRIES).await;
    sleep(Duration::from_secs(2)).await;
    let before = cluster.versions().await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.versions().await, before, "they come to rest");
    cluster.resolved(SLICE_ENTRIES).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_was_away_longer_than_the_lease_lasts_finds_its_leader_again() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = two_policies(&server).await;
    let instance = Instance::start(server.client().await, "one");
    cluster.resolved(SLICE_ENTRIES).await;
    let before = cluster.versions().await;
    server.stop();
    sleep(TTL + Duration::from_secs(1)).await;
    server.go_on();
    assert_eq!(cluster.versions().await, before, "nothing was lost");
    cluster
        .policy("shop", "two", json!({"podSelector": {}, "ingress": [{}]}))
        .await;
    cluster.resolved(SLICE_ENTRIES).await;
    instance.stop().await;
}

/// Where the child of the next test finds its API server.
const KUBECONFIG: &str = "PALISADE_TEST_CHILD_KUBECONFIG";

/// An instance in a process of its own, which can be stopped in the middle of anything.
struct Paused(Child);

impl Paused {
    fn start(kubeconfig: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "election::an_instance_of_its_own_process", "--ignored"])
            .env(KUBECONFIG, kubeconfig)
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of the test of a paused leader"]
async fn an_instance_of_its_own_process() {
    let Some(kubeconfig) = std::env::var_os(KUBECONFIG) else {
        return;
    };
    let client = api_server::client(Path::new(&kubeconfig)).await;
    let _instance = Instance::start(client, "paused");
    sleep(Duration::from_secs(120)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_beyond_its_term_changes_nothing_when_it_wakes() {
    let Some(server) = ApiServer::start_alone() else {
        return;
    };
    let cluster = two_policies(&server).await;
    let paused = Paused::start(server.kubeconfig());
    cluster.resolved(SLICE_ENTRIES).await;
    paused.signal(Signal::STOP);
    // It wakes to these, and what it then knows is old.
    cluster
        .policy("shop", "two", json!({"podSelector": {}, "ingress": [{}]}))
        .await;
    let second = Instance::start(server.client().await, "second");
    cluster.resolved(SLICE_ENTRIES).await;
    assert!(second.leads());
    cluster.policy("shop", "two", json!({"podSelector": {}})).await;
    cluster.resolved(SLICE_ENTRIES).await;
    let (versions, written) = (cluster.versions().await, second.metrics.endpoints_written.get());
    paused.signal(Signal::CONT);
    sleep(TTL).await;
    assert_eq!(cluster.versions().await, versions);
    assert_eq!(
        second.metrics.endpoints_written.get(),
        written,
        "nothing had to be restored"
    );
    assert!(second.leads());
    let lease = cluster.of::<Lease>("kube-system").get("palisade").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("second"));
    second.stop().await;
}

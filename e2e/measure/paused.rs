//! A leader that is paused for longer than its Lease: another publishes what is written next; and it, whose knowledge is old
//! when it goes on, writes nothing. Seen by a watch from before it goes on, so that what is changed and changed back counts.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::DeleteParams;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::agents::{self, Agent, NAME, NAMESPACE};
use crate::cluster::{Cluster, PATIENCE, Space};
use crate::endpoints::Endpoints;
use crate::report::{Limit, Report, setting};

/// Beyond the lease's time: for taking it, reading the cluster, resolving and writing.
const BEYOND: Duration = Duration::from_secs(5);
/// How long a leader of old is watched after it goes on.
const WATCHED: Duration = Duration::from_secs(10);
const POLICY: &str = "changed";
const STALE: &str = "deleted-meanwhile";

fn ttl(cluster: &Cluster) -> Duration {
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), NAMESPACE);
    let lease = cluster.block_on(leases.get(NAME)).expect("the Lease");
    let seconds = lease.spec.and_then(|spec| spec.lease_duration_seconds);
    let seconds = seconds.expect("its duration");
    Duration::from_secs(u64::try_from(seconds).expect("a duration"))
}

/// A policy that opens one port; never the same port twice.
fn open(port: u16) -> Value {
    json!({
        "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"],
        "ingress": [{ "from": [{ "ipBlock": { "cidr": "198.51.100.0/24" } }], "ports": [{ "protocol": "TCP", "port": port }] }],
    })
}

fn publishes(space: &Space, endpoints: &mut Endpoints, port: u16, patience: Duration) {
    space.policy(POLICY, &open(port));
    let published = endpoints.until(patience, |now| now.opens(POLICY, port));
    assert!(
        published.is_some(),
        "port {port} was not published in {patience:?}"
    );
}

/// Lets a paused process go on also when the test fails.
struct Paused<'a>(&'a Agent);

impl<'a> Paused<'a> {
    fn new(agent: &'a Agent) -> Self {
        agent.signal(Signal::STOP);
        Self(agent)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.pid) {
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

#[test]
fn paused_leader_comes_back() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let rounds = setting("PALISADE_E2E_FAILOVERS", 5);
    agents::agents(&cluster);
    let space = cluster.space("paused");
    let mut endpoints = Endpoints::all(&cluster);
    let mut port = 8000;
    publishes(&space, &mut endpoints, port, PATIENCE);
    let ttl = ttl(&cluster);
    let (mut took, mut written, mut deleted, mut led_again, mut restarted) = (Vec::new(), 0, 0, 0, 0);
    for _ in 0..rounds {
        space.policy(STALE, &open(7999));
        let stale = endpoints.until(PATIENCE, |now| now.opens(STALE, 7999));
        assert!(stale.is_some(), "{STALE} was not published in {PATIENCE:?}");
        let leader = agents::leader(&cluster);
        let paused = Paused::new(&leader);
        let stopped = Instant::now();
        port += 1;
        publishes(&space, &mut endpoints, port, PATIENCE);
        took.push(stopped.elapsed());
        let successor = agents::leader(&cluster);
        assert_ne!(successor.pod, leader.pod, "a paused process published");
        // What the paused one knows is wrong by now: another port, and a policy that is no more.
        port += 1;
        publishes(&space, &mut endpoints, port, PATIENCE);
        cluster
            .block_on(
                space
                    .api::<NetworkPolicy>()
                    .delete(STALE, &DeleteParams::default()),
            )
            .expect("deleted");
        let gone = endpoints.until(PATIENCE, |now| now.slices(STALE).next().is_none());
        assert!(gone.is_some(), "{STALE} is still published after {PATIENCE:?}");
        drop(paused);
        let after = endpoints.during(WATCHED);
        written += after.written;
        deleted += after.deleted;
        led_again += u64::from(agents::holder(&cluster).is_none_or(|holder| holder != successor.pod));
        let now = agents::agents(&cluster);
        restarted += u64::from(now.iter().all(|agent| agent.pid != leader.pid));
    }
    let mut report = Report::new("paused");
    report.count(
        "leaders paused for longer than the Lease",
        rounds,
        Limit::AtLeast(1.0),
    );
    report.figure("ttl of the Lease", ttl.as_secs_f64(), "s", Limit::None);
    let most = Limit::AtMost((ttl + BEYOND).as_secs_f64() * 1000.0);
    report.durations("paused to a change published", &mut took, most, most);
    report.figure(
        "watched after each goes on",
        WATCHED.as_secs_f64(),
        "s",
        Limit::None,
    );
    report.count("objects written in that time", written, Limit::AtMost(0.0));
    report.count("objects deleted in that time", deleted, Limit::AtMost(0.0));
    report.count(
        "times the lease changed hands in that time",
        led_again,
        Limit::AtMost(0.0),
    );
    // A process that kubelet or itself ended would prove nothing.
    report.count(
        "processes that did not live through it",
        restarted,
        Limit::AtMost(0.0),
    );
    report.finish();
}

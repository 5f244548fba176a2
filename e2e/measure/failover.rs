//! The leader dies, or sleeps longer than its lease: another publishes, and the sleeper changes nothing when it wakes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use rustix::process::Signal;
use serde_json::json;

use crate::agents::{self, within};
use crate::cluster::{Cluster, PATIENCE, Space, apply, policy};
use crate::fake_pods;
use crate::report::{Limit, Report, setting};

/// Of the manifest's lease.
const LEASE: Duration = Duration::from_secs(15);
const MOST: f64 = 20.0;

/// PolicyEndpoints as the API server has them.
pub fn endpoints(cluster: &Cluster) -> Api<DynamicObject> {
    Api::all_with(cluster.client.clone(), &endpoint_kind())
}

pub fn endpoint_kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(
        "networking.k8s.aws",
        "v1alpha1",
        "PolicyEndpoint",
    ))
}

fn edit(space: &Space, port: u16) {
    let spec = json!({
        "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"],
        "ingress": [{ "from": [{ "podSelector": {} }], "ports": [{ "protocol": "TCP", "port": port }] }],
    });
    let api = space.api::<NetworkPolicy>();
    space
        .cluster
        .block_on(apply(&api, "server", &policy("server", &spec)));
}

/// Waits until what is published of the space's policy names the port.
fn published(space: &Space, port: u16) {
    let api =
        Api::<DynamicObject>::namespaced_with(space.cluster.client.clone(), &space.name, &endpoint_kind());
    let wanted = format!("\"port\":{port}");
    within(PATIENCE, "the change is published", || {
        let list = space.cluster.block_on(api.list(&ListParams::default())).ok()?;
        let found = list
            .items
            .iter()
            .any(|object| object.data.to_string().contains(&wanted));
        found.then_some(())
    });
}

/// Continues it also when the test fails.
struct Stopped<'a>(&'a agents::Agent);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.pid) {
            let _ = rustix::process::kill_process(pid, Signal::CONT);
        }
    }
}

#[test]
fn leader_dies_or_sleeps() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let times = setting("PALISADE_E2E_FAILOVERS", 5);
    agents::agents(&cluster);
    let space = cluster.space("failover");
    fake_pods::create(
        &space,
        0..3,
        |number| json!({ "app": if number == 0 { "server" } else { "client" } }),
    );
    let mut port = 8000;
    edit(&space, port);
    published(&space, port);

    let mut died = Vec::new();
    for _ in 0..times {
        agents::agents(&cluster);
        let leader = agents::leader(&cluster);
        leader.signal(Signal::KILL);
        let since = Instant::now();
        port += 1;
        edit(&space, port);
        published(&space, port);
        died.push(since.elapsed());
    }

    let (mut slept, mut changed) = (Vec::new(), 0);
    for _ in 0..times {
        agents::agents(&cluster);
        let leader = agents::leader(&cluster);
        let stopped = Stopped(&leader);
        leader.signal(Signal::STOP);
        let since = Instant::now();
        port += 1;
        edit(&space, port);
        published(&space, port);
        slept.push(since.elapsed());
        std::thread::sleep((LEASE + Duration::from_secs(3)).saturating_sub(since.elapsed()));
        let before = versions(&cluster);
        drop(stopped);
        std::thread::sleep(Duration::from_secs(5));
        let after = versions(&cluster);
        changed += before
            .iter()
            .filter(|(name, version)| after.get(*name) != Some(version))
            .count() as u64;
        changed += after.keys().filter(|name| !before.contains_key(*name)).count() as u64;
        let holder = agents::holder(&cluster);
        assert_ne!(holder.as_deref(), Some(leader.pod.as_str()), "a sleeper leads");
    }

    let mut report = Report::new("failover");
    let limit = Limit::AtMost(MOST * 1000.0);
    report.durations("leader killed to a change published", &mut died, limit, limit);
    report.durations("leader stopped to a change published", &mut slept, limit, limit);
    report.count("sleepers woken after their lease", times, Limit::AtLeast(1.0));
    report.count("objects that they changed", changed, Limit::AtMost(0.0));
    report.finish();
}

fn versions(cluster: &Cluster) -> BTreeMap<String, String> {
    let list = cluster.block_on(endpoints(cluster).list(&ListParams::default()));
    let objects = list.expect("endpoints").items.into_iter();
    objects
        .map(|object| {
            let of = object.metadata;
            let name = format!(
                "{}/{}",
                of.namespace.unwrap_or_default(),
                of.name.unwrap_or_default()
            );
            (name, of.resource_version.unwrap_or_default())
        })
        .collect()
}

//! What Palisade asks of a node and of the cluster: capabilities, image, rules.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::Api;

use crate::agents::{self, Agent, NAME, NAMESPACE};
use crate::cluster::Cluster;
use crate::report::{Limit, Report};

/// Bits of capabilities in /proc/PID/status: NET_ADMIN, SYS_RESOURCE, PERFMON, BPF (linux/capability.h).
const ASKED_FOR: [u32; 4] = [12, 24, 38, 39];
/// Of an image, in MB.
const IMAGE: f64 = 40.0;
/// A kubelet tells what images it has only so often.
const LISTED: Duration = Duration::from_secs(400);

#[test]
fn least_that_it_needs() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let found = agents::agents(&cluster);
    let agent = &found[0];
    let mut report = Report::new("asked-for");
    let held = capabilities(agent);
    let beyond = held.iter().filter(|bit| !ASKED_FOR.contains(bit)).count();
    report.count(
        "capabilities",
        u64::try_from(held.len()).expect("few"),
        Limit::None,
    );
    report.count(
        "of them not BPF, PERFMON, NET_ADMIN, SYS_RESOURCE",
        u64::try_from(beyond).expect("few"),
        Limit::AtMost(0.0),
    );
    report.figure(
        "image, as the node keeps it",
        image(&cluster, agent),
        "MB",
        Limit::AtMost(IMAGE),
    );
    let rules = cluster.block_on(async {
        let whole = Api::<ClusterRole>::all(cluster.client.clone())
            .get(NAME)
            .await
            .expect("the ClusterRole");
        let own = Api::<Role>::namespaced(cluster.client.clone(), NAMESPACE)
            .get_opt(NAME)
            .await
            .expect("the Role");
        [whole.rules, own.and_then(|role| role.rules)]
    });
    let rules: Vec<_> = rules.into_iter().flatten().flatten().collect();
    report.count(
        "rules that it may act by",
        u64::try_from(rules.len()).expect("few"),
        Limit::None,
    );
    let wide = rules.iter().filter(|rule| {
        let all = |names: &Vec<String>| names.iter().any(|name| name == "*");
        let secrets = |names: &Vec<String>| names.iter().any(|name| name == "secrets");
        all(&rule.verbs)
            || rule
                .resources
                .as_ref()
                .is_some_and(|names| all(names) || secrets(names))
    });
    report.count(
        "of them of any verb, of any resource or of Secrets",
        u64::try_from(wide.count()).expect("few"),
        Limit::AtMost(0.0),
    );
    report.finish();
}

/// The numbers of the effective ones.
fn capabilities(agent: &Agent) -> BTreeSet<u32> {
    let path = format!("/proc/{}/status", agent.pid);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    effective(&text)
}

fn effective(status: &str) -> BTreeSet<u32> {
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .expect("its capabilities");
    let set = u64::from_str_radix(set.trim(), 16).expect("a set of bits");
    (0..u64::BITS).filter(|bit| set >> bit & 1 == 1).collect()
}

/// MB of 10^6 bytes.
#[allow(clippy::cast_precision_loss)] // Of an image.
fn image(cluster: &Cluster, agent: &Agent) -> f64 {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), NAMESPACE);
    let pod = cluster.block_on(pods.get(&agent.pod)).expect("its pod");
    let name = pod
        .spec
        .and_then(|spec| spec.containers.first()?.image.clone())
        .expect("its image");
    let nodes = Api::<Node>::all(cluster.client.clone());
    let size = agents::within(LISTED, "the node lists the image", || {
        let node = cluster.block_on(nodes.get(&agent.node)).ok()?;
        let images = node.status?.images?;
        let image = images
            .iter()
            .find(|image| image.names.iter().flatten().any(|n| n.ends_with(&name)));
        image?.size_bytes
    });
    size as f64 / 1e6
}

#[test]
fn capabilities_are_the_effective_ones() {
    let status =
        "Name:\tpalisade\nCapInh:\t0000000000000000\nCapPrm:\t000001ffffffffff\nCapEff:\t000000c001001000\n";
    assert_eq!(effective(status), BTreeSet::from(ASKED_FOR));
}

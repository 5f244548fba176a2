//! Pods come and go; afterwards the nodes hold what they held before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::agents::{self, Agent, within};
use crate::cluster::{Cluster, Space, apply, pod};
use crate::report::{Limit, Report, setting};

/// Pods at a time.
const BATCH: usize = 50;
/// Of what the agents take away after the last pod.
const SETTLED: Duration = Duration::from_secs(60);
/// What an allocator keeps, in KiB.
const KEPT: u64 = 8 * 1024;

/// What a node holds of the pods that it has.
#[derive(Debug, PartialEq)]
struct Held {
    attached: f64,
    entries: BTreeMap<String, f64>,
    pins: usize,
    interfaces: usize,
}

fn held(agent: &Agent) -> Held {
    let metrics = agent.metrics();
    // As the agent's process sees its node.
    let root = PathBuf::from(format!("/proc/{}/root", agent.pid));
    let interfaces = std::fs::read_to_string(format!("/proc/{}/net/dev", agent.pid)).expect("interfaces");
    Held {
        attached: metrics.sum("palisade_pods_attached"),
        entries: metrics.series("palisade_map_entries"),
        pins: files(&root.join("sys/fs/bpf")),
        interfaces: interfaces.lines().count(),
    }
}

/// All files below.
fn files(folder: &Path) -> usize {
    // It may be removed meanwhile.
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| {
            if entry.path().is_dir() {
                files(&entry.path())
            } else {
                1
            }
        })
        .sum()
}

#[test]
fn nothing_is_left_of_pods_that_went() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let wanted = usize::try_from(setting("PALISADE_E2E_CHURN", 1000)).expect("a count of pods");
    let space = cluster.space("churn");
    space.policy(
        "churned",
        &json!({
            "podSelector": { "matchLabels": { "app": "churned" } }, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [{ "podSelector": {} }] }], "egress": [{ "to": [{ "podSelector": {} }] }],
        }),
    );
    // The first pods make what is then kept: programs, compiled rules, buffers.
    churn(&space, BATCH, 0);
    let before = settled(&cluster);
    let memory: Vec<u64> = before.iter().map(|(agent, _)| agent.memory("VmRSS")).collect();

    let since = Instant::now();
    let mut done = 0;
    while done < wanted {
        let batch = BATCH.min(wanted - done);
        churn(&space, batch, BATCH + done);
        done += batch;
    }
    let took = since.elapsed();
    within(SETTLED, "the nodes hold what they held before", || {
        let now = settled(&cluster);
        let same = before.iter().zip(&now).all(|(before, now)| before.1 == now.1);
        if !same {
            println!("before: {before:?}\nnow: {now:?}");
            std::thread::sleep(Duration::from_secs(5));
        }
        same.then_some(())
    });

    let mut report = Report::new("churn");
    report.count("pods made and deleted", done as u64, Limit::AtLeast(1.0));
    report.figure("in", took.as_secs_f64(), "s", Limit::None);
    for ((was, held), memory) in before.iter().zip(memory) {
        let agents = agents::agents(&cluster);
        let agent = agents
            .iter()
            .find(|agent| agent.node == was.node)
            .expect("it is on the node");
        assert_eq!(agent.pid, was.pid, "{}: it was started again", was.node);
        let of = |what: &str| format!("{}: {what}, before and after", was.node);
        report.figure(of("pods attached"), held.attached, "", Limit::None);
        report.figure(of("map entries"), held.entries.values().sum(), "", Limit::None);
        report.count(of("pins"), held.pins as u64, Limit::None);
        report.figure(
            format!("{}: VmRSS before", was.node),
            mib(memory),
            "MiB",
            Limit::None,
        );
        let limit = Limit::AtMost(mib(memory + KEPT));
        report.figure(
            format!("{}: VmRSS after", was.node),
            mib(agent.memory("VmRSS")),
            "MiB",
            limit,
        );
    }
    report.finish();
}

pub fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).expect("less than 4 TiB")) / 1024.0
}

/// By node; taken twice with nothing between, so that no change is under way.
fn settled(cluster: &Cluster) -> Vec<(Agent, Held)> {
    let now = || {
        let mut agents = agents::agents(cluster);
        agents.sort_by(|a, b| a.node.cmp(&b.node));
        agents
            .into_iter()
            .map(|agent| (agent.clone(), held(&agent)))
            .collect::<Vec<_>>()
    };
    let mut last = now();
    within(SETTLED, "the nodes settle", || {
        std::thread::sleep(Duration::from_secs(2));
        let next = now();
        let same = last.iter().zip(&next).all(|(last, next)| last.1 == next.1);
        last = next;
        same.then_some(())
    });
    last
}

/// So many pods run, and go.
fn churn(space: &Space, count: usize, first: usize) {
    let cluster = space.cluster;
    let api = space.api::<Pod>();
    let names: Vec<String> = (first..first + count)
        .map(|number| format!("churned-{number}"))
        .collect();
    for (name, node) in names.iter().zip(cluster.nodes.iter().cycle()) {
        let object = pod(name, &node.0, "churned", &["pause"], "Never");
        cluster.block_on(apply(&api, name, &object));
    }
    for name in &names {
        cluster.wait(space.api::<Pod>(), name, "runs", |pod: Option<&Pod>| {
            pod.and_then(crate::cluster::container_of).is_some()
        });
    }
    let removed = cluster.block_on(api.delete_collection(&DeleteParams::default(), &ListParams::default()));
    removed.expect("removed");
    for name in &names {
        cluster.wait(space.api::<Pod>(), name, "is gone", |pod: Option<&Pod>| {
            pod.is_none()
        });
    }
}

//! Resident memory of agent and leader with the pods of a large cluster.

use serde_json::json;

use crate::agents::{self, within};
use crate::churn::mib;
use crate::cluster::{Cluster, PATIENCE};
use crate::fake_pods;
use crate::report::{Limit, Report, setting};

/// The manifest's limit is far above; what a node should not have to spare.
const MOST: f64 = 256.0;

#[test]
fn resident_memory() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let pods = u32::try_from(setting("PALISADE_E2E_PEERS", 5000)).expect("a count of pods");
    agents::agents(&cluster);
    let space = cluster.space("memory");
    let node = &cluster.nodes[0].0;
    space.policy(
        "server",
        &json!({
            "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"],
            "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "peer" } } }] }],
        }),
    );
    let _server = space.pods(&[("server", node, "server")]);
    let entries = || -> f64 {
        let agents = agents::agents(&cluster);
        let here = agents.iter().find(|agent| agent.node == *node).expect("an agent");
        here.metrics().sum("palisade_map_entries")
    };
    let before = entries();
    fake_pods::create(&space, 0..pods, |_| json!({ "app": "peer" }));
    within(PATIENCE, "the pods are in force as peers", || {
        (entries() >= before + f64::from(pods)).then_some(())
    });
    let leader = agents::leader(&cluster);
    let mut report = Report::new("memory");
    report.count("pods", pods.into(), Limit::None);
    for agent in agents::agents(&cluster) {
        let role = if agent.pod == leader.pod {
            "leader and agent"
        } else {
            "agent"
        };
        for field in ["VmRSS", "RssAnon"] {
            let limit = if field == "VmRSS" {
                Limit::AtMost(MOST)
            } else {
                Limit::None
            };
            report.figure(
                format!("{}, {role}: {field}", agent.node),
                mib(agent.memory(field)),
                "MiB",
                limit,
            );
        }
    }
    report.finish();
}

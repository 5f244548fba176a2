//! Faults while allowed and forbidden packets pass: none of the former is lost, none of the latter arrives.

use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use rustix::process::Signal;
use serde_json::json;

use crate::agents::{self, Agent, NAME, NAMESPACE};
use crate::cluster::{Cluster, Space};
use crate::report::{Limit, Report, setting};
use crate::traffic::{Lane, OPEN, Traffic};

/// Questions that pass between two faults.
const BETWEEN: u64 = 200;

fn faults(default: u64) -> u64 {
    setting("PALISADE_E2E_FAULTS", default)
}

/// Runs `fault` until it has brought about so many faults, each time returning how many, under traffic.
fn under_traffic(report: &'static str, fault: &str, wanted: u64, mut one: impl FnMut(&Cluster, u64) -> u64) {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    agents::agents(&cluster);
    let space = cluster.space("faults");
    let (from, to) = (cluster.nodes[0].0.as_str(), cluster.nodes[1].0.as_str());
    let pods = space.pods(&[
        ("client-1", from, "client"),
        ("intruder-1", from, "intruder"),
        ("server-1", from, "server"),
        ("client-2", to, "client"),
        ("intruder-2", to, "intruder"),
        ("server-2", to, "server"),
    ]);
    policies(&space);
    let lane = |client: usize, server: usize| Lane {
        client: &pods[client],
        intruder: &pods[client + 1],
        server: &pods[server],
    };
    let lanes = [lane(0, 5), lane(3, 2)];
    for lane in &lanes {
        lane.wait_until_judged();
    }
    let mut traffic = Traffic::start(&lanes);
    traffic.wait_for(BETWEEN);
    let mut brought = 0;
    while brought < wanted {
        brought += one(&cluster, brought);
        traffic.wait_for(BETWEEN);
        let seen = traffic.seen();
        if seen.lost + seen.unconnected + seen.leaked > 0 {
            println!("after {brought}: {seen:?}");
        }
    }
    let seen = traffic.end();
    let mut report = Report::new(report);
    report.count(
        fault,
        brought,
        Limit::AtLeast(f64::from(u32::try_from(wanted).expect("few"))),
    );
    report.count("UDP questions", seen.questions, Limit::AtLeast(1.0));
    report.count("of them lost", seen.lost, Limit::AtMost(0.0));
    report.count(
        "exchanges by long TCP connections",
        seen.streamed,
        Limit::AtLeast(1.0),
    );
    report.count("short TCP connections", seen.connections, Limit::AtLeast(1.0));
    report.count(
        "of them not made at the first SYN",
        seen.unconnected,
        Limit::AtMost(0.0),
    );
    report.count("TCP segments repeated", seen.retransmitted, Limit::None);
    report.count("forbidden packets", seen.forbidden, Limit::AtLeast(1.0));
    report.count("of them leaked", seen.leaked, Limit::AtMost(0.0));
    report.finish();
}

fn policies(space: &Space) {
    let client = json!({ "podSelector": { "matchLabels": { "app": "client" } } });
    let server = json!({ "podSelector": { "matchLabels": { "app": "server" } } });
    space.policy(
        "server",
        &json!({
            "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"],
            "ingress": [{ "from": [client], "ports": [{ "protocol": "UDP", "port": OPEN }, { "protocol": "TCP", "port": OPEN }] }],
        }),
    );
    space.policy(
        "client",
        &json!({
            "podSelector": { "matchLabels": { "app": "client" } }, "policyTypes": ["Ingress", "Egress"],
            "egress": [{ "to": [server] }],
        }),
    );
}

/// Replaces an agent that a test killed: kubelet starts a container that ended often later and later, a new pod's at once.
fn replace(cluster: &Cluster, killed: &Agent) {
    restarted(cluster, killed);
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), NAMESPACE);
    cluster
        .block_on(pods.delete(&killed.pod, &DeleteParams::default()))
        .unwrap_or_else(|e| panic!("{}: {e}", killed.pod));
    agents::within(crate::cluster::PATIENCE, "another pod", || {
        let agents = agents::agents(cluster);
        agents.iter().all(|agent| agent.pod != killed.pod).then_some(())
    });
}

fn restarted(cluster: &Cluster, killed: &Agent) {
    agents::within(crate::cluster::PATIENCE, "started again", || {
        let agents = agents::agents(cluster);
        agents.iter().all(|agent| agent.pid != killed.pid).then_some(())
    });
}

#[test]
fn agent_killed() {
    under_traffic(
        "faults.agent-killed",
        "agents killed",
        faults(30),
        |cluster, _| {
            let agents = agents::agents(cluster);
            for agent in &agents {
                agent.signal(Signal::KILL);
            }
            for agent in &agents {
                replace(cluster, agent);
            }
            agents.len() as u64
        },
    );
}

#[test]
fn leader_killed() {
    under_traffic(
        "faults.leader-killed",
        "leaders killed",
        faults(30),
        |cluster, _| {
            let leader = agents::leader(cluster);
            leader.signal(Signal::KILL);
            replace(cluster, &leader);
            1
        },
    );
}

#[test]
fn rolling_restart() {
    under_traffic(
        "faults.rolling-restart",
        "rolling restarts",
        faults(30),
        |cluster, number| {
            let stamp = format!("{}-{number}", std::process::id());
            roll(
                cluster,
                &json!({ "metadata": { "annotations": { "palisade.test/restart": stamp } } }),
            );
            1
        },
    );
}

/// As a build with other programs and the same maps does: what is built into them is set anew, so that they are loaded, and
/// put in the place of those that are attached.
#[test]
fn upgrade_within_the_abi() {
    // Others than a run that failed has left.
    let first = 1000 + u64::from(std::process::id() % 1000) * 100;
    let setting = "PALISADE_EVENTS_PER_SECOND";
    upgrades("faults.same-abi", "upgrades to other programs", setting, first);
}

/// Needs an image whose maps may be given another version, which the binary's hidden setting does.
#[test]
fn upgrade_to_another_abi() {
    // Others than a run that failed has left.
    let first = 1000 + u64::from(std::process::id() % 1000) * 1000;
    let setting = "PALISADE_ABI_VERSION";
    upgrades(
        "faults.another-abi",
        "upgrades to another map version",
        setting,
        first,
    );
}

/// Each raises what `setting` is set to, from `first` on.
fn upgrades(report: &'static str, fault: &str, setting: &str, first: u64) {
    let env = |variable: serde_json::Value| json!({ "spec": { "containers": [{ "name": NAME, "env": [variable] }] } });
    under_traffic(report, fault, faults(30), |cluster, number| {
        roll(
            cluster,
            &env(json!({ "name": setting, "value": (first + number).to_string() })),
        );
        1
    });
    if let Some(cluster) = Cluster::connect() {
        roll(&cluster, &env(json!({ "name": setting, "$patch": "delete" })));
    }
}

/// Changes the pods' template and waits until each runs with it.
fn roll(cluster: &Cluster, template: &serde_json::Value) {
    let sets = Api::<DaemonSet>::namespaced(cluster.client.clone(), NAMESPACE);
    let patch = Patch::Strategic(json!({ "spec": { "template": template } }));
    let set = cluster.block_on(sets.patch(NAME, &PatchParams::default(), &patch));
    let generation = set.expect("the DaemonSet").metadata.generation;
    cluster.wait(sets, NAME, "rolled out", move |set: Option<&DaemonSet>| {
        set.and_then(|set| set.status.as_ref()).is_some_and(|status| {
            let all = status.desired_number_scheduled;
            status.observed_generation >= generation
                && status.updated_number_scheduled == Some(all)
                && status.number_available == Some(all)
        })
    });
    agents::agents(cluster);
}

/// A script that stops and starts the API server, told which by its argument.
const API_SERVER: &str = "PALISADE_E2E_APISERVER";

#[test]
fn api_server_down() {
    let Ok(script) = std::env::var(API_SERVER) else {
        eprintln!("skipped: {API_SERVER} names no script that stops and starts the API server");
        return;
    };
    let seconds = setting("PALISADE_E2E_APISERVER_SECONDS", 60);
    let run = |what: &str| {
        let status = Command::new(&script).arg(what).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{script} {what} failed"
        );
    };
    under_traffic(
        "faults.api-server-down",
        "times the API server was down",
        faults(30),
        |cluster, _| {
            run("stop");
            std::thread::sleep(Duration::from_secs(seconds));
            run("start");
            agents::agents(cluster);
            1
        },
    );
}

//! A Prometheus server that scrapes both nodes: the counters of policies rise by exactly what was sent, also while agents are killed.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::agents;
use crate::cluster::{Cluster, RunningPod};
use crate::prometheus::Server;
use crate::report::{Limit, Report, setting};

const PORT: u16 = 8080;
/// What no policy allows.
const CLOSED: u16 = 8081;
/// Sent without a pause: a veth's queue takes more.
const BURST: usize = 50;

fn any(like: IpAddr, port: u16) -> SocketAddr {
    let address = match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    SocketAddr::new(address, port)
}

fn send(from: &RunningPod, to: IpAddr, port: u16, count: usize) {
    from.netns.run(|| {
        let socket = UdpSocket::bind(any(to, 0)).expect("a socket");
        for number in 1..=count {
            socket.send_to(&[0; 64], (to, port)).expect("sent");
            if number % BURST == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
}

#[test]
fn counters_rise_by_exactly_what_was_sent() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let counted = usize::try_from(setting("PALISADE_E2E_COUNTED", 2000)).expect("a count of datagrams");
    let agents = agents::agents(&cluster);
    let targets: Vec<String> = agents
        .iter()
        .map(|agent| SocketAddr::new(agent.address, 9810).to_string())
        .collect();
    // This thread's network namespace is one from which the nodes are reached.
    let Some(server) = Server::start(&targets, |program| Command::new(program)) else {
        return;
    };
    assert_eq!(
        server.settles("sum(up{job=\"palisade\"})", 2.0),
        Some(2.0),
        "both nodes are scraped"
    );
    let space = cluster.space("scraped");
    let [(first, _), (second, _)] = &cluster.nodes;
    let pods = space.pods(&[
        ("client", first, "client"),
        ("stranger", first, "stranger"),
        ("server", second, "server"),
    ]);
    let [client, stranger, service] = &pods[..] else {
        panic!("three pods")
    };
    let peer = |app: &str| json!([{"podSelector": {"matchLabels": {"app": app}}}]);
    let ports = json!([{"protocol": "UDP", "port": PORT}]);
    space.policy(
        "client",
        &json!({
            "podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
            "egress": [{"to": peer("server"), "ports": ports}],
        }),
    );
    space.policy(
        "server",
        &json!({
            "podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": peer("client"), "ports": ports}],
        }),
    );
    // Takes what comes, and says nothing.
    let sink = service.netns.run(|| UdpSocket::bind(any(service.address, PORT)));
    let _sink = sink.expect("a free port");
    let of = |(policy, direction, verdict): (&str, &str, &str)| {
        format!(
            "sum(palisade_traffic_packets_total{{namespace=\"{}\",policy=\"{policy}\",direction=\"{direction}\",verdict=\"{verdict}\"}})",
            space.name
        )
    };
    let watched = [
        ("client", "egress", "allowed"),
        ("client", "egress", "dropped"),
        ("server", "ingress", "allowed"),
        ("server", "ingress", "dropped"),
    ];
    // They are shown once the policies are in force.
    for series in watched {
        assert_eq!(server.settles(&of(series), 0.0), Some(0.0), "{series:?}");
    }
    let each = |count| {
        send(client, service.address, PORT, count);
        send(client, service.address, CLOSED, count);
        send(stranger, service.address, PORT, count);
    };
    let quarter = counted.div_ceil(4);
    each(quarter);
    agents.iter().for_each(|agent| agent.signal(Signal::KILL));
    // While nobody looks.
    each(quarter);
    agents::agents(&cluster);
    each(quarter);
    agents::agents(&cluster)
        .iter()
        .for_each(|agent| agent.signal(Signal::TERM));
    each(quarter);

    let sent = 4 * quarter as u64;
    let mut report = Report::new("scraped");
    report.count("datagrams of each kind", sent, Limit::None);
    for series in watched {
        let (policy, direction, verdict) = series;
        let seen = server.settles(&of(series), sent as f64).unwrap_or(-1.0);
        let missing = (sent as f64 - seen).abs();
        report.figure(
            format!("{policy}, {direction}, {verdict}: more or fewer than sent"),
            missing,
            "",
            Limit::AtMost(0.0),
        );
    }
    let falls = "sum(resets(palisade_traffic_packets_total{policy!=\"\"}[15m]))";
    report.figure(
        "counters of policies that fell",
        server.settles(falls, 0.0).unwrap_or(-1.0).abs(),
        "",
        Limit::AtMost(0.0),
    );
    report.finish();
}

//! How long the agent's part of a change takes, from the watch event to the kernel.

use std::time::Instant;

use serde_json::{Value, json};

use crate::require_server;
use crate::site::{Site, endpoint, sliced};

const PEERS: u32 = 5_000;
const SLICES: u32 = 32;
const CHANGES: usize = 200;

#[test]
fn a_lone_change_of_one_slice_among_5000_peers_waits_for_nothing() {
    require_server!();
    let mut site = Site::new();
    let [_web] = site.pods(["web"]);
    let slice = |index: u32, more: u32| {
        let peers = (0..PEERS)
            .filter(|peer| peer % SLICES == index)
            .chain([PEERS + more]);
        let entry = |peer: u32| {
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + peer);
            json!({"cidr": ip, "ports": [{"protocol": "TCP", "port": 80}], "rule": 0})
        };
        let entries: Vec<Value> = peers.map(entry).collect();
        let name = format!("web-{SLICES}-{index}");
        sliced(endpoint(&name, "web", entries.into()), index, SLICES)
    };
    for index in 0..SLICES {
        site.server.put(slice(index, 0));
    }
    site.start(&["vethweb"]);
    let (mut took, mut whole) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let begun = Instant::now();
        let line = site.put(slice(change as u32 % SLICES, 1 + change as u32));
        whole.push(begun.elapsed().as_secs_f64() * 1e3);
        took.push(milliseconds(&line));
    }
    for (what, times) in [("agent", &mut took), ("write to log line", &mut whole)] {
        times.sort_by(f64::total_cmp);
        let (p50, p99) = (times[CHANGES / 2], times[CHANGES * 99 / 100]);
        eprintln!(
            "{what}: p50 {p50:.1} ms, p99 {p99:.1} ms, most {:.1} ms",
            times[CHANGES - 1]
        );
    }
    // A debug build on a busy machine; a batching delay would show all the same.
    assert!(took[CHANGES / 2] < 100.0, "{took:?}");
}

/// The time that a line of the log names, as in `took=1.5ms`.
fn milliseconds(line: &str) -> f64 {
    let text = line
        .split("took=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let text = text.unwrap_or_else(|| panic!("no time in {line}"));
    let number = |unit: &str| text.strip_suffix(unit).and_then(|n| n.parse::<f64>().ok());
    number("ms")
        .or_else(|| number("µs").map(|us| us / 1e3))
        .or_else(|| number("s").map(|s| s * 1e3))
        .unwrap_or_else(|| panic!("{text} is no time"))
}

//! Whatever the number of peers, a change writes what changed and no more; the same counts as `make bench` reports.

#[path = "../benches/datapath/counts.rs"]
mod counts;
mod kernel_support;
#[allow(dead_code)]
#[path = "../benches/datapath/node.rs"]
mod node;

use kernel_support::{Pins, root};
use palisade::bpf::{Applied, Config};

fn config(pins: &Pins) -> Config {
    let mut config = pins.config();
    config.sizes.addresses = 65_536;
    config
}

#[test]
fn a_change_writes_what_changed_and_no_more() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let counts = counts::count(&config(&pins), 10_000).unwrap();
    let writes = |applied: Applied| (applied.map_writes, applied.flips, applied.graces);
    assert_eq!(writes(counts.remote_pod), (1, 0, 0), "{counts:?}");
    assert_eq!(writes(counts.remote_pod_gone), (1, 0, 0), "{counts:?}");
    assert_eq!(counts.irrelevant_pod, Applied::default());
    assert_eq!(counts.pod_isolated.flips, 1, "{counts:?}");
    assert_eq!(
        (counts.pod_flip.flips, counts.pod_flip.stores),
        (1, 0),
        "{counts:?}"
    );
    assert_eq!(counts.restart, Applied::default());
}

#[test]
fn fifty_thousand_peers_take_a_hundred_bytes_each_at_most() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    for (family, each) in ["IPv4", "IPv6"]
        .iter()
        .zip(counts::memory(&config(&pins), 50_000).unwrap())
    {
        assert!(each <= 100.0, "{family}: {each} bytes");
    }
}

//! Packet tables: frames that run through the real programs (BPF_PROG_TEST_RUN), and what must come of each.

mod audit;
mod changes;
mod frame;
#[path = "../kernel_support/mod.rs"]
mod kernel_support;
mod lab;
mod site;
mod sources;
mod state;
mod upgrade;
mod verified;
mod wire;

use std::net::{IpAddr, SocketAddr};

use lab::address;

/// Both families, which most of this holds for alike.
const FAMILIES: [bool; 2] = [false, true];

fn end(ipv6: bool, n: u8, port: u16) -> SocketAddr {
    SocketAddr::new(address(ipv6, n), port)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// DESIGN's limit, of which a kernel that is stricter by some has room left.
#[test]
fn the_verifier_walks_no_more_instructions_than_it_may() {
    if !kernel_support::root() {
        return;
    }
    let pins = kernel_support::Pins::new();
    let _kernel = palisade::bpf::Kernel::open(&pins.config()).expect("the programs load");
    for (name, number) in verified::instructions(&pins) {
        println!("{name}: {number} instructions verified");
        assert!(number <= 15_000, "{name}: {number}");
    }
}

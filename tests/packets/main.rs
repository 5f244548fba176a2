//! Packet tables: frames that run through the real programs (BPF_PROG_TEST_RUN), and what must come of each.

mod changes;
mod frame;
#[path = "../kernel_support/mod.rs"]
mod kernel_support;
mod lab;
mod site;
mod sources;
mod state;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

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
    for name in ["from_pod", "to_pod"] {
        let path = pins.0.join("v1/programs").join(name);
        let program = libbpf_rs::Program::fd_from_pinned_path(path).expect("a pinned program");
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
        let info = info.expect("fdinfo");
        match info.lines().find_map(|line| line.strip_prefix("verified_insns:")) {
            Some(number) => {
                let number: u32 = number.trim().parse().expect("a number");
                println!("{name}: {number} instructions verified");
                assert!(number <= 15_000, "{name}: {number}");
            }
            None => println!("{name}: verified; this kernel does not say in how many instructions"),
        }
    }
}

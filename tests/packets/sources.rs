//! What a pod may send from, and fragments that could rewrite what was judged (SEMANTICS 35).

use std::net::SocketAddr;

use crate::frame::{self, ACK, Packet, SYN, VLAN};
use crate::kernel_support::root;
use crate::lab::{FRIEND, IN, Lab, OPEN, OUT, PODS, ROUTER, SHUT, STRANGER, WEB, address};
use crate::{FAMILIES, end, ip};

#[test]
fn s35_no_pod_sends_from_what_is_not_its_own() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for pod in PODS {
        for v6 in FAMILIES {
            for other in [STRANGER, FRIEND, if pod == OPEN { SHUT } else { OPEN }] {
                let from = end(v6, other, 4000);
                let to = end(v6, FRIEND, 80);
                for packet in [
                    Packet::tcp(from, to, SYN),
                    Packet::tcp(from, to, ACK),
                    Packet::udp(from, to),
                    Packet::echo_request(from.ip(), to.ip(), 1),
                    Packet::udp(from, to).part(7, 0, 16),
                ] {
                    lab.case("foreign source", pod, OUT, &packet.frame(), "drop spoofed");
                }
                let tagged = Packet::udp(from, to).tagged(VLAN, 0).frame();
                lab.case("foreign source in VLAN 0", pod, OUT, &tagged, "drop spoofed");
            }
        }
        lab.case(
            "foreign ARP sender",
            pod,
            OUT,
            &frame::arp(1, [10, 0, 0, 99], [10, 0, 0, 7]),
            "drop spoofed",
        );
        lab.case(
            "foreign ARP answer",
            pod,
            OUT,
            &frame::arp(2, [10, 0, 0, 99], [10, 0, 0, 7]),
            "drop spoofed",
        );
        lab.case(
            "ARP probe",
            pod,
            OUT,
            &frame::arp(1, [0; 4], [10, 0, 0, 7]),
            "pass neighbour",
        );
        let deep = Packet::udp(end(false, OPEN, 1), end(false, FRIEND, 9))
            .tagged(VLAN, 1)
            .tagged(VLAN, 2)
            .tagged(VLAN, 3);
        lab.case(
            "tags too deep to know the source",
            pod,
            OUT,
            &deep.frame(),
            "drop vlan",
        );
    }
}

#[test]
fn s35_source_prefixes_widen_only_the_pod_that_has_them() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for (v6, source) in [(false, "10.9.1.2"), (true, "fd09::2")] {
        let packet = Packet::udp(SocketAddr::new(ip(source), 4000), end(v6, FRIEND, 9)).frame();
        lab.case("within", ROUTER, OUT, &packet, "pass friend");
        lab.case("another pod", SHUT, OUT, &packet, "drop spoofed");
        lab.case("an open pod", OPEN, OUT, &packet, "drop spoofed");
        let to_prefix = Packet::udp(end(v6, ROUTER, 4000), SocketAddr::new(ip(source), 9)).frame();
        lab.case(
            "sending to them is judged",
            ROUTER,
            OUT,
            &to_prefix,
            "drop isolated-out",
        );
    }
}

#[test]
fn s35_unspecified_and_link_local_serve_probes_and_dhcp_only() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for pod in [OPEN, SHUT] {
        let dhcp = |source: &str, port| {
            Packet::udp(
                SocketAddr::new(ip(source), 68),
                SocketAddr::new(ip("255.255.255.255"), port),
            )
            .frame()
        };
        let granted = if pod == OPEN {
            "pass open"
        } else {
            "drop isolated-out"
        };
        lab.case("DHCP", pod, OUT, &dhcp("0.0.0.0", 67), granted);
        lab.case("not DHCP", pod, OUT, &dhcp("0.0.0.0", 69), "drop spoofed");
        let link = |to| {
            Packet::tcp(
                SocketAddr::new(ip("fe80::5"), 4000),
                SocketAddr::new(ip(to), 80),
                SYN,
            )
            .frame()
        };
        lab.case(
            "TCP by link-local address",
            pod,
            OUT,
            &link("fe80::6"),
            "drop spoofed",
        );
        let echo = Packet::echo_request(ip("fe80::5"), ip("fe80::6"), 1).frame();
        lab.case("echo by link-local address", pod, OUT, &echo, "drop spoofed");
        let dad = Packet::icmp(ip("::"), ip("ff02::1:ff00:2"), 135, 0, &[0; 20])
            .hop_limit(255)
            .frame();
        lab.case("address probe", pod, OUT, &dad, "pass neighbour");
        let mld = Packet::icmp(ip("fe80::5"), ip("ff02::16"), 143, 0, &[0; 24])
            .hop_limit(1)
            .frame();
        lab.case("MLD by link-local address", pod, OUT, &mld, "pass neighbour");
    }
}

#[test]
fn s35_fragments_that_could_rewrite_ports_or_flags_fall_in_open_directions_too() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for pod in [OPEN, SHUT] {
        for v6 in FAMILIES {
            let packet = Packet::tcp(end(v6, pod, 4000), end(v6, WEB, 80), SYN);
            lab.case(
                "flags left to the next (RFC 1858)",
                pod,
                OUT,
                &packet.part(1, 0, 8).frame(),
                "drop overlap",
            );
            let first = packet.part(2, 0, 24);
            let why = if pod == OPEN { "pass open" } else { "pass web" };
            lab.case("first", pod, OUT, &first.frame(), why);
            lab.case(
                "over its flags (RFC 3128)",
                pod,
                OUT,
                &packet.part(2, 8, 32).frame(),
                "drop overlap",
            );
            lab.case("behind it", pod, OUT, &packet.part(2, 24, 99).frame(), why);
        }
    }
}

#[test]
fn s35_an_address_of_the_pods_own_that_comes_from_outside_earns_nothing() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let own = end(v6, SHUT, 80);
        lab.case(
            "from elsewhere",
            SHUT,
            IN,
            &Packet::udp(own, own).frame(),
            "drop isolated-in",
        );
        let address = address(v6, SHUT);
        lab.case(
            "echo",
            SHUT,
            IN,
            &Packet::echo_request(address, address, 3).frame(),
            "drop isolated-in",
        );
    }
}

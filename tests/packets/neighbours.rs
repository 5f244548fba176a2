//! Whose an address is: IP sources, ARP, neighbour discovery, MLD, DHCP.

use std::net::{IpAddr, Ipv6Addr};

use palisade::bpf::Reason;
use palisade::model::Direction::{Egress, Ingress};

use crate::frame::{Packet, SYN, VLAN, arp};
use crate::site::{CLOSED, ELSEWHERE, OPEN, Site, at, families};

const SUBJECT: [u8; 4] = [10, 1, 0, 1];
const FRIEND: [u8; 4] = [10, 1, 0, 2];
const NOBODY: [u8; 4] = [0; 4];

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A neighbour solicitation (135) or advertisement (136) for a target.
fn neighbour(source: &str, destination: &str, kind: u8, target: &str) -> Packet {
    let target: Ipv6Addr = target.parse().unwrap();
    let rest = [[0; 4].as_slice(), &target.octets()].concat();
    Packet::icmp(v6(source), v6(destination), kind, 0, &rest).hop_limit(255)
}

#[test]
fn s31_arp_neighbour_discovery_and_mld_pass_an_isolated_pod() {
    let Some(site) = Site::new(CLOSED) else { return };
    let (own, link) = ("fd00:1::1", "fe80::1");
    let pass = [
        ("asks for its gateway", Egress, arp(1, SUBJECT, FRIEND)),
        ("answers", Egress, arp(2, SUBJECT, FRIEND)),
        ("probes an address", Egress, arp(1, NOBODY, FRIEND)),
        ("is asked", Ingress, arp(1, FRIEND, SUBJECT)),
        ("is answered", Ingress, arp(2, FRIEND, SUBJECT)),
        (
            "solicits",
            Egress,
            neighbour(own, "ff02::1:ff00:2", 135, "fd00:1::2").frame(),
        ),
        (
            "detects duplicates",
            Egress,
            neighbour("::", "ff02::1:ff00:1", 135, own).frame(),
        ),
        (
            "advertises its address",
            Egress,
            neighbour(own, "fd00:1::2", 136, own).frame(),
        ),
        (
            "advertises its link-local address",
            Egress,
            neighbour(link, "fd00:1::2", 136, link).frame(),
        ),
        (
            "is solicited",
            Ingress,
            neighbour("fd00:1::2", "ff02::1:ff00:1", 135, own).frame(),
        ),
        (
            "is told",
            Ingress,
            neighbour("fd00:1::2", own, 136, "fd00:1::2").frame(),
        ),
        (
            "seeks a router",
            Egress,
            Packet::icmp(v6(link), v6("ff02::2"), 133, 0, &[0; 4])
                .hop_limit(255)
                .frame(),
        ),
        (
            "reports a group",
            Egress,
            Packet::icmp(v6(link), v6("ff02::16"), 143, 0, &[0; 24])
                .hop_limit(1)
                .frame(),
        ),
    ];
    for (what, direction, bytes) in pass {
        assert!(site.frame(direction, ELSEWHERE, &bytes), "{what}");
    }
    // What a router could forward is not neighbour discovery.
    let far = neighbour(own, "fd00:1::2", 135, "fd00:1::2").hop_limit(64);
    assert!(!site.outward(&far));
}

#[test]
fn s35_no_pod_sends_from_an_address_that_is_not_its_own() {
    let Some(mut site) = Site::new(OPEN) else { return };
    for policies in [OPEN, CLOSED] {
        site.enforce(policies);
        let mut spoofed = vec![
            ("an ARP sender", arp(2, FRIEND, SUBJECT)),
            ("an ARP question under another address", arp(1, FRIEND, SUBJECT)),
            (
                "an advertised target",
                neighbour("fd00:1::1", "ff02::1", 136, "fd00:1::2").frame(),
            ),
            (
                "a solicitation's source",
                neighbour("fd00:1::2", "ff02::1:ff00:3", 135, "fd00:1::3").frame(),
            ),
        ];
        for f in families() {
            let (tcp, udp) = (
                Packet::tcp(at(f.friend, 1), at(f.stranger, 2), SYN),
                Packet::udp(at(f.friend, 1), at(f.stranger, 2)),
            );
            spoofed.push(("TCP", tcp.frame()));
            spoofed.push(("UDP", udp.frame()));
            spoofed.push(("an echo", Packet::echo_request(f.outside, f.friend, 1).frame()));
            spoofed.push(("a fragment", udp.part(9, 0, 24).frame()));
            // Tags of VLAN 0 are taken off by the stack.
            spoofed.push(("a tag of VLAN 0", tcp.clone().tagged(VLAN, 0).frame()));
            spoofed.push(("two tags of VLAN 0", tcp.tagged(VLAN, 0).tagged(VLAN, 0).frame()));
        }
        for source in ["0.0.0.0", "169.254.3.4", "::", "fe80::1"] {
            let source: IpAddr = source.parse().unwrap();
            let [f4, f6] = families();
            let f = if source.is_ipv4() { f4 } else { f6 };
            spoofed.push((
                "TCP of nobody",
                Packet::tcp(at(source, 1), at(f.friend, 80), SYN).frame(),
            ));
            spoofed.push((
                "UDP of nobody",
                Packet::udp(at(source, 1), at(f.friend, 53)).frame(),
            ));
            spoofed.push((
                "an echo of nobody",
                Packet::echo_request(source, f.friend, 1).frame(),
            ));
        }
        for (what, bytes) in spoofed {
            site.dropped_as(what, Reason::Spoofed, Egress, &bytes);
        }
    }
    site.enforce(OPEN);
    for f in families() {
        assert!(site.outward(&Packet::tcp(at(f.subject, 1), at(f.friend, 80), SYN)));
        assert!(
            site.outward(&Packet::udp(at(f.lent, 1), at(f.friend, 53))),
            "a prefix that its annotation lends"
        );
    }
    let dhcp = |from: &str, to: &str, ports: [u16; 2]| {
        Packet::udp(
            at(from.parse().unwrap(), ports[0]),
            at(to.parse().unwrap(), ports[1]),
        )
    };
    assert!(site.outward(&dhcp("0.0.0.0", "255.255.255.255", [68, 67])));
    assert!(site.outward(&dhcp("fe80::1", "ff02::1:2", [546, 547])));
    assert!(
        !site.outward(&dhcp("0.0.0.0", "255.255.255.255", [67, 68])),
        "a server of DHCP"
    );
}

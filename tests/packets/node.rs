//! The node, and the pod's way to itself.

use palisade::bpf::Reason;
use palisade::model::Direction::Ingress;

use crate::frame::{ACK, Packet, SYN};
use crate::site::{CLOSED, ELSEWHERE, Site, WEB, at, families};

#[test]
fn s41_what_the_node_itself_sends_reaches_the_pod_and_is_answered() {
    let Some(site) = Site::new(CLOSED) else { return };
    for f in families() {
        let (probe, server) = (at(f.outside, 4000), at(f.subject, 8080));
        assert!(site.node(&Packet::tcp(probe, server, SYN)));
        assert!(site.outward(&Packet::tcp(server, probe, SYN | ACK)));
        assert!(site.node(&Packet::tcp(probe, server, ACK)));
        assert!(site.node(&Packet::echo_request(f.outside, f.subject, 7)));
        assert!(site.outward(&Packet::echo_reply(f.subject, f.outside, 7)));
        assert!(
            !site.outward(&Packet::echo_request(f.subject, f.outside, 7)),
            "the pod asks, too"
        );
        assert!(site.node(&Packet::udp(probe, server)));
        assert!(site.outward(&Packet::udp(server, probe)));
    }
    assert!(site.counted(Reason::Node, Ingress) > 0);
}

#[test]
fn s42_the_same_addresses_forwarded_earn_nothing() {
    let Some(site) = Site::new(CLOSED) else { return };
    for f in families() {
        let (probe, server) = (at(f.outside, 4000), at(f.subject, 8080));
        assert!(!site.inward(&Packet::tcp(probe, server, SYN)));
        assert!(site.node(&Packet::tcp(probe, server, SYN)));
        // Not even on the 5-tuple that the node just used.
        assert!(!site.inward(&Packet::tcp(probe, server, ACK)));
        assert!(!site.inward(&Packet::tcp(probe, server, SYN)));
        assert!(
            site.node(&Packet::tcp(probe, server, ACK)),
            "and it disturbs the node's flow not"
        );
        assert!(site.node(&Packet::udp(probe, server)));
        assert!(!site.inward(&Packet::udp(probe, server)));
    }
}

#[test]
fn s43_a_pod_reaches_itself_by_way_of_its_service() {
    let Some(site) = Site::new(CLOSED) else { return };
    for f in families() {
        // Masqueraded by the node, received by the pod's own interface.
        let (gateway, server) = (at(f.outside, 4000), at(f.subject, 8080));
        let hairpin = Packet::tcp(gateway, server, SYN).frame();
        assert!(!site.frame(Ingress, ELSEWHERE, &hairpin));
        assert!(
            !site.frame(Ingress, site.other, &hairpin),
            "another pod's interface is not its own"
        );
        assert!(site.frame(Ingress, site.subject, &hairpin));
        assert!(site.outward(&Packet::tcp(server, gateway, SYN | ACK)));
        let on = Packet::tcp(gateway, server, ACK).frame();
        assert!(site.frame(Ingress, site.subject, &on));
        // Not masqueraded.
        let itself = Packet::tcp(at(f.subject, 4000), server, SYN);
        assert!(site.outward(&itself));
        assert!(site.frame(Ingress, site.subject, &itself.frame()));
    }
}

#[test]
fn s44_a_pod_gets_no_pass_to_its_node() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        let (local, node) = (at(f.subject, 5000), at(f.outside, 10250));
        assert!(!site.outward(&Packet::tcp(local, node, SYN)));
        assert!(!site.outward(&Packet::udp(local, node)));
        // That the node probes the pod opens no port of the node.
        assert!(site.node(&Packet::tcp(at(f.outside, 4000), at(f.subject, 80), SYN)));
        assert!(!site.outward(&Packet::tcp(local, node, SYN)));
        assert!(
            !site.outward(&Packet::tcp(at(f.subject, 80), at(f.outside, 4000), SYN)),
            "a request of its own"
        );
    }
}

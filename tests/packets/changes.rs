//! What a change of policy does to flows, with policies as users write them.

use crate::frame::{ACK, Packet, SYN};
use crate::site::{CLOSED, FRIEND, NO_INGRESS, OPEN, Site, WEB, at, families};

#[test]
fn s38_a_tightened_policy_cuts_at_the_next_packet_and_a_loosened_one_disturbs_nothing() {
    let Some(mut site) = Site::new(OPEN) else { return };
    for f in families() {
        let (client, server) = (at(f.stranger, 4000), at(f.subject, 80));
        site.enforce(OPEN);
        assert!(site.inward(&Packet::tcp(client, server, SYN)));
        assert!(site.outward(&Packet::tcp(server, client, SYN | ACK)));
        assert!(site.inward(&Packet::tcp(client, server, ACK)));
        // Egress stays open: the flow must not go on as if the pod had begun it.
        site.enforce(NO_INGRESS);
        assert!(!site.inward(&Packet::tcp(client, server, ACK)));
        assert!(!site.outward(&Packet::tcp(server, client, ACK)));
        assert!(!site.inward(&Packet::tcp(client, server, ACK)));
        site.enforce(OPEN);
        assert!(
            site.outward(&Packet::tcp(server, client, ACK)),
            "allowed again, goes on"
        );
    }
    for f in families() {
        let (client, server) = (at(f.friend, 4010), at(f.subject, 80));
        site.enforce(WEB);
        assert!(site.inward(&Packet::tcp(client, server, SYN)));
        site.enforce(FRIEND);
        assert!(site.outward(&Packet::tcp(server, client, SYN | ACK)));
        site.enforce(&format!("{WEB}---{CLOSED}"));
        assert!(site.inward(&Packet::tcp(client, server, ACK)));
        site.enforce(CLOSED);
        assert!(!site.inward(&Packet::tcp(client, server, ACK)));
        assert!(!site.outward(&Packet::tcp(server, client, ACK)));
        let (local, dns) = (at(f.subject, 5000), at(f.friend, 53));
        site.enforce(WEB);
        assert!(site.outward(&Packet::udp(local, dns)));
        site.enforce(CLOSED);
        assert!(!site.inward(&Packet::udp(dns, local)));
        assert!(!site.outward(&Packet::udp(local, dns)));
    }
}

#[test]
fn s39_a_peer_cannot_turn_a_flow_round() {
    let Some(mut site) = Site::new(FRIEND) else { return };
    for f in families() {
        let (local, server) = (at(f.subject, 5000), at(f.friend, 443));
        site.enforce(FRIEND);
        assert!(site.outward(&Packet::tcp(local, server, SYN)));
        assert!(site.inward(&Packet::tcp(server, local, SYN | ACK)));
        // Allowed by itself, against the grain of the flow.
        assert!(site.inward(&Packet::tcp(server, local, SYN)));
        // Ingress from the friend is now port 80 only: the flow is still the pod's own, to 443.
        site.enforce(WEB);
        assert!(site.inward(&Packet::tcp(server, local, ACK)));
        assert!(site.outward(&Packet::tcp(local, server, ACK)));
    }
}

//! Connections: who may begin them, who may answer, and what a change of policy does to them.

use palisade::bpf::Reason;
use palisade::model::Direction::{Egress, Ingress};

use crate::frame::{ACK, FIN, GRE, Packet, RST, SYN};
use crate::site::{CLOSED, ELSEWHERE, FRIEND, NO_INGRESS, OPEN, Site, WEB, at, families};

#[test]
fn s30_protocols_are_told_apart_and_those_without_ports_need_a_rule_without_ports() {
    let Some(mut site) = Site::new(WEB) else { return };
    for f in families() {
        let (from, to) = (at(f.friend, 4000), at(f.subject, 80));
        assert!(site.inward(&Packet::tcp(from, to, SYN)));
        assert!(site.inward(&Packet::sctp(from, to)));
        assert!(!site.inward(&Packet::udp(from, to)));
        assert!(!site.inward(&Packet::sctp(from, at(f.subject, 81))));
        assert!(!site.inward(&Packet::new(f.friend, f.subject, GRE, vec![0; 40])));
        assert!(!site.inward(&Packet::tcp(at(f.stranger, 4000), to, SYN)));
    }
    site.enforce(FRIEND);
    for f in families() {
        assert!(site.inward(&Packet::new(f.friend, f.subject, GRE, vec![0; 40])));
        assert!(!site.inward(&Packet::new(f.stranger, f.subject, GRE, vec![0; 40])));
    }
}

#[test]
fn s36_replies_pass_where_both_directions_are_isolated() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        let (client, server) = (at(f.friend, 4000), at(f.subject, 80));
        assert!(site.inward(&Packet::tcp(client, server, SYN)));
        assert!(site.outward(&Packet::tcp(server, client, SYN | ACK)));
        assert!(site.inward(&Packet::tcp(client, server, ACK)));
        assert!(
            !site.outward(&Packet::tcp(server, client, SYN)),
            "a request, not a reply"
        );

        let (local, dns) = (at(f.subject, 5000), at(f.friend, 53));
        assert!(!site.inward(&Packet::udp(dns, local)), "an answer to nothing");
        assert!(site.outward(&Packet::udp(local, dns)));
        assert!(site.inward(&Packet::udp(dns, local)));
        assert!(
            !site.inward(&Packet::udp(dns, at(f.subject, 5001))),
            "another port"
        );
        assert!(
            !site.inward(&Packet::udp(at(f.friend, 54), local)),
            "from another port"
        );
    }
}

#[test]
fn s37_a_connection_that_was_never_seen_goes_on_if_policy_lets_either_end_begin_it() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        // To the pod's server, first seen from either side.
        assert!(site.outward(&Packet::tcp(at(f.subject, 80), at(f.friend, 4001), ACK)));
        assert!(site.inward(&Packet::tcp(at(f.friend, 4001), at(f.subject, 80), ACK)));
        assert!(site.inward(&Packet::tcp(at(f.friend, 4002), at(f.subject, 80), ACK)));
        // From the pod to the friend's server.
        assert!(site.inward(&Packet::tcp(at(f.friend, 443), at(f.subject, 5002), ACK)));
        assert!(site.outward(&Packet::tcp(at(f.subject, 5003), at(f.friend, 443), ACK)));
        // What neither end may begin.
        assert!(!site.inward(&Packet::tcp(at(f.friend, 4001), at(f.subject, 81), ACK)));
        assert!(!site.outward(&Packet::tcp(at(f.subject, 5000), at(f.stranger, 443), ACK)));
        assert!(!site.inward(&Packet::tcp(at(f.stranger, 4001), at(f.subject, 80), ACK)));
    }
}

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
fn s39_flows_of_one_interface_are_nothing_to_another() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        // The open pod sends what would be the subject's flow, under its own and under the subject's address.
        let flow = Packet::udp(at(f.subject, 5000), at(f.friend, 53));
        assert!(!site.frame_at(site.other, Egress, 0, &flow.frame()), "spoofed");
        assert!(!site.inward(&Packet::udp(at(f.friend, 53), at(f.subject, 5000))));
        // A packet for the subject's address on the wrong interface makes no flow there that could send from it.
        let stray = Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN);
        site.frame_at(site.other, Ingress, ELSEWHERE, &stray.frame());
        let answer = Packet::tcp(at(f.subject, 80), at(f.friend, 4000), SYN | ACK);
        assert!(!site.frame_at(site.other, Egress, 0, &answer.frame()));
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

#[test]
fn s40_a_5_tuple_can_be_used_again_at_once() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        let (client, server) = (at(f.friend, 4000), at(f.subject, 80));
        for close in [FIN | ACK, RST, ACK] {
            assert!(site.inward(&Packet::tcp(client, server, SYN)));
            assert!(site.outward(&Packet::tcp(server, client, SYN | ACK)));
            assert!(site.inward(&Packet::tcp(client, server, close)));
        }
        // And from the other side, once closed: by its own policy.
        assert!(site.outward(&Packet::tcp(server, client, RST)));
        assert!(!site.outward(&Packet::tcp(server, client, SYN)));
    }
}

#[test]
fn packets_and_bytes_are_counted_where_they_were_decided() {
    let Some(site) = Site::new(WEB) else { return };
    let [f, _] = families();
    let sum = |allowed: bool| {
        let counters = site.kernel.counters().unwrap();
        let rules = &site.kernel.image().rules;
        let of = counters
            .rules
            .iter()
            .filter(|(key, _)| matches!(rules[*key], palisade::compile::RuleInfo::Rule(_)) == allowed);
        of.fold((0, 0), |(packets, bytes), (_, count)| {
            (packets + count.packets, bytes + count.bytes)
        })
    };
    let (request, other) = (
        Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN),
        Packet::tcp(at(f.friend, 4000), at(f.subject, 81), SYN),
    );
    let length = request.frame().len() as u64;
    for n in 1..=5 {
        assert!(site.inward(&request));
        assert!(!site.inward(&other));
        assert_eq!(sum(true), (n, n * length));
        assert_eq!(sum(false), (n, n * length));
    }
    assert!(site.outward(&Packet::tcp(at(f.subject, 80), at(f.friend, 4000), SYN | ACK)));
    assert_eq!(
        sum(true).0,
        6,
        "the answer counts for the rule that let the flow begin"
    );
    assert_eq!(site.counted(Reason::Open, Ingress), 0);
}

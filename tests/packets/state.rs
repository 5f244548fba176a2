//! Flows, and who is exempt (SEMANTICS 36 to 44).

use palisade::compile::{PodDirection, Psid, RuleKey};

use crate::frame::{ACK, FIN, Packet, RST, SYN};
use crate::kernel_support::root;
use crate::lab::{CALLS, FRIEND, IN, LISTENS, Lab, NODE, OPEN, OUT, SHUT, STRANGER, WEB, uid};
use crate::{FAMILIES, end};

#[test]
fn s36_replies_to_an_allowed_flow_pass_and_nothing_else_does() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (friend, own) = (end(v6, FRIEND, 4000), end(v6, LISTENS, 80));
        lab.case(
            "SYN",
            LISTENS,
            IN,
            &Packet::tcp(friend, own, SYN).frame(),
            "pass friend",
        );
        lab.case(
            "SYN-ACK",
            LISTENS,
            OUT,
            &Packet::tcp(own, friend, SYN | ACK).frame(),
            "pass friend",
        );
        lab.case(
            "data",
            LISTENS,
            IN,
            &Packet::tcp(friend, own, ACK).frame(),
            "pass friend",
        );
        lab.case(
            "own SYN",
            LISTENS,
            OUT,
            &Packet::tcp(own, end(v6, FRIEND, 9), SYN).frame(),
            "drop isolated-out",
        );
        lab.case(
            "own SYN on the flow's ports",
            LISTENS,
            OUT,
            &Packet::tcp(own, friend, SYN).frame(),
            "drop isolated-out",
        );
        lab.case(
            "still",
            LISTENS,
            OUT,
            &Packet::tcp(own, friend, ACK).frame(),
            "pass friend",
        );
        lab.case(
            "UDP",
            LISTENS,
            IN,
            &Packet::udp(friend, own).frame(),
            "pass friend",
        );
        lab.follows(
            "UDP reply",
            LISTENS,
            OUT,
            &Packet::udp(own, friend).frame(),
            "pass friend",
        );
        let other = end(v6, FRIEND, 4001);
        lab.case(
            "UDP that nobody asked for",
            LISTENS,
            OUT,
            &Packet::udp(own, other).frame(),
            "drop isolated-out",
        );
    }
}

#[test]
fn s37_a_connection_in_its_middle_is_taken_up_if_either_end_may_have_opened_it() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        for (name, pod, peer, expected_out, expected_in) in [
            ("ingress allows", LISTENS, FRIEND, "pass friend", "pass friend"),
            ("egress allows", CALLS, FRIEND, "pass friend", "pass friend"),
            (
                "neither",
                LISTENS,
                STRANGER,
                "drop isolated-out",
                "drop isolated-in",
            ),
        ] {
            let packet = |port| Packet::tcp(end(v6, pod, port), end(v6, peer, 4000), ACK).frame();
            lab.case(name, pod, OUT, &packet(80), expected_out);
            let packet = |port| Packet::tcp(end(v6, peer, 4000), end(v6, pod, port), ACK).frame();
            lab.case(name, pod, IN, &packet(81), expected_in);
        }
    }
}

#[test]
fn s38_a_tightened_policy_cuts_the_flow_from_both_ends_and_a_loosened_one_does_not() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (friend, own) = (end(v6, FRIEND, 4000), end(v6, SHUT, 80));
        let data = Packet::tcp(friend, own, ACK).frame();
        let back = Packet::tcp(own, friend, ACK).frame();
        lab.case(
            "SYN",
            SHUT,
            IN,
            &Packet::tcp(friend, own, SYN).frame(),
            "pass friend",
        );
        lab.case("back", SHUT, OUT, &back, "pass friend");
        let ingress = |psid| {
            move |image: &mut palisade::compile::Image| {
                let pod = image.pods.get_mut(&uid(SHUT)).expect("the pod");
                pod.ingress = PodDirection {
                    psid,
                    denied_by: (psid != Psid::OPEN).then_some(RuleKey(3)),
                    audited_by: None,
                };
            }
        };
        lab.change(ingress(Psid(22)));
        // Egress to the friend is allowed: the cut flow is not taken up again by the other direction.
        lab.case("cut, back", SHUT, OUT, &back, "drop isolated-in");
        lab.case("cut, forth", SHUT, IN, &data, "drop isolated-in");
        lab.change(ingress(Psid::OPEN));
        lab.case("loosened, forth", SHUT, IN, &data, "pass open");
        lab.case(
            "loosened, back",
            SHUT,
            OUT,
            &back,
            "pass open (of the other direction)",
        );
        lab.change(ingress(Psid(20)));
        lab.case("as before", SHUT, OUT, &back, "pass friend");
    }
}

#[test]
fn s39_flows_of_one_pod_serve_no_other() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (stranger, own) = (end(v6, STRANGER, 4000), end(v6, SHUT, 80));
        // A foreign address at an open pod's interface, as a bridge floods it.
        lab.case(
            "flooded",
            OPEN,
            IN,
            &Packet::udp(stranger, own).frame(),
            "pass open",
        );
        lab.case(
            "its reply from the owner",
            SHUT,
            OUT,
            &Packet::udp(own, stranger).frame(),
            "drop isolated-out",
        );
        lab.case(
            "at the owner",
            SHUT,
            IN,
            &Packet::udp(stranger, own).frame(),
            "drop isolated-in",
        );
    }
}

#[test]
fn s40_ports_are_of_use_again_at_once() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (friend, own) = (end(v6, FRIEND, 4000), end(v6, LISTENS, 80));
        for last in [FIN | ACK, RST] {
            lab.case(
                "SYN",
                LISTENS,
                IN,
                &Packet::tcp(friend, own, SYN).frame(),
                "pass friend",
            );
            lab.case(
                "reply",
                LISTENS,
                OUT,
                &Packet::tcp(own, friend, SYN | ACK).frame(),
                "pass friend",
            );
            lab.case(
                "end",
                LISTENS,
                IN,
                &Packet::tcp(friend, own, last).frame(),
                "pass friend",
            );
            lab.case(
                "its answer",
                LISTENS,
                OUT,
                &Packet::tcp(own, friend, FIN | ACK).frame(),
                "pass friend",
            );
        }
        lab.case(
            "SYN again",
            LISTENS,
            IN,
            &Packet::tcp(friend, own, SYN).frame(),
            "pass friend",
        );
        lab.case(
            "reply again",
            LISTENS,
            OUT,
            &Packet::tcp(own, friend, SYN | ACK).frame(),
            "pass friend",
        );
    }
}

#[test]
fn s41_what_the_node_sends_passes_and_so_do_the_answers() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (node, own) = (end(v6, STRANGER, 4000), end(v6, SHUT, 80));
        lab.case_from(
            "probe",
            SHUT,
            IN,
            NODE,
            &Packet::tcp(node, own, SYN).frame(),
            "pass node",
        );
        lab.case(
            "answer",
            SHUT,
            OUT,
            &Packet::tcp(own, node, SYN | ACK).frame(),
            "pass node (of the other direction)",
        );
    }
}

#[test]
fn s42_a_node_address_on_forwarded_traffic_earns_nothing() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (node, own) = (end(v6, STRANGER, 4000), end(v6, SHUT, 80));
        lab.case_from(
            "probe",
            SHUT,
            IN,
            NODE,
            &Packet::udp(node, own).frame(),
            "pass node",
        );
        lab.case(
            "forwarded, on the probe's ports",
            SHUT,
            IN,
            &Packet::udp(node, own).frame(),
            "drop isolated-in",
        );
        lab.case(
            "forwarded",
            SHUT,
            IN,
            &Packet::tcp(node, own, SYN).frame(),
            "drop isolated-in",
        );
    }
}

#[test]
fn s43_a_pod_reaches_itself() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    let link = lab.ifindex(SHUT);
    for v6 in FAMILIES {
        let own = |port| end(v6, SHUT, port);
        let out = Packet::tcp(own(4000), own(80), SYN).frame();
        lab.case("out", SHUT, OUT, &out, "pass self");
        lab.case_from("in by its own link", SHUT, IN, link, &out, "pass self");
        // By way of its Service, masqueraded: another's address, but its own link.
        let back = Packet::tcp(end(v6, STRANGER, 4000), own(80), SYN).frame();
        lab.case_from("hairpin", SHUT, IN, link, &back, "pass self");
    }
}

#[test]
fn s44_egress_to_the_node_is_judged() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (node, own) = (end(v6, STRANGER, 10250), end(v6, SHUT, 4000));
        lab.case(
            "SYN",
            SHUT,
            OUT,
            &Packet::tcp(own, node, SYN).frame(),
            "drop isolated-out",
        );
        lab.case(
            "UDP",
            SHUT,
            OUT,
            &Packet::udp(own, node).frame(),
            "drop isolated-out",
        );
        lab.case(
            "to an allowed peer",
            SHUT,
            OUT,
            &Packet::tcp(own, end(v6, WEB, 80), SYN).frame(),
            "pass web",
        );
    }
}

//! Policies in audit: what they would deny passes, and is counted as theirs.

use crate::frame::{self, ACK, Extension, Packet, SYN, VLAN};
use crate::kernel_support::root;
use crate::lab::{FRIEND, IN, Lab, NODE, OUT, SHUT, STRANGER, WEB, address, uid};
use crate::{FAMILIES, end, ip};

#[test]
fn what_policy_in_audit_would_deny_passes_and_is_counted_as_such() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    lab.audit(SHUT, true);
    for v6 in FAMILIES {
        let own = |port| end(v6, SHUT, port);
        for (name, peer, port, expected) in [
            ("the friend", FRIEND, 81, "pass friend"),
            ("a port that is allowed", WEB, 80, "pass web"),
            ("a port that is not", WEB, 81, "pass audit-in"),
            ("a stranger", STRANGER, 80, "pass audit-in"),
        ] {
            let peer = end(v6, peer, 4000);
            let forth = |flags| Packet::tcp(peer, own(port), flags).frame();
            lab.case(name, SHUT, IN, &forth(SYN), expected);
            let back = Packet::tcp(own(port), peer, SYN | ACK).frame();
            lab.follows(name, SHUT, OUT, &back, expected);
            lab.case(name, SHUT, IN, &forth(ACK), expected);
        }
        let stranger = end(v6, STRANGER, 53);
        let question = Packet::udp(own(4000), stranger).frame();
        let answer = Packet::udp(stranger, own(4000)).frame();
        lab.case("question", SHUT, OUT, &question, "pass audit-out");
        lab.case("answer", SHUT, IN, &answer, "pass audit-out");
        let echo = Packet::echo_request(own(0).ip(), stranger.ip(), 7).frame();
        lab.case("echo", SHUT, OUT, &echo, "pass audit-out");
        lab.case("echo again", SHUT, OUT, &echo, "pass audit-out");
        let itself = Packet::udp(own(1), own(2)).frame();
        lab.case("itself", SHUT, OUT, &itself, "pass self");
        let probe = Packet::tcp(end(v6, 77, 4000), own(8080), SYN).frame();
        lab.case_from("the node", SHUT, IN, NODE, &probe, "pass node");
        let datagram = Packet::udp(end(v6, STRANGER, 9), own(9));
        lab.case(
            "first",
            SHUT,
            IN,
            &datagram.part(1, 0, 16).frame(),
            "pass audit-in",
        );
        lab.case(
            "last",
            SHUT,
            IN,
            &datagram.part(1, 16, 99).frame(),
            "pass audit-in",
        );
    }
}

#[test]
fn what_cannot_be_judged_passes_in_audit_as_if_denied_by_policy() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    lab.audit(SHUT, true);
    for v6 in FAMILIES {
        let (own, friend) = (end(v6, SHUT, 4000), end(v6, FRIEND, 9));
        let plain = Packet::udp(own, friend);
        let mut cut = plain.frame();
        cut.truncate(cut.len() - 1);
        for (name, bytes) in [
            ("VLAN", Packet::udp(own, friend).tagged(VLAN, 5).frame()),
            ("ethertype", frame::ethernet(&[], 0x88b5, &[0; 46])),
            ("shorter than it says", cut),
            ("a later fragment alone", plain.part(2, 16, 99).frame()),
        ] {
            lab.case(name, SHUT, OUT, &bytes, "pass audit-out");
        }
        let router = ip(if v6 { "2001:db8::1" } else { "192.0.2.1" });
        let kind = if v6 { 1 } else { 3 };
        let error = |quoted: Packet| Packet::error(router, own.ip(), kind, &quoted.ip()).frame();
        // Ports that no flow has.
        let none = Packet::udp(end(v6, OTHER, 1), friend);
        lab.case(
            "quotes nothing of its own",
            SHUT,
            IN,
            &error(none),
            "pass audit-in",
        );
        lab.case("quotes what passes", SHUT, IN, &error(plain), "pass icmp_error");
        // What no policy says, none in audit loosens.
        let foreign = Packet::udp(end(v6, STRANGER, 1), friend).frame();
        lab.case("foreign source", SHUT, OUT, &foreign, "drop spoofed");
    }
    let redirect = |from, to| Packet::icmp(address(false, from), address(false, to), 5, 1, &[0; 32]).frame();
    lab.case(
        "redirect to a pod",
        SHUT,
        IN,
        &redirect(FRIEND, SHUT),
        "pass audit-in",
    );
    lab.case(
        "redirect of a pod",
        SHUT,
        OUT,
        &redirect(SHUT, FRIEND),
        "drop router",
    );
    let routed = Packet::tcp(end(true, SHUT, 4300), end(true, WEB, 80), SYN).behind(&[Extension::Routing {
        units: 2,
        segments_left: 1,
    }]);
    lab.case("segments left", SHUT, OUT, &routed.frame(), "pass audit-out");
}

const OTHER: u8 = 55;

#[test]
fn s38_to_leave_audit_is_one_store_a_direction_and_cuts_what_was_audited() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    assert_eq!(lab.audit(SHUT, true), 2);
    for v6 in FAMILIES {
        let (stranger, friend, own) = (end(v6, STRANGER, 4000), end(v6, FRIEND, 4000), end(v6, SHUT, 80));
        let forth = |peer, flags| Packet::tcp(peer, own, flags).frame();
        lab.case("SYN", SHUT, IN, &forth(stranger, SYN), "pass audit-in");
        lab.case("the friend's SYN", SHUT, IN, &forth(friend, SYN), "pass friend");
    }
    assert_eq!(lab.audit(SHUT, false), 2);
    for v6 in FAMILIES {
        let (stranger, friend, own) = (end(v6, STRANGER, 4000), end(v6, FRIEND, 4000), end(v6, SHUT, 80));
        let forth = |peer| Packet::tcp(peer, own, ACK).frame();
        let back = |peer| Packet::tcp(own, peer, ACK).frame();
        lab.case("cut, forth", SHUT, IN, &forth(stranger), "drop isolated-in");
        lab.follows("cut, back", SHUT, OUT, &back(stranger), "drop isolated-in");
        lab.case("goes on", SHUT, IN, &forth(friend), "pass friend");
    }
    assert_eq!(lab.audit(SHUT, true), 2);
    for v6 in FAMILIES {
        let (stranger, own) = (end(v6, STRANGER, 4000), end(v6, SHUT, 80));
        let data = Packet::tcp(stranger, own, ACK).frame();
        lab.case("passes again", SHUT, IN, &data, "pass audit-in");
    }
    // Another process finds it as it was.
    lab.upgrade(0, |image| {
        let pod = &image.pods[&uid(SHUT)];
        assert!(pod.ingress.audited_by.is_some() && pod.egress.audited_by.is_some());
    });
    for v6 in FAMILIES {
        let (stranger, own) = (end(v6, STRANGER, 4000), end(v6, SHUT, 80));
        let data = Packet::tcp(stranger, own, ACK).frame();
        lab.case("after a restart", SHUT, IN, &data, "pass audit-in");
    }
}

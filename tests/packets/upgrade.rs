//! A version with other maps takes over from the one that runs.

use crate::frame::{ACK, Packet, SYN};
use crate::kernel_support::root;
use crate::lab::{CALLS, FRIEND, IN, LISTENS, Lab, NODE, NONE, OUT, SHUT, WEB, uid};
use crate::{FAMILIES, end};

#[test]
fn s53_flows_outlive_the_maps_that_knew_them() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (friend, own) = (end(v6, FRIEND, 53), end(v6, CALLS, 4000));
        lab.case(
            "question",
            CALLS,
            OUT,
            &Packet::udp(own, friend).frame(),
            "pass friend",
        );
        let (web, shut) = (end(v6, WEB, 4000), end(v6, SHUT, 80));
        lab.case("SYN", SHUT, IN, &Packet::tcp(web, shut, SYN).frame(), "pass web");
        let (node, listens) = (end(v6, 77, 4000), end(v6, LISTENS, 8080));
        let probe = Packet::tcp(node, listens, SYN).frame();
        lab.case_from("the node's SYN", LISTENS, IN, NODE, &probe, "pass node");
    }
    lab.upgrade(1, |_| {});
    assert!(lab.kernel().has_predecessor().unwrap());
    for v6 in FAMILIES {
        let (friend, own) = (end(v6, FRIEND, 53), end(v6, CALLS, 4000));
        lab.case(
            "answer",
            CALLS,
            IN,
            &Packet::udp(friend, own).frame(),
            "pass friend",
        );
        let other = end(v6, FRIEND, 54);
        lab.case(
            "an answer to nothing",
            CALLS,
            IN,
            &Packet::udp(other, own).frame(),
            "drop isolated-in",
        );
        let (web, shut) = (end(v6, WEB, 4000), end(v6, SHUT, 80));
        lab.follows(
            "data",
            SHUT,
            OUT,
            &Packet::tcp(shut, web, ACK).frame(),
            "pass web",
        );
        let (node, listens) = (end(v6, 77, 4000), end(v6, LISTENS, 8080));
        let answer = Packet::tcp(listens, node, SYN | ACK).frame();
        lab.case(
            "the answer to the node",
            LISTENS,
            OUT,
            &answer,
            "pass node (of the other direction)",
        );
    }
    // What policy says by now, it says of these flows too.
    lab.upgrade(2, |image| {
        image.pods.get_mut(&uid(CALLS)).expect("a pod").egress.psid = NONE
    });
    for v6 in FAMILIES {
        let (friend, own) = (end(v6, FRIEND, 53), end(v6, CALLS, 4000));
        lab.case(
            "the flow's next",
            CALLS,
            OUT,
            &Packet::udp(own, friend).frame(),
            "drop isolated-out",
        );
        lab.case(
            "its answer",
            CALLS,
            IN,
            &Packet::udp(friend, own).frame(),
            "drop isolated-out",
        );
    }
}

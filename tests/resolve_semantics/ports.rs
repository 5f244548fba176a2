//! Ports: numbers, ranges, names.

use crate::world::{
    block, egress, egress_of, entries, ingress, ingress_of, is, mk_pod, named, pods, resolved, set, subjects,
    tcp, with_port, world,
};
use palisade::model::{Direction, PortMatch, Protocol, Selector};

#[test]
fn s23_every_port_of_a_protocol_is_that_protocol_alone() {
    let policy = ingress(None, Some(vec![PortMatch::Every(Protocol::Udp)]));
    assert_eq!(
        ingress_of(vec![], policy),
        set(&["0.0.0.0/0 */UDP", "::/0 */UDP"])
    );
}

#[test]
fn s25_a_range_of_one_is_a_port() {
    let range = |first, last| PortMatch::Range {
        protocol: Protocol::Sctp,
        first,
        last,
    };
    let policy = ingress(
        Some(vec![block("10.0.0.0/8", &[])]),
        Some(vec![range(80, 80), range(90, 99)]),
    );
    assert_eq!(
        ingress_of(vec![], policy),
        set(&["10.0.0.0/8 80/SCTP 90-99/SCTP"])
    );
}

#[test]
fn s26_a_named_ingress_port_is_resolved_on_the_selected_pods() {
    let members = vec![
        with_port(mk_pod("shop/a", &[], &["10.0.0.1"]), "web", Protocol::Tcp, 80),
        with_port(mk_pod("shop/b", &[], &[]), "web", Protocol::Tcp, 8080),
        with_port(mk_pod("shop/c", &[], &["10.0.0.3"]), "web", Protocol::Udp, 53),
        with_port(mk_pod("office/d", &[], &["10.0.1.1"]), "web", Protocol::Tcp, 9999),
    ];
    let policy = ingress(Some(vec![block("192.0.2.0/24", &[])]), Some(vec![named("web")]));
    assert_eq!(
        ingress_of(members, policy),
        set(&["192.0.2.0/24 80/TCP=web 8080/TCP=web"])
    );
}

#[test]
fn s27_a_named_egress_port_is_resolved_on_each_destination_pod() {
    let members = || {
        vec![
            with_port(
                mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]),
                "web",
                Protocol::Tcp,
                80,
            ),
            with_port(
                mk_pod("shop/b", &[("app", "a")], &["10.0.0.2"]),
                "web",
                Protocol::Tcp,
                8080,
            ),
            mk_pod("shop/c", &[("app", "a")], &["10.0.0.3"]),
            with_port(mk_pod("office/d", &[], &["10.0.1.1"]), "web", Protocol::Tcp, 9090),
        ]
    };
    let ports = || Some(vec![named("web"), tcp(443)]);
    for (peers, expected) in [
        (
            Some(vec![pods(None, Some(is("app", "a")))]),
            &[
                "10.0.0.1 80/TCP 443/TCP",
                "10.0.0.2 443/TCP 8080/TCP",
                "10.0.0.3 443/TCP",
            ][..],
        ),
        (
            Some(vec![block("10.0.0.0/23", &["10.0.0.2/32"])]),
            &[
                "10.0.0.0/23 !10.0.0.2 443/TCP",
                "10.0.0.1 80/TCP",
                "10.0.1.1 9090/TCP",
            ],
        ),
        (
            None,
            &[
                "0.0.0.0/0 443/TCP",
                "::/0 443/TCP",
                "10.0.0.1 80/TCP",
                "10.0.0.2 8080/TCP",
                "10.0.1.1 9090/TCP",
            ],
        ),
    ] {
        assert_eq!(
            egress_of(members(), egress(peers.clone(), ports())),
            set(expected),
            "{peers:?}"
        );
    }
    assert_eq!(
        egress_of(
            members(),
            egress(Some(vec![block("10.0.0.1/32", &[])]), Some(vec![named("web")]))
        ),
        set(&["10.0.0.1 80/TCP"])
    );
}

#[test]
fn s28_an_unresolvable_named_port_matches_nothing_and_is_reported() {
    let member = || mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]);
    for policy in [
        ingress(None, Some(vec![named("web")])),
        egress(None, Some(vec![named("web")])),
        egress(
            Some(vec![pods(None, Some(is("app", "a")))]),
            Some(vec![named("web")]),
        ),
        egress(Some(vec![block("192.0.2.0/24", &[])]), Some(vec![named("web")])),
    ] {
        let resolution = resolved(&world(vec![member()], vec![policy.clone()]));
        assert_eq!(entries(&resolution, Direction::Ingress), set(&[]), "{policy:?}");
        assert_eq!(entries(&resolution, Direction::Egress), set(&[]), "{policy:?}");
        let problems: Vec<_> = resolution
            .problems
            .iter()
            .map(|p| (p.field.as_str(), p.value.as_str()))
            .collect();
        let direction = if policy.ingress.is_some() {
            "ingress"
        } else {
            "egress"
        };
        assert_eq!(
            problems,
            [(&*format!("spec.{direction}[0].ports"), "web/TCP")],
            "{policy:?}"
        );
    }
}

#[test]
fn s29_nothing_is_truncated() {
    let members = (0..3000u16)
        .map(|n| {
            mk_pod(
                &format!("shop/p{n}"),
                &[],
                &[&format!("10.0.{}.{}", n >> 8, n & 255)],
            )
        })
        .collect();
    let ports = (1..=500).map(|n| tcp(n * 2)).collect();
    let policy = ingress(Some(vec![pods(None, Some(Selector::everything()))]), Some(ports));
    let resolution = resolved(&world(members, vec![policy]));
    let entries: Vec<_> = resolution.endpoints["policy"]
        .iter()
        .flat_map(|s| &s.spec.ingress)
        .collect();
    assert_eq!(entries.len(), 3000);
    assert!(entries.iter().all(|entry| entry.ports.len() == 500));
    assert_eq!(subjects(&resolution).len(), 3000);
}

//! What goes by way of a Service.

use crate::world::{
    block, egress, entries, ingress, ip, is, mk_endpoints, mk_pod, mk_policy, mk_service, pods, resolved,
    self_services, set, tcp, world,
};
use palisade::api::SelfService;
use palisade::model::{Direction, Policy, Problem, Protocol};

#[test]
fn s22_egress_to_an_allowed_backend_is_allowed_through_its_service() {
    let backend = mk_pod("shop/a", &[("app", "a")], &["10.0.0.1", "fd00::1"]);
    for (peers, port, expected) in [
        (
            Some(vec![block("10.0.0.1/32", &[])]),
            8080,
            &["10.0.0.1 8080/TCP", "10.96.0.1 80/TCP"][..],
        ),
        (
            Some(vec![pods(None, Some(is("app", "a")))]),
            8080,
            &[
                "10.0.0.1 8080/TCP",
                "fd00::1 8080/TCP",
                "10.96.0.1 80/TCP",
                "fd96::1 80/TCP",
            ],
        ),
        (
            None,
            8080,
            &[
                "0.0.0.0/0 8080/TCP",
                "::/0 8080/TCP",
                "10.96.0.1 80/TCP",
                "fd96::1 80/TCP",
            ],
        ),
        (Some(vec![block("10.0.0.1/32", &[])]), 80, &["10.0.0.1 80/TCP"]),
        (
            Some(vec![block("10.0.0.0/8", &["10.0.0.1/32"])]),
            8080,
            // What is excepted is not to be had by way of its ClusterIP either.
            &["10.0.0.0/8 !10.0.0.1 !10.96.0.1 8080/TCP"],
        ),
        (
            Some(vec![
                block("10.0.0.0/8", &["10.0.0.1/32"]),
                block("10.0.0.1/32", &[]),
            ]),
            8080,
            &[
                "10.0.0.0/8 !10.0.0.1 !10.96.0.1 8080/TCP",
                "10.0.0.1 8080/TCP",
                "10.96.0.1 80/TCP",
            ],
        ),
    ] {
        let policy = egress(peers.clone(), Some(vec![tcp(port)]));
        let mut snapshot = world(vec![backend.clone()], vec![policy]);
        snapshot.services = vec![mk_service("s", &["10.96.0.1", "fd96::1"], 80)];
        snapshot.endpoint_slices = vec![
            mk_endpoints("s4", "s", &["10.0.0.1"], 8080),
            mk_endpoints("s6", "s", &["fd00::1"], 8080),
        ];
        assert_eq!(
            entries(&resolved(&snapshot), Direction::Egress),
            set(expected),
            "{peers:?} {port}"
        );
    }
}

#[test]
fn s22_a_service_without_ready_backends_or_of_another_port_is_not_added() {
    let policy = egress(Some(vec![pods(None, Some(is("app", "a")))]), None);
    let mut snapshot = world(
        vec![mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"])],
        vec![policy],
    );
    snapshot.services = vec![mk_service("s", &["10.96.0.1"], 80)];
    assert_eq!(
        entries(&resolved(&snapshot), Direction::Egress),
        set(&["10.0.0.1"])
    );
    let mut other_port = mk_endpoints("s4", "s", &["10.0.0.1"], 8080);
    other_port.ports[0].protocol = Protocol::Udp;
    snapshot.endpoint_slices = vec![other_port];
    assert_eq!(
        entries(&resolved(&snapshot), Direction::Egress),
        set(&["10.0.0.1"])
    );
}

#[test]
fn s22_mixed_backends_are_denied_and_reported() {
    let members = vec![
        mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]),
        mk_pod("shop/b", &[("app", "b")], &["10.0.0.2"]),
    ];
    let policy = egress(Some(vec![pods(None, Some(is("app", "a")))]), None);
    let mut snapshot = world(members, vec![policy]);
    snapshot.services = vec![mk_service("s", &["10.96.0.1"], 80)];
    snapshot.endpoint_slices = vec![mk_endpoints("s4", "s", &["10.0.0.1", "10.0.0.2"], 8080)];
    let resolution = resolved(&snapshot);
    assert_eq!(entries(&resolution, Direction::Egress), set(&["10.0.0.1"]));
    let [
        Problem {
            object, field, value, ..
        },
    ] = &resolution.problems[..]
    else {
        panic!("one problem: {:?}", resolution.problems);
    };
    assert_eq!(
        (object.as_str(), field.as_str(), value.as_str()),
        (
            "NetworkPolicy shop/p",
            "spec.egress[0]",
            "Service shop/s 10.96.0.1 80/TCP"
        )
    );
}

#[test]
fn s24_a_numeric_port_is_the_backends_port_not_the_services() {
    let backend = mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]);
    for (port, through) in [(8080, true), (80, false)] {
        let policy = egress(
            Some(vec![pods(None, Some(is("app", "a")))]),
            Some(vec![tcp(port)]),
        );
        let mut snapshot = world(vec![backend.clone()], vec![policy]);
        snapshot.services = vec![mk_service("s", &["10.96.0.1"], 80)];
        snapshot.endpoint_slices = vec![mk_endpoints("s4", "s", &["10.0.0.1"], 8080)];
        let entries = entries(&resolved(&snapshot), Direction::Egress);
        assert_eq!(entries.contains("10.96.0.1 80/TCP"), through, "{port}");
    }
}

#[test]
fn s43_a_selected_pod_that_is_alone_behind_a_service_reaches_itself_through_it() {
    let deny = Policy {
        egress: Some(vec![]),
        ..mk_policy("shop", "p")
    };
    let members = vec![
        mk_pod("shop/a", &[], &["10.0.0.1"]),
        mk_pod("office/b", &[], &["10.0.1.1"]),
    ];
    let mut snapshot = world(members, vec![deny]);
    snapshot.services = vec![
        mk_service("s", &["10.96.0.1"], 80),
        mk_service("t", &["10.96.0.2"], 80),
    ];
    snapshot.endpoint_slices = vec![
        mk_endpoints("s4", "s", &["10.0.0.1"], 8080),
        mk_endpoints("t4", "t", &["10.0.0.1", "10.0.1.1"], 8080),
    ];
    let alone = SelfService {
        pod_ip: ip("10.0.0.1"),
        cluster_ip: ip("10.96.0.1"),
        protocol: Protocol::Tcp,
        port: 80,
    };
    assert_eq!(self_services(&resolved(&snapshot)), [alone]);
    snapshot.policies = vec![ingress(None, None)];
    assert_eq!(self_services(&resolved(&snapshot)), []);
}

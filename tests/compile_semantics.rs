//! What endpoints mean for one pod and one packet.

use std::net::IpAddr;
use std::sync::Arc;

use palisade::api::{PolicyEndpoint, PolicyEndpointSpec};
use palisade::compile::{Compiled, Decision, Endpoints, Image, Op, Psid, RuleInfo, compile, diff, eval};
use palisade::model::Direction::{self, Egress, Ingress};
use palisade::model::{ContainerPort, ObjectId, Pod, Protocol};
use serde_json::{Value, json};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const GRE: u8 = 47;

struct Node {
    endpoints: Endpoints,
    pods: Vec<Pod>,
}

/// One object of policy `name` in namespace `shop`, whose UID is its name.
fn node(objects: &[(&str, Value)]) -> Node {
    let mut endpoints = Endpoints::new();
    for (name, spec) in objects {
        let mut spec = spec.clone();
        spec["policyRef"] = json!({"namespace": "shop", "name": name});
        let spec: PolicyEndpointSpec = serde_json::from_value(spec).unwrap();
        let objects = endpoints.entry(Arc::from(*name)).or_default();
        let mut object = PolicyEndpoint::new(&format!("{name}-{}", objects.len()), spec);
        object.metadata.namespace = Some("shop".to_string());
        objects.push(Arc::new(object));
    }
    let pod = |name: &str, app: &str, host: u8| Pod {
        id: ObjectId::new("shop", name),
        uid: name.into(),
        labels: Arc::new([("app".into(), app.into())].into()),
        node: None,
        host_ip: None,
        addresses: vec![ip(&format!("10.77.0.{host}")), ip(&format!("fd77::{host}"))],
        ports: Arc::default(),
        host_network: false,
        finished: false,
        created: None,
        source_prefixes: Vec::new(),
        log_allowed: false,
    };
    Node {
        endpoints,
        pods: vec![pod("web", "web", 1), pod("api", "api", 2)],
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Node {
    fn container_port(mut self, pod: &str, name: &str, protocol: Protocol, number: u16) -> Self {
        let pod = self.pods.iter_mut().find(|p| &*p.uid == pod).unwrap();
        let port = ContainerPort {
            name: Some(name.into()),
            protocol,
            number,
        };
        pod.ports = pod.ports.iter().cloned().chain([port]).collect();
        self
    }

    fn compiled(&self) -> Compiled {
        compile(&self.endpoints, &self.pods.iter().collect::<Vec<_>>())
    }

    fn decision(&self, pod: &str, direction: Direction, peer: &str, protocol: u8, port: u16) -> Decision {
        eval(&self.compiled().image, pod, direction, ip(peer), protocol, port).unwrap()
    }

    fn allows(&self, pod: &str, direction: Direction, peer: &str, protocol: u8, port: u16) -> bool {
        self.decision(pod, direction, peer, protocol, port).allowed
    }

    /// The rule that allows, as a reader of the policy finds it; or the policies that isolate.
    fn by(&self, pod: &str, direction: Direction, peer: &str, protocol: u8, port: u16) -> Option<String> {
        let by = self.decision(pod, direction, peer, protocol, port).by?;
        Some(match &self.compiled().image.rules[&by] {
            RuleInfo::Rule(rule) => rule.to_string(),
            RuleInfo::Isolation { policies, .. } | RuleInfo::Audit { policies, .. } => policies
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

fn web_ingress(entries: Value) -> Node {
    node(&[(
        "policy",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "podIsolation": ["Ingress"], "ingress": entries}),
    )])
}

fn web_allows(node: &Node, peer: &str, protocol: u8, port: u16) -> bool {
    node.allows("web", Ingress, peer, protocol, port)
}

#[test]
fn s1_a_pod_that_no_policy_selects_is_open() {
    let node = web_ingress(json!([]));
    assert_eq!(
        node.decision("api", Ingress, "8.8.8.8", TCP, 80),
        Decision {
            allowed: true,
            audited: false,
            by: None
        }
    );
    assert_eq!(node.compiled().image.pods["api"].ingress.psid, Psid::OPEN);
}

#[test]
fn s2_isolation_is_per_direction() {
    let node = web_ingress(json!([]));
    assert!(!node.allows("web", Ingress, "8.8.8.8", TCP, 80));
    assert!(node.allows("web", Egress, "8.8.8.8", TCP, 80));
    assert_eq!(
        node.by("web", Ingress, "8.8.8.8", TCP, 80).as_deref(),
        Some("shop/policy")
    );
    assert!(node.compiled().image.pods["web"].ingress.psid.0 >= Psid::FIRST);
}

#[test]
fn s3_an_absent_or_empty_selector_selects_every_pod_of_its_namespace_only() {
    for selector in [json!(null), json!({})] {
        let mut node = node(&[(
            "all",
            json!({"podSelector": selector, "podIsolation": ["Ingress"]}),
        )]);
        node.pods[1].id = ObjectId::new("bank", "api");
        assert!(!node.allows("web", Ingress, "8.8.8.8", TCP, 80));
        assert!(node.allows("api", Ingress, "8.8.8.8", TCP, 80));
    }
}

#[test]
fn s4_policies_add_up_and_the_first_by_name_answers() {
    let entry = |cidr: &str, rule: u32| json!([{"cidr": cidr, "rule": rule}]);
    let node = node(&[
        (
            "b",
            json!({"podIsolation": ["Ingress"], "ingress": entry("10.0.0.0/8", 3)}),
        ),
        (
            "a",
            json!({"podIsolation": ["Ingress"], "ingress": entry("10.9.0.0/16", 1)}),
        ),
        ("c", json!({"podIsolation": ["Ingress"]})),
    ]);
    assert_eq!(
        node.by("web", Ingress, "10.9.0.1", TCP, 80).as_deref(),
        Some("shop/a spec.ingress[1]")
    );
    assert_eq!(
        node.by("web", Ingress, "10.8.0.1", TCP, 80).as_deref(),
        Some("shop/b spec.ingress[3]")
    );
    assert_eq!(
        node.by("web", Ingress, "11.8.0.1", TCP, 80).as_deref(),
        Some("shop/a, shop/b, shop/c")
    );
}

#[test]
fn s7_rules_of_a_direction_that_is_not_isolated_are_ignored() {
    let node = node(&[
        (
            "egress",
            json!({"podIsolation": ["Egress"], "ingress": [{"cidr": "10.0.0.0/8"}]}),
        ),
        ("ingress", json!({"podIsolation": ["Ingress"]})),
    ]);
    assert!(!node.allows("web", Ingress, "10.0.0.1", TCP, 80));
}

#[test]
fn s8_isolation_without_entries_denies_all() {
    let node = web_ingress(json!([]));
    for protocol in [TCP, UDP, SCTP, ICMP, GRE] {
        assert!(!web_allows(&node, "10.1.0.2", protocol, 0));
    }
}

#[test]
fn s9_no_ports_is_every_port_of_every_protocol() {
    let node = web_ingress(json!([{"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}]));
    for protocol in 0..=255 {
        for port in [0, 1, 65535] {
            assert!(
                web_allows(&node, "8.8.8.8", protocol, port)
                    && web_allows(&node, "2001:db8::1", protocol, port)
            );
        }
    }
}

#[test]
fn s10_peers_and_ports_are_alternatives_and_both_must_match() {
    let node = web_ingress(json!([
        {"cidr": "10.1.0.5", "ports": [{"port": 80}, {"port": 81}], "rule": 0},
        {"cidr": "10.1.0.6", "ports": [{"port": 80}, {"port": 81}], "rule": 0},
        {"cidr": "10.1.0.6", "ports": [{"port": 90}], "rule": 1},
    ]));
    for (peer, ports) in [
        ("10.1.0.5", &[80, 81][..]),
        ("10.1.0.6", &[80, 81, 90]),
        ("10.1.0.7", &[]),
    ] {
        for port in [79, 80, 81, 82, 90] {
            assert_eq!(
                web_allows(&node, peer, TCP, port),
                ports.contains(&port),
                "{peer} {port}"
            );
        }
    }
}

#[test]
fn s11_what_cannot_be_expressed_still_isolates_and_is_reported() {
    let entries =
        json!([{"cidr": "0.0.0.0/0", "ports": [{"port": 90, "endPort": 80}, {"endPort": 80}, {"port": 0}]}]);
    let node = web_ingress(entries);
    assert!(!web_allows(&node, "8.8.8.8", TCP, 85) && !web_allows(&node, "8.8.8.8", TCP, 0));
    let problems = node.compiled().problems;
    let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.ingress[0].ports[0]",
            "spec.ingress[0].ports[1]",
            "spec.ingress[0].ports[2]"
        ]
    );
    assert!(
        problems
            .iter()
            .all(|p| p.object == "PolicyEndpoint shop/policy-0"),
        "{problems:?}"
    );
}

#[test]
fn s11_a_selector_that_cannot_be_read_isolates_the_namespace_and_allows_nothing() {
    let selector = json!({"matchExpressions": [{"key": "app", "operator": "Near", "values": ["web"]}]});
    let node = node(&[(
        "odd",
        json!({"podSelector": selector, "podIsolation": ["Ingress"], "ingress": [{"cidr": "0.0.0.0/0"}]}),
    )]);
    assert!(
        !node.allows("web", Ingress, "8.8.8.8", TCP, 80) && !node.allows("api", Ingress, "8.8.8.8", TCP, 80)
    );
    let problems = node.compiled().problems;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].field, "spec.podSelector.matchExpressions[0].operator");
    assert_eq!(problems[0].value, "\"Near\"");
}

#[test]
fn s11_an_object_of_another_namespaces_policy_allows_nothing_and_is_reported() {
    let mut node = web_ingress(json!([{"cidr": "0.0.0.0/0"}]));
    let mut foreign = PolicyEndpoint::clone(&node.endpoints["policy"][0]);
    foreign.spec.policy_ref.namespace = "bank".into();
    node.endpoints.insert("policy".into(), vec![Arc::new(foreign)]);
    assert!(!web_allows(&node, "8.8.8.8", TCP, 80));
    assert_eq!(node.compiled().problems[0].field, "spec.policyRef.namespace");
}

#[test]
fn s12_a_policy_recreated_under_its_name_gives_the_same_verdicts() {
    let node = web_ingress(json!([{"cidr": "10.1.0.2", "ports": [{"port": 80}], "rule": 0}]));
    let objects = node.endpoints["policy"].clone();
    let recreated = Node {
        endpoints: [("another-uid".into(), objects)].into(),
        pods: node.pods.clone(),
    };
    assert!(web_allows(&recreated, "10.1.0.2", TCP, 80) && !web_allows(&recreated, "10.1.0.2", TCP, 81));
    assert_eq!(
        recreated.compiled().image.rules,
        node.compiled().image.rules,
        "its counters go on"
    );
}

#[test]
fn s19_except_carves_out_of_its_own_entry_only() {
    let node = web_ingress(json!([
        {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24", "10.2.0.7"], "rule": 0},
        {"cidr": "10.1.2.0/24", "ports": [{"port": 80}], "rule": 1},
    ]));
    for (peer, all, http) in [
        ("10.0.0.1", true, true),
        ("10.1.0.1", false, false),
        ("10.1.2.3", false, true),
        ("10.2.0.6", true, true),
        ("10.2.0.7", false, false),
        ("11.0.0.1", false, false),
    ] {
        assert_eq!(web_allows(&node, peer, UDP, 53), all, "{peer}");
        assert_eq!(web_allows(&node, peer, TCP, 80), http, "{peer}");
    }
}

#[test]
fn s19_except_that_is_not_inside_takes_what_it_shares_and_is_reported() {
    for (except, left) in [
        ("10.1.0.0/16", false),
        ("10.0.0.0/8", false),
        ("10.2.0.0/16", true),
        ("fd00::/8", true),
    ] {
        let node = web_ingress(json!([{"cidr": "10.1.0.0/16", "except": [except]}]));
        assert_eq!(web_allows(&node, "10.1.0.9", TCP, 80), left, "{except}");
        assert_eq!(node.compiled().problems.len(), 1, "{except}");
    }
}

#[test]
fn s20_duplicate_nested_whole_and_single_blocks() {
    let node = web_ingress(json!([
        {"cidr": "0.0.0.0/0", "ports": [{"port": 1}], "rule": 0},
        {"cidr": "10.0.0.0/8", "ports": [{"port": 2}], "rule": 1},
        {"cidr": "10.9.9.9/8", "ports": [{"port": 2}], "rule": 1},
        {"cidr": "10.1.0.0/16", "ports": [{"port": 3}], "rule": 2},
        {"cidr": "10.1.0.7/32", "ports": [{"port": 4}], "rule": 3},
        {"cidr": "::ffff:10.1.0.8", "ports": [{"port": 4}], "rule": 3},
        {"cidr": "fd00::7/128", "ports": [{"port": 4}], "rule": 3},
    ]));
    for (peer, ports) in [
        ("8.8.8.8", &[1][..]),
        ("10.200.0.1", &[1, 2]),
        ("10.1.0.1", &[1, 2, 3]),
        ("10.1.0.7", &[1, 2, 3, 4]),
        ("10.1.0.8", &[1, 2, 3, 4]),
        ("fd00::7", &[4]),
    ] {
        for port in 0..6 {
            assert_eq!(
                web_allows(&node, peer, TCP, port),
                ports.contains(&port),
                "{peer} {port}"
            );
        }
    }
    assert_eq!(node.compiled().image.networks.len(), 3);
    assert_eq!(node.compiled().image.addresses.len(), 3);
}

#[test]
fn s21_families_do_not_match_each_other_and_blocks_match_pods() {
    let v4 = web_ingress(json!([{"cidr": "0.0.0.0/0"}]));
    assert!(web_allows(&v4, "10.1.0.2", TCP, 80) && !web_allows(&v4, "fd01::2", TCP, 80));
    assert!(
        !web_allows(&v4, "::ffff:10.1.0.2", TCP, 80),
        "on the wire, an IPv4-mapped address is IPv6"
    );
    let v6 = web_ingress(json!([{"cidr": "::/0"}]));
    assert!(!web_allows(&v6, "10.1.0.2", TCP, 80) && web_allows(&v6, "fd01::2", TCP, 80));
}

#[test]
fn s23_no_protocol_is_tcp_and_no_port_is_every_port_of_that_protocol_only() {
    let node = web_ingress(json!([
        {"cidr": "10.0.0.0/8", "ports": [{"port": 53}, {"protocol": "UDP"}]},
        {"cidr": "11.0.0.0/8", "ports": [{}]},
    ]));
    assert!(web_allows(&node, "10.0.0.1", TCP, 53) && !web_allows(&node, "10.0.0.1", TCP, 54));
    assert!(web_allows(&node, "10.0.0.1", UDP, 1) && web_allows(&node, "10.0.0.1", UDP, 65535));
    assert!(!web_allows(&node, "10.0.0.1", SCTP, 53) && !web_allows(&node, "10.0.0.1", ICMP, 0));
    assert!(web_allows(&node, "11.0.0.1", TCP, 9) && !web_allows(&node, "11.0.0.1", UDP, 9));
}

#[test]
fn s25_end_port_is_inclusive_and_may_equal_port() {
    let node = web_ingress(json!([{"cidr": "10.0.0.0/8", "ports": [
        {"port": 80, "endPort": 82}, {"port": 90, "endPort": 90}, {"port": 65535, "endPort": 65535}
    ]}]));
    let image = node.compiled().image;
    let open = |port: &u16| {
        eval(&image, "web", Ingress, ip("10.0.0.1"), TCP, *port)
            .unwrap()
            .allowed
    };
    assert_eq!(
        (0..=65535).filter(open).collect::<Vec<u16>>(),
        [80, 81, 82, 90, 65535]
    );
}

fn named() -> Node {
    let ports = json!([{"port": 8080, "name": "http"}, {"port": 9090, "name": "http"}]);
    node(&[(
        "named",
        json!({"podIsolation": ["Ingress"], "ingress": [{"cidr": "10.0.0.0/8", "ports": ports}]}),
    )])
}

#[test]
fn s26_a_named_port_counts_for_the_pods_that_give_it_that_number() {
    let node = named()
        .container_port("web", "http", Protocol::Tcp, 8080)
        .container_port("api", "http", Protocol::Tcp, 9090);
    for (pod, open, closed) in [("web", 8080, 9090), ("api", 9090, 8080)] {
        assert!(node.allows(pod, Ingress, "10.0.0.1", TCP, open));
        assert!(!node.allows(pod, Ingress, "10.0.0.1", TCP, closed));
    }
    let image = node.compiled().image;
    assert_ne!(image.pods["web"].ingress.psid, image.pods["api"].ingress.psid);
}

#[test]
fn s28_a_name_that_the_pod_does_not_have_matches_nothing() {
    let node = named()
        .container_port("web", "http", Protocol::Udp, 8080)
        .container_port("api", "https", Protocol::Tcp, 8080);
    for pod in ["web", "api"] {
        for (protocol, port) in [(TCP, 8080), (TCP, 9090), (UDP, 8080), (TCP, 1), (ICMP, 0)] {
            assert!(
                !node.allows(pod, Ingress, "10.0.0.1", protocol, port),
                "{pod} {protocol} {port}"
            );
        }
    }
    assert!(
        node.compiled().image.networks.is_empty(),
        "no rule applies, so no peer matters"
    );
}

#[test]
fn s29_a_thousand_ports_and_rules_are_all_there() {
    let ports: Vec<Value> = (0..1000).map(|p| json!({"port": 2 * p + 1})).collect();
    let mut entries = vec![json!({"cidr": "10.0.0.0/8", "ports": ports, "rule": 0})];
    entries.extend(
        (0..1000).map(|r| json!({"cidr": "10.1.0.2", "ports": [{"port": 30000 + r}], "rule": r + 1})),
    );
    let node = web_ingress(json!(entries));
    let image = node.compiled().image;
    let allows = |peer: &str, port| eval(&image, "web", Ingress, ip(peer), TCP, port).unwrap().allowed;
    assert!((0..2000).all(|port| allows("10.3.0.1", port) == (port % 2 == 1)));
    assert!((0..2000).all(|port| allows("10.1.0.2", port) == (port % 2 == 1)));
    assert!((29_999..31_002).all(|port| allows("10.1.0.2", port) == (30_000..31_000).contains(&port)));
}

#[test]
fn s30_an_sctp_rule_opens_nothing_else_and_ports_open_no_other_protocol() {
    let node = web_ingress(json!([{"cidr": "10.0.0.0/8", "ports": [{"protocol": "SCTP", "port": 80}]}]));
    assert!(web_allows(&node, "10.0.0.1", SCTP, 80) && !web_allows(&node, "10.0.0.1", SCTP, 81));
    for protocol in [TCP, UDP, ICMP, GRE] {
        assert!(!web_allows(&node, "10.0.0.1", protocol, 80) && !web_allows(&node, "10.0.0.1", protocol, 0));
    }
}

#[test]
fn s32_echo_obeys_rules_without_ports() {
    let all = json!([{"protocol": "TCP"}, {"protocol": "UDP"}, {"protocol": "SCTP"}]);
    let node = web_ingress(
        json!([{"cidr": "10.0.0.0/8"}, {"cidr": "11.0.0.0/8", "ports": all}, {"cidr": "fd00::/8"}]),
    );
    assert!(web_allows(&node, "10.0.0.1", ICMP, 0) && web_allows(&node, "fd00::1", ICMPV6, 0));
    assert!(!web_allows(&node, "11.0.0.1", ICMP, 0));
}

#[test]
fn s43_a_pod_reaches_itself_by_address_and_through_its_own_service() {
    let service = json!({"podIP": "10.77.0.1", "clusterIP": "10.96.0.10", "protocol": "TCP", "port": 443});
    let spec = json!({"podIsolation": ["Ingress", "Egress"], "selfServices": [service]});
    let node = node(&[("deny", spec)]);
    for direction in Direction::ALL {
        assert!(
            node.allows("web", direction, "10.77.0.1", TCP, 80)
                && node.allows("web", direction, "fd77::1", ICMPV6, 0)
        );
        assert!(!node.allows("web", direction, "10.77.0.2", TCP, 80));
    }
    assert!(node.allows("web", Egress, "10.96.0.10", TCP, 443));
    for (pod, direction, protocol, port) in [
        ("api", Egress, TCP, 443),
        ("web", Egress, UDP, 443),
        ("web", Egress, TCP, 80),
        ("web", Ingress, TCP, 443),
    ] {
        assert!(
            !node.allows(pod, direction, "10.96.0.10", protocol, port),
            "{pod} {direction} {protocol} {port}"
        );
    }
}

#[test]
fn s48_a_pod_is_known_by_its_uid_only() {
    let image = web_ingress(json!([])).compiled().image;
    assert_eq!(eval(&image, "shop/web", Ingress, ip("10.1.0.2"), TCP, 80), None);
}

#[test]
fn s50_pods_with_different_labels_have_different_policies() {
    let entry = |port: u16| json!([{"cidr": "10.0.0.0/8", "ports": [{"port": port}]}]);
    let select = |app: &str| json!({"matchLabels": {"app": app}});
    let node = node(&[
        (
            "web",
            json!({"podSelector": select("web"), "podIsolation": ["Ingress"], "ingress": entry(80)}),
        ),
        (
            "api",
            json!({"podSelector": select("api"), "podIsolation": ["Ingress"], "ingress": entry(81)}),
        ),
    ]);
    assert!(
        node.allows("web", Ingress, "10.0.0.1", TCP, 80) && !node.allows("web", Ingress, "10.0.0.1", TCP, 81)
    );
    assert!(
        node.allows("api", Ingress, "10.0.0.1", TCP, 81) && !node.allows("api", Ingress, "10.0.0.1", TCP, 80)
    );
}

#[test]
fn s51_both_families_are_enforced() {
    let node = web_ingress(json!([{"cidr": "10.1.0.2"}, {"cidr": "fd01::2"}]));
    for (peer, allowed) in [
        ("10.1.0.2", true),
        ("fd01::2", true),
        ("10.1.0.3", false),
        ("fd01::3", false),
    ] {
        assert_eq!(web_allows(&node, peer, TCP, 80), allowed, "{peer}");
    }
}

fn in_audit(mut spec: Value) -> Value {
    spec["enforcement"] = json!("Audit");
    spec
}

#[test]
fn s4_what_only_policies_in_audit_isolate_passes_and_is_told_apart() {
    let spec = json!({"podIsolation": ["Ingress"], "ingress": [{"cidr": "10.0.0.0/8", "rule": 0}]});
    let enforced = node(&[("a", spec.clone()), ("b", spec.clone())]);
    let audited = node(&[("a", in_audit(spec.clone())), ("b", in_audit(spec))]);
    let stranger = |node: &Node| node.decision("web", Ingress, "8.8.8.8", TCP, 80);
    assert!(!stranger(&enforced).allowed);
    assert!(stranger(&audited).allowed && stranger(&audited).audited);
    let by = audited.by("web", Ingress, "8.8.8.8", TCP, 80);
    assert_eq!(by.as_deref(), Some("shop/a, shop/b"));
    let friend = audited.decision("web", Ingress, "10.0.0.1", TCP, 80);
    assert!(friend.allowed && !friend.audited);
    // Nothing but the pods' words differs: to leave audit is to store those, with the name of who denies.
    let (before, after) = (audited.compiled().image, enforced.compiled().image);
    assert_eq!(before.pods["web"].ingress.psid, after.pods["web"].ingress.psid);
    assert_eq!((&before.rows, &before.addresses), (&after.rows, &after.addresses));
    assert_eq!((&before.l4, &before.networks), (&after.l4, &after.networks));
    let audit = |image: &Image| {
        image
            .rules
            .values()
            .any(|info| matches!(info, RuleInfo::Audit { .. }))
    };
    let isolation = |image: &Image| {
        image
            .rules
            .values()
            .any(|info| matches!(info, RuleInfo::Isolation { .. }))
    };
    assert_eq!((audit(&before), isolation(&before)), (true, false));
    assert_eq!((audit(&after), isolation(&after)), (false, true));
    let ops = diff(&before, &after);
    let flips = ops.iter().filter(|op| matches!(op, Op::SetPod(..))).count();
    let names = ops
        .iter()
        .filter(|op| matches!(op, Op::AddRule(..) | Op::RemoveRule(_)))
        .count();
    assert_eq!((flips, names, ops.len()), (2, 2, 4), "{ops:#?}");
}

#[test]
fn s4_beside_an_enforced_policy_those_in_audit_leave_no_trace() {
    let enforced = json!({"podIsolation": ["Ingress"], "ingress": [{"cidr": "10.0.0.0/8"}]});
    let audited = in_audit(json!({"podIsolation": ["Ingress"], "ingress": [{"cidr": "8.8.8.0/24"}]}));
    let both = node(&[("a", audited.clone()), ("b", enforced.clone())]);
    assert!(!both.allows("web", Ingress, "8.8.8.8", TCP, 80));
    assert_eq!(both.compiled().image, node(&[("b", enforced)]).compiled().image);
    // Each direction for itself.
    let other = json!({"podIsolation": ["Egress"]});
    let apart = node(&[("a", audited), ("b", other)]);
    let stranger = apart.decision("web", Ingress, "9.9.9.9", TCP, 80);
    assert!(stranger.allowed && stranger.audited);
    assert!(!apart.allows("web", Egress, "9.9.9.9", TCP, 80));
}

#[test]
fn s52_a_policy_some_of_whose_objects_enforce_is_enforced_with_the_rules_of_all() {
    let object = |cidr: &str| json!({"podIsolation": ["Ingress"], "ingress": [{"cidr": cidr}]});
    let (one, two) = (object("10.0.0.0/8"), object("8.8.8.0/24"));
    let on_their_way = node(&[("a", in_audit(one.clone())), ("a", two.clone())]);
    assert_eq!(
        on_their_way.compiled().image,
        node(&[("a", one), ("a", two)]).compiled().image
    );
}

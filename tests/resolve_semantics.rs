//! What policies come to, line by line of the contract, by the definition and by the index alike.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use palisade::api::{Entry, Port, SelfService};
use palisade::model::{
    Change, Cidr, ContainerPort, Direction, EndpointPort, EndpointSlice, Enforcement, Labels, Namespace,
    ObjectId, Operator, Peer, Pod, Policy, PortMatch, Problem, Protocol, Requirement, Rule, Selector,
    Service, ServicePort, Snapshot,
};
use palisade::resolve::{Index, Resolution, resolve};

fn mk_labels(labels: &[(&str, &str)]) -> Arc<Labels> {
    Arc::new(labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
}

fn mk_namespace(name: &str, labels: &[(&str, &str)]) -> Namespace {
    let mut labels = (*mk_labels(labels)).clone();
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    Namespace {
        name: name.into(),
        labels: labels.into(),
        enforcement: Enforcement::Enforce,
    }
}

/// `namespace/name`, labels, addresses.
fn mk_pod(id: &str, labels: &[(&str, &str)], addresses: &[&str]) -> Pod {
    let (namespace, name) = id.split_once('/').expect("namespace/name");
    Pod {
        id: ObjectId::new(namespace, name),
        uid: format!("uid of {id}").into(),
        labels: mk_labels(labels),
        node: Some("node".into()),
        host_ip: Some(ip("172.16.0.1")),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        ports: Arc::default(),
        host_network: false,
        finished: false,
        created: Some(0),
        source_prefixes: Vec::new(),
        log_allowed: false,
    }
}

fn with_port(mut pod: Pod, name: &str, protocol: Protocol, number: u16) -> Pod {
    let mut ports = pod.ports.to_vec();
    ports.push(ContainerPort {
        name: Some(name.into()),
        protocol,
        number,
    });
    pod.ports = ports.into();
    pod
}

/// Selects every pod of `namespace`; the rules of the directions given.
fn mk_policy(namespace: &str, name: &str) -> Policy {
    Policy {
        id: ObjectId::new(namespace, name),
        uid: "policy".into(),
        pod_selector: Selector::everything(),
        ingress: None,
        egress: None,
        enforcement: None,
    }
}

fn ingress(peers: Option<Vec<Peer>>, ports: Option<Vec<PortMatch>>) -> Policy {
    let ingress = Some(vec![Rule {
        index: 0,
        peers,
        ports,
    }]);
    Policy {
        ingress,
        ..mk_policy("shop", "p")
    }
}

fn egress(peers: Option<Vec<Peer>>, ports: Option<Vec<PortMatch>>) -> Policy {
    let egress = Some(vec![Rule {
        index: 0,
        peers,
        ports,
    }]);
    Policy {
        egress,
        ..mk_policy("shop", "p")
    }
}

fn requirement(key: &str, operator: Operator) -> Requirement {
    Requirement {
        key: key.into(),
        operator,
    }
}

fn values(values: &[&str]) -> Arc<[Arc<str>]> {
    values.iter().map(|v| Arc::from(*v)).collect()
}

fn is(key: &str, value: &str) -> Selector {
    Selector::new([requirement(key, Operator::In(values(&[value])))])
}

fn pods(namespaces: Option<Selector>, pods: Option<Selector>) -> Peer {
    Peer::Pods { namespaces, pods }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block {
        cidr: net(cidr),
        except: except.iter().map(|e| net(e)).collect(),
    }
}

fn tcp(number: u16) -> PortMatch {
    PortMatch::Range {
        protocol: Protocol::Tcp,
        first: number,
        last: number,
    }
}

fn named(name: &str) -> PortMatch {
    PortMatch::Named {
        protocol: Protocol::Tcp,
        name: name.into(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> Cidr {
    text.parse().expect("a block")
}

fn mk_service(name: &str, cluster_ips: &[&str], port: u16) -> Service {
    Service {
        id: ObjectId::new("shop", name),
        cluster_ips: cluster_ips.iter().map(|a| ip(a)).collect(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port,
        }],
    }
}

fn mk_endpoints(name: &str, service: &str, ready: &[&str], port: u16) -> EndpointSlice {
    EndpointSlice {
        id: ObjectId::new("shop", name),
        service: service.into(),
        ready: ready.iter().map(|a| ip(a)).collect(),
        ports: vec![EndpointPort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: Some(port),
        }],
    }
}

/// A shop and an office, each labelled by its kind.
fn world(pods: Vec<Pod>, policies: Vec<Policy>) -> Snapshot {
    Snapshot {
        namespaces: vec![
            mk_namespace("shop", &[("kind", "shop")]),
            mk_namespace("office", &[("kind", "office")]),
        ],
        pods,
        policies,
        ..Snapshot::default()
    }
}

fn load(index: &mut Index, snapshot: &Snapshot) {
    let Snapshot {
        namespaces,
        pods,
        policies,
        services,
        endpoint_slices,
    } = snapshot.clone();
    (namespaces.into_iter().map(Change::Namespace))
        .chain(pods.into_iter().map(Change::Pod))
        .chain(policies.into_iter().map(Change::Policy))
        .chain(services.into_iter().map(Change::Service))
        .chain(endpoint_slices.into_iter().map(Change::EndpointSlice))
        .for_each(|change| drop(index.apply(change)));
}

/// By the definition, which the index must share.
fn resolved(snapshot: &Snapshot) -> Resolution {
    let resolution = resolve(snapshot);
    let mut index = Index::new();
    load(&mut index, snapshot);
    assert_eq!(index.resolution(), resolution);
    resolution
}

/// The entries of the policy of UID `policy`, as `cidr except… [ports]`.
fn entries(resolution: &Resolution, direction: Direction) -> BTreeSet<String> {
    let slices = &resolution.endpoints["policy"];
    let of = |slice: &Arc<palisade::api::PolicyEndpoint>| match direction {
        Direction::Ingress => slice.spec.ingress.clone(),
        Direction::Egress => slice.spec.egress.clone(),
    };
    slices.iter().flat_map(of).map(|entry| shown(&entry)).collect()
}

fn shown(entry: &Entry) -> String {
    let port = |p: &Port| {
        let protocol = p.protocol.map_or("?".into(), |p| p.to_string());
        let number = p.port.map_or("*".into(), |n| n.to_string());
        let end = p.end_port.map_or(String::new(), |e| format!("-{e}"));
        let name = p.name.as_ref().map_or(String::new(), |n| format!("={n}"));
        format!(" {number}{end}/{protocol}{name}")
    };
    let except = entry.except.iter().map(|e| format!(" !{e}"));
    std::iter::once(entry.cidr.to_string())
        .chain(except)
        .chain(entry.ports.iter().map(port))
        .collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|t| t.to_string()).collect()
}

fn ingress_of(pods: Vec<Pod>, policy: Policy) -> BTreeSet<String> {
    entries(&resolved(&world(pods, vec![policy])), Direction::Ingress)
}

fn egress_of(pods: Vec<Pod>, policy: Policy) -> BTreeSet<String> {
    entries(&resolved(&world(pods, vec![policy])), Direction::Egress)
}

fn subjects(resolution: &Resolution) -> BTreeSet<String> {
    let slices = resolution.endpoints["policy"].iter();
    let subjects = slices.flat_map(|s| s.spec.pod_selector_endpoints.clone());
    subjects
        .map(|p| format!("{}/{} {}", p.namespace, p.name, p.pod_ip))
        .collect()
}

fn self_services(resolution: &Resolution) -> Vec<SelfService> {
    resolution.endpoints["policy"]
        .iter()
        .flat_map(|s| s.spec.self_services.clone())
        .collect()
}

#[test]
fn s2_only_the_directions_of_the_policy_isolate() {
    for (policy, isolation) in [
        (ingress(None, None), vec![Direction::Ingress]),
        (egress(None, None), vec![Direction::Egress]),
        (
            Policy {
                ingress: Some(vec![]),
                ..egress(None, None)
            },
            vec![Direction::Ingress, Direction::Egress],
        ),
        (mk_policy("shop", "p"), vec![]),
    ] {
        let resolution = resolved(&world(vec![], vec![policy]));
        assert_eq!(resolution.endpoints["policy"][0].spec.pod_isolation, isolation);
    }
}

#[test]
fn s3_an_empty_pod_selector_selects_all_pods_of_its_own_namespace_only() {
    let pods = vec![
        mk_pod("shop/a", &[], &["10.0.0.1"]),
        mk_pod("office/b", &[], &["10.0.0.2"]),
    ];
    let resolution = resolved(&world(pods, vec![ingress(None, None)]));
    assert_eq!(subjects(&resolution), set(&["shop/a 10.0.0.1"]));
    let spec = &resolution.endpoints["policy"][0].spec;
    assert_eq!(spec.pod_selector, Some(Default::default()));
}

#[test]
fn s4_each_policy_has_its_own_endpoints_and_order_is_irrelevant() {
    let one = Policy {
        uid: "one".into(),
        ..ingress(Some(vec![block("10.0.0.0/8", &[])]), None)
    };
    let two = Policy {
        id: ObjectId::new("shop", "q"),
        uid: "two".into(),
        ..ingress(None, Some(vec![tcp(80)]))
    };
    let forward = resolved(&world(vec![], vec![one.clone(), two.clone()]));
    assert_eq!(forward, resolved(&world(vec![], vec![two, one])));
    assert_eq!(forward.endpoints.len(), 2);
}

#[test]
fn s8_no_rules_deny_all_and_an_empty_rule_allows_all() {
    let deny = Policy {
        ingress: Some(vec![]),
        ..mk_policy("shop", "p")
    };
    assert_eq!(ingress_of(vec![], deny), set(&[]));
    assert_eq!(
        ingress_of(vec![], ingress(None, None)),
        set(&["0.0.0.0/0", "::/0"])
    );
}

#[test]
fn s9_absent_peers_are_any_address_and_absent_ports_every_port() {
    assert_eq!(
        egress_of(vec![], egress(None, Some(vec![tcp(80)]))),
        set(&["0.0.0.0/0 80/TCP", "::/0 80/TCP"])
    );
    assert_eq!(
        egress_of(vec![], egress(Some(vec![block("10.0.0.0/8", &[])]), None)),
        set(&["10.0.0.0/8"])
    );
}

#[test]
fn s10_peers_and_ports_are_ored_and_anded_with_each_other() {
    let peers = vec![pods(None, Some(is("app", "a"))), block("192.0.2.0/24", &[])];
    let policy = ingress(Some(peers), Some(vec![tcp(80), tcp(81)]));
    let members = vec![
        mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]),
        mk_pod("shop/b", &[], &["10.0.0.2"]),
    ];
    assert_eq!(
        ingress_of(members, policy),
        set(&["10.0.0.1 80/TCP 81/TCP", "192.0.2.0/24 80/TCP 81/TCP"])
    );
}

#[test]
fn s11_a_policy_that_lost_its_peers_or_ports_still_isolates_and_allows_nothing() {
    for policy in [ingress(Some(vec![]), None), ingress(None, Some(vec![]))] {
        let resolution = resolved(&world(vec![], vec![policy]));
        assert_eq!(entries(&resolution, Direction::Ingress), set(&[]));
        assert_eq!(
            resolution.endpoints["policy"][0].spec.pod_isolation,
            [Direction::Ingress]
        );
    }
}

#[test]
fn s12_a_policy_recreated_under_its_name_converges_to_the_new_uid() {
    let mut index = Index::new();
    let old = ingress(None, None);
    let new = Policy {
        uid: "new".into(),
        ..old.clone()
    };
    index.apply(Change::Policy(old.clone()));
    assert_eq!(
        index.apply(Change::Policy(new.clone())),
        BTreeSet::from(["policy".into(), "new".into()])
    );
    let late = Change::PolicyGone {
        id: old.id,
        uid: old.uid,
    };
    assert_eq!(index.apply(late), BTreeSet::new());
    assert!(index.endpoints("policy").is_none());
    let slices = index.endpoints("new").expect("the new one");
    let owner = slices[0].metadata.owner_references.as_ref().expect("owned");
    assert_eq!((owner[0].uid.as_str(), owner[0].controller), ("new", Some(true)));
    assert_eq!(
        (owner[0].kind.as_str(), owner[0].api_version.as_str()),
        ("NetworkPolicy", "networking.k8s.io/v1")
    );
}

#[test]
fn s13_absent_and_empty_selectors_in_a_peer_differ() {
    let a = || Some(is("app", "a"));
    let members = || {
        vec![
            mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]),
            mk_pod("shop/b", &[], &["10.0.0.2"]),
            mk_pod("office/a", &[("app", "a")], &["10.0.1.1"]),
            mk_pod("office/b", &[], &["10.0.1.2"]),
        ]
    };
    let everything = || Some(Selector::everything());
    for (peer, expected) in [
        (pods(None, a()), &["10.0.0.1"][..]),
        (pods(None, everything()), &["10.0.0.1", "10.0.0.2"]),
        (pods(Some(is("kind", "office")), None), &["10.0.1.1", "10.0.1.2"]),
        (pods(Some(is("kind", "office")), a()), &["10.0.1.1"]),
        (pods(everything(), a()), &["10.0.0.1", "10.0.1.1"]),
        (
            pods(everything(), None),
            &["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2"],
        ),
    ] {
        assert_eq!(
            ingress_of(members(), ingress(Some(vec![peer.clone()]), None)),
            set(expected),
            "{peer:?}"
        );
    }
}

#[test]
fn s14_all_operators_hold_and_the_negative_ones_match_objects_without_the_key() {
    let members = || {
        vec![
            mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]),
            mk_pod("shop/b", &[("app", "b"), ("old", "")], &["10.0.0.2"]),
            mk_pod("shop/c", &[], &["10.0.0.3"]),
        ]
    };
    for (requirements, expected) in [
        (
            vec![requirement("app", Operator::In(values(&["a", "b"])))],
            &["10.0.0.1", "10.0.0.2"][..],
        ),
        (
            vec![requirement("app", Operator::NotIn(values(&["a"])))],
            &["10.0.0.2", "10.0.0.3"],
        ),
        (
            vec![requirement("app", Operator::Exists)],
            &["10.0.0.1", "10.0.0.2"],
        ),
        (vec![requirement("app", Operator::DoesNotExist)], &["10.0.0.3"]),
        (
            vec![
                requirement("app", Operator::Exists),
                requirement("old", Operator::DoesNotExist),
            ],
            &["10.0.0.1"],
        ),
    ] {
        let peer = pods(None, Some(Selector::new(requirements.clone())));
        assert_eq!(
            ingress_of(members(), ingress(Some(vec![peer]), None)),
            set(expected),
            "{requirements:?}"
        );
    }
}

#[test]
fn s14_the_subject_selector_is_published_whole() {
    let selector = Selector::new([
        requirement("app", Operator::In(values(&["a"]))),
        requirement("tier", Operator::In(values(&["x", "y"]))),
        requirement("old", Operator::DoesNotExist),
        requirement("zone", Operator::NotIn(values(&["z"]))),
    ]);
    let policy = Policy {
        pod_selector: selector,
        ..ingress(None, None)
    };
    let resolution = resolved(&world(vec![], vec![policy]));
    assert_eq!(
        serde_json::to_value(&resolution.endpoints["policy"][0].spec.pod_selector).unwrap(),
        serde_json::json!({
            "matchLabels": {"app": "a"},
            "matchExpressions": [
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "tier", "operator": "In", "values": ["x", "y"]},
                {"key": "zone", "operator": "NotIn", "values": ["z"]},
            ],
        })
    );
}

#[test]
fn s15_empty_values_count_and_a_namespace_has_its_name_as_a_label() {
    let members = vec![
        mk_pod("shop/a", &[("app", "")], &["10.0.0.1"]),
        mk_pod("office/b", &[("app", "x")], &["10.0.1.1"]),
    ];
    let empty = pods(None, Some(is("app", "")));
    let by_name = pods(Some(is("kubernetes.io/metadata.name", "office")), None);
    assert_eq!(
        ingress_of(members, ingress(Some(vec![empty, by_name]), None)),
        set(&["10.0.0.1", "10.0.1.1"])
    );
}

#[test]
fn s16_label_changes_of_pods_and_namespaces_move_subjects_and_peers() {
    let peers = vec![pods(Some(is("kind", "office")), Some(is("app", "a")))];
    let policy = Policy {
        pod_selector: is("app", "a"),
        ..ingress(Some(peers), None)
    };
    let (a, b) = (
        mk_pod("shop/a", &[], &["10.0.0.1"]),
        mk_pod("office/b", &[], &["10.0.1.1"]),
    );
    let mut index = Index::new();
    load(&mut index, &world(vec![a.clone(), b.clone()], vec![policy]));
    let touched = BTreeSet::from(["policy".into()]);
    let now = |index: &mut Index| {
        let resolution = index.resolution();
        (subjects(&resolution), entries(&resolution, Direction::Ingress))
    };
    assert_eq!(now(&mut index), (set(&[]), set(&[])));
    let labels = mk_labels(&[("app", "a")]);
    assert_eq!(
        index.apply(Change::Pod(Pod {
            labels: labels.clone(),
            ..a
        })),
        touched
    );
    assert_eq!(index.apply(Change::Pod(Pod { labels, ..b.clone() })), touched);
    assert_eq!(now(&mut index), (set(&["shop/a 10.0.0.1"]), set(&["10.0.1.1"])));
    assert_eq!(
        index.apply(Change::Namespace(mk_namespace("office", &[]))),
        touched
    );
    assert_eq!(now(&mut index), (set(&["shop/a 10.0.0.1"]), set(&[])));
    assert_eq!(
        index.apply(Change::Namespace(mk_namespace("office", &[("kind", "office")]))),
        touched
    );
    assert_eq!(index.apply(Change::Pod(b)), touched);
    assert_eq!(now(&mut index), (set(&["shop/a 10.0.0.1"]), set(&[])));
}

#[test]
fn s17_peers_are_live_pods_with_an_address_outside_the_host_network() {
    let everyone = || ingress(Some(vec![pods(Some(Selector::everything()), None)]), None);
    let members = vec![
        mk_pod("shop/a", &[], &["10.0.0.1"]),
        Pod {
            host_network: true,
            ..mk_pod("shop/host", &[], &["172.16.0.1"])
        },
        mk_pod("shop/starting", &[], &[]),
    ];
    let mut snapshot = world(members, vec![everyone()]);
    snapshot.services = vec![mk_service("s", &["10.96.0.1"], 80)];
    let resolution = resolved(&snapshot);
    assert_eq!(entries(&resolution, Direction::Ingress), set(&["10.0.0.1"]));
    assert_eq!(subjects(&resolution), set(&["shop/a 10.0.0.1"]));
}

#[test]
fn s17_a_namespace_without_an_object_is_reached_by_no_namespace_selector_and_reported() {
    let pod = || mk_pod("shop/a", &[], &["10.0.0.1"]);
    let policy = ingress(Some(vec![pods(Some(Selector::everything()), None)]), None);
    let mut snapshot = world(vec![pod()], vec![policy]);
    snapshot.namespaces.clear();
    let resolution = resolved(&snapshot);
    assert_eq!(entries(&resolution, Direction::Ingress), set(&[]));
    assert_eq!(resolution.problems[0].object, "Namespace shop");
    snapshot.policies = vec![ingress(
        Some(vec![pods(None, Some(Selector::everything()))]),
        None,
    )];
    assert_eq!(
        entries(&resolved(&snapshot), Direction::Ingress),
        set(&["10.0.0.1"])
    );
}

#[test]
fn s18_invalid_stored_label_values_match_nothing_and_never_panic() {
    let wild = "not a label value! \u{1f980} ".repeat(20);
    let members = vec![mk_pod("shop/a", &[("app", &wild), ("", "")], &["10.0.0.1"])];
    let peers = vec![
        pods(None, Some(is("app", "a"))),
        pods(
            None,
            Some(Selector::new([requirement("app", Operator::In(values(&[])))])),
        ),
    ];
    assert_eq!(ingress_of(members, ingress(Some(peers), None)), set(&[]));
}

#[test]
fn s19_except_carves_only_out_of_its_own_peer() {
    let peers = vec![block("10.0.0.0/8", &["10.1.0.0/16"]), block("10.1.2.0/24", &[])];
    assert_eq!(
        egress_of(vec![], egress(Some(peers), None)),
        set(&["10.0.0.0/8 !10.1.0.0/16", "10.1.2.0/24"])
    );
}

#[test]
fn s20_duplicate_and_nested_blocks_stand_side_by_side() {
    let peers = [
        "10.1.2.3/8",
        "10.0.0.0/8",
        "10.0.0.7/32",
        "0.0.0.0/0",
        "fd00::7/128",
    ]
    .map(|c| block(c, &[]));
    assert_eq!(
        egress_of(vec![], egress(Some(peers.to_vec()), None)),
        set(&["10.0.0.0/8", "10.0.0.7", "0.0.0.0/0", "fd00::7"])
    );
}

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
fn s23_every_port_of_a_protocol_is_that_protocol_alone() {
    let policy = ingress(None, Some(vec![PortMatch::Every(Protocol::Udp)]));
    assert_eq!(
        ingress_of(vec![], policy),
        set(&["0.0.0.0/0 */UDP", "::/0 */UDP"])
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

#[test]
fn s47_finished_pods_are_neither_subject_nor_peer_at_once() {
    let policy = || ingress(Some(vec![pods(None, Some(Selector::everything()))]), None);
    let pod = mk_pod("shop/a", &[], &["10.0.0.1"]);
    let mut index = Index::new();
    load(&mut index, &world(vec![pod.clone()], vec![policy()]));
    assert_eq!(
        entries(&index.resolution(), Direction::Ingress),
        set(&["10.0.0.1"])
    );
    index.apply(Change::Pod(Pod {
        finished: true,
        ..pod
    }));
    let resolution = index.resolution();
    assert_eq!(entries(&resolution, Direction::Ingress), set(&[]));
    assert_eq!(subjects(&resolution), set(&[]));
}

#[test]
fn s48_a_late_delete_of_the_old_pod_does_not_undo_the_new_one() {
    let policy = ingress(Some(vec![pods(None, Some(is("app", "a")))]), None);
    let old = mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]);
    let new = Pod {
        uid: "new".into(),
        addresses: vec![ip("10.0.0.2")],
        ..old.clone()
    };
    let mut index = Index::new();
    load(&mut index, &world(vec![old.clone()], vec![policy]));
    index.apply(Change::Pod(new));
    assert_eq!(
        index.apply(Change::PodGone {
            id: old.id,
            uid: old.uid
        }),
        BTreeSet::new()
    );
    assert_eq!(
        entries(&index.resolution(), Direction::Ingress),
        set(&["10.0.0.2"])
    );
}

#[test]
fn s48_an_address_stands_for_the_newest_of_the_pods_that_claim_it() {
    let policy = ingress(Some(vec![pods(None, Some(is("app", "a")))]), None);
    let old = Pod {
        created: Some(1),
        ..mk_pod("shop/z", &[("app", "a")], &["10.0.0.1", "fd00::1"])
    };
    let new = Pod {
        created: Some(2),
        ..mk_pod("shop/b", &[], &["10.0.0.1"])
    };
    let there = resolved(&world(vec![old.clone(), new.clone()], vec![policy.clone()]));
    assert_eq!(
        there,
        resolved(&world(vec![new.clone(), old.clone()], vec![policy.clone()]))
    );
    assert_eq!(entries(&there, Direction::Ingress), set(&["fd00::1"]));
    assert_eq!(subjects(&there), set(&["shop/b 10.0.0.1", "shop/z fd00::1"]));
    let [problem] = &there.problems[..] else {
        panic!("one problem: {:?}", there.problems)
    };
    assert_eq!(
        (problem.object.as_str(), problem.value.as_str()),
        ("Pod shop/z", "10.0.0.1")
    );

    let mut index = Index::new();
    load(&mut index, &world(vec![old, new.clone()], vec![policy]));
    index.apply(Change::PodGone {
        id: new.id,
        uid: new.uid,
    });
    assert_eq!(
        entries(&index.resolution(), Direction::Ingress),
        set(&["10.0.0.1", "fd00::1"])
    );
    assert_eq!(index.problems(), []);
}

#[test]
fn s49_names_of_253_characters_and_equal_names_in_two_namespaces_give_valid_distinct_objects() {
    for name in [
        "a".repeat(253),
        format!("{}.b", "a".repeat(251)),
        "..Not A Name".to_string(),
        "x.y".to_string(),
    ] {
        let one = Policy {
            id: ObjectId::new("shop", &name),
            uid: "one".into(),
            ..ingress(None, None)
        };
        let two = Policy {
            id: ObjectId::new("office", &name),
            uid: "two".into(),
            ..ingress(None, None)
        };
        let resolution = resolved(&world(vec![], vec![one, two]));
        let names: BTreeSet<_> = resolution
            .endpoints
            .values()
            .map(|s| s[0].metadata.name.clone().unwrap())
            .collect();
        assert_eq!(names.len(), 2);
        for object in names {
            assert!(object.len() <= 253, "{object}");
            for label in object.split('.') {
                let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                assert!(!label.is_empty() && label.chars().all(fine), "{object}");
                assert!(!label.starts_with('-') && !label.ends_with('-'), "{object}");
            }
        }
        let spec = &resolution.endpoints["one"][0].spec;
        assert_eq!(
            (&*spec.policy_ref.namespace, &*spec.policy_ref.name),
            ("shop", &*name)
        );
    }
}

#[test]
fn s50_pods_of_one_deployment_with_different_labels_may_have_different_policies() {
    let hash = ("pod-template-hash", "5d8f");
    let members = vec![
        mk_pod("shop/web-1", &[hash, ("canary", "yes")], &["10.0.0.1"]),
        mk_pod("shop/web-2", &[hash], &["10.0.0.2"]),
    ];
    let policy = Policy {
        pod_selector: is("canary", "yes"),
        ..ingress(None, None)
    };
    assert_eq!(
        subjects(&resolved(&world(members, vec![policy]))),
        set(&["shop/web-1 10.0.0.1"])
    );
}

#[test]
fn s51_both_addresses_of_a_pod_are_peer_and_subject() {
    let members = vec![mk_pod("shop/a", &[], &["fd00::1", "10.0.0.1"])];
    let policy = ingress(Some(vec![pods(None, Some(Selector::everything()))]), None);
    let resolution = resolved(&world(members, vec![policy]));
    assert_eq!(
        entries(&resolution, Direction::Ingress),
        set(&["10.0.0.1", "fd00::1"])
    );
    assert_eq!(subjects(&resolution), set(&["shop/a 10.0.0.1", "shop/a fd00::1"]));
}

#[test]
fn s4_a_policy_is_in_audit_by_its_own_word_or_else_its_namespaces() {
    use Enforcement::{Audit, Enforce};
    for (own, namespace, expected) in [
        (None, None, Enforce),
        (None, Some(Enforce), Enforce),
        (None, Some(Audit), Audit),
        (Some(Enforce), Some(Audit), Enforce),
        (Some(Audit), Some(Enforce), Audit),
        (Some(Audit), None, Audit),
    ] {
        let policy = Policy {
            enforcement: own,
            ..ingress(None, None)
        };
        let mut snapshot = world(vec![], vec![policy]);
        snapshot.namespaces.retain(|n| &*n.name != "shop");
        snapshot.namespaces.extend(namespace.map(|enforcement| Namespace {
            enforcement,
            ..mk_namespace("shop", &[])
        }));
        let resolution = resolved(&snapshot);
        let slices = &resolution.endpoints["policy"];
        assert!(
            slices.iter().all(|slice| slice.spec.enforcement == expected),
            "{own:?} in {namespace:?}"
        );
    }
}

#[test]
fn a_namespace_that_enters_audit_touches_the_policies_that_do_not_say_themselves() {
    let mut index = Index::new();
    let policies = [
        ("q", None),
        ("r", Some(Enforcement::Enforce)),
        ("s", Some(Enforcement::Audit)),
    ];
    for (name, enforcement) in policies {
        index.apply(Change::Policy(Policy {
            uid: name.into(),
            enforcement,
            ..mk_policy("shop", name)
        }));
        index.endpoints(name);
    }
    let namespace = |enforcement| {
        Change::Namespace(Namespace {
            enforcement,
            ..mk_namespace("shop", &[])
        })
    };
    let touched: Vec<BTreeSet<Arc<str>>> = [Enforcement::Audit, Enforcement::Audit, Enforcement::Enforce]
        .map(|enforcement| index.apply(namespace(enforcement)))
        .to_vec();
    let only: BTreeSet<Arc<str>> = [Arc::from("q")].into();
    assert_eq!(touched, [only.clone(), BTreeSet::new(), only.clone()]);
    index.apply(namespace(Enforcement::Audit));
    assert_eq!(index.apply(Change::NamespaceGone("shop".into())), only);
    assert!(index.endpoints("q").unwrap()[0].spec.enforcement.is_enforce());
}

use serde_json::json;

use super::*;

fn raw(tree: Value) -> Raw {
    let mut tree = tree;
    let metadata = tree["metadata"].as_object_mut().expect("metadata");
    metadata.entry("namespace").or_insert("shop".into());
    Raw::new(tree)
}

fn with_spec(spec: Value) -> Raw {
    raw(json!({"metadata": {"name": "web-1"}, "spec": spec}))
}

fn good() -> Value {
    json!({
        "policyRef": {"name": "web", "namespace": "shop"},
        "podSelector": {"matchLabels": {"app": "web"}},
        "podIsolation": ["Ingress"],
        "ingress": [
            {"cidr": "10.0.0.1", "ports": [{"protocol": "TCP", "port": 80}]},
            {"cidr": "10.0.0.2", "ports": [{"protocol": "TCP", "port": 80}]},
        ],
    })
}

/// `good`, with `value` at the JSON pointer.
fn good_but(at: &str, value: Value) -> Value {
    let mut spec = good();
    *spec.pointer_mut(at).unwrap_or_else(|| panic!("no {at}")) = value;
    spec
}

fn fields(seen: &Seen<Endpoint>) -> Vec<&str> {
    seen.problems
        .iter()
        .map(|problem| problem.field.as_str())
        .collect()
}

fn blocks(seen: &Seen<Endpoint>) -> Vec<String> {
    let entries = seen.object.object.spec.ingress.iter();
    entries.map(|entry| entry.cidr.to_string()).collect()
}

#[test]
fn a_published_endpoint_comes_back_as_it_was() {
    let spec = PolicyEndpointSpec {
        policy_ref: PolicyRef {
            name: "web".into(),
            namespace: "shop".into(),
        },
        pod_selector: Some(LabelSelector::default()),
        pod_isolation: Direction::ALL.to_vec(),
        enforcement: Enforcement::Audit,
        ingress: vec![Entry {
            cidr: "10.0.0.0/8".parse().unwrap(),
            except: ["10.1.0.0/16".parse().unwrap()].into(),
            ports: [Port {
                protocol: Some(crate::model::Protocol::Udp),
                port: Some(53),
                end_port: None,
                name: Some("dns".into()),
            }]
            .into(),
            rule: Some(3),
        }],
        egress: vec![Entry {
            cidr: "fd00::7".parse().unwrap(),
            except: [].into(),
            ports: [].into(),
            rule: Some(0),
        }],
        self_services: vec![SelfService {
            pod_ip: "10.0.0.1".parse().unwrap(),
            cluster_ip: "10.96.0.1".parse().unwrap(),
            protocol: crate::model::Protocol::Tcp,
            port: 80,
        }],
        slice: Some(Slice { index: 1, count: 4 }),
        ..PolicyEndpointSpec::default()
    };
    let seen = read(&with_spec(serde_json::to_value(&spec).unwrap()), None);
    assert_eq!(seen.problems, []);
    assert_eq!(seen.object.object.spec, spec);
}

#[test]
fn objects_of_the_system_that_is_replaced_are_read() {
    let owner = json!([{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": "web", "uid": "u-1",
        "controller": true, "blockOwnerDeletion": true}]);
    let object = |name: &str| {
        let mut spec = good();
        spec["podSelectorEndpoints"] =
            json!([{"hostIP": "192.0.2.1", "podIP": "10.0.0.9", "name": "web-0", "namespace": "shop"}]);
        raw(json!({
            "metadata": {"name": name, "generateName": "web-", "ownerReferences": owner},
            "spec": spec,
        }))
    };
    let (first, second) = (read(&object("web-x7f2k"), None), read(&object("web-q2m9z"), None));
    assert_eq!(first.problems, []);
    assert_eq!(blocks(&first), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(first.object.policy, second.object.policy);
    let without_owner = read(&with_spec(good()), None);
    assert_ne!(first.object.policy, without_owner.object.policy);
}

#[test]
fn no_object_joins_a_policy_of_another_namespace() {
    let object = |namespace: &str| {
        let mut spec = good();
        spec["policyRef"]["namespace"] = namespace.into();
        let owner = json!([{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "uid": "u-1"}]);
        let metadata = json!({"name": "web-1", "namespace": namespace, "ownerReferences": owner});
        read(&raw(json!({"metadata": metadata, "spec": spec})), None)
    };
    assert_ne!(object("shop").object.policy, object("guest").object.policy);
}

#[test]
fn an_entry_that_cannot_be_read_allows_nothing_and_its_neighbour_counts() {
    for (at, value, field) in [
        ("/ingress/0/cidr", json!("10.0.0.256"), "spec.ingress[0].cidr"),
        ("/ingress/0/cidr", json!(7), "spec.ingress[0].cidr"),
        ("/ingress/0/cidr", Value::Null, "spec.ingress[0].cidr"),
        ("/ingress/0", json!("everyone"), "spec.ingress[0]"),
        ("/ingress/0", Value::Null, "spec.ingress[0]"),
        (
            "/ingress/0",
            json!({"cidr": "10.0.0.1", "except": ["x"]}),
            "spec.ingress[0].except[0]",
        ),
        (
            "/ingress/0",
            json!({"cidr": "10.0.0.1", "except": "10.0.0.1"}),
            "spec.ingress[0].except",
        ),
        (
            "/ingress/0",
            json!({"cidr": "10.0.0.1", "action": "Deny"}),
            "spec.ingress[0].action",
        ),
        ("/ingress/0/ports", json!("80"), "spec.ingress[0].ports"),
        (
            "/ingress/0/ports/0",
            json!({"port": 70000}),
            "spec.ingress[0].ports[0].port",
        ),
        (
            "/ingress/0/ports/0",
            json!({"port": "http"}),
            "spec.ingress[0].ports[0].port",
        ),
        (
            "/ingress/0/ports/0",
            json!({"prot": "TCP"}),
            "spec.ingress[0].ports[0].prot",
        ),
        (
            "/ingress/0/ports/0/protocol",
            json!("tcp"),
            "spec.ingress[0].ports[0].protocol",
        ),
        (
            "/ingress/0/ports/0",
            json!({"port": 80, "name": 5}),
            "spec.ingress[0].ports[0].name",
        ),
    ] {
        let seen = read(&with_spec(good_but(at, value.clone())), None);
        assert_eq!(blocks(&seen), ["10.0.0.2"], "{at} = {value}");
        assert_eq!(fields(&seen), [field], "{at} = {value}");
        let problem = &seen.problems[0];
        assert_eq!(problem.object, "PolicyEndpoint shop/web-1");
        assert!(!problem.message.is_empty() && !problem.remedy.is_empty());
        assert_eq!(seen.object.object.spec.pod_isolation, [Direction::Ingress]);
    }
}

#[test]
fn of_several_ports_the_readable_ones_count() {
    let spec = good_but(
        "/ingress/0/ports",
        json!([{"port": 0}, {"protocol": "UDP", "port": 53}]),
    );
    let seen = read(&with_spec(spec), None);
    let ports = &seen.object.object.spec.ingress[0].ports;
    assert_eq!(ports.iter().map(|port| port.port).collect::<Vec<_>>(), [Some(53)]);
    assert_eq!(fields(&seen), ["spec.ingress[0].ports[0].port"]);
}

#[test]
fn an_object_of_which_it_cannot_be_read_whom_it_isolates_isolates_all_and_allows_nothing() {
    for (at, value) in [
        ("/podSelector", json!("app=web")),
        ("/podSelector", json!({"matchLabels": {"app": 5}})),
        (
            "/podSelector",
            json!({"matchExpressions": [{"key": "app", "operator": "Is"}]}),
        ),
        ("/podSelector", json!({"matchLabel": {"app": "web"}})),
        ("/podIsolation", json!(["Inress"])),
        ("/podIsolation", json!("Ingress")),
        ("/policyRef", json!("web")),
        ("/policyRef/name", json!("")),
        ("/policyRef/namespace", json!("guest")),
        ("", json!(["spec"])),
        ("", Value::Null),
    ] {
        let seen = read(&with_spec(good_but(at, value.clone())), None);
        let spec = &seen.object.object.spec;
        assert_eq!(spec.pod_isolation, Direction::ALL, "{at} = {value}");
        assert_eq!(spec.pod_selector, None, "{at} = {value}");
        assert_eq!(
            (&spec.ingress[..], &spec.egress[..]),
            (&[][..], &[][..]),
            "{at} = {value}"
        );
        assert_eq!(&*spec.policy_ref.namespace, "shop", "{at} = {value}");
        assert!(!seen.problems.is_empty(), "{at} = {value}");
        // It was readable before: then it stays.
        let before = read(&with_spec(good()), None);
        let seen = read(&with_spec(good_but(at, value.clone())), Some(&before.object));
        assert_eq!(seen.object.object, before.object.object, "{at} = {value}");
        assert!(!seen.problems.is_empty(), "{at} = {value}");
    }
}

#[test]
fn a_direction_with_entries_is_isolated_whatever_pod_isolation_says() {
    let mut spec = good_but("/podIsolation", json!([]));
    spec["egress"] = json!("all");
    let seen = read(&with_spec(spec), None);
    assert_eq!(seen.object.object.spec.pod_isolation, Direction::ALL);
    assert_eq!(fields(&seen), ["spec.egress"]);
    assert_eq!(seen.object.object.spec.egress, []);
}

#[test]
fn a_slice_that_is_none_is_reported_and_its_object_counts_by_itself() {
    for value in [
        json!({"index": 0, "count": 3}),
        json!({"index": 4, "count": 4}),
        json!({"index": -1, "count": 4}),
        json!({"index": 0}),
        json!({"index": 0, "count": 0}),
        json!({"index": 0, "count": 1u64 << 40}),
        json!("0/4"),
    ] {
        let mut spec = good();
        spec["slice"] = value.clone();
        let seen = read(&with_spec(spec), None);
        assert_eq!(seen.object.object.spec.slice, None, "{value}");
        assert_eq!(seen.problems.len(), 1, "{value}: {:?}", seen.problems);
        assert_eq!(blocks(&seen).len(), 2, "{value}");
    }
}

#[test]
fn a_service_that_cannot_be_read_is_left_out() {
    let mut spec = good();
    spec["selfServices"] = json!([
        {"podIP": "10.0.0.1", "clusterIP": "x", "protocol": "TCP", "port": 80},
        {"podIP": "10.0.0.1", "clusterIP": "10.96.0.1", "protocol": "TCP", "port": 0},
        {"clusterIP": "10.96.0.1", "protocol": "TCP", "port": 80},
        {"podIP": "10.0.0.1", "clusterIP": "10.96.0.2", "protocol": "TCP", "port": 80},
    ]);
    let seen = read(&with_spec(spec), None);
    let services = &seen.object.object.spec.self_services;
    assert_eq!(services.len(), 1);
    assert_eq!(services[0].cluster_ip.to_string(), "10.96.0.2");
    assert_eq!(
        fields(&seen),
        [
            "spec.selfServices[0].clusterIP",
            "spec.selfServices[1].port",
            "spec.selfServices[2].podIP"
        ]
    );
}

#[test]
fn ports_that_entries_share_are_kept_once() {
    let seen = read(&with_spec(good()), None);
    let [first, second] = &seen.object.object.spec.ingress[..] else {
        panic!("two entries");
    };
    assert!(Arc::ptr_eq(&first.ports, &second.ports));
}

#[test]
fn an_enforcement_that_cannot_be_read_enforces_and_is_reported() {
    for (value, expected, problems) in [
        (json!("Audit"), Enforcement::Audit, 0),
        (json!("Enforce"), Enforcement::Enforce, 0),
        (Value::Null, Enforcement::Enforce, 0),
        (json!("audit"), Enforcement::Enforce, 1),
        (json!(true), Enforcement::Enforce, 1),
    ] {
        let mut spec = good();
        spec["enforcement"] = value.clone();
        let seen = read(&with_spec(spec), None);
        assert_eq!(seen.object.object.spec.enforcement, expected, "{value}");
        assert_eq!(seen.problems.len(), problems, "{value}: {:?}", seen.problems);
        assert!(!blocks(&seen).is_empty(), "{value}: its entries count");
    }
}

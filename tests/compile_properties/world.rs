//! Small random nodes: few pods, addresses and ports, so that everything meets everything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use palisade::api::{Entry, PolicyEndpoint, PolicyEndpointSpec, PolicyRef, Port, SelfService};
use palisade::compile::Endpoints;
use palisade::model::{Cidr, ContainerPort, Direction, Enforcement, ObjectId, Pod, Protocol};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

pub const BLOCKS: [&str; 16] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.0/29",
    "10.0.0.0/30",
    "10.0.0.2/31",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.4",
    "192.168.0.0/16",
    "fd00::/64",
    "fd00::/126",
    "fd00::2",
    "fd00::3",
];

pub const ADDRESSES: [&str; 16] = [
    "10.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.4",
    "10.0.0.7",
    "10.0.0.200",
    "10.9.0.1",
    "192.168.3.4",
    "8.8.8.8",
    "fd00::1",
    "fd00::2",
    "fd00::3",
    "fd00::9",
    "2001:db8::1",
    "::ffff:10.0.0.1",
];

/// (protocol, port)
pub const PORTS: [(u8, u16); 14] = [
    (6, 1),
    (6, 79),
    (6, 80),
    (6, 81),
    (6, 82),
    (6, 443),
    (6, 65535),
    (17, 53),
    (17, 80),
    (132, 80),
    (1, 0),
    (58, 0),
    (0, 0),
    (255, 0),
];

#[derive(Clone, Debug)]
pub struct World {
    pub endpoints: Endpoints,
    pub pods: Vec<Pod>,
}

impl World {
    pub fn pods(&self) -> Vec<&Pod> {
        self.pods.iter().collect()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn labels() -> impl Strategy<Value = BTreeMap<Arc<str>, Arc<str>>> {
    select(vec![
        vec![],
        vec![("app", "x")],
        vec![("app", "y")],
        vec![("app", "x"), ("tier", "")],
        vec![("tier", "b")],
    ])
    .prop_map(|l| l.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
}

fn container_ports() -> impl Strategy<Value = Arc<[ContainerPort]>> {
    let port = |name: Option<&str>, protocol, number| ContainerPort {
        name: name.map(Into::into),
        protocol,
        number,
    };
    select(vec![
        vec![],
        vec![port(Some("web"), Protocol::Tcp, 80)],
        vec![
            port(Some("web"), Protocol::Tcp, 81),
            port(None, Protocol::Tcp, 80),
        ],
        vec![
            port(Some("web"), Protocol::Udp, 80),
            port(Some("dns"), Protocol::Udp, 53),
        ],
    ])
    .prop_map(Into::into)
}

/// Addresses belong to UIDs, so that no change makes an address a pod's own.
fn pods() -> impl Strategy<Value = Vec<Pod>> {
    vec(
        (any::<bool>(), select(vec!["a", "b"]), labels(), container_ports()),
        4,
    )
    .prop_map(|pods| {
        let pod = |(index, (here, namespace, labels, ports)): (usize, (bool, &str, _, _))| {
            here.then(|| Pod {
                id: ObjectId::new(namespace, &format!("pod-{index}")),
                uid: format!("uid-{index}").into(),
                labels: Arc::new(labels),
                node: None,
                host_ip: None,
                addresses: vec![
                    address(&format!("10.0.0.{}", index + 1)),
                    address(&format!("fd00::{}", index + 1)),
                ],
                ports,
                host_network: false,
                finished: false,
                created: None,
                source_prefixes: Vec::new(),
                log_allowed: false,
            })
        };
        pods.into_iter().enumerate().filter_map(pod).collect()
    })
}

fn selector() -> impl Strategy<Value = Option<LabelSelector>> {
    let labels = |l: &[(&str, &str)]| LabelSelector {
        match_labels: Some(l.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()),
        match_expressions: None,
    };
    let expression = |key: &str, operator: &str, values: &[&str]| LabelSelector {
        match_labels: None,
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: Some(values.iter().map(|v| v.to_string()).collect()),
        }]),
    };
    select(vec![
        None,
        Some(LabelSelector::default()),
        Some(labels(&[("app", "x")])),
        Some(labels(&[("app", "x"), ("tier", "")])),
        Some(expression("app", "In", &["y", "x"])),
        Some(expression("app", "NotIn", &["x"])),
        Some(expression("tier", "Exists", &[])),
        Some(expression("tier", "DoesNotExist", &[])),
        Some(expression("tier", "Near", &["b"])),
        Some(expression("app", "In", &[])),
    ])
}

fn port() -> impl Strategy<Value = Port> {
    let port = |protocol, port, end_port, name: Option<&str>| Port {
        protocol,
        port,
        end_port,
        name: name.map(Into::into),
    };
    select(vec![
        port(None, Some(80), None, None),
        port(Some(Protocol::Tcp), Some(80), Some(80), None),
        port(Some(Protocol::Tcp), Some(79), Some(81), None),
        port(Some(Protocol::Tcp), Some(81), Some(65535), None),
        port(Some(Protocol::Tcp), Some(81), Some(80), None),
        port(Some(Protocol::Udp), Some(53), None, None),
        port(Some(Protocol::Udp), None, None, None),
        port(None, None, None, None),
        port(None, None, Some(443), None),
        port(Some(Protocol::Sctp), Some(80), None, None),
        port(Some(Protocol::Tcp), Some(80), None, Some("web")),
        port(None, Some(81), None, Some("web")),
        port(Some(Protocol::Udp), Some(80), None, Some("web")),
        port(Some(Protocol::Tcp), None, None, Some("web")),
        port(Some(Protocol::Tcp), Some(80), Some(90), Some("web")),
        port(Some(Protocol::Tcp), Some(0), None, None),
    ])
}

fn entry() -> impl Strategy<Value = Entry> {
    let block = || select(&BLOCKS[..]).prop_map(|b| b.parse::<Cidr>().unwrap());
    let except = prop_oneof![3 => Just(Vec::new()), 2 => vec(block(), 1..4)];
    let ports = prop_oneof![1 => Just(Vec::new()), 3 => vec(port(), 1..3)];
    (block(), except, ports, select(vec![None, Some(0), Some(1)])).prop_map(|(cidr, except, ports, rule)| {
        Entry {
            cidr,
            except: except.into(),
            ports: ports.into(),
            rule,
        }
    })
}

fn self_service() -> impl Strategy<Value = SelfService> {
    (1..4u8, select(vec!["192.168.0.1", "10.0.0.200", "fd00::9"])).prop_map(|(pod, service)| SelfService {
        pod_ip: address(&format!("10.0.0.{pod}")),
        cluster_ip: address(service),
        protocol: Protocol::Tcp,
        port: 443,
    })
}

fn enforcement() -> impl Strategy<Value = Enforcement> {
    select(vec![Enforcement::Enforce, Enforcement::Audit])
}

fn object() -> impl Strategy<Value = PolicyEndpointSpec> {
    let isolation = select(vec![
        vec![],
        vec![Direction::Ingress],
        vec![Direction::Egress],
        vec![Direction::Ingress, Direction::Egress],
    ]);
    (
        selector(),
        isolation,
        vec(entry(), 0..5),
        vec(entry(), 0..4),
        vec(self_service(), 0..2),
        enforcement(),
    )
        .prop_map(
            |(pod_selector, pod_isolation, ingress, egress, self_services, enforcement)| PolicyEndpointSpec {
                pod_selector,
                pod_isolation,
                enforcement,
                ingress,
                egress,
                self_services,
                ..PolicyEndpointSpec::default()
            },
        )
}

fn policy() -> impl Strategy<Value = Vec<PolicyEndpointSpec>> {
    // Mostly, the objects of a policy agree on whom they select.
    (vec(object(), 0..3), any::<u8>()).prop_map(|(mut objects, odd)| {
        if odd % 4 > 0 {
            for index in 1..objects.len() {
                objects[index].pod_selector = objects[0].pod_selector.clone();
                objects[index].pod_isolation = objects[0].pod_isolation.clone();
                objects[index].enforcement = objects[0].enforcement;
            }
        }
        objects
    })
}

pub fn world() -> impl Strategy<Value = World> {
    (vec((select(vec!["a", "b"]), policy()), 0..4), pods()).prop_map(|(policies, pods)| World {
        endpoints: policies
            .into_iter()
            .enumerate()
            .map(|(index, (namespace, objects))| {
                let named = |(slice, mut spec): (usize, PolicyEndpointSpec)| {
                    spec.policy_ref = PolicyRef {
                        name: format!("policy-{index}").into(),
                        namespace: namespace.into(),
                    };
                    let mut object = PolicyEndpoint::new(&format!("policy-{index}-{slice}"), spec);
                    object.metadata.namespace = Some(namespace.to_string());
                    Arc::new(object)
                };
                (
                    format!("policy-uid-{index}").into(),
                    objects.into_iter().enumerate().map(named).collect(),
                )
            })
            .collect(),
        pods,
    })
}

/// Two nodes that share most of what they hold.
pub fn change() -> impl Strategy<Value = (World, World)> {
    (world(), world(), any::<u8>()).prop_map(|(old, other, keep)| {
        let mut new = old.clone();
        for (index, (uid, objects)) in other.endpoints.iter().enumerate() {
            match keep >> (2 * index) & 3 {
                0 => {
                    new.endpoints.insert(uid.clone(), objects.clone());
                }
                1 => {
                    // One object differs: entries come and go, the rest stays.
                    if let (Some(mine), Some(theirs)) = (
                        new.endpoints.get_mut(uid).and_then(|o| o.first_mut()),
                        objects.first(),
                    ) {
                        let mut edited = PolicyEndpoint::clone(mine);
                        edited.spec.ingress = theirs.spec.ingress.clone();
                        edited.spec.egress.extend(theirs.spec.egress.iter().cloned());
                        *mine = Arc::new(edited);
                    }
                }
                2 => {
                    // Taken into audit, or out of it.
                    for mine in new.endpoints.get_mut(uid).into_iter().flatten() {
                        let mut edited = PolicyEndpoint::clone(mine);
                        edited.spec.enforcement = match mine.spec.enforcement {
                            Enforcement::Enforce => Enforcement::Audit,
                            Enforcement::Audit => Enforcement::Enforce,
                        };
                        *mine = Arc::new(edited);
                    }
                }
                _ => {}
            }
        }
        if keep % 3 == 0 {
            new.pods = other.pods;
        }
        (old, new)
    })
}

/// Whom it selects; per rule the peers (block, exceptions) and ports; what it is, if it is there.
type Sketch = (
    Option<&'static str>,
    Vec<(Vec<(Cidr, Vec<Cidr>)>, Vec<Port>)>,
    Option<Enforcement>,
);

/// Few rules on nested blocks for two kinds of pods, so that what changes at once also meets: blocks in blocks, pods
/// that trade places, ports that change while peers do.
pub fn dense_change() -> impl Strategy<Value = (World, World)> {
    let blocks: &'static [&str] = &[
        "10.0.0.0/8",
        "10.0.0.0/24",
        "10.0.0.0/29",
        "10.0.0.0/30",
        "10.0.0.2/31",
        "10.0.0.2",
        "10.0.0.7",
    ];
    let block = move || select(blocks).prop_map(|b| b.parse::<Cidr>().unwrap());
    let tcp = |port, end_port| Port {
        port: Some(port),
        end_port,
        ..Port::default()
    };
    let ports = select(vec![
        vec![tcp(80, None)],
        vec![tcp(81, None)],
        vec![tcp(80, Some(81))],
        vec![],
    ]);
    let rule = move || {
        let except = prop_oneof![2 => Just(Vec::new()), 1 => vec(block(), 1..3)];
        (vec((block(), except), 1..4), ports.clone())
    };
    let policy = move || {
        let selector = select(vec![None, Some("x"), Some("y")]);
        (selector, vec(rule(), 0..3), prop::option::of(enforcement()))
    };
    let node = move || (vec(policy(), 1..4), vec(select(vec!["x", "y"]), 2..4));
    let build = |(policies, pods): (Vec<Sketch>, Vec<&str>)| World {
        endpoints: policies
            .into_iter()
            .enumerate()
            .filter_map(|(index, (selected, rules, there)): (usize, Sketch)| {
                let entries = (0..).zip(rules).flat_map(|(rule, (peers, ports))| {
                    peers
                        .into_iter()
                        .map(move |(cidr, except): (Cidr, Vec<Cidr>)| Entry {
                            cidr,
                            except: except.into(),
                            ports: ports.clone().into(),
                            rule: Some(rule),
                        })
                });
                let spec = PolicyEndpointSpec {
                    policy_ref: PolicyRef {
                        name: format!("policy-{index}").into(),
                        namespace: "a".into(),
                    },
                    pod_selector: selected.map(|app| LabelSelector {
                        match_labels: Some([("app".to_string(), app.to_string())].into()),
                        match_expressions: None,
                    }),
                    pod_isolation: vec![Direction::Ingress],
                    enforcement: there.unwrap_or_default(),
                    ingress: entries.collect(),
                    ..PolicyEndpointSpec::default()
                };
                let mut object = PolicyEndpoint::new(&format!("policy-{index}"), spec);
                object.metadata.namespace = Some("a".to_string());
                there.map(|_| (format!("policy-uid-{index}").into(), vec![Arc::new(object)]))
            })
            .collect(),
        pods: pods
            .into_iter()
            .enumerate()
            .map(|(index, app)| Pod {
                id: ObjectId::new("a", &format!("pod-{index}")),
                uid: format!("uid-{index}").into(),
                labels: Arc::new([("app".into(), app.into())].into()),
                node: None,
                host_ip: None,
                addresses: Vec::new(),
                ports: Arc::default(),
                host_network: false,
                finished: false,
                created: None,
                source_prefixes: Vec::new(),
                log_allowed: false,
            })
            .collect(),
    };
    (node(), node(), any::<u8>()).prop_map(move |(old, mut new, keep)| {
        for (index, policy) in new.0.iter_mut().enumerate() {
            if keep >> index & 1 == 1 && index < old.0.len() {
                *policy = old.0[index].clone();
            }
        }
        (build(old), build(new))
    })
}

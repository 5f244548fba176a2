//! Small clusters, and what their policies come to as text.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use palisade::api::{Entry, Port, SelfService};
use palisade::model::{
    Change, Cidr, ContainerPort, Direction, EndpointPort, EndpointSlice, Enforcement, Labels, Namespace,
    ObjectId, Operator, Peer, Pod, Policy, PortMatch, Protocol, Requirement, Rule, Selector, Service,
    ServicePort, Snapshot,
};
use palisade::resolve::{Index, Resolution, resolve};

pub fn mk_labels(labels: &[(&str, &str)]) -> Arc<Labels> {
    Arc::new(labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
}

pub fn mk_namespace(name: &str, labels: &[(&str, &str)]) -> Namespace {
    let mut labels = (*mk_labels(labels)).clone();
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    Namespace {
        name: name.into(),
        labels: labels.into(),
        enforcement: Enforcement::Enforce,
    }
}

/// `namespace/name`, labels, addresses.
pub fn mk_pod(id: &str, labels: &[(&str, &str)], addresses: &[&str]) -> Pod {
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

pub fn with_port(mut pod: Pod, name: &str, protocol: Protocol, number: u16) -> Pod {
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
pub fn mk_policy(namespace: &str, name: &str) -> Policy {
    Policy {
        id: ObjectId::new(namespace, name),
        uid: "policy".into(),
        pod_selector: Selector::everything(),
        ingress: None,
        egress: None,
        enforcement: None,
    }
}

pub fn ingress(peers: Option<Vec<Peer>>, ports: Option<Vec<PortMatch>>) -> Policy {
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

pub fn egress(peers: Option<Vec<Peer>>, ports: Option<Vec<PortMatch>>) -> Policy {
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

pub fn requirement(key: &str, operator: Operator) -> Requirement {
    Requirement {
        key: key.into(),
        operator,
    }
}

pub fn values(values: &[&str]) -> Arc<[Arc<str>]> {
    values.iter().map(|v| Arc::from(*v)).collect()
}

pub fn is(key: &str, value: &str) -> Selector {
    Selector::new([requirement(key, Operator::In(values(&[value])))])
}

pub fn pods(namespaces: Option<Selector>, pods: Option<Selector>) -> Peer {
    Peer::Pods { namespaces, pods }
}

pub fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block {
        cidr: net(cidr),
        except: except.iter().map(|e| net(e)).collect(),
    }
}

pub fn tcp(number: u16) -> PortMatch {
    PortMatch::Range {
        protocol: Protocol::Tcp,
        first: number,
        last: number,
    }
}

pub fn named(name: &str) -> PortMatch {
    PortMatch::Named {
        protocol: Protocol::Tcp,
        name: name.into(),
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn net(text: &str) -> Cidr {
    text.parse().expect("a block")
}

pub fn mk_service(name: &str, cluster_ips: &[&str], port: u16) -> Service {
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

pub fn mk_endpoints(name: &str, service: &str, ready: &[&str], port: u16) -> EndpointSlice {
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
pub fn world(pods: Vec<Pod>, policies: Vec<Policy>) -> Snapshot {
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

pub fn load(index: &mut Index, snapshot: &Snapshot) {
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
pub fn resolved(snapshot: &Snapshot) -> Resolution {
    let resolution = resolve(snapshot);
    let mut index = Index::new();
    load(&mut index, snapshot);
    assert_eq!(index.resolution(), resolution);
    resolution
}

/// The entries of the policy of UID `policy`, as `cidr except… [ports]`.
pub fn entries(resolution: &Resolution, direction: Direction) -> BTreeSet<String> {
    let slices = &resolution.endpoints["policy"];
    let of = |slice: &Arc<palisade::api::PolicyEndpoint>| match direction {
        Direction::Ingress => slice.spec.ingress.clone(),
        Direction::Egress => slice.spec.egress.clone(),
    };
    slices.iter().flat_map(of).map(|entry| shown(&entry)).collect()
}

pub fn shown(entry: &Entry) -> String {
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

pub fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|t| t.to_string()).collect()
}

pub fn ingress_of(pods: Vec<Pod>, policy: Policy) -> BTreeSet<String> {
    entries(&resolved(&world(pods, vec![policy])), Direction::Ingress)
}

pub fn egress_of(pods: Vec<Pod>, policy: Policy) -> BTreeSet<String> {
    entries(&resolved(&world(pods, vec![policy])), Direction::Egress)
}

pub fn subjects(resolution: &Resolution) -> BTreeSet<String> {
    let slices = resolution.endpoints["policy"].iter();
    let subjects = slices.flat_map(|s| s.spec.pod_selector_endpoints.clone());
    subjects
        .map(|p| format!("{}/{} {}", p.namespace, p.name, p.pod_ip))
        .collect()
}

pub fn self_services(resolution: &Resolution) -> Vec<SelfService> {
    resolution.endpoints["policy"]
        .iter()
        .flat_map(|s| s.spec.self_services.clone())
        .collect()
}

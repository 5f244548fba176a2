//! A node with many peers: two local pods, one under policies that admit every peer on the ports of its own rule, the other
//! under none. The image comes from PolicyEndpoints, as in a cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use palisade::api::{Entry, PolicyEndpoint, PolicyEndpointSpec, PolicyRef, Port};
use palisade::compile::{Endpoints, Image, compile};
use palisade::model::{Cidr, Direction, ObjectId, Pod, Protocol};

/// Rules of one policy.
const RULES: usize = 10;

/// UID of the pod under policies in both directions.
pub const ISOLATED: &str = "uid-web";
/// UID of the pod under none.
pub const OPEN: &str = "uid-open";

/// Addresses of a local pod, by family.
pub fn pod_addresses(uid: &str) -> [IpAddr; 2] {
    let last = if uid == ISOLATED { 1 } else { 2 };
    [
        Ipv4Addr::new(10, 99, 0, last).into(),
        Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, last.into()).into(),
    ]
}

/// Addresses of a peer, by family.
pub fn peer_addresses(number: usize) -> [IpAddr; 2] {
    let number = number as u32;
    [
        Ipv4Addr::from(0x0a10_0000 + number).into(),
        Ipv6Addr::from((0xfd00_0010_u128 << 96) + u128::from(number)).into(),
    ]
}

/// Like a peer's, but no rule admits them.
pub fn stranger_addresses(number: usize) -> [IpAddr; 2] {
    let number = number as u32;
    [
        Ipv4Addr::from(0x0b10_0000 + number).into(),
        Ipv6Addr::from((0xfd00_0011_u128 << 96) + u128::from(number)).into(),
    ]
}

/// The port, of TCP and UDP, that the rule of a peer opens.
pub fn port(peer: usize, rules: usize) -> u16 {
    1024 + (peer % rules) as u16
}

/// A port that no rule opens.
pub const CLOSED_PORT: u16 = 443;

/// Policies that select the isolated pod. Peers are dealt out to `rules` rules.
pub fn endpoints(peers: usize, rules: usize) -> Endpoints {
    (0..rules.div_ceil(RULES))
        .map(|policy| {
            let name = format!("policy-{policy}");
            let objects = slices(policy, &name, peers, rules);
            (name.as_str().into(), objects)
        })
        .collect()
}

/// What the node must hold for them.
pub fn image(endpoints: &Endpoints) -> Image {
    let pods = [pod(ISOLATED, "web"), pod(OPEN, "open")];
    let compiled = compile(endpoints, &pods.iter().collect::<Vec<_>>());
    assert!(compiled.problems.is_empty(), "{:?}", compiled.problems);
    compiled.image
}

fn slices(policy: usize, name: &str, peers: usize, rules: usize) -> Vec<Arc<PolicyEndpoint>> {
    let mut entries = Vec::new();
    for rule in policy * RULES..rules.min((policy + 1) * RULES) {
        for address in (rule..peers).step_by(rules).flat_map(peer_addresses) {
            entries.push(entry(address, port(rule, rules), rule % RULES));
        }
    }
    let slices = entries.chunks(200);
    slices
        .map(|slice| object(name, "web", &Direction::ALL, slice))
        .collect()
}

/// One address that a rule admits on one port, of TCP and UDP.
pub fn entry(address: IpAddr, port: u16, rule: usize) -> Entry {
    Entry {
        cidr: Cidr::single(address),
        except: Arc::default(),
        ports: [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| Port {
                protocol: Some(protocol),
                port: Some(port),
                ..Port::default()
            })
            .into(),
        rule: Some(rule as u32),
    }
}

/// One object of a policy for the pods of an app.
pub fn object(policy: &str, app: &str, isolates: &[Direction], ingress: &[Entry]) -> Arc<PolicyEndpoint> {
    let spec = PolicyEndpointSpec {
        policy_ref: PolicyRef {
            name: policy.into(),
            namespace: "shop".into(),
        },
        pod_selector: Some(LabelSelector {
            match_labels: Some([("app".to_string(), app.to_string())].into()),
            match_expressions: None,
        }),
        pod_isolation: isolates.to_vec(),
        ingress: ingress.to_vec(),
        ..PolicyEndpointSpec::default()
    };
    let mut object = PolicyEndpoint::new(policy, spec);
    object.metadata.namespace = Some("shop".to_string());
    Arc::new(object)
}

fn pod(uid: &str, app: &str) -> Pod {
    Pod {
        id: ObjectId::new("shop", app),
        uid: uid.into(),
        labels: Arc::new([("app".into(), app.into())].into()),
        node: None,
        host_ip: None,
        addresses: pod_addresses(uid).into(),
        ports: Arc::default(),
        host_network: false,
        finished: false,
        created: None,
        source_prefixes: Vec::new(),
        log_allowed: false,
    }
}

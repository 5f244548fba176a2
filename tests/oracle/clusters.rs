//! Small clusters in which everything collides: few names, few labels, few addresses, few ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use palisade::model::{
    Cidr, ContainerPort, EndpointPort, EndpointSlice, Enforcement, Labels, Namespace, ObjectId, Operator,
    Peer, Pod, Policy, PortMatch, Protocol, Requirement, Rule, Selector, Service, ServicePort, Snapshot,
};

use super::Rng;

const NAMESPACES: [&str; 4] = ["a", "b", "a-b", "default"];
const KEYS: [&str; 4] = ["app", "tier", "example.com/role", "x"];
const VALUES: [&str; 4] = ["web", "db", "", "v1.2"];
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
const PORT_NAMES: [&str; 4] = ["http", "https", "dns", "metrics"];
pub const PORTS: [u16; 10] = [1, 53, 79, 80, 81, 443, 8080, 8081, 65534, 65535];

/// Everything a NetworkPolicy can say and a pod can be, in up to 4 namespaces, 12 pods, 8 policies and 4 Services.
pub fn random_cluster(rng: &mut Rng) -> Snapshot {
    let mut cluster = Snapshot::default();
    for name in rng.some(&NAMESPACES, 1, NAMESPACES.len()) {
        cluster.namespaces.push(namespace(rng, name));
    }
    let pods = if rng.one_in(20) {
        rng.between(0, 1)
    } else {
        rng.between(2, 12)
    };
    for i in 0..pods {
        let pod = pod(rng, &cluster, &format!("pod-{i}"), &format!("uid-pod-{i}"));
        cluster.pods.push(pod);
    }
    for i in 0..rng.between(0, 4) {
        let service = service(rng, &cluster, &format!("svc-{}", i / 2));
        if cluster.services.iter().all(|s| s.id != service.id) {
            cluster.services.push(service);
        }
    }
    for i in 0..rng.between(0, 5) {
        let slice = endpoint_slice(rng, &cluster, &format!("slice-{i}"));
        cluster.endpoint_slices.push(slice);
    }
    let policies = if rng.one_in(20) { 0 } else { rng.between(1, 8) };
    for i in 0..policies {
        // One name in several namespaces, but once in each.
        let policy = policy(
            rng,
            &cluster,
            &format!("policy-{}", i / 2),
            &format!("uid-policy-{i}"),
        );
        if cluster.policies.iter().all(|p| p.id != policy.id) {
            cluster.policies.push(policy);
        }
    }
    // Pods whose namespace has not been seen yet.
    if rng.one_in(25) {
        cluster.namespaces.pop();
    }
    cluster
}

pub fn namespace(rng: &mut Rng, name: &str) -> Namespace {
    let mut labels = labels(rng);
    labels.insert(NAMESPACE_NAME.into(), name.into());
    Namespace {
        name: name.into(),
        labels: Arc::new(labels),
        enforcement: if rng.one_in(4) {
            Enforcement::Audit
        } else {
            Enforcement::Enforce
        },
    }
}

fn any_namespace(rng: &mut Rng, cluster: &Snapshot) -> Arc<str> {
    match cluster.namespaces.as_slice() {
        [] => NAMESPACES[0].into(),
        namespaces => rng.pick(namespaces).name.clone(),
    }
}

fn labels(rng: &mut Rng) -> Labels {
    let keys = rng.some(&KEYS, 0, 3);
    keys.into_iter()
        .map(|key| (key.into(), (*rng.pick(&VALUES)).into()))
        .collect()
}

pub fn pod(rng: &mut Rng, cluster: &Snapshot, name: &str, uid: &str) -> Pod {
    let mut addresses = Vec::new();
    let families = rng.below(10);
    if families < 8 && families != 6 {
        addresses.push(free_address(rng, cluster, pod_v4));
    }
    if families < 7 && families != 5 {
        addresses.push(free_address(rng, cluster, pod_v6));
    }
    if rng.one_in(40) {
        let second = free_address(rng, cluster, pod_v4);
        if !addresses.contains(&second) {
            addresses.push(second);
        }
    }
    let mut ports: Vec<ContainerPort> = Vec::new();
    for _ in 0..rng.between(0, 4) {
        let port = ContainerPort {
            name: (!rng.one_in(4)).then(|| (*rng.pick(&PORT_NAMES)).into()),
            protocol: protocol(rng),
            number: *rng.pick(&PORTS),
        };
        // Two containers may give one name to different ports.
        if port.name.is_none()
            || rng.one_in(12)
            || ports
                .iter()
                .all(|p| (&p.name, p.protocol) != (&port.name, port.protocol))
        {
            ports.push(port);
        }
    }
    Pod {
        id: ObjectId {
            namespace: any_namespace(rng, cluster),
            name: name.into(),
        },
        uid: uid.into(),
        labels: Arc::new(labels(rng)),
        node: (!rng.one_in(5)).then(|| "node-1".into()),
        host_ip: (!rng.one_in(5)).then(|| "192.168.0.1".parse().expect("an address")),
        addresses,
        ports: ports.into(),
        host_network: rng.one_in(15),
        finished: rng.one_in(12),
        created: (!rng.one_in(6)).then(|| rng.below(4) as i64),
        source_prefixes: Vec::new(),
        log_allowed: false,
    }
}

/// Mostly one that no pod has; now and then one is claimed twice.
fn free_address(rng: &mut Rng, cluster: &Snapshot, draw: fn(&mut Rng) -> IpAddr) -> IpAddr {
    let mut address = draw(rng);
    for _ in 0..8 {
        if rng.one_in(8) || cluster.pods.iter().all(|p| !p.addresses.contains(&address)) {
            break;
        }
        address = draw(rng);
    }
    address
}

fn pod_v4(rng: &mut Rng) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + (rng.below(2) * 256 + rng.below(16)) as u32).into()
}

fn pod_v6(rng: &mut Rng) -> IpAddr {
    let base = u128::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0));
    Ipv6Addr::from(base + (rng.below(2) * 65536 + rng.below(16)) as u128).into()
}

fn protocol(rng: &mut Rng) -> Protocol {
    match rng.below(6) {
        0..=2 => Protocol::Tcp,
        3 | 4 => Protocol::Udp,
        _ => Protocol::Sctp,
    }
}

/// Any address that something may be at: of a pod, a Service, a neighbour of theirs, or far away.
pub fn any_address(rng: &mut Rng, cluster: &Snapshot) -> IpAddr {
    let known: Vec<IpAddr> = match rng.below(4) {
        0 | 1 => cluster.pods.iter().flat_map(|p| p.addresses.clone()).collect(),
        2 => cluster
            .services
            .iter()
            .flat_map(|s| s.cluster_ips.clone())
            .collect(),
        _ => Vec::new(),
    };
    match (known.is_empty(), rng.below(8)) {
        (false, _) => *rng.pick(&known),
        (_, 0..=2) => pod_v4(rng),
        (_, 3..=5) => pod_v6(rng),
        _ => {
            let far = [
                "0.0.0.0",
                "255.255.255.255",
                "127.255.255.255",
                "128.0.0.0",
                "203.0.113.9",
                "::",
                "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "8000::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db8::9",
            ];
            rng.pick(&far).parse().expect("an address")
        }
    }
}

pub fn service(rng: &mut Rng, cluster: &Snapshot, name: &str) -> Service {
    // Its own pair of addresses, as the API server allots them.
    let number = loop {
        let number = rng.between(1, 30) as u32;
        let taken = cluster
            .services
            .iter()
            .any(|s| s.cluster_ips.contains(&cluster_v4(number)))
            || cluster
                .services
                .iter()
                .any(|s| s.cluster_ips.contains(&cluster_v6(number)));
        if !taken {
            break number;
        }
    };
    let cluster_ips = match rng.below(4) {
        0 => vec![cluster_v4(number)],
        1 => vec![cluster_v6(number)],
        2 => vec![cluster_v6(number), cluster_v4(number)],
        _ => vec![cluster_v4(number), cluster_v6(number)],
    };
    let names = if rng.one_in(2) {
        vec![""]
    } else {
        rng.some(&PORT_NAMES, 1, 3)
    };
    let mut ports: Vec<ServicePort> = Vec::new();
    for name in names {
        let port = ServicePort {
            name: name.into(),
            protocol: protocol(rng),
            port: *rng.pick(&PORTS),
        };
        if ports
            .iter()
            .all(|p| (p.protocol, p.port) != (port.protocol, port.port))
        {
            ports.push(port);
        }
    }
    Service {
        id: ObjectId {
            namespace: any_namespace(rng, cluster),
            name: name.into(),
        },
        cluster_ips,
        ports,
    }
}

fn cluster_v4(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a60_0000 + number).into()
}

fn cluster_v6(number: u32) -> IpAddr {
    Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number as u16).into()
}

/// Mostly of a Service that exists, mostly with pods of its family for backends; several slices may serve one
/// Service with different target ports.
pub fn endpoint_slice(rng: &mut Rng, cluster: &Snapshot, name: &str) -> EndpointSlice {
    let service =
        (!cluster.services.is_empty() && !rng.one_in(8)).then(|| rng.pick(&cluster.services).clone());
    let family = rng.one_in(2);
    // A pod serves with one address of a family, though a file may give it two.
    let of_family = |p: &Pod| p.addresses.iter().copied().find(|a| a.is_ipv4() == family);
    let mut pool: Vec<IpAddr> = cluster.pods.iter().filter_map(of_family).collect();
    if rng.one_in(4) {
        let other = any_address(rng, cluster);
        let spare = |p: &Pod| p.addresses.contains(&other);
        if other.is_ipv4() == family && !cluster.pods.iter().any(spare) {
            pool.push(other);
        }
    }
    let least = usize::from(!rng.one_in(5));
    let mut ports: Vec<EndpointPort> = Vec::new();
    for port in service.iter().flat_map(|s| &s.ports) {
        if !rng.one_in(8) {
            ports.push(EndpointPort {
                name: port.name.clone(),
                protocol: if rng.one_in(12) {
                    protocol(rng)
                } else {
                    port.protocol
                },
                port: (!rng.one_in(25)).then(|| *rng.pick(&PORTS)),
            });
        }
    }
    let (namespace, service) = match service {
        Some(service) if !rng.one_in(8) => (service.id.namespace, service.id.name),
        _ => (any_namespace(rng, cluster), "svc-0".into()),
    };
    EndpointSlice {
        id: ObjectId {
            namespace,
            name: name.into(),
        },
        service,
        ready: rng.some(&pool, least, 3),
        ports,
    }
}

pub fn policy(rng: &mut Rng, cluster: &Snapshot, name: &str, uid: &str) -> Policy {
    let types = rng.below(8);
    let ingress = (types < 5).then(|| rules(rng, cluster));
    let egress = (types > 2).then(|| rules(rng, cluster));
    let pod_selector = if rng.one_in(2) {
        Selector::everything()
    } else {
        selector(rng, &KEYS, &VALUES)
    };
    Policy {
        id: ObjectId {
            namespace: any_namespace(rng, cluster),
            name: name.into(),
        },
        uid: uid.into(),
        pod_selector,
        ingress,
        egress,
        enforcement: match rng.below(8) {
            0 | 1 => Some(Enforcement::Audit),
            2 => Some(Enforcement::Enforce),
            _ => None,
        },
    }
}

fn rules(rng: &mut Rng, cluster: &Snapshot) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut index = 0;
    for _ in 0..rng.between(0, 3) {
        // A rule that could not be read is missing from the list.
        index += u32::from(rng.one_in(10));
        let peers = (!rng.one_in(4)).then(|| {
            let count = if rng.one_in(12) { 0 } else { rng.between(1, 3) };
            (0..count).map(|_| peer(rng, cluster)).collect()
        });
        let ports = (!rng.one_in(3)).then(|| {
            let count = if rng.one_in(12) { 0 } else { rng.between(1, 3) };
            (0..count).map(|_| port_match(rng)).collect()
        });
        rules.push(Rule { index, peers, ports });
        index += 1;
    }
    rules
}

fn peer(rng: &mut Rng, cluster: &Snapshot) -> Peer {
    if rng.one_in(2) {
        return block(rng, cluster);
    }
    let namespace_keys = ["app", "tier", NAMESPACE_NAME];
    let namespace_values = ["web", "", "a", "b", "a-b"];
    let namespaces = (!rng.one_in(3)).then(|| selector(rng, &namespace_keys, &namespace_values));
    let pods = (namespaces.is_none() || rng.one_in(2)).then(|| selector(rng, &KEYS, &VALUES));
    Peer::Pods { namespaces, pods }
}

fn block(rng: &mut Rng, cluster: &Snapshot) -> Peer {
    let address = any_address(rng, cluster);
    let lengths: &[u8] = if address.is_ipv4() {
        &[0, 0, 1, 8, 23, 24, 28, 29, 30, 31, 32, 32]
    } else {
        &[0, 0, 1, 16, 64, 111, 112, 124, 126, 127, 128, 128]
    };
    let cidr = Cidr::new(address, *rng.pick(lengths)).expect("a length of the family");
    let mut except = Vec::new();
    if !cidr.is_single() {
        for _ in 0..rng.below(4) {
            let length = u8::try_from(rng.between(
                usize::from(cidr.net().prefix_len()) + 1,
                usize::from(cidr.net().max_prefix_len()),
            ))
            .expect("at most 128");
            // Of addresses inside: one of the cluster's where there is one, else the block's first or last.
            let inside = (0..6)
                .map(|_| any_address(rng, cluster))
                .find(|a| cidr.contains(*a))
                .unwrap_or(if rng.one_in(2) {
                    cidr.net().addr()
                } else {
                    cidr.net().broadcast()
                });
            let length = if rng.one_in(2) {
                *lengths
                    .iter()
                    .find(|l| **l >= length)
                    .expect("the longest is the last")
            } else {
                length
            };
            except.push(Cidr::new(inside, length).expect("a length of the family"));
        }
    }
    Peer::Block { cidr, except }
}

fn port_match(rng: &mut Rng) -> PortMatch {
    let protocol = protocol(rng);
    match rng.below(8) {
        0 => PortMatch::Every(protocol),
        1..=3 => PortMatch::Named {
            protocol,
            name: (*rng.pick(&PORT_NAMES)).into(),
        },
        4 | 5 => {
            let first = *rng.pick(&PORTS);
            let last = match rng.below(5) {
                0 => first,
                1 => first.saturating_add(1),
                2 => first.saturating_add(8000),
                3 => u16::MAX,
                _ => *rng.pick(&PORTS),
            };
            PortMatch::Range {
                protocol,
                first: first.min(last),
                last: first.max(last),
            }
        }
        _ => {
            let port = *rng.pick(&PORTS);
            PortMatch::Range {
                protocol,
                first: port,
                last: port,
            }
        }
    }
}

fn selector(rng: &mut Rng, keys: &[&str], values: &[&str]) -> Selector {
    let count = [0, 1, 1, 1, 2, 3][rng.below(6)];
    let requirements: Vec<Requirement> = (0..count)
        .map(|_| {
            let operator = match rng.below(7) {
                0..=2 => Operator::In(some_values(rng, values)),
                3 | 4 => Operator::NotIn(some_values(rng, values)),
                5 => Operator::Exists,
                _ => Operator::DoesNotExist,
            };
            Requirement {
                key: (*rng.pick(keys)).into(),
                operator,
            }
        })
        .collect();
    Selector::new(requirements)
}

fn some_values(rng: &mut Rng, values: &[&str]) -> Arc<[Arc<str>]> {
    rng.some(values, 1, 2).into_iter().map(Arc::from).collect()
}

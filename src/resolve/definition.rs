//! [`resolve`] from scratch, written to be read: every policy asks every pod and every Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Resolution;
use super::port::{allows, numbered};
use super::report;
use super::slices::{Head, Item, pack};
use crate::api::{Entry, PodEndpoint, Port, SelfService};
use crate::model::{
    Cidr, ContainerPort, Direction, EndpointSlice, Enforcement, Namespace, Peer, Pod, Policy, PortMatch,
    Problem, Protocol, Rule, Service, ServicePort, Snapshot,
};

/// What all policies come to, in slices of at most [`super::SLICE_ENTRIES`] entries. A snapshot holds at
/// most one object of a kind and name, and no two policies of one UID. Takes time in policies × (pods +
/// Services): whoever has many, or has changes, wants the [`Index`](super::Index).
pub fn resolve(snapshot: &Snapshot) -> Resolution {
    resolve_sliced(snapshot, super::SLICE_ENTRIES)
}

/// [`resolve`] with slices of at most `slice_entries` entries (at least 1).
pub fn resolve_sliced(snapshot: &Snapshot, slice_entries: usize) -> Resolution {
    let cluster = Cluster::read(snapshot);
    let mut problems = cluster.problems();
    let mut endpoints = BTreeMap::new();
    for policy in &snapshot.policies {
        let items = cluster.items(policy, &mut problems);
        let head = Head::new(policy, cluster.enforcement(policy));
        endpoints.insert(policy.uid.clone(), pack(&head, slice_entries.max(1), items));
    }
    Resolution {
        endpoints,
        problems: problems.into_iter().collect(),
    }
}

struct Cluster<'a> {
    namespaces: BTreeMap<&'a str, &'a Namespace>,
    /// Those that policies can select and peers can match.
    pods: Vec<&'a Pod>,
    owners: BTreeMap<IpAddr, &'a Pod>,
    services: &'a [Service],
    endpoint_slices: &'a [EndpointSlice],
}

impl<'a> Cluster<'a> {
    fn read(snapshot: &'a Snapshot) -> Self {
        let pods: Vec<&Pod> = snapshot.pods.iter().filter(|pod| pod.is_live()).collect();
        let mut owners: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
        for pod in &pods {
            for address in &pod.addresses {
                let owner = owners.entry(*address).or_insert(pod);
                if report::seniority(pod) > report::seniority(owner) {
                    *owner = pod;
                }
            }
        }
        Self {
            namespaces: (snapshot.namespaces.iter()).map(|n| (&*n.name, n)).collect(),
            pods,
            owners,
            services: &snapshot.services,
            endpoint_slices: &snapshot.endpoint_slices,
        }
    }

    fn problems(&self) -> BTreeSet<Problem> {
        let mut problems = BTreeSet::new();
        for pod in &self.pods {
            if !self.namespaces.contains_key(&*pod.id.namespace) {
                problems.insert(report::namespace_unknown(&pod.id.namespace));
            }
            for address in &pod.addresses {
                let owner = self.owners[address];
                if owner.id != pod.id {
                    problems.insert(report::address_claimed_twice(&pod.id, *address, &owner.id));
                }
            }
        }
        problems
    }

    fn addresses(&self, pod: &Pod) -> BTreeSet<IpAddr> {
        let own = |address: &&IpAddr| self.owners[*address].id == pod.id;
        pod.addresses.iter().filter(own).copied().collect()
    }

    /// The policy's own word, or else its namespace's.
    fn enforcement(&self, policy: &Policy) -> Enforcement {
        let of_namespace = || self.namespaces.get(&*policy.id.namespace).map(|n| n.enforcement);
        policy.enforcement.or_else(of_namespace).unwrap_or_default()
    }

    fn selects(&self, policy: &Policy, pod: &Pod) -> bool {
        pod.id.namespace == policy.id.namespace && policy.pod_selector.matches(&pod.labels)
    }

    fn peer_matches_pod(&self, policy: &Policy, peer: &Peer, pod: &Pod) -> bool {
        let Peer::Pods { namespaces, pods } = peer else {
            return false;
        };
        let namespace = match namespaces {
            None => pod.id.namespace == policy.id.namespace,
            Some(selector) => {
                (self.namespaces.get(&*pod.id.namespace)).is_some_and(|n| selector.matches(&n.labels))
            }
        };
        namespace && pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
    }

    fn items(&self, policy: &Policy, problems: &mut BTreeSet<Problem>) -> BTreeSet<Item> {
        let mut items = BTreeSet::new();
        let subjects: Vec<&Pod> = (self.pods.iter().copied())
            .filter(|pod| self.selects(policy, pod))
            .collect();
        for pod in &subjects {
            for pod_ip in self.addresses(pod) {
                items.insert(Item::Subject(PodEndpoint {
                    host_ip: pod.host_ip,
                    pod_ip,
                    name: pod.id.name.clone(),
                    namespace: pod.id.namespace.clone(),
                }));
            }
        }
        for rule in policy.ingress.iter().flatten() {
            let Some(ports) = ingress_ports(policy, rule, &subjects, problems) else {
                continue;
            };
            let mut allow = |cidr, except: &[Cidr]| {
                items.insert(entry(Direction::Ingress, rule, cidr, except, &ports));
            };
            for (cidr, except) in blocks(rule) {
                allow(cidr, except);
            }
            for pod in self.peer_pods(policy, rule) {
                for address in self.addresses(pod) {
                    allow(Cidr::single(address), &[]);
                }
            }
        }
        for rule in policy.egress.iter().flatten() {
            self.egress(policy, rule, &mut items, problems);
            for service in self.services {
                self.through_service(policy, rule, service, &mut items, problems);
            }
        }
        if policy.egress.is_some() {
            for service in self.services {
                self.own_service(policy, service, &mut items);
            }
        }
        items
    }

    fn peer_pods(&self, policy: &Policy, rule: &Rule) -> Vec<&'a Pod> {
        let peer =
            |pod: &Pod| (rule.peers.iter().flatten()).any(|peer| self.peer_matches_pod(policy, peer, pod));
        self.pods.iter().copied().filter(|pod| peer(pod)).collect()
    }

    /// Numbers hold for every destination; names only for the destination pods that have them.
    fn egress(
        &self,
        policy: &Policy,
        rule: &Rule,
        items: &mut BTreeSet<Item>,
        problems: &mut BTreeSet<Problem>,
    ) {
        let numbers: BTreeSet<Port> = rule.ports.iter().flatten().filter_map(numbered).collect();
        let any_port = rule.ports.is_none();
        let mut allow = |cidr, except: &[Cidr], ports: &BTreeSet<Port>| {
            if any_port || !ports.is_empty() {
                items.insert(entry(Direction::Egress, rule, cidr, except, ports));
            }
        };
        for (cidr, except) in blocks(rule) {
            // What is excepted is not to be had by way of a ClusterIP either.
            let stands_for = |service: &&Service| self.stands_for_excepted(service, except);
            let cluster_ips = self
                .services
                .iter()
                .filter(stands_for)
                .flat_map(|s| &s.cluster_ips);
            let more = cluster_ips
                .filter(|ip| cidr.contains(**ip))
                .map(|ip| Cidr::single(*ip));
            let except: Vec<Cidr> = except.iter().copied().chain(more).collect();
            allow(cidr, &except, &numbers);
        }
        let peers = self.peer_pods(policy, rule);
        for pod in &self.pods {
            let names = named_ports(rule, pod);
            let selected = peers.iter().any(|peer| peer.id == pod.id);
            for address in self.addresses(pod) {
                if selected {
                    allow(Cidr::single(address), &[], &(&numbers | &names));
                } else if !any_port && block_covers(rule, address) {
                    allow(Cidr::single(address), &[], &names);
                }
            }
        }
        for port in rule.ports.iter().flatten() {
            let PortMatch::Named { protocol, name } = port else {
                continue;
            };
            let has = |pod: &Pod| pod.ports.iter().any(|p| is_named(p, *protocol, name));
            let covered = |pod: &Pod| (self.addresses(pod).into_iter()).any(|a| block_covers(rule, a));
            let resolved =
                (peers.iter().any(|pod| has(pod))) || self.pods.iter().any(|pod| covered(pod) && has(pod));
            if !resolved && (!peers.is_empty() || blocks(rule).next().is_some()) {
                problems.insert(report::named_port_unresolved(
                    policy,
                    Direction::Egress,
                    rule.index,
                    *protocol,
                    name,
                ));
            }
        }
    }

    /// Whether the rule lets traffic out to this backend; `port` `None`: to all its ports.
    fn allows_backend(
        &self,
        policy: &Policy,
        rule: &Rule,
        address: IpAddr,
        protocol: Protocol,
        port: Option<u16>,
    ) -> bool {
        let pod = self.owners.get(&address).copied();
        let peer = block_covers(rule, address)
            || pod.is_some_and(|pod| {
                (rule.peers.iter().flatten()).any(|peer| self.peer_matches_pod(policy, peer, pod))
            });
        let by_name = |match_: &PortMatch| match match_ {
            PortMatch::Named { protocol: p, name } => {
                *p == protocol
                    && pod.is_some_and(|pod| {
                        (pod.ports.iter()).any(|c| is_named(c, protocol, name) && Some(c.number) == port)
                    })
            }
            _ => false,
        };
        let ports = (rule.ports.as_ref())
            .is_none_or(|ports| ports.iter().any(|p| allows(p, protocol, port) || by_name(p)));
        peer && ports
    }

    /// Address and port of each ready backend behind one Service port, of the ClusterIP's family.
    fn backends(
        &self,
        service: &Service,
        port: &ServicePort,
        cluster_ip: IpAddr,
    ) -> BTreeSet<(IpAddr, Option<u16>)> {
        let mut backends = BTreeSet::new();
        for slice in self.endpoint_slices {
            if slice.id.namespace != service.id.namespace || slice.service != service.id.name {
                continue;
            }
            for target in &slice.ports {
                if target.name != port.name || target.protocol != port.protocol {
                    continue;
                }
                for address in &slice.ready {
                    if address.is_ipv4() == cluster_ip.is_ipv4() {
                        backends.insert((*address, target.port));
                    }
                }
            }
        }
        backends
    }

    /// Whether one of the Service's ready backends is in one of these blocks.
    fn stands_for_excepted(&self, service: &Service, except: &[Cidr]) -> bool {
        let slices = (self.endpoint_slices.iter())
            .filter(|slice| slice.id.namespace == service.id.namespace && slice.service == service.id.name);
        slices
            .flat_map(|slice| &slice.ready)
            .any(|address| except.iter().any(|e| e.contains(*address)))
    }

    fn through_service(
        &self,
        policy: &Policy,
        rule: &Rule,
        service: &Service,
        items: &mut BTreeSet<Item>,
        problems: &mut BTreeSet<Problem>,
    ) {
        for port in &service.ports {
            for cluster_ip in &service.cluster_ips {
                let as_written = blocks(rule).any(|(cidr, except)| {
                    cidr.contains(*cluster_ip)
                        && !except.iter().any(|e| e.contains(*cluster_ip))
                        && !self.stands_for_excepted(service, except)
                }) && (rule.ports.as_ref())
                    .is_none_or(|ports| ports.iter().any(|p| allows(p, port.protocol, Some(port.port))));
                if as_written {
                    continue;
                }
                let backends = self.backends(service, port, *cluster_ip);
                let allowed = (backends.iter())
                    .filter(|(a, p)| self.allows_backend(policy, rule, *a, port.protocol, *p))
                    .count();
                if allowed == 0 {
                    continue;
                }
                if allowed < backends.len() {
                    problems.insert(report::mixed_backends(
                        policy,
                        rule.index,
                        &service.id,
                        port,
                        *cluster_ip,
                        allowed,
                        backends.len(),
                    ));
                    continue;
                }
                let ports = BTreeSet::from([Port {
                    protocol: Some(port.protocol),
                    port: Some(port.port),
                    ..Port::default()
                }]);
                items.insert(entry(
                    Direction::Egress,
                    rule,
                    Cidr::single(*cluster_ip),
                    &[],
                    &ports,
                ));
            }
        }
    }

    fn own_service(&self, policy: &Policy, service: &Service, items: &mut BTreeSet<Item>) {
        for port in &service.ports {
            for cluster_ip in &service.cluster_ips {
                let backends = self.backends(service, port, *cluster_ip);
                let addresses: BTreeSet<IpAddr> = backends.into_iter().map(|(a, _)| a).collect();
                let mut addresses = addresses.into_iter();
                if let (Some(pod_ip), None) = (addresses.next(), addresses.next())
                    && (self.owners.get(&pod_ip)).is_some_and(|pod| self.selects(policy, pod))
                {
                    items.insert(Item::SelfService(SelfService {
                        pod_ip,
                        cluster_ip: *cluster_ip,
                        protocol: port.protocol,
                        port: port.port,
                    }));
                }
            }
        }
    }
}

/// The rule's ports with names resolved on the selected pods; `None`: it allows no port.
fn ingress_ports(
    policy: &Policy,
    rule: &Rule,
    subjects: &[&Pod],
    problems: &mut BTreeSet<Problem>,
) -> Option<BTreeSet<Port>> {
    let Some(matches) = &rule.ports else {
        return Some(BTreeSet::new());
    };
    let mut ports: BTreeSet<Port> = matches.iter().filter_map(numbered).collect();
    for port in matches {
        let PortMatch::Named { protocol, name } = port else {
            continue;
        };
        let mut resolved = false;
        for pod in subjects {
            for container_port in pod.ports.iter().filter(|p| is_named(p, *protocol, name)) {
                resolved = true;
                ports.insert(Port {
                    protocol: Some(*protocol),
                    port: Some(container_port.number),
                    end_port: None,
                    name: Some(name.clone()),
                });
            }
        }
        if !resolved && !subjects.is_empty() {
            problems.insert(report::named_port_unresolved(
                policy,
                Direction::Ingress,
                rule.index,
                *protocol,
                name,
            ));
        }
    }
    (!ports.is_empty()).then_some(ports)
}

fn is_named(port: &ContainerPort, protocol: Protocol, name: &str) -> bool {
    port.protocol == protocol && port.name.as_deref() == Some(name)
}

/// The numbers that the rule's named ports have on this pod.
fn named_ports(rule: &Rule, pod: &Pod) -> BTreeSet<Port> {
    let mut ports = BTreeSet::new();
    for port in rule.ports.iter().flatten() {
        if let PortMatch::Named { protocol, name } = port {
            for container_port in pod.ports.iter().filter(|p| is_named(p, *protocol, name)) {
                ports.insert(Port {
                    protocol: Some(*protocol),
                    port: Some(container_port.number),
                    ..Port::default()
                });
            }
        }
    }
    ports
}

/// The rule's blocks with what each excepts; any address, where it has no peers.
fn blocks(rule: &Rule) -> impl Iterator<Item = (Cidr, &[Cidr])> {
    let any = (rule.peers.is_none())
        .then(Cidr::everything)
        .into_iter()
        .flatten();
    let blocks = rule.peers.iter().flatten().filter_map(|peer| match peer {
        Peer::Block { cidr, except } => Some((*cidr, &except[..])),
        Peer::Pods { .. } => None,
    });
    any.map(|cidr| (cidr, &[][..])).chain(blocks)
}

fn block_covers(rule: &Rule, address: IpAddr) -> bool {
    blocks(rule).any(|(cidr, except)| cidr.contains(address) && !except.iter().any(|e| e.contains(address)))
}

fn entry(direction: Direction, rule: &Rule, cidr: Cidr, except: &[Cidr], ports: &BTreeSet<Port>) -> Item {
    let except: BTreeSet<Cidr> = except.iter().copied().collect();
    Item::Entry(
        direction,
        Entry {
            cidr,
            except: except.into_iter().collect(),
            ports: ports.iter().cloned().collect::<Arc<[Port]>>(),
            rule: Some(rule.index),
        },
    )
}

//! The verdict, as the contract says it.

use std::net::IpAddr;

use palisade::model::{
    Cidr, Direction, Enforcement, Labels, Namespace, Operator, Peer, Pod, Policy, PortMatch, Protocol, Rule,
    Selector, Service, ServicePort, Snapshot,
};

/// Judges connections by reading the objects anew for each question.
#[derive(Clone, Copy)]
pub struct Oracle<'a> {
    objects: &'a Snapshot,
}

/// Who opens a connection.
#[derive(Clone, Debug)]
pub enum Source {
    /// The pod of this UID, sending from this one of its addresses.
    Pod { uid: String, address: IpAddr },
    /// Somebody who is no pod of the cluster, or of whom only the address is known.
    Address(IpAddr),
}

/// A connection's first packet. `destination` is a pod, a ClusterIP or any other address; `port` is 0 for protocols
/// without ports.
#[derive(Clone, Debug)]
pub struct Probe {
    pub source: Source,
    pub destination: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

/// What becomes of a connection at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Denied,
    /// It passes, though the policies in audit would deny it.
    Audited,
    Allowed,
}

impl Verdict {
    pub fn passes(self) -> bool {
        self != Self::Denied
    }
}

/// `None`: no pod that policies select is at that end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdicts {
    pub egress: Option<Verdict>,
    pub ingress: Option<Verdict>,
}

impl<'a> Oracle<'a> {
    pub fn new(objects: &'a Snapshot) -> Self {
        Self { objects }
    }

    pub fn probe(self, probe: &Probe) -> Verdicts {
        let address = match &probe.source {
            Source::Pod { address, .. } | Source::Address(address) => *address,
        };
        let egress = match &probe.source {
            Source::Pod { uid, .. } => self.verdict(
                uid,
                Direction::Egress,
                probe.destination,
                probe.protocol,
                probe.port,
            ),
            Source::Address(_) => None,
        };
        let ingress = self
            .owner(probe.destination)
            .and_then(|to| self.verdict(&to.uid, Direction::Ingress, address, probe.protocol, probe.port));
        Verdicts { egress, ingress }
    }

    /// What the policies say of one pod in one direction. `None`: they select no such pod.
    pub fn verdict(
        self,
        uid: &str,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Verdict> {
        let pod = self.objects.pods.iter().find(|p| &*p.uid == uid && p.is_live())?;
        let allowed_by = |counts: &dyn Fn(&Policy) -> bool| {
            !self.isolating(pod, direction).any(counts)
                || self.is_itself(pod, direction, peer, protocol, port)
                || self
                    .allowing_rules(pod, direction, peer, protocol, port)
                    .any(|(policy, _)| counts(policy))
        };
        let enforced = allowed_by(&|policy| !self.in_audit(policy));
        let if_all_were = allowed_by(&|_| true);
        Some(match (enforced, if_all_were) {
            (false, _) => Verdict::Denied,
            (true, false) => Verdict::Audited,
            (true, true) => Verdict::Allowed,
        })
    }

    /// By the policy's own word, or else its namespace's.
    pub fn in_audit(self, policy: &Policy) -> bool {
        let of_namespace = || self.namespace(&policy.id.namespace).map(|n| n.enforcement);
        policy.enforcement.or_else(of_namespace) == Some(Enforcement::Audit)
    }

    /// Whether a policy selects the pod and speaks of the direction (1, 2).
    pub fn isolated(self, pod: &Pod, direction: Direction) -> bool {
        self.isolating(pod, direction).next().is_some()
    }

    pub fn isolating(self, pod: &Pod, direction: Direction) -> impl Iterator<Item = &'a Policy> {
        self.policies_of(pod)
            .filter(move |p| p.rules(direction).is_some())
    }

    /// All rules that allow it, of all policies that select the pod (4, 10).
    pub fn allowing_rules(
        self,
        pod: &'a Pod,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> impl Iterator<Item = (&'a Policy, &'a Rule)> {
        self.policies_of(pod)
            .flat_map(move |policy| {
                policy
                    .rules(direction)
                    .unwrap_or_default()
                    .iter()
                    .map(move |rule| (policy, rule))
            })
            .filter(move |(policy, rule)| match direction {
                Direction::Ingress => self.rule_allows(policy, rule, Some(pod), peer, protocol, port),
                Direction::Egress => {
                    let as_seen = self.without_blocks_that_except(rule, peer);
                    self.rule_allows(policy, &as_seen, self.owner(peer), peer, protocol, port)
                        || self.service_allowed(policy, rule, peer, protocol, port)
                }
            })
    }

    fn policies_of(self, pod: &Pod) -> impl Iterator<Item = &'a Policy> {
        self.objects
            .policies
            .iter()
            .filter(move |p| p.id.namespace == pod.id.namespace && selects(&p.pod_selector, &pod.labels))
    }

    /// `target` is the pod whose port it is, by whose names named ports are read (26, 27).
    fn rule_allows(
        self,
        policy: &Policy,
        rule: &Rule,
        target: Option<&Pod>,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> bool {
        let peer_matches = match &rule.peers {
            None => true,
            Some(peers) => peers.iter().any(|p| self.peer_matches(policy, p, peer)),
        };
        let port_matches = match &rule.ports {
            None => true,
            Some(ports) => ports.iter().any(|p| port_matches(p, target, protocol, port)),
        };
        peer_matches && port_matches
    }

    /// The rule without the blocks that except a ready backend for which the address stands: what a block excepts is not to be had
    /// by way of a ClusterIP either (20, 22).
    fn without_blocks_that_except(self, rule: &Rule, address: IpAddr) -> Rule {
        let mut rule = rule.clone();
        let services = || {
            self.objects
                .services
                .iter()
                .filter(|s| s.cluster_ips.contains(&address))
        };
        let ready = || {
            services().flat_map(|service| {
                (self.objects.endpoint_slices.iter())
                    .filter(|slice| {
                        slice.id.namespace == service.id.namespace && slice.service == service.id.name
                    })
                    .flat_map(|slice| slice.ready.iter().copied())
            })
        };
        if let Some(peers) = &mut rule.peers {
            peers.retain(|peer| match peer {
                Peer::Block { except, .. } => !ready().any(|a| except.iter().any(|e| covers(e, a))),
                Peer::Pods { .. } => true,
            });
        }
        rule
    }

    fn peer_matches(self, policy: &Policy, peer: &Peer, address: IpAddr) -> bool {
        match peer {
            Peer::Block { cidr, except } => {
                covers(cidr, address) && !except.iter().any(|e| covers(e, address))
            }
            Peer::Pods { namespaces, pods } => self.owner(address).is_some_and(|pod| {
                let in_namespace = match namespaces {
                    None => pod.id.namespace == policy.id.namespace,
                    Some(selector) => self
                        .namespace(&pod.id.namespace)
                        .is_some_and(|ns| selects(selector, &ns.labels)),
                };
                in_namespace && pods.as_ref().is_none_or(|s| selects(s, &pod.labels))
            }),
        }
    }

    fn namespace(self, name: &str) -> Option<&'a Namespace> {
        self.objects.namespaces.iter().find(|n| &*n.name == name)
    }

    /// The live pod that has the address; of two that claim it, the newest (17, 47, 48).
    pub fn owner(self, address: IpAddr) -> Option<&'a Pod> {
        self.objects
            .pods
            .iter()
            .filter(|p| p.is_live() && p.addresses.contains(&address))
            .max_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)))
    }

    /// Egress to `address` through a Service: this one rule allows every ready backend at its target port (22, 24).
    fn service_allowed(self, policy: &Policy, rule: &Rule, address: IpAddr, protocol: u8, port: u16) -> bool {
        self.services_at(address, protocol, port)
            .any(|(service, service_port)| {
                let backends = self.backends(service, service_port, address);
                let allowed = |(backend, target): &(IpAddr, Option<u16>)| match target {
                    Some(target) => {
                        self.rule_allows(policy, rule, self.owner(*backend), *backend, protocol, *target)
                    }
                    None => (1..=u16::MAX)
                        .all(|t| self.rule_allows(policy, rule, self.owner(*backend), *backend, protocol, t)),
                };
                !backends.is_empty() && backends.iter().all(allowed)
            })
    }

    fn services_at(
        self,
        address: IpAddr,
        protocol: u8,
        port: u16,
    ) -> impl Iterator<Item = (&'a Service, &'a ServicePort)> {
        self.objects
            .services
            .iter()
            .filter(move |s| s.cluster_ips.contains(&address))
            .flat_map(|s| s.ports.iter().map(move |p| (s, p)))
            .filter(move |(_, p)| p.protocol.number() == protocol && p.port == port)
    }

    /// Ready backends of the ClusterIP's own family, which is all that it is translated to, with the port there.
    fn backends(self, service: &Service, port: &ServicePort, family: IpAddr) -> Vec<(IpAddr, Option<u16>)> {
        let slices =
            self.objects.endpoint_slices.iter().filter(|slice| {
                slice.id.namespace == service.id.namespace && slice.service == service.id.name
            });
        let mut backends = Vec::new();
        for slice in slices {
            for target in &slice.ports {
                if target.name == port.name && target.protocol == port.protocol {
                    let ready = slice.ready.iter().filter(|a| a.is_ipv4() == family.is_ipv4());
                    backends.extend(ready.map(|address| (*address, target.port)));
                }
            }
        }
        backends
    }

    /// A pod reaches itself: by each of its addresses, and by a Service of which it is the only ready backend (43).
    pub fn is_itself(self, pod: &Pod, direction: Direction, peer: IpAddr, protocol: u8, port: u16) -> bool {
        let serves = |address: IpAddr| self.owner(address).is_some_and(|owner| owner.uid == pod.uid);
        pod.addresses.contains(&peer)
            || direction == Direction::Egress
                && self
                    .services_at(peer, protocol, port)
                    .any(|(service, service_port)| {
                        let backends = self.backends(service, service_port, peer);
                        !backends.is_empty() && backends.iter().all(|(address, _)| serves(*address))
                    })
    }
}

/// 23 to 28 and 30.
fn port_matches(wanted: &PortMatch, target: Option<&Pod>, protocol: u8, port: u16) -> bool {
    let is = |p: &Protocol| p.number() == protocol;
    match wanted {
        PortMatch::Every(p) => is(p),
        PortMatch::Range {
            protocol: p,
            first,
            last,
        } => is(p) && *first <= port && port <= *last,
        PortMatch::Named { protocol: p, name } => {
            is(p)
                && target.is_some_and(|pod| {
                    pod.ports
                        .iter()
                        .any(|c| c.name.as_ref() == Some(name) && c.protocol == *p && c.number == port)
                })
        }
    }
}

/// 13 to 15.
fn selects(selector: &Selector, labels: &Labels) -> bool {
    selector.requirements().iter().all(|requirement| {
        let value = labels.get(&requirement.key);
        match &requirement.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => !value.is_some_and(|v| values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    })
}

/// By the bits, and in one family only (21).
fn covers(cidr: &Cidr, address: IpAddr) -> bool {
    let net = cidr.net();
    let length = u32::from(net.prefix_len());
    match (net.addr(), address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros() >= length,
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros() >= length,
        _ => false,
    }
}

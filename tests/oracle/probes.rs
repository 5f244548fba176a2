//! What to ask: connections at the edges of what the policies speak of.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use palisade::model::{Cidr, Direction, Peer, Pod, PortMatch, Protocol, Rule, Snapshot};

use super::{Oracle, Rng};

/// One direction of one pod, and the first packet of a connection between it and `peer`. `port` is the
/// destination's, 0 for protocols without ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub pod_uid: Arc<str>,
    pub direction: Direction,
    pub peer: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pod_uid,
            direction,
            peer,
            protocol,
            port,
        } = self;
        write!(
            f,
            "{direction} of {pod_uid}, peer {peer}, protocol {protocol}, port {port}"
        )
    }
}

/// ICMP, ICMPv6, GRE, and numbers that stand for nothing in particular.
const PORTLESS: [u8; 6] = [1, 58, 47, 0, 4, 255];

/// Draws questions about one cluster.
pub struct Prober<'a> {
    pods: Vec<&'a Pod>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    cluster: &'a Snapshot,
}

impl<'a> Prober<'a> {
    pub fn new(cluster: &'a Snapshot) -> Self {
        let mut addresses = BTreeSet::new();
        let mut ports = BTreeSet::from([0, 1, u16::MAX]);
        for pod in &cluster.pods {
            addresses.extend(pod.addresses.iter().copied());
            ports.extend(pod.ports.iter().map(|p| p.number));
        }
        for service in &cluster.services {
            addresses.extend(service.cluster_ips.iter().copied());
            ports.extend(service.ports.iter().map(|p| p.port));
        }
        for slice in &cluster.endpoint_slices {
            addresses.extend(slice.ready.iter().copied());
            ports.extend(slice.ports.iter().filter_map(|p| p.port));
        }
        let ends = |cidr: &Cidr| [cidr.net().addr(), cidr.net().broadcast()];
        for rule in cluster
            .policies
            .iter()
            .flat_map(|p| p.ingress.iter().chain(&p.egress))
            .flatten()
        {
            for peer in rule.peers.iter().flatten() {
                if let Peer::Block { cidr, except } = peer {
                    addresses.extend(ends(cidr));
                    addresses.extend(except.iter().flat_map(ends));
                }
            }
            for port in rule.ports.iter().flatten() {
                if let PortMatch::Range { first, last, .. } = port {
                    ports.extend([*first, *last]);
                }
            }
        }
        for outside in ["203.0.113.7", "2001:db8::7", "10.0.0.77", "fd00::77"] {
            addresses.insert(outside.parse().expect("an address"));
        }
        Self {
            pods: cluster.pods.iter().filter(|p| p.is_live()).collect(),
            addresses: addresses.into_iter().collect(),
            ports: ports.into_iter().collect(),
            cluster,
        }
    }

    /// Mostly of a pod that is isolated. `None`: there is no pod to ask about.
    pub fn question(&self, rng: &mut Rng) -> Option<Question> {
        if self.pods.is_empty() {
            return None;
        }
        let mut pod = *rng.pick(&self.pods);
        let mut direction = *rng.pick(&Direction::ALL);
        for _ in 0..6 {
            if rng.one_in(8) || Oracle::new(self.cluster).isolated(pod, direction) {
                break;
            }
            pod = *rng.pick(&self.pods);
            direction = *rng.pick(&Direction::ALL);
        }
        let rule = self.rule_for(rng, pod, direction);
        let at_service = direction == Direction::Egress && rng.one_in(4);
        let mut question = Question {
            pod_uid: pod.uid.clone(),
            direction,
            peer: *rng.pick(&self.addresses),
            protocol: self.protocol(rng),
            port: *rng.pick(&self.ports),
        };
        if at_service && !self.cluster.services.is_empty() {
            let service = rng.pick(&self.cluster.services);
            question.peer = *rng.pick(&service.cluster_ips);
            if !service.ports.is_empty() {
                let port = rng.pick(&service.ports);
                question.protocol = port.protocol.number();
                question.port = port.port;
            }
        } else if let Some(rule) = rule {
            self.towards(rng, &mut question, pod, rule);
        }
        self.nudge(rng, &mut question);
        if !Protocol::ALL.iter().any(|p| p.number() == question.protocol) {
            question.port = 0;
        }
        Some(question)
    }

    fn protocol(&self, rng: &mut Rng) -> u8 {
        if rng.one_in(6) {
            *rng.pick(&PORTLESS)
        } else {
            rng.pick(&Protocol::ALL).number()
        }
    }

    fn rule_for(&self, rng: &mut Rng, pod: &Pod, direction: Direction) -> Option<&'a Rule> {
        let rules: Vec<&Rule> = self
            .cluster
            .policies
            .iter()
            .filter(|p| p.id.namespace == pod.id.namespace)
            .flat_map(|p| p.rules(direction).unwrap_or_default())
            .collect();
        (!rules.is_empty()).then(|| *rng.pick(&rules))
    }

    /// Sets what the rule speaks of, so that the answer hangs on the rest.
    fn towards(&self, rng: &mut Rng, question: &mut Question, pod: &Pod, rule: &Rule) {
        if let Some(peers) = rule.peers.as_ref().filter(|p| !p.is_empty())
            && let Peer::Block { cidr, except } = rng.pick(peers)
        {
            let blocks: Vec<Cidr> = std::iter::once(*cidr).chain(except.iter().copied()).collect();
            let net = rng.pick(&blocks).net();
            question.peer = if rng.one_in(2) {
                net.addr()
            } else {
                net.broadcast()
            };
        }
        if let Some(ports) = rule.ports.as_ref().filter(|p| !p.is_empty()) {
            match rng.pick(ports) {
                PortMatch::Every(protocol) => question.protocol = protocol.number(),
                PortMatch::Range {
                    protocol,
                    first,
                    last,
                } => {
                    question.protocol = protocol.number();
                    question.port = if rng.one_in(2) { *first } else { *last };
                }
                PortMatch::Named { protocol, name } => {
                    question.protocol = protocol.number();
                    let owners: Vec<&Pod> = match question.direction {
                        Direction::Ingress => vec![pod],
                        Direction::Egress => self.pods.clone(),
                    };
                    let numbers: Vec<(&Pod, u16)> = owners
                        .iter()
                        .flat_map(|p| p.ports.iter().map(move |c| (*p, c)))
                        .filter(|(_, c)| c.name.as_ref() == Some(name))
                        .map(|(p, c)| (p, c.number))
                        .collect();
                    if !numbers.is_empty() {
                        let (owner, number) = rng.pick(&numbers);
                        question.port = *number;
                        if question.direction == Direction::Egress
                            && !owner.addresses.is_empty()
                            && rng.one_in(2)
                        {
                            question.peer = *rng.pick(&owner.addresses);
                        }
                    }
                }
            }
        }
    }

    /// One step over the edge, now and then.
    fn nudge(&self, rng: &mut Rng, question: &mut Question) {
        match rng.below(12) {
            0 => question.port = question.port.wrapping_add(1),
            1 => question.port = question.port.wrapping_sub(1),
            2 => question.peer = step(question.peer, true),
            3 => question.peer = step(question.peer, false),
            4 => question.protocol = self.protocol(rng),
            _ => {}
        }
    }
}

fn step(address: IpAddr, up: bool) -> IpAddr {
    match address {
        IpAddr::V4(a) if up => IpAddr::V4(u32::from(a).wrapping_add(1).into()),
        IpAddr::V4(a) => IpAddr::V4(u32::from(a).wrapping_sub(1).into()),
        IpAddr::V6(a) if up => IpAddr::V6(u128::from(a).wrapping_add(1).into()),
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).wrapping_sub(1).into()),
    }
}

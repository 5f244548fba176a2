//! Why a rule does not allow a packet, in words, read off the policy as it is written.

use std::fmt;
use std::net::IpAddr;

use super::service_port;
use crate::cli::Traffic;
use crate::cli::cluster::{Backend, Cluster};
use crate::model::{
    Cidr, ContainerPort, Direction, Labels, Operator, Peer, Pod, Policy, PortMatch, Protocol, Requirement,
    Rule, Selector, Service,
};

/// Peers and ports of one rule of which a reason speaks; a rule may have thousands.
const SHOWN: usize = 6;

/// The packet that a rule of `policy` is asked about.
#[derive(Clone, Copy)]
pub(super) struct Packet<'a> {
    pub cluster: &'a Cluster,
    pub policy: &'a Policy,
    /// That of `subject`.
    pub direction: Direction,
    /// The pod that the policy isolates.
    pub subject: &'a Pod,
    pub peer: IpAddr,
    pub traffic: Traffic,
}

/// Which of a destination's ports are asked about.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    One(Traffic),
    /// All of a protocol: a backend without a port number serves at each.
    Every(Protocol),
}

impl Asked {
    pub fn of(protocol: Protocol, port: Option<u16>) -> Self {
        port.map_or(Self::Every(protocol), |port| {
            Self::One(Traffic::Port(protocol, port))
        })
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(traffic) => write!(f, "{traffic}"),
            Self::Every(protocol) => write!(f, "every {protocol} port"),
        }
    }
}

/// `None`: it matches.
pub(super) type Objection = Option<String>;

impl<'a> Packet<'a> {
    /// Why the rule does not allow, which it is known not to. Where no reason is found, that is said.
    pub fn why_not(self, rule: &Rule) -> String {
        self.against(rule).unwrap_or_else(|| NOT_ENFORCED.to_string())
    }

    /// What in the rule, or behind the Service that the packet is addressed to, keeps it from allowing.
    pub fn against(self, rule: &Rule) -> Objection {
        match (self.objection(rule, Asked::One(self.traffic)), self.service()) {
            (Some(_), Some(service)) => self.through(service, rule),
            (objection, _) => objection,
        }
    }

    /// The rule as it is written, Services aside.
    fn objection(self, rule: &Rule, asked: Asked) -> Objection {
        let objections: Vec<String> = [self.peers(rule), self.ports(rule, asked)]
            .into_iter()
            .flatten()
            .collect();
        (!objections.is_empty()).then(|| objections.join(", "))
    }

    /// The Service that an egress packet is addressed to.
    pub fn service(self) -> Option<&'a Service> {
        let is_service = self.direction == Direction::Egress && self.cluster.owner(self.peer).is_none();
        is_service.then(|| self.cluster.service_at(self.peer)).flatten()
    }

    pub fn peers(self, rule: &Rule) -> Objection {
        let peers = rule.peers.as_ref()?;
        if peers.is_empty() {
            return Some("none of its peers could be read".to_string());
        }
        let field = self.direction.peers_field();
        let mut objections = Vec::with_capacity(peers.len());
        for peer in peers {
            let objection = self.one_peer(peer)?;
            // A block of the other family is only of interest where there is nothing else.
            if !self.is_of_other_family(peer) {
                objections.push(objection);
            }
        }
        Some(match objections.is_empty() {
            true => format!("{field} has only blocks of the other address family"),
            false => format!("no peer in {field} matches ({})", listed(&objections, "; ")),
        })
    }

    fn is_of_other_family(self, peer: &Peer) -> bool {
        matches!(peer, Peer::Block { cidr, .. } if cidr.net().addr().is_ipv4() != self.peer.is_ipv4())
    }

    fn one_peer(self, peer: &Peer) -> Objection {
        match peer {
            Peer::Block { cidr, except } => self.block(*cidr, except),
            Peer::Pods { namespaces, pods } => match self.cluster.owner(self.peer) {
                None => Some(format!("{} is no pod's address", self.peer)),
                Some(pod) => self
                    .namespace(namespaces.as_ref(), pod)
                    .or_else(|| unmatched(pods.as_ref()?, &pod.labels, &format!("pod {}", pod.id))),
            },
        }
    }

    fn block(self, cidr: Cidr, except: &[Cidr]) -> Objection {
        let net = cidr.net();
        if !cidr.contains(self.peer) {
            return Some(format!("{} is not in {net}", self.peer));
        }
        if let Some(except) = except.iter().find(|except| except.contains(self.peer)) {
            return Some(format!(
                "{} is in {net} but excepted by {}",
                self.peer,
                except.net()
            ));
        }
        // What is excepted is not to be had by way of a ClusterIP either.
        let service = self.service()?;
        let (backend, except) = self.cluster.ready(service).find_map(|backend| {
            let except = except.iter().find(|except| except.contains(backend))?;
            Some((backend, except))
        })?;
        Some(format!(
            "{} is in {net}, but stands for {backend}, which is excepted by {}",
            self.peer,
            except.net()
        ))
    }

    fn namespace(self, selector: Option<&Selector>, pod: &Pod) -> Objection {
        let name = &pod.id.namespace;
        match selector {
            None if *name == self.policy.id.namespace => None,
            None => Some(format!(
                "pod {} is in another namespace, and a podSelector alone matches pods of {}",
                pod.id, self.policy.id.namespace
            )),
            Some(selector) => match self.cluster.namespace_labels(name) {
                Some(labels) => unmatched(selector, labels, &format!("namespace {name}")),
                None => Some(format!(
                    "there is no Namespace object {name}, whose labels would match"
                )),
            },
        }
    }

    pub fn ports(self, rule: &Rule, asked: Asked) -> Objection {
        let ports = rule.ports.as_ref()?;
        if ports.is_empty() {
            return Some("none of its ports could be read".to_string());
        }
        let (protocol, number) = match asked {
            Asked::One(Traffic::Port(protocol, number)) => (protocol, Some(number)),
            Asked::Every(protocol) => (protocol, None),
            Asked::One(traffic) => return Some(format!("it lists ports, and {traffic} has none")),
        };
        let mut objections = Vec::with_capacity(ports.len());
        for port in ports {
            objections.push(self.one_port(port, protocol, number)?);
        }
        Some(format!("no port matches {asked} ({})", listed(&objections, ", ")))
    }

    /// `number` `None`: all of them.
    fn one_port(self, port: &PortMatch, protocol: Protocol, number: Option<u16>) -> Objection {
        match port {
            PortMatch::Every(own) => (*own != protocol).then(|| format!("every {own} port")),
            PortMatch::Range {
                protocol: own,
                first,
                last,
            } => {
                let matches = match number {
                    Some(number) => (*first..=*last).contains(&number),
                    None => *first <= 1 && *last == u16::MAX,
                };
                (!(matches && *own == protocol)).then(|| match first == last {
                    true => format!("{first}/{own}"),
                    false => format!("{first}-{last}/{own}"),
                })
            }
            PortMatch::Named { protocol: own, name } => self.named(name, *own, protocol, number),
        }
    }

    /// The pod at the packet's destination.
    pub fn destination(self) -> Option<&'a Pod> {
        match self.direction {
            Direction::Ingress => Some(self.subject),
            Direction::Egress => self.cluster.owner(self.peer),
        }
    }

    /// A named port is resolved on the pod at the packet's destination.
    fn named(self, name: &str, own: Protocol, protocol: Protocol, number: Option<u16>) -> Objection {
        let Some(pod) = self.destination() else {
            return Some(format!("{name}/{own}, a name that only pods' ports have"));
        };
        let is_named = |port: &&ContainerPort| port.protocol == own && port.name.as_deref() == Some(name);
        let numbers: Vec<u16> = pod
            .ports
            .iter()
            .filter(is_named)
            .map(|port| port.number)
            .collect();
        if own == protocol && number.is_some_and(|number| numbers.contains(&number)) {
            return None;
        }
        Some(match numbers.as_slice() {
            [] => format!("{name}/{own}, which {} does not have", pod.id),
            numbers => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                format!("{name}/{own}, which is {} on {}", numbers.join(" and "), pod.id)
            }
        })
    }

    /// A ClusterIP is allowed where the rule allows every ready backend behind it.
    fn through(self, service: &Service, rule: &Rule) -> Objection {
        let id = &service.id;
        let Some(port) = service_port(service, self.traffic) else {
            return Some(format!("Service {id} has no port {}", self.traffic));
        };
        let backends = self.cluster.backends(service, port, self.peer);
        if backends.is_empty() {
            return Some(format!(
                "port {} of Service {id} has no ready backend that it could allow",
                self.traffic
            ));
        }
        let objection = |backend: &Backend| {
            let packet = Self {
                peer: backend.address,
                ..self
            };
            let asked = Asked::of(port.protocol, backend.port);
            let objection = packet.objection(rule, asked)?;
            Some(format!("{} {asked}: {objection}", packet.peer))
        };
        let denied: Vec<String> = backends.iter().filter_map(objection).collect();
        let first = denied.first()?;
        Some(format!(
            "it must allow all ready backends of Service {id}, and allows {} of {}; not {first}",
            backends.len() - denied.len(),
            backends.len(),
        ))
    }
}

const NOT_ENFORCED: &str = "as written it matches, but it is not enforced; palisade check says why";

/// The first requirement that the labels do not meet.
fn unmatched(selector: &Selector, labels: &Labels, whose: &str) -> Objection {
    let requirement = selector.requirements().iter().find(|r| !r.matches(labels))?;
    let Requirement { key, operator } = requirement;
    let wanted = match operator {
        Operator::In(values) => match &values[..] {
            [value] => format!("{key}={value}"),
            values => format!("one of {}", listed(values, ", ")),
        },
        Operator::NotIn(values) => format!("any but {}", listed(values, ", ")),
        Operator::Exists => "any value".to_string(),
        Operator::DoesNotExist => "no such label".to_string(),
    };
    Some(match labels.get(key) {
        Some(value) => format!("{whose} has {key}={value}, wanted is {wanted}"),
        None => format!("{whose} has no label {key}, wanted is {wanted}"),
    })
}

fn listed<T: AsRef<str>>(texts: &[T], separator: &str) -> String {
    let shown: Vec<&str> = texts.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match texts.len().saturating_sub(SHOWN) {
        0 => shown.join(separator),
        rest => format!("{}{separator}and {rest} more", shown.join(separator)),
    }
}

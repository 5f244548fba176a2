//! What a rule lacks to allow a packet: for each of its peers, and its ports, the changes at the packet's ends that would make
//! them match; of all ways, the one with the fewest.
//!
//! What is changed is never the policy nor the pod that it isolates, but who is at the other end, and the port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::missing::{Missing, Nearest, Whose};
use super::reason::{Asked, Packet};
use super::service_port;
use crate::cli::cluster::Backend;
use crate::cli::example::example;
use crate::cli::{Ports, Traffic, rule_path};
use crate::model::{
    Cidr, Direction, Labels, ObjectId, Operator, Peer, Pod, PortMatch, Protocol, Requirement, Rule, Selector,
    Service,
};

/// Changes that are to be made together.
type Changes = BTreeSet<Missing>;

/// On a namespace, and nothing else has it.
const NAME: &str = "kubernetes.io/metadata.name";

/// `packets`: as each policy that isolates the pod is asked about it. `None`: no rule could come to allow it.
pub(super) fn nearest<'a>(packets: impl Iterator<Item = Packet<'a>>) -> Option<Nearest> {
    let mut best: Option<((usize, usize), Nearest)> = None;
    for packet in packets {
        for rule in packet.policy.rules(packet.direction).unwrap_or_default() {
            let Some(changes) = packet.lacks(rule) else {
                continue;
            };
            let cost = cost(&changes);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                let nearest = Nearest {
                    policy: packet.policy.id.to_string(),
                    rule: rule_path(packet.direction, rule.index),
                    missing: changes.into_iter().collect(),
                };
                best = Some((cost, nearest));
            }
        }
    }
    best.map(|(_, nearest)| nearest)
}

fn cost(changes: &Changes) -> (usize, usize) {
    (changes.len(), changes.iter().map(Missing::weight).sum())
}

/// A way to make the peers match.
struct Way {
    changes: Changes,
    /// Whose container ports count, after them.
    destination: bool,
}

impl<'a> Packet<'a> {
    /// The fewest changes after which the rule allows; `None`: there are none that would do.
    fn lacks(self, rule: &Rule) -> Option<Changes> {
        let mut ways = self.as_written(rule);
        if let Some(service) = self.service() {
            ways.extend(self.behind(service, rule));
        }
        // What lacks nothing allows already, and so is not asked about.
        ways.into_iter()
            .filter(|changes| !changes.is_empty())
            .min_by_key(cost)
    }

    fn as_written(self, rule: &Rule) -> Vec<Changes> {
        let ways = match self.peers(rule) {
            None => vec![Way {
                changes: Changes::new(),
                destination: true,
            }],
            Some(_) => (rule.peers.iter().flatten())
                .filter_map(|peer| self.way(peer))
                .collect(),
        };
        let with_port = |Way {
                             mut changes,
                             destination,
                         }: Way| {
            let Some(ports) = &rule.ports else {
                return Some(changes);
            };
            let pod = self.destination().filter(|_| destination);
            changes.extend(self.port(ports, pod)?);
            Some(changes)
        };
        ways.into_iter().filter_map(with_port).collect()
    }

    fn way(self, peer: &Peer) -> Option<Way> {
        match peer {
            Peer::Block { cidr, except } => Some(Way {
                changes: Changes::from([self.in_block(*cidr, except)?]),
                // A name of a port would be that of whoever is there then.
                destination: self.direction == Direction::Ingress,
            }),
            Peer::Pods { namespaces, pods } => Some(Way {
                changes: self.matching(namespaces.as_ref(), pods.as_ref())?,
                destination: true,
            }),
        }
    }

    fn in_block(self, block: Cidr, except: &[Cidr]) -> Option<Missing> {
        if except.iter().any(|except| except.covers(block)) {
            return None;
        }
        // A block sorts before those that it covers.
        let mut inside: Vec<Cidr> = except.iter().copied().filter(|e| block.covers(*e)).collect();
        inside.sort();
        inside.dedup_by(|next, kept| kept.covers(*next));
        let snapshot = &self.cluster.snapshot;
        let taken = (snapshot.pods.iter().flat_map(|pod| &pod.addresses))
            .chain(snapshot.services.iter().flat_map(|service| &service.cluster_ips))
            .copied()
            .collect();
        (block.net().addr().is_ipv4() == self.peer.is_ipv4())
            .then(|| example(block, &inside, &taken))
            .flatten()
            .map(|such| Missing::Address {
                address: self.peer,
                block,
                except: inside,
                such,
            })
    }

    /// What makes the other end a pod that the selectors match.
    fn matching(self, namespaces: Option<&Selector>, pods: Option<&Selector>) -> Option<Changes> {
        let pod = self.cluster.owner(self.peer);
        // A change of whom the policy isolates is another question, and a ClusterIP becomes no pod's.
        if pod.is_some_and(|pod| pod.id == self.subject.id) || self.service().is_some() {
            return None;
        }
        let (whose, labels) = match pod {
            Some(pod) => (Whose::Pod(pod.id.clone()), pod.labels.clone()),
            None => (Whose::PodAt(self.peer), Arc::default()),
        };
        let mut changes = self.in_namespace(namespaces, pod, &whose)?;
        if pod.is_none() {
            changes.insert(Missing::Pod { address: self.peer });
        }
        if let Some(selector) = pods {
            changes.extend(labelled(selector, &labels, &whose)?);
        }
        Some(changes)
    }

    fn in_namespace(self, selector: Option<&Selector>, pod: Option<&Pod>, whose: &Whose) -> Option<Changes> {
        let own = pod.map(|pod| &pod.id.namespace);
        let Some(selector) = selector else {
            let wanted = &self.policy.id.namespace;
            return Some(match own == Some(wanted) {
                true => Changes::new(),
                false => Changes::from([Missing::Namespace {
                    of: whose.clone(),
                    wanted: vec![wanted.clone()],
                }]),
            });
        };
        let known = own.and_then(|own| Some((own, self.cluster.namespace_labels(own)?)));
        if let Some((own, labels)) = known
            && let Some(changes) = labelled(selector, labels, &Whose::Namespace(own.clone()))
            && !changes
                .iter()
                .any(|change| matches!(change, Missing::Label { key, .. } if &**key == NAME))
        {
            return Some(changes);
        }
        let namespaces = self.cluster.snapshot.namespaces.iter();
        let wanted: Vec<Arc<str>> = namespaces
            .filter(|namespace| selector.matches(&namespace.labels))
            .map(|namespace| namespace.name.clone())
            .collect();
        (!wanted.is_empty()).then(|| {
            Changes::from([Missing::Namespace {
                of: whose.clone(),
                wanted,
            }])
        })
    }

    /// `None`: no other port would do, and no name.
    fn port(self, ports: &[PortMatch], destination: Option<&Pod>) -> Option<Option<Missing>> {
        let protocol = self.traffic.protocol(self.peer.is_ipv4());
        let wanted = acceptable(ports, destination);
        if wanted.contains(protocol, self.traffic.port()) {
            return Some(None);
        }
        if !wanted.is_empty() {
            return Some(Some(Missing::Port {
                has: self.traffic,
                wanted,
            }));
        }
        let (pod, Traffic::Port(protocol, number)) = (destination?, self.traffic) else {
            return None;
        };
        let unnamed = ports.iter().find_map(|port| match port {
            PortMatch::Named { protocol: own, name } if *own == protocol && number > 0 => Some(name),
            _ => None,
        });
        unnamed.map(|name| {
            Some(Missing::ContainerPort {
                pod: pod.id.clone(),
                name: name.clone(),
                protocol,
                number,
            })
        })
    }

    /// A ClusterIP is allowed where the rule allows every ready backend behind it.
    fn behind(self, service: &'a Service, rule: &Rule) -> Vec<Changes> {
        let Some(port) = service_port(service, self.traffic) else {
            return Vec::new();
        };
        let backends = self.cluster.backends(service, port, self.peer);
        if backends.is_empty() {
            return Vec::new();
        }
        let Some(target) = self.target_port(service, port.protocol, rule, &backends) else {
            return Vec::new();
        };
        let at = |backend: &Backend| Self {
            peer: backend.address,
            ..self
        };
        let (matching, others): (Vec<Self>, Vec<Self>) =
            (backends.iter().map(at)).partition(|packet| packet.peers(rule).is_none());
        if others.is_empty() {
            return vec![target];
        }
        let settled: BTreeSet<&ObjectId> = matching
            .iter()
            .filter_map(|packet| packet.cluster.owner(packet.peer))
            .map(|pod| &pod.id)
            .collect();
        let way = |peer: &Peer| {
            let Peer::Pods { namespaces, pods } = peer else {
                return None;
            };
            let mut changes = target.clone();
            for packet in &others {
                changes.extend(packet.matching(namespaces.as_ref(), pods.as_ref())?);
            }
            // One backend must not lose what another gains.
            let unsettles = |change: &Missing| {
                matches!(change, Missing::Label { of: Whose::Namespace(name), .. }
                    if settled.iter().any(|id| id.namespace == *name))
            };
            (!changes.iter().any(unsettles)).then_some(changes)
        };
        rule.peers.iter().flatten().filter_map(way).collect()
    }

    /// What of the backends' ports; `None`: there is none at which the rule would allow them all.
    fn target_port(
        self,
        service: &Service,
        protocol: Protocol,
        rule: &Rule,
        backends: &[Backend],
    ) -> Option<Changes> {
        let Some(ports) = &rule.ports else {
            return Some(Changes::new());
        };
        let allows = |backend: &Backend| {
            let packet = Self {
                peer: backend.address,
                ..self
            };
            packet.ports(rule, Asked::of(protocol, backend.port)).is_none()
        };
        if backends.iter().all(allows) {
            return Some(Changes::new());
        }
        let base = u32::from(protocol.number()) << 16;
        let mut wanted = Ports::of(vec![(base | 1, base | 0xffff)]);
        for backend in backends {
            wanted = wanted.and(&acceptable(ports, self.cluster.owner(backend.address)));
        }
        (!wanted.is_empty()).then(|| {
            Changes::from([Missing::TargetPort {
                service: service.id.to_string(),
                wanted,
            }])
        })
    }
}

/// The ports that a rule allows at a pod, or elsewhere.
fn acceptable(ports: &[PortMatch], destination: Option<&Pod>) -> Ports {
    let mut ranges = Vec::new();
    let mut add = |protocol: Protocol, first: u16, last: u16| {
        let base = u32::from(protocol.number()) << 16;
        ranges.push((base | u32::from(first), base | u32::from(last)));
    };
    for port in ports {
        match port {
            PortMatch::Every(protocol) => add(*protocol, 0, u16::MAX),
            PortMatch::Range {
                protocol,
                first,
                last,
            } => add(*protocol, *first, *last),
            PortMatch::Named { protocol, name } => {
                for own in destination.iter().flat_map(|pod| pod.ports.iter()) {
                    if own.protocol == *protocol && own.name.as_ref() == Some(name) {
                        add(*protocol, own.number, own.number);
                    }
                }
            }
        }
    }
    Ports::of(ranges)
}

/// The labels to be changed so that the selector matches, by key; `None`: it matches nothing.
fn labelled(selector: &Selector, labels: &Labels, whose: &Whose) -> Option<Changes> {
    let mut by_key: BTreeMap<&Arc<str>, Vec<&Requirement>> = BTreeMap::new();
    for requirement in selector.requirements() {
        by_key.entry(&requirement.key).or_default().push(requirement);
    }
    let mut changes = Changes::new();
    for (key, requirements) in by_key {
        let fits = |value: Option<&Arc<str>>| {
            let labels: Labels = value
                .map(|value| (key.clone(), value.clone()))
                .into_iter()
                .collect();
            requirements
                .iter()
                .all(|requirement| requirement.matches(&labels))
        };
        let has = labels.get(key);
        if fits(has) {
            continue;
        }
        let listed = requirements
            .iter()
            .flat_map(|requirement| match &requirement.operator {
                Operator::In(values) => values.iter(),
                _ => [].iter(),
            });
        let mut or: Vec<Arc<str>> = listed.filter(|value| fits(Some(value))).cloned().collect();
        or.sort();
        or.dedup();
        let set = if !or.is_empty() {
            Some(or.remove(0))
        } else if fits(None) {
            None
        } else {
            // Any value but some: no list of those is so long.
            Some(fresh().find(|value| fits(Some(value)))?)
        };
        changes.insert(Missing::Label {
            of: whose.clone(),
            key: key.clone(),
            has: has.cloned(),
            set,
            or,
        });
    }
    Some(changes)
}

/// Values for a label that may have any; too many for all to be forbidden, unless the selector contradicts itself.
fn fresh() -> impl Iterator<Item = Arc<str>> {
    let numbered = (1..1000).map(|number| Arc::from(format!("any-{number}")));
    std::iter::once(Arc::from("true")).chain(numbered)
}

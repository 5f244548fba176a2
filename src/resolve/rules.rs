//! A policy made ready for the index: peers as groups and blocks, ports with their numbers apart from their
//! names; and what it allows one pod, or through one Service.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::groups::{GroupKey, Namespaces, PolicyKey};
use super::inventory::{Inventory, PodState};
use super::port::{allows, numbered};
use super::report;
use super::services::{FrontEnd, Services};
use super::slices::Item;
use crate::api::{Entry, PodEndpoint, Port, SelfService};
use crate::model::{Cidr, Direction, Peer, Policy, PortMatch, Problem, Protocol, Rule, Selector};

/// One rule.
pub(super) struct Prepared {
    pub index: u32,
    pub direction: Direction,
    /// Its pod peers, without repetitions.
    pub groups: Vec<GroupKey>,
    /// Its blocks; where it has no peers at all, everything.
    pub blocks: Vec<(Cidr, Arc<[Cidr]>)>,
    any_port: bool,
    /// As the policy has them.
    matches: Vec<PortMatch>,
    numbers: Arc<[Port]>,
    pub names: Vec<(Protocol, Arc<str>)>,
}

/// Sorted and without repetitions. Empty where the rule has ports: it allows none.
type Ports = BTreeSet<Port>;

impl Prepared {
    pub fn new(
        policy: &Policy,
        key: PolicyKey,
        direction: Direction,
        rule: &Rule,
        inventory: &mut Inventory,
    ) -> Self {
        let (mut groups, mut blocks) = (Vec::new(), Vec::new());
        if rule.peers.is_none() {
            blocks.extend(Cidr::everything().map(|cidr| (cidr, Arc::default())));
        }
        for peer in rule.peers.iter().flatten() {
            match peer {
                Peer::Pods { namespaces, pods } => {
                    let namespaces = match namespaces {
                        None => Namespaces::One(policy.id.namespace.clone()),
                        Some(selector) => Namespaces::Matching(selector.clone()),
                    };
                    let everything = Selector::everything();
                    groups.push(inventory.use_group(namespaces, pods.as_ref().unwrap_or(&everything), key));
                }
                Peer::Block { cidr, except } => {
                    let except: BTreeSet<Cidr> = except.iter().copied().collect();
                    blocks.push((*cidr, except.into_iter().collect()));
                }
            }
        }
        groups.sort_unstable();
        groups.dedup();
        let matches = rule.ports.clone().unwrap_or_default();
        let names: BTreeSet<(Protocol, Arc<str>)> = (matches.iter())
            .filter_map(|port| match port {
                PortMatch::Named { protocol, name } => Some((*protocol, name.clone())),
                _ => None,
            })
            .collect();
        let numbers: Ports = matches.iter().filter_map(numbered).collect();
        Self {
            index: rule.index,
            direction,
            groups,
            blocks,
            any_port: rule.ports.is_none(),
            matches,
            numbers: numbers.into_iter().collect(),
            names: names.into_iter().collect(),
        }
    }

    /// Whether pods and backends concern it by their addresses alone. A rule that allows everything has no
    /// use for them.
    pub fn reaches_blocks(&self) -> bool {
        let all = Cidr::everything();
        let allows_all = self.any_port
            && all
                .iter()
                .all(|all| self.blocks.iter().any(|(c, e)| c == all && e.is_empty()));
        self.direction == Direction::Egress && !self.blocks.is_empty() && !allows_all
    }

    pub fn selects(&self, pod: &PodState) -> bool {
        self.groups.iter().any(|group| pod.is_in(*group))
    }

    fn covers(&self, address: IpAddr) -> bool {
        (self.blocks.iter())
            .any(|(cidr, except)| cidr.contains(address) && !except.iter().any(|e| e.contains(address)))
    }

    /// The ports that the rule's entries carry, as far as they are the same for all of them: an ingress
    /// rule's names are resolved on the pods of `subject`. `None`: no port is left.
    pub fn ports(&self, subject: GroupKey, inventory: &Inventory) -> Option<Arc<[Port]>> {
        if self.any_port {
            return Some(Arc::default());
        }
        if self.names.is_empty() || self.direction == Direction::Egress {
            return (!self.numbers.is_empty()).then(|| self.numbers.clone());
        }
        let mut ports: Ports = self.numbers.iter().cloned().collect();
        for (protocol, name) in &self.names {
            for number in inventory
                .members(subject)
                .flat_map(|pod| pod.numbers(*protocol, name))
            {
                ports.insert(Port {
                    protocol: Some(*protocol),
                    port: Some(number),
                    end_port: None,
                    name: Some(name.clone()),
                });
            }
        }
        (!ports.is_empty()).then(|| ports.into_iter().collect())
    }

    /// The numbers that an egress rule's names have on a destination.
    fn names_on(&self, pod: &PodState) -> Ports {
        let numbers = self.names.iter().flat_map(|(protocol, name)| {
            pod.numbers(*protocol, name).map(|number| Port {
                protocol: Some(*protocol),
                port: Some(number),
                ..Port::default()
            })
        });
        numbers.collect()
    }

    /// Whether one of its blocks covers the ClusterIP as it stands: not where it excepts it, or one of the backends for which
    /// it stands.
    fn covers_cluster_ip(&self, front: &FrontEnd) -> bool {
        let excepted = |except: &Cidr| {
            except.contains(front.cluster_ip) || front.addresses.iter().any(|a| except.contains(*a))
        };
        (self.blocks.iter())
            .any(|(cidr, except)| cidr.contains(front.cluster_ip) && !except.iter().any(excepted))
    }

    /// Whether its blocks except one of these addresses, so that ClusterIPs that stand for it are excepted too.
    pub fn excepts(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        let excepted = |address| {
            self.blocks
                .iter()
                .flat_map(|(_, e)| e.iter())
                .any(|e| e.contains(address))
        };
        self.direction == Direction::Egress && addresses.iter().any(|a| excepted(*a))
    }

    /// Its blocks as its entries have them: what an egress rule excepts is not to be had by way of a ClusterIP either.
    pub fn entry_blocks(&self, services: &Services) -> Vec<(Cidr, Arc<[Cidr]>)> {
        let mut blocks = self.blocks.clone();
        if self.direction == Direction::Egress {
            for (cidr, except) in &mut blocks {
                let more: Vec<Cidr> = (except.iter())
                    .flat_map(|e| services.standing_for(*cidr, *e))
                    .map(Cidr::single)
                    .collect();
                if !more.is_empty() {
                    let all: BTreeSet<Cidr> = except.iter().copied().chain(more).collect();
                    *except = all.into_iter().collect();
                }
            }
        }
        blocks
    }

    fn entry(&self, cidr: Cidr, except: &Arc<[Cidr]>, ports: Arc<[Port]>) -> Item {
        Item::Entry(
            self.direction,
            Entry {
                cidr,
                except: except.clone(),
                ports,
                rule: Some(self.index),
            },
        )
    }

    /// What does not depend on any peer pod. `ports` as of [`Self::ports`].
    /// `blocks` as of [`Self::entry_blocks`].
    pub fn block_items(
        &self,
        blocks: &[(Cidr, Arc<[Cidr]>)],
        ports: Option<&Arc<[Port]>>,
        out: &mut Vec<Item>,
    ) {
        if let Some(ports) = ports {
            let entries = blocks
                .iter()
                .map(|(cidr, except)| self.entry(*cidr, except, ports.clone()));
            out.extend(entries);
        }
    }

    /// What it has for `pod` as a peer that one of its selectors matches.
    pub fn selected_items(
        &self,
        ports: Option<&Arc<[Port]>>,
        pod: &PodState,
        none: &Arc<[Cidr]>,
        out: &mut Vec<Item>,
    ) {
        let resolved;
        let ports = if self.direction == Direction::Ingress || self.names.is_empty() || self.any_port {
            ports
        } else {
            let mut all = self.names_on(pod);
            all.extend(self.numbers.iter().cloned());
            resolved = (!all.is_empty()).then(|| all.into_iter().collect());
            resolved.as_ref()
        };
        let Some(ports) = ports else { return };
        out.extend(
            pod.owned
                .iter()
                .map(|a| self.entry(Cidr::single(*a), none, ports.clone())),
        );
    }

    /// What an egress rule's names come to on `pod` where a block covers it and no selector matches it.
    pub fn covered_items(&self, pod: &PodState, none: &Arc<[Cidr]>, out: &mut Vec<Item>) {
        if self.direction == Direction::Ingress || self.names.is_empty() || self.blocks.is_empty() {
            return;
        }
        let ports = self.names_on(pod);
        if ports.is_empty() {
            return;
        }
        let ports: Arc<[Port]> = ports.into_iter().collect();
        let covered = pod.owned.iter().filter(|a| self.covers(**a));
        out.extend(covered.map(|a| self.entry(Cidr::single(*a), none, ports.clone())));
    }

    /// Its names that no pod resolves, while there are peers that could.
    pub fn unresolved(
        &self,
        policy: &Policy,
        subject: GroupKey,
        inventory: &Inventory,
        out: &mut Vec<Problem>,
    ) {
        for (protocol, name) in &self.names {
            let has = |group: GroupKey| {
                inventory
                    .members(group)
                    .any(|pod| pod.numbers(*protocol, name).next().is_some())
            };
            let inhabited = |group: GroupKey| inventory.members(group).next().is_some();
            let (concerned, resolved) = match self.direction {
                Direction::Ingress => (inhabited(subject), has(subject)),
                Direction::Egress => {
                    let concerned = !self.blocks.is_empty() || self.groups.iter().any(|g| inhabited(*g));
                    let by_group = || self.groups.iter().any(|g| has(*g));
                    let by_block = || {
                        inventory.with_name(*protocol, name).any(|key| {
                            inventory
                                .pod(key)
                                .owned
                                .iter()
                                .any(|address| self.covers(*address))
                        })
                    };
                    (concerned, concerned && (by_group() || by_block()))
                }
            };
            if concerned && !resolved {
                out.push(report::named_port_unresolved(
                    policy,
                    self.direction,
                    self.index,
                    *protocol,
                    name,
                ));
            }
        }
    }

    fn allows_number(&self, protocol: Protocol, number: Option<u16>) -> bool {
        self.any_port || self.matches.iter().any(|port| allows(port, protocol, number))
    }

    fn allows_backend(
        &self,
        inventory: &Inventory,
        address: IpAddr,
        protocol: Protocol,
        port: Option<u16>,
    ) -> bool {
        let pod = inventory.owner(address);
        if !(self.covers(address) || pod.is_some_and(|pod| self.selects(pod))) {
            return false;
        }
        let by_name = |pod: &PodState| {
            (self.names.iter())
                .any(|(p, name)| *p == protocol && pod.numbers(*p, name).any(|n| Some(n) == port))
        };
        self.allows_number(protocol, port) || pod.is_some_and(by_name)
    }

    /// What an egress rule adds for one ClusterIP and port.
    pub fn service_items(&self, policy: &Policy, front: &FrontEnd, inventory: &Inventory, share: &mut Share) {
        let FrontEnd {
            service,
            port,
            cluster_ip,
            backends,
            addresses: _,
        } = front;
        if self.covers_cluster_ip(front) && self.allows_number(port.protocol, Some(port.port)) {
            return;
        }
        let allowed = (backends.iter())
            .filter(|(address, number)| self.allows_backend(inventory, *address, port.protocol, *number))
            .count();
        if allowed == backends.len() {
            let ports = Arc::from([Port {
                protocol: Some(port.protocol),
                port: Some(port.port),
                ..Port::default()
            }]);
            share
                .items
                .push(self.entry(Cidr::single(*cluster_ip), &Arc::default(), ports));
        } else if allowed > 0 {
            share.problems.push(report::mixed_backends(
                policy,
                self.index,
                service,
                port,
                *cluster_ip,
                allowed,
                backends.len(),
            ));
        }
    }
}

/// What one policy has for one Service. Sorted, without repetitions.
#[derive(Default, PartialEq)]
pub(super) struct Share {
    pub items: Vec<Item>,
    pub problems: Vec<Problem>,
}

/// `pod` as one that the policy selects.
pub(super) fn subject_items(pod: &PodState, out: &mut Vec<Item>) {
    out.extend(pod.owned.iter().map(|address| {
        Item::Subject(PodEndpoint {
            host_ip: pod.pod.host_ip,
            pod_ip: *address,
            name: pod.pod.id.name.clone(),
            namespace: pod.pod.id.namespace.clone(),
        })
    }));
}

/// The Service port, where a pod of `subject` is its only ready backend.
pub(super) fn self_service(front: &FrontEnd, subject: GroupKey, inventory: &Inventory) -> Option<Item> {
    let (pod_ip, _) = *front.backends.first()?;
    let alone = front.backends.iter().all(|(address, _)| *address == pod_ip);
    let selected = alone && inventory.owner(pod_ip).is_some_and(|pod| pod.is_in(subject));
    selected.then_some(Item::SelfService(SelfService {
        pod_ip,
        cluster_ip: front.cluster_ip,
        protocol: front.port.protocol,
        port: front.port.port,
    }))
}

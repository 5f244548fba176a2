//! PolicyEndpoints → matchers: the peers of one rule that share a list of ports, and whom the rule applies to.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::ids::StableHasher;
use super::ports;
use super::problems::Report;
use super::subject::Subject;
use crate::api::{Entry, PolicyEndpoint, Port, SelfService};
use crate::model::{Cidr, Direction, Enforcement, Pod, RuleId};

/// Objects of one policy that select the same pods and isolate the same directions.
pub(super) struct Part<'a> {
    pub uid: &'a str,
    pub subject: Subject,
    pub enforcement: Enforcement,
    /// Position among the policy's parts: 0 unless its objects disagree on their subject.
    ordinal: u32,
    objects: Vec<&'a PolicyEndpoint>,
}

/// The peers that one list of ports goes with, in one rule. Their identity does not depend on who the peers are.
pub(super) struct Matcher<'a> {
    pub name: Name<'a>,
    /// What the counters of its rule are called.
    pub rule: RuleId,
    pub allows: Allows<'a>,
    /// Blocks, each with what is carved out of it: nothing outside it, nothing twice.
    pub peers: Vec<(Cidr, Vec<Cidr>)>,
}

/// What makes a matcher the same one after a change, or a restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name<'a> {
    uid: &'a str,
    part: u32,
    direction: Direction,
    rule: Option<u32>,
    peers: Peers<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Peers<'a> {
    /// Those with the rule's most frequent list of ports: an edit of the ports leaves them what they are.
    Usual,
    With(&'a [Port]),
    /// A Service through which some pod reaches itself.
    SelfService(IpAddr),
}

/// On which ports a matcher's peers are allowed, for one pod.
pub(super) enum Allows<'a> {
    Same(ports::Ranges),
    /// Some of these are named.
    Named(&'a [Port]),
    /// Only for the pods that own these addresses.
    Own(Vec<(IpAddr, u32)>),
}

impl<'a> Allows<'a> {
    fn new(ports: &'a [Port]) -> Self {
        if ports.iter().any(|p| p.name.is_some()) {
            Self::Named(ports)
        } else {
            Self::Same(ports::ranges(ports, &[]))
        }
    }

    /// Whether two pods with different container ports or addresses can get different ranges.
    pub fn depends_on_pod(&self) -> bool {
        !matches!(self, Self::Same(_))
    }

    pub fn ranges(&self, pod: &Pod) -> ports::Ranges {
        match self {
            Self::Same(ranges) => ranges.clone(),
            Self::Named(ports) => ports::ranges(ports, &pod.ports),
            Self::Own(owners) => ports::union(
                owners
                    .iter()
                    .filter(|(ip, _)| pod.addresses.contains(ip))
                    .map(|&(_, port)| (port, port))
                    .collect(),
            ),
        }
    }
}

impl Name<'_> {
    pub fn hash(&self, salt: u64) -> u64 {
        let mut hasher = StableHasher::new("matcher", salt);
        hasher.str(self.uid);
        hasher.u64(u64::from(self.part) << 1 | self.direction as u64);
        hasher.u64(self.rule.map_or(0, |r| u64::from(r) + 1));
        match &self.peers {
            Peers::Usual => hasher.u64(0),
            Peers::With(ports) => {
                hasher.u64(1);
                hasher.u64(ports.len() as u64);
                for port in *ports {
                    hasher.u64(u64::from(port.protocol.map_or(0, |p| p.number())));
                    hasher.u64(port.port.map_or(0, |p| u64::from(p) + 1));
                    hasher.u64(port.end_port.map_or(0, |p| u64::from(p) + 1));
                    hasher.u64(u64::from(port.name.is_some()));
                    hasher.str(port.name.as_deref().unwrap_or_default());
                }
            }
            Peers::SelfService(address) => {
                hasher.u64(2);
                hasher.str(&address.to_string());
            }
        }
        hasher.finish()
    }
}

/// In the order in which rules answer for what they allow: by the policy's namespace and name, then its UID.
pub(super) fn parts(endpoints: &BTreeMap<Arc<str>, Vec<Arc<PolicyEndpoint>>>) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    for (uid, objects) in endpoints {
        // A policy is one or the other: if its objects disagree, one by one they are on their way from one to the other, and
        // those that enforce must not do it without the rules of the rest.
        let enforces = objects.iter().any(|object| object.spec.enforcement.is_enforce());
        let enforcement = if enforces {
            Enforcement::Enforce
        } else {
            Enforcement::Audit
        };
        let mut by_subject: Vec<(Subject, Vec<&PolicyEndpoint>)> = Vec::new();
        for object in objects {
            let subject = Subject::of(object);
            match by_subject.iter_mut().find(|(known, _)| *known == subject) {
                Some((_, list)) => list.push(object),
                None => by_subject.push((subject, vec![object])),
            }
        }
        by_subject.sort_by(|a, b| a.0.cmp(&b.0));
        parts.extend((0..).zip(by_subject).map(|(ordinal, (subject, objects))| Part {
            uid,
            subject,
            enforcement,
            ordinal,
            objects,
        }));
    }
    parts.sort_by(|a, b| (&a.subject.policy, a.uid, a.ordinal).cmp(&(&b.subject.policy, b.uid, b.ordinal)));
    parts
}

impl<'a> Part<'a> {
    /// The matchers of one direction, by rule. None where the direction is not isolated: its rules mean nothing.
    pub fn matchers(&self, direction: Direction, report: &mut Report) -> Vec<Matcher<'a>> {
        if !self.subject.isolates(direction) {
            return Vec::new();
        }
        if self.subject.selector.is_none() {
            self.objects.iter().for_each(|o| report.subject(o));
            return Vec::new();
        }
        let mut matchers = self.rule_matchers(direction, report);
        if direction == Direction::Egress {
            self.self_services(&mut matchers, report);
        }
        matchers
    }

    fn rule_matchers(&self, direction: Direction, report: &mut Report) -> Vec<Matcher<'a>> {
        let mut lists: Vec<List<'a>> = Vec::new();
        let mut by_rule: HashMap<Option<u32>, Vec<usize>> = HashMap::new();
        let mut last = None;
        for object in &self.objects {
            for (position, entry) in entries(object, direction).iter().enumerate() {
                let is_ours = |&i: &usize| lists[i].rule == entry.rule && lists[i].ports == &*entry.ports;
                let known = last
                    .filter(is_ours)
                    .or_else(|| by_rule.get(&entry.rule)?.iter().copied().find(is_ours));
                let index = known.unwrap_or_else(|| {
                    report.ports(object, direction, position, &entry.ports);
                    by_rule.entry(entry.rule).or_default().push(lists.len());
                    lists.push(List {
                        rule: entry.rule,
                        ports: &entry.ports,
                        entries: 0,
                        peers: Vec::new(),
                    });
                    lists.len() - 1
                });
                last = Some(index);
                lists[index].entries += 1;
                if let Some(except) = carved(entry, || report.except(object, direction, position, entry)) {
                    lists[index].peers.push((entry.cidr, except));
                }
            }
        }
        lists.sort_by(|a, b| (a.rule, b.entries, a.ports).cmp(&(b.rule, a.entries, b.ports)));
        let mut previous = None;
        let named = |list: List<'a>| {
            let peers = if previous == Some(list.rule) {
                Peers::With(list.ports)
            } else {
                Peers::Usual
            };
            previous = Some(list.rule);
            Matcher {
                name: self.name(direction, list.rule, peers),
                rule: self.rule(direction, list.rule),
                allows: Allows::new(list.ports),
                peers: list.peers,
            }
        };
        lists.into_iter().map(named).collect()
    }

    fn self_services(&self, matchers: &mut Vec<Matcher<'a>>, report: &mut Report) {
        let mut by_service: BTreeMap<IpAddr, Vec<(IpAddr, u32)>> = BTreeMap::new();
        for object in &self.objects {
            for (position, service) in object.spec.self_services.iter().enumerate() {
                let SelfService {
                    pod_ip,
                    cluster_ip,
                    protocol,
                    port,
                } = service;
                if *port == 0 {
                    report.self_service(object, position);
                    continue;
                }
                by_service
                    .entry(cluster_ip.to_canonical())
                    .or_default()
                    .push((pod_ip.to_canonical(), ports::key(protocol.number(), *port)));
            }
        }
        matchers.extend(by_service.into_iter().map(|(service, owners)| Matcher {
            name: self.name(Direction::Egress, None, Peers::SelfService(service)),
            rule: self.rule(Direction::Egress, None),
            allows: Allows::Own(owners),
            peers: vec![(Cidr::single(service), Vec::new())],
        }));
    }

    fn name(&self, direction: Direction, rule: Option<u32>, peers: Peers<'a>) -> Name<'a> {
        Name {
            uid: self.uid,
            part: self.ordinal,
            direction,
            rule,
            peers,
        }
    }

    fn rule(&self, direction: Direction, index: Option<u32>) -> RuleId {
        RuleId {
            policy: self.subject.policy.clone(),
            direction,
            index,
        }
    }
}

/// Entries of one rule with one list of ports.
struct List<'a> {
    rule: Option<u32>,
    ports: &'a [Port],
    entries: usize,
    peers: Vec<(Cidr, Vec<Cidr>)>,
}

fn entries(object: &PolicyEndpoint, direction: Direction) -> &[Entry] {
    match direction {
        Direction::Ingress => &object.spec.ingress,
        Direction::Egress => &object.spec.egress,
    }
}

/// What is carved out of an entry's block; `None` if nothing is left. `odd` is called when an exception is not, as it
/// should be, a smaller block inside.
fn carved(entry: &Entry, odd: impl FnOnce()) -> Option<Vec<Cidr>> {
    if entry.except.is_empty() {
        return Some(Vec::new());
    }
    if entry
        .except
        .iter()
        .any(|e| *e == entry.cidr || !entry.cidr.covers(*e))
    {
        odd();
    }
    if entry.except.iter().any(|e| e.covers(entry.cidr)) {
        return None;
    }
    let mut inside: Vec<Cidr> = entry
        .except
        .iter()
        .copied()
        .filter(|e| entry.cidr.covers(*e))
        .collect();
    // A block sorts before the blocks that it covers.
    inside.sort_unstable();
    inside.dedup_by(|next, kept| kept.covers(*next));
    Some(inside)
}

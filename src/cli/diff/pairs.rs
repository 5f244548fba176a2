//! Every pair of ends, compared before and after; pairs of which the same is to be said, together.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::ends::{Elsewhere, Ends, Member, folded};
use super::table::{Decision, Judged, Table, Tables};
use super::{By, Change, Decided, Difference, End, Kind, Sides};
use crate::cli::cluster::Cluster;
use crate::cli::ports::{END, Ports};
use crate::cli::{Family, rule_path};
use crate::compile::{Image, RuleInfo};
use crate::model::{Direction, RuleId};

/// What is said of pairs, but for who they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    kind: Kind,
    egress: Option<Judged>,
    ingress: Option<Judged>,
}

/// Index of a group of pods, or behind those, of addresses elsewhere.
type Index = usize;
/// By family.
type Where = BTreeSet<Family>;

/// `fully`: the verdicts of both sides are told, also of one that stays what it was.
pub(super) fn difference(before: &Cluster, after: &Cluster, fully: bool) -> Difference {
    let mut tables = Tables::new(&before.image, &after.image);
    let ends = Ends::of(before, after, &tables);
    let mut found = Found {
        fully,
        pods: ends.pods.len(),
        pairs: BTreeMap::new(),
    };
    for (from, sources) in ends.pods.iter().enumerate() {
        for (to, destinations) in ends.pods.iter().enumerate() {
            if let Some((source, destination)) = two(from == to, sources, destinations) {
                found.between_pods((from, source), (to, destination), &mut tables);
            }
        }
        for (place, elsewhere) in ends.elsewhere.iter().enumerate() {
            if let Some(member) = sources.first() {
                let other = ends.pods.len() + place;
                found.with_elsewhere((from, member), (other, elsewhere), &mut tables);
            }
        }
    }
    let mut changes = found.changes(&ends, &before.image, &after.image);
    changes.sort_by(|a, b| (a.change, &a.from, &a.to, &a.ports).cmp(&(b.change, &b.from, &b.to, &b.ports)));
    Difference {
        changes,
        notes: notes(before),
    }
}

/// One of each, and not the same one twice.
fn two<'e, 'a>(
    same: bool,
    sources: &'e [Member<'a>],
    destinations: &'e [Member<'a>],
) -> Option<(&'e Member<'a>, &'e Member<'a>)> {
    let destination = destinations.get(usize::from(same))?;
    Some((sources.first()?, destination))
}

fn notes(cluster: &Cluster) -> Vec<String> {
    let homeless = (cluster.snapshot.pods.iter())
        .filter(|pod| pod.is_live() && pod.addresses.is_empty())
        .count();
    let note = match homeless {
        0 => return Vec::new(),
        1 => "1 pod has no address yet (status.podIPs): nothing can be said of its packets".to_string(),
        many => {
            format!("{many} pods have no address yet (status.podIPs): nothing can be said of their packets")
        }
    };
    vec![note]
}

struct Found {
    fully: bool,
    /// How many groups of pods there are.
    pods: usize,
    pairs: BTreeMap<(Said, Ports), BTreeMap<(Index, Index), Where>>,
}

impl Found {
    fn between_pods(
        &mut self,
        (from, source): (Index, &Member<'_>),
        (to, destination): (Index, &Member<'_>),
        tables: &mut Tables<'_>,
    ) {
        for &sender in &source.addresses {
            for &receiver in &destination.addresses {
                if sender.is_ipv4() == receiver.is_ipv4() {
                    let egress = tables.of(source.pod, Direction::Egress, receiver);
                    let ingress = tables.of(destination.pod, Direction::Ingress, sender);
                    self.compare((from, to), Family::of(sender), Some(&egress), Some(&ingress));
                }
            }
        }
    }

    fn with_elsewhere(
        &mut self,
        (own, member): (Index, &Member<'_>),
        (other, elsewhere): (Index, &Elsewhere),
        tables: &mut Tables<'_>,
    ) {
        let family = Family::of(elsewhere.address);
        if !member
            .addresses
            .iter()
            .any(|&address| Family::of(address) == family)
        {
            return;
        }
        let mut table = |direction| -> Rc<Table> { tables.of(member.pod, direction, elsewhere.address) };
        self.compare((own, other), family, Some(&table(Direction::Egress)), None);
        if elsewhere.sends() {
            self.compare((other, own), family, None, Some(&table(Direction::Ingress)));
        }
    }

    /// `None`: that end is no pod's, and lets everything pass.
    fn compare(
        &mut self,
        pair: (Index, Index),
        family: Family,
        egress: Option<&Table>,
        ingress: Option<&Table>,
    ) {
        let sides = [egress, ingress];
        if !sides.into_iter().flatten().any(|table| table.changes) {
            return;
        }
        for (said, ports) in self.differences(sides) {
            let pairs = self.pairs.entry((said, ports)).or_default();
            pairs.entry(pair).or_default().insert(family);
        }
    }

    fn differences(&self, sides: [Option<&Table>; 2]) -> BTreeMap<Said, Ports> {
        let mut starts: Vec<u32> = (sides.into_iter().flatten())
            .flat_map(|table| table.segments.iter().map(|&(start, _)| start))
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let mut found: BTreeMap<Said, Ports> = BTreeMap::new();
        for (place, &start) in starts.iter().enumerate() {
            let judged = sides.map(|side| side.map(|table| table.at(start)));
            let allowed = |moment: usize| judged.iter().flatten().all(|side| side[moment].passes());
            let kind = match (allowed(0), allowed(1)) {
                (true, false) => Kind::Lost,
                (false, true) => Kind::Gained,
                _ => continue,
            };
            let [egress, ingress] =
                judged.map(|side| side.filter(|[a, b]| self.fully || a.passes() != b.passes()));
            let end = starts.get(place + 1).copied().unwrap_or(END);
            let ports = found
                .entry(Said {
                    kind,
                    egress,
                    ingress,
                })
                .or_default();
            ports.push(start, end - 1);
        }
        found
    }

    fn changes(self, ends: &Ends<'_>, before: &Image, after: &Image) -> Vec<Change> {
        let mut changes = Vec::new();
        let sides = |judged: Option<Judged>| {
            judged.map(|[earlier, later]| Sides {
                before: decided(before, earlier),
                after: decided(after, later),
            })
        };
        for ((said, ports), pairs) in self.pairs {
            for (from, to, families) in rectangles(pairs, self.pods) {
                changes.push(Change {
                    change: said.kind,
                    from: names(ends, &from),
                    to: names(ends, &to),
                    families: families.into_iter().collect(),
                    ports: ports.clone(),
                    egress: sides(said.egress),
                    ingress: sides(said.ingress),
                });
            }
        }
        changes
    }
}

impl Table {
    fn at(&self, key: u32) -> Judged {
        let after = self.segments.partition_point(|&(start, _)| start <= key);
        self.segments[after - 1].1
    }
}

/// Sources that have the same destinations, in which families.
type Destinations = (Option<Where>, bool, BTreeSet<Index>);
type Rectangle = (Vec<Index>, Vec<Index>, Where);

fn rectangles(pairs: BTreeMap<(Index, Index), Where>, pods: usize) -> Vec<Rectangle> {
    // An address elsewhere says which family is meant, so that those of both may stand together.
    let mut by_source: BTreeMap<(Index, Option<Where>), (BTreeSet<Index>, Where)> = BTreeMap::new();
    for ((from, to), families) in pairs {
        let told = (from < pods && to < pods).then(|| families.clone());
        let (destinations, all) = by_source.entry((from, told)).or_default();
        destinations.insert(to);
        all.extend(families);
    }
    let mut alike: BTreeMap<Destinations, (Vec<Index>, Where)> = BTreeMap::new();
    for ((from, told), (destinations, families)) in by_source {
        // Pods and addresses elsewhere do not stand together: of the latter, one side says nothing.
        let (sources, all) = alike.entry((told, from < pods, destinations)).or_default();
        sources.push(from);
        all.extend(families);
    }
    alike
        .into_iter()
        .map(|((_, _, to), (from, families))| (from, to.into_iter().collect(), families))
        .collect()
}

fn names(ends: &Ends<'_>, groups: &[Index]) -> Vec<End> {
    let mut names: Vec<End> = Vec::new();
    for &group in groups {
        match ends.pods.get(group) {
            Some(members) => names.extend(members.iter().map(Member::end)),
            None => names.extend_from_slice(&ends.elsewhere[group - ends.pods.len()].members),
        }
    }
    let mut names = folded(names);
    names.sort();
    names
}

fn decided(image: &Image, decision: Decision) -> Decided {
    let by = match decision.by.and_then(|key| image.rules.get(&key)) {
        None if decision.passes() => By::Open,
        None => By::Isolated { policies: Vec::new() },
        Some(RuleInfo::Rule(RuleId { index: None, .. })) => By::Itself,
        Some(RuleInfo::Rule(RuleId {
            policy,
            direction,
            index: Some(index),
        })) => By::Rule {
            policy: policy.to_string(),
            rule: rule_path(*direction, *index),
        },
        Some(RuleInfo::Audit { policies, .. }) => By::Audited {
            policies: policies.iter().map(ToString::to_string).collect(),
        },
        Some(RuleInfo::Isolation { policies, .. }) => By::Isolated {
            policies: policies.iter().map(ToString::to_string).collect(),
        },
    };
    Decided {
        verdict: decision.verdict,
        by,
    }
}

//! Which matchers apply to each direction of each local pod, on which ports: the content of a psid.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Range;

use super::matchers::{Matcher, Part};
use super::ports::Ranges;
use super::problems::Report;
use crate::model::{ContainerPort, Direction, Enforcement, ObjectId, Pod};

/// What applies to one direction of a pod.
#[derive(Clone, Copy)]
pub(super) struct Applied {
    /// Index into [`RuleSets::sets`].
    pub set: usize,
    /// What the set does not allow passes, and is counted.
    pub audited: bool,
}

pub(super) struct RuleSets<'a> {
    /// Those of relevant parts, in the order in which they answer for what they allow.
    pub matchers: Vec<Matcher<'a>>,
    pub sets: Vec<RuleSet>,
    /// Of each pod, in the order given: ingress, egress. `None` where no policy isolates.
    pub of_pods: Vec<[Option<Applied>; 2]>,
}

pub(super) struct RuleSet {
    pub direction: Direction,
    /// The policies that isolate, sorted.
    pub policies: Vec<ObjectId>,
    /// Index of a matcher, and where it allows (never nowhere). In the order of the matchers.
    pub rules: Vec<(usize, Ranges)>,
}

/// All that a rule set can depend on: pods that agree on it share the set.
#[derive(PartialEq, Eq, Hash)]
struct Circumstances<'p> {
    direction: Direction,
    parts: Vec<usize>,
    /// Only where some matcher depends on the pod.
    pod: Option<(&'p [ContainerPort], &'p [IpAddr])>,
}

pub(super) fn rule_sets<'a, 'p>(parts: &[Part<'a>], pods: &[&'p Pod], report: &mut Report) -> RuleSets<'a> {
    let mut by_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, part) in parts.iter().enumerate() {
        by_namespace
            .entry(&part.subject.namespace)
            .or_default()
            .push(index);
    }
    let selecting = |pod: &Pod| -> Vec<usize> {
        let nearby = by_namespace
            .get(&*pod.id.namespace)
            .map_or(&[][..], Vec::as_slice);
        nearby
            .iter()
            .copied()
            .filter(|&p| parts[p].subject.selects(pod))
            .collect()
    };
    let selected: Vec<Vec<usize>> = pods.iter().map(|p| selecting(p)).collect();

    let mut matchers = Vec::new();
    let spans: HashMap<usize, [Span; 2]> = selected
        .iter()
        .flatten()
        .copied()
        .collect::<BTreeSet<usize>>()
        .into_iter()
        .map(|p| {
            (
                p,
                Direction::ALL.map(|d| Span::append(&mut matchers, parts[p].matchers(d, report))),
            )
        })
        .collect();
    let mut sets = Vec::new();
    let mut known: HashMap<Circumstances<'_>, usize> = HashMap::new();
    let mut of_pod = |(&pod, selected): (&&'p Pod, &Vec<usize>)| {
        Direction::ALL.map(|direction| {
            let isolating = |enforcement| -> Vec<usize> {
                let isolates =
                    |&p: &usize| parts[p].subject.isolates(direction) && parts[p].enforcement == enforcement;
                selected.iter().copied().filter(isolates).collect()
            };
            let enforced = isolating(Enforcement::Enforce);
            let audited = enforced.is_empty();
            // Beside what is enforced, policies in audit could only allow more, which they must not.
            let isolating = if audited {
                isolating(Enforcement::Audit)
            } else {
                enforced
            };
            if isolating.is_empty() {
                return None;
            }
            let spans = || isolating.iter().map(|p| &spans[p][direction as usize]);
            let dependent = spans().any(|s| s.depends_on_pod);
            let circumstances = Circumstances {
                direction,
                parts: isolating.clone(),
                pod: dependent.then_some((&*pod.ports, &*pod.addresses)),
            };
            let set = *known.entry(circumstances).or_insert_with(|| {
                let mut policies: Vec<ObjectId> = isolating
                    .iter()
                    .map(|&p| parts[p].subject.policy.clone())
                    .collect();
                policies.dedup();
                sets.push(RuleSet {
                    direction,
                    policies,
                    rules: spans()
                        .flat_map(|s| s.matchers.clone())
                        .map(|m| (m, matchers[m].allows.ranges(pod)))
                        .filter(|(_, ranges)| !ranges.is_empty())
                        .collect(),
                });
                sets.len() - 1
            });
            Some(Applied { set, audited })
        })
    };
    let of_pods = pods.iter().zip(&selected).map(&mut of_pod).collect();
    RuleSets {
        matchers,
        sets,
        of_pods,
    }
}

/// Where the matchers of one part and direction are.
struct Span {
    matchers: Range<usize>,
    depends_on_pod: bool,
}

impl Span {
    fn append<'a>(all: &mut Vec<Matcher<'a>>, more: Vec<Matcher<'a>>) -> Self {
        let start = all.len();
        let depends_on_pod = more.iter().any(|m| m.allows.depends_on_pod());
        all.extend(more);
        Self {
            matchers: start..all.len(),
            depends_on_pod,
        }
    }
}

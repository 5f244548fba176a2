//! Traffic by policy, in a bounded number of series.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use super::counters::{CounterSample, Outcome, Rule};
use crate::model::Direction;

/// Namespace and policy of what is not shown by name; no Kubernetes object can have this name.
pub const OVERFLOW: &str = "_overflow";
/// What stands for the rules that a policy no longer has.
const REMOVED: &str = "_removed";

/// How finely traffic is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// Label sets that name a policy, at most. Traffic of the policies beyond that is summed up under [`OVERFLOW`].
    pub policies: usize,
    /// A series for each rule, not only for each policy.
    pub rules: bool,
}

impl Default for Detail {
    fn default() -> Self {
        Self {
            policies: 4000,
            rules: false,
        }
    }
}

/// Labels of a traffic series. Ordered, so that equal counts give equal text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels {
    direction: Direction,
    verdict: Outcome,
    namespace: Arc<str>,
    pub policy: Arc<str>,
    rule: Rule,
    reason: &'static str,
}

impl Labels {
    fn is_named(&self) -> bool {
        !self.policy.is_empty()
    }

    fn overflow(&self) -> Self {
        Self {
            namespace: OVERFLOW.into(),
            policy: OVERFLOW.into(),
            rule: Rule::Unnamed,
            ..*self
        }
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        let Self {
            direction,
            verdict,
            namespace,
            policy,
            rule,
            reason,
        } = self;
        let rule = match rule {
            Rule::Unnamed => String::new(),
            Rule::Index(index) => index.to_string(),
            Rule::Removed => REMOVED.into(),
        };
        let all: [(&str, &str); 6] = [
            ("direction", direction.field()),
            ("verdict", verdict.label()),
            ("namespace", namespace),
            ("policy", policy),
            ("rule", &rule),
            ("reason", reason),
        ];
        // An empty label is the same as none.
        encode_labels(encoder, all.into_iter().filter(|(_, value)| !value.is_empty()))
    }
}

fn encode_labels<'a>(
    encoder: &mut LabelSetEncoder,
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> fmt::Result {
    use prometheus_client::encoding::EncodeLabel;
    labels
        .into_iter()
        .try_for_each(|label| label.encode(encoder.encode_label()))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub packets: u64,
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }

    /// What came on top of `before`; all of it, where the counter has begun anew.
    fn since(self, before: Self) -> Self {
        let fell = self.packets < before.packets;
        Self {
            packets: self.packets - if fell { 0 } else { before.packets },
            bytes: self.bytes - if fell { 0 } else { before.bytes.min(self.bytes) },
        }
    }
}

/// What scrapes have shown, between them.
#[derive(Debug, Default)]
struct Shown {
    named: BTreeSet<Labels>,
    /// Those that are not shown by name, as last read.
    others: BTreeMap<Labels, Count>,
    /// What the others counted since this process looks: the sum begins at 0 with the process, as it may be a sum of others then.
    overflow: BTreeMap<Labels, Count>,
    looked: bool,
}

/// Samples → a bounded number of series.
#[derive(Debug)]
pub(super) struct Traffic {
    detail: Detail,
    /// Scrapes alone take it.
    shown: Mutex<Shown>,
}

impl Traffic {
    pub fn new(detail: Detail) -> Self {
        Self {
            detail,
            shown: Mutex::default(),
        }
    }

    pub fn series(&self, samples: Vec<CounterSample>) -> BTreeMap<Labels, Count> {
        let mut read: BTreeMap<Labels, Count> = BTreeMap::new();
        for sample in samples {
            let CounterSample {
                direction,
                verdict,
                policy,
                rule,
                reason,
                packets,
                bytes,
            } = sample;
            let (namespace, policy) = policy.map(|id| (id.namespace, id.name)).unwrap_or_default();
            let labels = Labels {
                direction,
                verdict,
                namespace,
                policy,
                rule: if self.detail.rules { rule } else { Rule::Unnamed },
                reason,
            };
            read.entry(labels).or_default().add(Count { packets, bytes });
        }
        self.bound(&mut read);
        read
    }

    /// Series that are shown already go on; new ones only as long as there is room.
    fn bound(&self, read: &mut BTreeMap<Labels, Count>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let Shown {
            named,
            others,
            overflow,
            looked,
        } = &mut *shown;
        named.retain(|labels| read.contains_key(labels));
        let mut rest = BTreeMap::new();
        for (labels, count) in read.iter().filter(|(labels, _)| labels.is_named()) {
            if named.len() < self.detail.policies || named.contains(labels) {
                named.insert(labels.clone());
                continue;
            }
            let before = match others.get(labels) {
                Some(before) => *before,
                None if *looked => Count::default(),
                None => *count,
            };
            let sum = overflow.entry(labels.overflow()).or_default();
            sum.add(count.since(before));
            rest.insert(labels.clone(), *count);
        }
        read.retain(|labels, _| !rest.contains_key(labels));
        read.extend(overflow.iter().map(|(labels, sum)| (labels.clone(), *sum)));
        *others = rest;
        *looked = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectId;

    fn sample(policy: &str, packets: u64) -> CounterSample {
        CounterSample {
            direction: Direction::Ingress,
            verdict: Outcome::Allowed,
            policy: (!policy.is_empty()).then(|| ObjectId::new("shop", policy)),
            rule: Rule::Index(0),
            reason: "rule",
            packets,
            bytes: packets * 100,
        }
    }

    /// Packets by policy, after each of several reads.
    fn shown(policies: usize, reads: &[&[CounterSample]]) -> Vec<Vec<(String, u64)>> {
        let traffic = Traffic::new(Detail {
            policies,
            rules: false,
        });
        let read = |samples: &&[CounterSample]| {
            let series = traffic.series(samples.to_vec());
            let packets = series.into_iter().map(|(labels, count)| {
                assert_eq!(count.bytes, count.packets * 100);
                (labels.policy.to_string(), count.packets)
            });
            packets.collect()
        };
        reads.iter().map(read).collect()
    }

    fn row(cells: &[(&str, u64)]) -> Vec<(String, u64)> {
        cells
            .iter()
            .map(|(name, count)| (name.to_string(), *count))
            .collect()
    }

    #[test]
    fn samples_of_equal_labels_are_added_up() {
        let seen = shown(
            9,
            &[&[sample("a", 1), sample("b", 5), sample("a", 2), sample("", 7)]],
        );
        assert_eq!(seen, [row(&[("", 7), ("a", 3), ("b", 5)])]);
    }

    #[test]
    fn rules_are_told_apart_where_that_is_asked_for() {
        let mut removed = sample("a", 4);
        removed.rule = Rule::Removed;
        let samples = vec![sample("a", 1), sample("a", 2), removed];
        let of = |rules| {
            let detail = Detail {
                rules,
                ..Detail::default()
            };
            let series = Traffic::new(detail).series(samples.clone());
            let rows = series.into_iter();
            rows.map(|(labels, count)| (labels.rule, count.packets))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(false), [(Rule::Unnamed, 7)]);
        assert_eq!(of(true), [(Rule::Index(0), 3), (Rule::Removed, 4)]);
    }

    #[test]
    fn policies_beyond_the_limit_are_summed_up_and_those_shown_stay_shown() {
        let seen = shown(
            2,
            &[
                &[sample("m", 1), sample("n", 2)],
                &[
                    sample("a", 5),
                    sample("b", 6),
                    sample("m", 1),
                    sample("n", 2),
                    sample("", 3),
                ],
                &[sample("a", 7), sample("b", 6), sample("n", 2)],
                &[sample("a", 7), sample("b", 8)],
            ],
        );
        assert_eq!(
            seen,
            [
                row(&[("m", 1), ("n", 2)]),
                row(&[("", 3), (OVERFLOW, 11), ("m", 1), ("n", 2)]),
                // m is gone: a takes its place, and the sum does not fall by what a had in it.
                row(&[(OVERFLOW, 11), ("a", 7), ("n", 2)]),
                row(&[(OVERFLOW, 11), ("a", 7), ("b", 8)]),
            ]
        );
    }

    #[test]
    fn the_sum_of_the_rest_begins_at_zero_with_the_process_and_never_falls() {
        let seen = shown(
            0,
            &[
                &[sample("a", 100), sample("b", 50)],
                &[sample("a", 103), sample("b", 50)],
                // a is gone, and another of its name comes, before anybody looks.
                &[sample("a", 2), sample("b", 51)],
                &[sample("b", 51)],
            ],
        );
        let sums = [0, 3, 6, 6].map(|sum| row(&[(OVERFLOW, sum)]));
        assert_eq!(seen, sums);
    }
}

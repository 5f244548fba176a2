//! The kernel's counters as metrics: read anew at each scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::model::{Direction, ObjectId};

/// Label sets that name a policy, at most. Traffic of the policies beyond that is summed up under [`OVERFLOW`].
pub const POLICY_SERIES: usize = 4000;
/// Namespace and policy of the summed up rest; no Kubernetes object can have this name.
pub const OVERFLOW: &str = "_overflow";

/// What became of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Allowed,
    Dropped,
    /// Passed, only because the policies that would drop it are in audit.
    Audited,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Dropped => "dropped",
            Self::Audited => "audit",
        }
    }
}

/// Packets and bytes counted since the counter was made. Samples whose labels are equal are added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterSample {
    pub direction: Direction,
    pub verdict: Outcome,
    /// The policy that decided; `None` where none did.
    pub policy: Option<ObjectId>,
    /// Why, of a fixed small set, as in `rule`, `isolation`, `truncated`.
    pub reason: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// How full a map is, in entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub name: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

/// What a scrape reads. It is called on a thread that may block; it must not take a lock that a policy change holds or
/// waits for while anything is computed or written.
pub trait Counters: Send + Sync + 'static {
    fn read(&self) -> Vec<CounterSample>;
    fn maps(&self) -> Vec<MapFill>;
}

/// Labels of a traffic series. Ordered, so that equal counts give equal text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    direction: Direction,
    verdict: Outcome,
    namespace: Arc<str>,
    policy: Arc<str>,
    reason: &'static str,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        let Self {
            direction,
            verdict,
            namespace,
            policy,
            reason,
        } = self;
        let all: [(&str, &str); 5] = [
            ("direction", direction.field()),
            ("verdict", verdict.label()),
            ("namespace", namespace),
            ("policy", policy),
            ("reason", reason),
        ];
        // An empty label is the same as none.
        encode_labels(encoder, all.into_iter().filter(|(_, value)| !value.is_empty()))
    }
}

pub(super) fn encode_labels<'a>(
    encoder: &mut LabelSetEncoder,
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> fmt::Result {
    use prometheus_client::encoding::EncodeLabel;
    labels
        .into_iter()
        .try_for_each(|label| label.encode(encoder.encode_label()))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// One series between scrapes. Counters below it come and go (a rule that is edited away takes its own along), but a
/// series must never fall: a fall reads as a restart, and what is left would be counted a second time.
#[derive(Clone, Copy, Debug, Default)]
struct Series {
    read: Count,
    gone: Count,
}

impl Series {
    fn advance(&mut self, read: Count) -> Count {
        self.gone.packets += self.read.packets.saturating_sub(read.packets);
        self.gone.bytes += self.read.bytes.saturating_sub(read.bytes);
        self.read = read;
        Count {
            packets: read.packets + self.gone.packets,
            bytes: read.bytes + self.gone.bytes,
        }
    }
}

/// A collector over [`Counters`]. Its lock is between scrapes only.
pub(super) struct Traffic {
    counters: Arc<dyn Counters>,
    limit: usize,
    series: Mutex<BTreeMap<Labels, Series>>,
}

impl Traffic {
    pub fn new(counters: Arc<dyn Counters>, limit: usize) -> Self {
        Self {
            counters,
            limit,
            series: Mutex::default(),
        }
    }

    fn counts(&self) -> Vec<(Labels, Count)> {
        let mut read: BTreeMap<Labels, Count> = BTreeMap::new();
        for sample in self.counters.read() {
            let CounterSample {
                direction,
                verdict,
                policy,
                reason,
                packets,
                bytes,
            } = sample;
            let (namespace, policy) = policy.map(|id| (id.namespace, id.name)).unwrap_or_default();
            let count = read
                .entry(Labels {
                    direction,
                    verdict,
                    namespace,
                    policy,
                    reason,
                })
                .or_default();
            count.packets += packets;
            count.bytes += bytes;
        }
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.retain(|labels, _| read.contains_key(labels) || &*labels.policy == OVERFLOW);
        self.sum_up_rest(&series, &mut read);
        read.into_iter()
            .map(|(labels, count)| {
                let count = series.entry(labels.clone()).or_default().advance(count);
                (labels, count)
            })
            .collect()
    }

    /// Series that are shown already go on; new ones only as long as there is room.
    fn sum_up_rest(&self, series: &BTreeMap<Labels, Series>, read: &mut BTreeMap<Labels, Count>) {
        let counts = |labels: &&Labels| !labels.policy.is_empty() && &*labels.policy != OVERFLOW;
        let mut room = self.limit.saturating_sub(series.keys().filter(counts).count());
        let mut rest = BTreeSet::new();
        for labels in read
            .keys()
            .filter(counts)
            .filter(|labels| !series.contains_key(labels))
        {
            if room > 0 {
                room -= 1;
            } else {
                rest.insert(labels.clone());
            }
        }
        // Once shown, the rest stays shown, even when nothing is left in it.
        for labels in series.keys().filter(|labels| &*labels.policy == OVERFLOW) {
            read.entry(labels.clone()).or_default();
        }
        for labels in rest {
            let count = read.remove(&labels).unwrap_or_default();
            let summed = Labels {
                namespace: OVERFLOW.into(),
                policy: OVERFLOW.into(),
                ..labels
            };
            let sum = read.entry(summed).or_default();
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// What a family shows of each of its members.
type Value<T> = fn(&T) -> u64;

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let counts = self.counts();
        let families: [(Unit, &str, Value<Count>); 2] = [
            (
                Unit::Other("packets".into()),
                "Packets judged at pods' veths",
                |c| c.packets,
            ),
            (Unit::Bytes, "Bytes of packets judged at pods' veths", |c| c.bytes),
        ];
        for (unit, help, value) in families {
            let kind = ConstCounter::new(0u64).metric_type();
            let mut family = encoder.encode_descriptor("traffic", help, Some(&unit), kind)?;
            for (labels, count) in &counts {
                ConstCounter::new(value(count)).encode(family.encode_family(labels)?)?;
            }
        }
        let maps = self.counters.maps();
        let families: [(&str, &str, Value<MapFill>); 2] = [
            ("map_entries", "Entries that a map holds", |m| m.entries),
            ("map_capacity_entries", "Entries that a map can hold", |m| {
                m.capacity
            }),
        ];
        for (name, help, value) in families {
            let kind = ConstGauge::new(0i64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for map in &maps {
                let gauge = ConstGauge::new(i64::try_from(value(map)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("map", map.name)])?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Mutex<Vec<CounterSample>>);

    impl Counters for Fixed {
        fn read(&self) -> Vec<CounterSample> {
            self.0.lock().unwrap().clone()
        }
        fn maps(&self) -> Vec<MapFill> {
            Vec::new()
        }
    }

    fn sample(policy: &str, packets: u64) -> CounterSample {
        CounterSample {
            direction: Direction::Ingress,
            verdict: Outcome::Allowed,
            policy: (!policy.is_empty()).then(|| ObjectId::new("shop", policy)),
            reason: "rule",
            packets,
            bytes: packets * 100,
        }
    }

    /// Packets by policy, after each of several reads.
    fn shown(limit: usize, reads: &[&[CounterSample]]) -> Vec<Vec<(String, u64)>> {
        let counters = Arc::new(Fixed(Mutex::default()));
        let traffic = Traffic::new(counters.clone(), limit);
        reads
            .iter()
            .map(|samples| {
                *counters.0.lock().unwrap() = samples.to_vec();
                let counts = traffic.counts().into_iter();
                counts
                    .map(|(labels, count)| (labels.policy.to_string(), count.packets))
                    .collect()
            })
            .collect()
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
    fn a_series_never_falls_when_a_rule_below_it_goes() {
        let seen = shown(
            9,
            &[
                &[sample("a", 10), sample("a", 4)],
                &[sample("a", 11)],
                &[sample("a", 12)],
            ],
        );
        assert_eq!(seen, [row(&[("a", 14)]), row(&[("a", 14)]), row(&[("a", 15)])]);
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
}

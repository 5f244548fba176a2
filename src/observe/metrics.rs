//! What the agent itself counts. All of it is atomic, or swapped whole: counting waits for no scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::counters::{Counters, OVERFLOW, POLICY_SERIES, Traffic};

/// Upper bounds of the apply latency's buckets, in microseconds.
const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];
/// Kinds of objects shown by name; what users' files hold is not ours to bound.
const KINDS: usize = 100;

/// The agent's own numbers. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Changes that reached the kernel whole.
    pub changes_applied: Counter,
    /// Changes refused whole, because a map has no room or the kernel did not take them.
    pub changes_refused: Counter,
    /// Entries written to, or deleted from, the kernel's maps.
    pub map_writes: Counter,
    /// Flow events that did not fit into the ring.
    pub events_lost: Counter,
    /// Pods whose veth is attached.
    pub pods_attached: Gauge,
    /// Requests of the CNI plugin that were answered once the pod was enforced, and those that were not.
    pub cni_secured: Counter,
    pub cni_refused: Counter,
    /// Watches of the API server, and those of them that do not work at the moment.
    pub watches: Gauge,
    pub watches_failing: Gauge,
    /// Seconds since the epoch.
    synced: Gauge,
    apply_duration: Arc<Latency>,
    problems: Counts,
    skipped: Counts,
}

impl Metrics {
    /// Time from noticing a change until the kernel enforces it.
    pub fn applied_in(&self, duration: Duration) {
        self.apply_duration.observe(duration);
    }

    /// All watches work: what is known is what the API server has now.
    pub fn synced_now(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.synced.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    /// Replaces the number of open problems of each part that found them.
    pub fn set_problems(&self, by_source: BTreeMap<String, u64>) {
        self.problems.replace(by_source);
    }

    /// Replaces the number of objects that are there and are skipped, because their kind is not read.
    pub fn set_skipped(&self, by_kind: BTreeMap<String, u64>) {
        self.skipped.replace(by_kind);
    }

    /// All that a scrape shows: these numbers, and `counters` where there is a kernel side.
    pub fn registry(&self, counters: Option<Arc<dyn Counters>>) -> Registry {
        let Self {
            changes_applied,
            changes_refused,
            map_writes,
            events_lost,
            pods_attached,
            cni_secured,
            cni_refused,
            watches,
            watches_failing,
            synced,
            apply_duration,
            problems,
            skipped,
        } = self;
        let mut registry = Registry::with_prefix("palisade");
        registry.register(
            "build",
            "Version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "changes_applied",
            "Changes that reached the kernel whole",
            changes_applied.clone(),
        );
        registry.register(
            "changes_refused",
            "Changes refused whole; the state before them stays",
            changes_refused.clone(),
        );
        registry.register(
            "map_writes",
            "Entries written to or deleted from the kernel's maps",
            map_writes.clone(),
        );
        registry.register(
            "events_lost",
            "Flow events that did not fit into the ring",
            events_lost.clone(),
        );
        registry.register(
            "pods_attached",
            "Pods whose veth is attached",
            pods_attached.clone(),
        );
        registry.register(
            "cni_secured",
            "Requests of the CNI plugin whose pod was enforced before it started",
            cni_secured.clone(),
        );
        registry.register(
            "cni_refused",
            "Requests of the CNI plugin whose pod could not be enforced in time",
            cni_refused.clone(),
        );
        registry.register("watches", "Watches of the API server", watches.clone());
        registry.register(
            "watches_failing",
            "Watches of the API server that do not work at the moment",
            watches_failing.clone(),
        );
        registry.register_with_unit(
            "synced_timestamp",
            "When all watches last worked; 0 where there are none",
            Unit::Seconds,
            synced.clone(),
        );
        registry.register_collector(Box::new(apply_duration.clone()));
        registry.register_collector(Box::new(Gauges {
            name: "problems",
            help: "Open problems by the part that found them",
            label: "source",
            counts: problems.clone(),
        }));
        registry.register_collector(Box::new(Gauges {
            name: "objects_skipped",
            help: "Objects that are skipped because their kind is not read",
            label: "kind",
            counts: skipped.clone(),
        }));
        if let Some(counters) = counters {
            registry.register_collector(Box::new(Traffic::new(counters, POLICY_SERIES)));
        }
        registry
    }
}

/// A histogram without a lock: a scrape during an observation may miss its last one, no more.
#[derive(Debug, Default)]
struct Latency {
    /// One more than bounds: the last is for what is slower than all.
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    nanoseconds: AtomicU64,
}

impl Latency {
    fn observe(&self, duration: Duration) {
        let us = duration.as_nanos().div_ceil(1000);
        let bucket = BUCKETS_US
            .iter()
            .position(|bound| us <= u128::from(*bound))
            .unwrap_or(BUCKETS_US.len());
        self.nanoseconds.fetch_add(
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }
}

impl Collector for Latency {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let bounds = BUCKETS_US
            .iter()
            .map(|us| Duration::from_micros(*us).as_secs_f64())
            .chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .zip(&self.buckets)
            .map(|(bound, n)| (bound, n.load(Ordering::Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder
            .encode_descriptor(
                "apply_duration",
                "Time from noticing a change until the kernel enforces it",
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?
            .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Numbers by name. The lock is held for the copy of a pointer.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<Mutex<Arc<BTreeMap<String, u64>>>>);

impl Counts {
    fn replace(&self, by_kind: BTreeMap<String, u64>) {
        let by_kind = Arc::new(bounded(by_kind));
        let before = std::mem::replace(
            &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
            by_kind,
        );
        drop(before);
    }

    fn get(&self) -> Arc<BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn bounded(by_kind: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    if by_kind.len() <= KINDS {
        return by_kind;
    }
    let mut kinds: Vec<_> = by_kind.into_iter().collect();
    kinds.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
    let rest = kinds.split_off(KINDS - 1).into_iter().map(|(_, n)| n).sum();
    kinds.into_iter().chain([(OVERFLOW.to_string(), rest)]).collect()
}

/// One gauge a name.
#[derive(Debug)]
struct Gauges {
    name: &'static str,
    help: &'static str,
    /// Of the names.
    label: &'static str,
    counts: Counts,
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut family = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (name, count) in self.counts.get().iter() {
            let gauge = ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[(self.label, name.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_beyond_the_limit_are_summed_up_the_most_frequent_stay() {
        let many: BTreeMap<String, u64> = (1..=150).map(|n| (format!("Kind{n}"), n)).collect();
        let total: u64 = many.values().sum();
        let kept = bounded(many);
        assert_eq!(kept.len(), KINDS);
        assert_eq!(kept.values().sum::<u64>(), total);
        assert!(kept.contains_key("Kind150") && !kept.contains_key("Kind51") && kept.contains_key(OVERFLOW));
    }

    #[test]
    fn a_latency_counts_in_the_first_bucket_that_holds_it() {
        let latency = Latency::default();
        for us in [0, 100, 101, 20_000_000] {
            latency.observe(Duration::from_micros(us));
        }
        latency.observe(Duration::from_nanos(100_001));
        let counts: Vec<u64> = latency
            .buckets
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .collect();
        assert_eq!(
            (
                counts[0],
                counts[1],
                counts[BUCKETS_US.len()],
                counts.iter().sum::<u64>()
            ),
            (2, 2, 1, 5)
        );
    }
}

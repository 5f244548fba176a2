//! What the agent itself counts. All of it is atomic, or swapped whole: counting waits for no scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::counters::Counters;
use super::kernel::KernelSide;
use super::latency::{self, Bounds, Latency};
use super::process::Process;
use super::traffic::{Detail, OVERFLOW};

/// Buckets of the apply latency. What is wanted: 20 ms, and 100 ms from the write to the API server on.
const APPLY_US: Bounds = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];
/// Buckets of the CNI plugin's requests. Kubelet's own limit is minutes, the plugin's 10 s by default.
const CNI_US: Bounds = &[
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    30_000_000,
];
/// What the names of all metrics but the process' own begin with, followed by `_`.
pub const PREFIX: &str = "palisade";
/// Kinds of objects shown by name; what users' files hold is not ours to bound.
const KINDS: usize = 100;

/// What became of a request of the CNI plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CniAnswer {
    /// The pod was enforced before it started.
    Secured,
    /// It could not be enforced in time; kubelet tries again.
    Refused,
    /// The plugin did not wait for the answer.
    Abandoned,
}

impl CniAnswer {
    const ALL: [Self; 3] = [Self::Secured, Self::Refused, Self::Abandoned];

    fn label(self) -> &'static str {
        match self {
            Self::Secured => "secured",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
        }
    }
}

/// The agent's own numbers. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Changes that reached the kernel whole.
    pub changes_applied: Counter,
    /// Changes refused whole, because a map has no room or the kernel did not take them.
    pub changes_refused: Counter,
    /// Entries written to, or deleted from, the kernel's maps.
    pub map_writes: Counter,
    /// Flow events that the kernel has sent and that nobody has taken.
    pub events_untaken: Counter,
    /// Pods whose veth is attached.
    pub pods_attached: Gauge,
    /// Watches of the API server, and those of them that do not work at the moment.
    pub watches: Gauge,
    pub watches_failing: Gauge,
    /// Seconds since the epoch.
    synced: Gauge,
    apply_duration: Arc<Latency>,
    cni_duration: Arc<[Latency; CniAnswer::ALL.len()]>,
    problems: Counts,
    skipped: Counts,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            changes_applied: Counter::default(),
            changes_refused: Counter::default(),
            map_writes: Counter::default(),
            events_untaken: Counter::default(),
            pods_attached: Gauge::default(),
            watches: Gauge::default(),
            watches_failing: Gauge::default(),
            synced: Gauge::default(),
            apply_duration: Arc::new(Latency::new(APPLY_US)),
            cni_duration: Arc::new(CniAnswer::ALL.map(|_| Latency::new(CNI_US))),
            problems: Counts::default(),
            skipped: Counts::default(),
        }
    }
}

impl Metrics {
    /// A request of the CNI plugin has come to its end.
    pub fn cni_answered(&self, answer: CniAnswer, took: Duration) {
        self.cni_duration[answer as usize].observe(took);
    }

    /// How many have had that end.
    pub fn cni_answers(&self, answer: CniAnswer) -> u64 {
        self.cni_duration[answer as usize].count()
    }

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

    /// All that a scrape shows: these numbers, and `counters` where there is a kernel side, as finely as `detail` says.
    pub fn registry(&self, counters: Option<Arc<dyn Counters>>, detail: Detail) -> Registry {
        let Self {
            changes_applied,
            changes_refused,
            map_writes,
            events_untaken,
            pods_attached,
            watches,
            watches_failing,
            synced,
            apply_duration,
            cni_duration,
            problems,
            skipped,
        } = self;
        let mut all = Registry::default();
        all.register_collector(Box::new(Process::started_now()));
        let registry = all.sub_registry_with_prefix(PREFIX);
        registry.register(
            "build",
            "Which version runs; always 1",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "changes_applied",
            "Changes that reached the kernel whole",
            changes_applied.clone(),
        );
        registry.register(
            "changes_refused",
            "Changes refused whole, because a map has no room or the kernel did not take them; what was in force stays",
            changes_refused.clone(),
        );
        registry.register(
            "map_writes",
            "Entries written to or deleted from the kernel's maps",
            map_writes.clone(),
        );
        registry.register(
            "pods_attached",
            "Pods whose veth is attached",
            pods_attached.clone(),
        );
        registry.register("watches", "Watches of the API server: of the node's pods, and of PolicyEndpoints for each namespace that has a pod here", watches.clone());
        registry.register(
            "watches_failing",
            "Those of them that do not work at the moment; what is in force stays",
            watches_failing.clone(),
        );
        registry.register_with_unit(
            "synced_timestamp",
            "When all watches last worked, in seconds since the epoch; 0 where there are none",
            Unit::Seconds,
            synced.clone(),
        );
        registry.register_collector(Box::new(Latencies {
            apply: apply_duration.clone(),
            cni: cni_duration.clone(),
        }));
        registry.register_collector(Box::new(Gauges {
            name: "problems",
            help: "What is not enforced as written, by the part that found it: files or cluster (reading), resolve, node (interfaces, maps), cni (installing)",
            label: "source",
            counts: problems.clone(),
        }));
        registry.register_collector(Box::new(Gauges {
            name: "objects_skipped",
            help: "Objects in the files that are skipped because their kind is not read",
            label: "kind",
            counts: skipped.clone(),
        }));
        if let Some(counters) = counters {
            let kernel = KernelSide::new(counters, detail, events_untaken.clone());
            registry.register_collector(Box::new(kernel));
        }
        all
    }
}

/// The histograms, as one collector.
#[derive(Debug)]
struct Latencies {
    apply: Arc<Latency>,
    cni: Arc<[Latency; CniAnswer::ALL.len()]>,
}

impl Collector for Latencies {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        latency::encode(
            &mut encoder,
            "apply_duration",
            "From noticing a change until the kernel enforces it",
            None,
            &[("", &self.apply)],
        )?;
        let of = CniAnswer::ALL.map(|answer| (answer.label(), &self.cni[answer as usize]));
        latency::encode(
            &mut encoder,
            "cni_request_duration",
            "From the CNI plugin's request until its answer, or until it gave up",
            Some("result"),
            &of,
        )
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
}

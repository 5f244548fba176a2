//! The kernel's counters for `/metrics`, read without a lock that a policy change waits for.

use std::sync::{Mutex, PoisonError};

use tracing::warn;

use crate::bpf::{CounterReader, Kernel};
use crate::compile::RuleInfo;
use crate::model::{Direction, ObjectId};
use crate::observe::{CounterSample, Counters, MapFill, Outcome};

/// What a scrape reads with; replaced after each change. The lock is held to copy a pointer.
#[derive(Debug)]
pub struct Scrape(Mutex<CounterReader>);

impl Scrape {
    pub fn new(reader: CounterReader) -> Self {
        Self(Mutex::new(reader))
    }

    pub(super) fn renew(&self, kernel: &Kernel, changed: bool) {
        if changed {
            let reader = kernel.counter_reader();
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reader;
        }
    }

    /// What reads the counters as they are meant since the last change.
    pub fn reader(&self) -> CounterReader {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which direction, verdict, policy and reason a rule's counter stands for. Of several policies that isolate, the first.
fn labels(info: &RuleInfo) -> (Direction, Outcome, Option<ObjectId>, &'static str) {
    match info {
        RuleInfo::Rule(rule) => (
            rule.direction,
            Outcome::Allowed,
            Some(rule.policy.clone()),
            "rule",
        ),
        RuleInfo::Isolation { direction, policies } => (
            *direction,
            Outcome::Dropped,
            policies.first().cloned(),
            "isolation",
        ),
        RuleInfo::Audit { direction, policies } => (
            *direction,
            Outcome::Audited,
            policies.first().cloned(),
            "isolation",
        ),
    }
}

impl Counters for Scrape {
    fn read(&self) -> Vec<CounterSample> {
        let reader = self.reader();
        let counters = match reader.read() {
            Ok(counters) => counters,
            Err(error) => {
                warn!(error = %format!("{error:#}"), "cannot read the kernel's counters");
                return Vec::new();
            }
        };
        let reasons = counters
            .reasons
            .iter()
            .map(|(&(reason, direction), count)| CounterSample {
                direction,
                verdict: if reason.drops() {
                    Outcome::Dropped
                } else {
                    Outcome::Allowed
                },
                policy: None,
                reason: reason.name(),
                packets: count.packets,
                bytes: count.bytes,
            });
        let rules = reader.rules().filter_map(|(key, info)| {
            let count = counters.rules.get(&key)?;
            let (direction, verdict, policy, reason) = labels(info);
            Some(CounterSample {
                direction,
                verdict,
                policy,
                reason,
                packets: count.packets,
                bytes: count.bytes,
            })
        });
        reasons.chain(rules).collect()
    }

    fn maps(&self) -> Vec<MapFill> {
        let fill = |fill: &crate::bpf::MapFill| MapFill {
            name: fill.map.name(),
            entries: fill.entries.into(),
            capacity: fill.capacity.into(),
        };
        self.reader().fill().iter().map(fill).collect()
    }
}

//! What a scrape reads of the kernel: read without a lock that a policy change waits for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use tracing::warn;

use crate::bpf::{self, Account, CounterReader, Kernel, Verdict};
use crate::compile::RuleInfo;
use crate::observe::{CounterSample, Counters, Flows, MapFill, Outcome, Rule};

/// A change that removes rules is over by then, and there is another reader; what is read during one may be read again so often.
const AGAIN: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// What a scrape reads with; replaced after each change. The lock is held to copy a pointer.
#[derive(Debug)]
pub struct Scrape {
    reader: Mutex<CounterReader>,
    /// Flows by family, and one more; 0: not counted yet.
    flows: [AtomicU64; 2],
}

impl Scrape {
    pub fn new(reader: CounterReader) -> Self {
        Self {
            reader: Mutex::new(reader),
            flows: Default::default(),
        }
    }

    pub(super) fn renew(&self, kernel: &Kernel, changed: bool) {
        if changed || !self.reader().is_current() {
            let reader = kernel.counter_reader();
            *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = reader;
        }
    }

    /// Counts the flows that conntrack holds: some 20 ms at 100,000 of them, on a thread that may block, by one at a time.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn count_flows(&self) -> Result<()> {
        let counts = self.reader().count_flows()?;
        for (place, count) in self.flows.iter().zip(counts) {
            place.store(count + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What reads the counters as they are meant since the last change.
    pub fn reader(&self) -> CounterReader {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counters, and the reader that knows what they are of.
    fn counters(&self) -> Result<(CounterReader, bpf::Counters)> {
        let mut tries = 0;
        loop {
            let reader = self.reader();
            let counters = reader.read()?;
            if reader.is_current() || tries == AGAIN {
                return Ok((reader, counters));
            }
            tries += 1;
            sleep(PAUSE);
        }
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Allowed => Outcome::Allowed,
        Verdict::Dropped => Outcome::Dropped,
        Verdict::Audited => Outcome::Audited,
    }
}

/// What a rule's, or an account's, counters are shown as.
fn sample(account: Account, rule: Rule, count: bpf::Count) -> CounterSample {
    let Account {
        policy,
        direction,
        verdict,
    } = account;
    CounterSample {
        direction,
        verdict: outcome(verdict),
        policy,
        rule,
        reason: if verdict == Verdict::Allowed {
            "rule"
        } else {
            "isolation"
        },
        packets: count.packets,
        bytes: count.bytes,
    }
}

/// The counters of a rule or isolation as a scrape shows them.
pub fn sample_of(info: &RuleInfo, count: bpf::Count) -> CounterSample {
    let rule = match info {
        RuleInfo::Rule(rule) => rule.index.map_or(Rule::Unnamed, Rule::Index),
        RuleInfo::Isolation { .. } | RuleInfo::Audit { .. } => Rule::Unnamed,
    };
    sample(Account::of(info), rule, count)
}

/// What can be read, or nothing and a line in the log.
fn told<T>(what: &str, read: Result<T>) -> Option<T> {
    read.inspect_err(|error| warn!(error = %format!("{error:#}"), "cannot read the kernel's {what}"))
        .ok()
}

impl Counters for Scrape {
    fn read(&self) -> Vec<CounterSample> {
        let Some((reader, counters)) = told("counters", self.counters()) else {
            return Vec::new();
        };
        let bpf::Counters {
            rules,
            reasons,
            closed,
        } = counters;
        let reasons = reasons.iter().map(|(&(reason, direction), count)| CounterSample {
            direction,
            verdict: outcome(if reason.drops() {
                Verdict::Dropped
            } else {
                Verdict::Allowed
            }),
            policy: None,
            rule: Rule::Unnamed,
            reason: reason.name(),
            packets: count.packets,
            bytes: count.bytes,
        });
        let rules = reader
            .rules()
            .filter_map(|(key, info)| Some(sample_of(info, *rules.get(&key)?)));
        let closed = closed.into_iter().map(|(account, count)| match account.verdict {
            Verdict::Allowed => sample(account, Rule::Removed, count),
            // Of what was, or would be, denied there is no rule to name in the first place.
            Verdict::Dropped | Verdict::Audited => sample(account, Rule::Unnamed, count),
        });
        reasons.chain(rules).chain(closed).collect()
    }

    fn maps(&self) -> Vec<MapFill> {
        let fill = |fill: &bpf::MapFill| MapFill {
            name: fill.map.name(),
            entries: fill.entries.into(),
            capacity: fill.capacity.into(),
        };
        self.reader().fill().iter().map(fill).collect()
    }

    fn flows(&self) -> Vec<Flows> {
        let counts = told("flow counters", self.reader().flows());
        let families = ["ipv4", "ipv6"].into_iter().zip(&self.flows);
        counts
            .into_iter()
            .flatten()
            .zip(families)
            .map(|(counts, (family, entries))| Flows {
                family,
                entries: entries.load(Ordering::Relaxed).checked_sub(1),
                capacity: counts.capacity.into(),
                recorded: counts.recorded,
                refused: counts.refused,
                evicted: counts.evicted,
            })
            .collect()
    }

    fn events_lost(&self) -> Option<u64> {
        told("count of lost events", self.reader().events_lost())
    }
}

//! What the loop shows of itself to whoever asks: put together as it changes, and published at once.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::introspect::{Change, Reporter, Snapshot, Watches};
use crate::model::Problem;
use crate::node::{Agent, Enforced, Wanted};

/// What is in force, as it was last shown.
#[derive(Debug)]
pub struct Shown {
    pub report: Reporter,
    snapshot: Snapshot,
}

impl Shown {
    pub fn new(report: Reporter) -> Self {
        Self {
            report,
            snapshot: Snapshot::default(),
        }
    }

    /// After a change: what it came to, and whether the source had news of policies.
    pub fn enforced(
        &mut self,
        agent: &Agent,
        wanted: &Wanted,
        news: bool,
        enforced: &Enforced,
        took: Duration,
    ) {
        let kernel = agent.kernel();
        let snapshot = &mut self.snapshot;
        if news {
            snapshot.endpoints = wanted.endpoints.clone().into();
        }
        snapshot.pods = kernel.image().pods.clone().into();
        snapshot.slots = kernel
            .slots()
            .map(|(slot, uid)| (slot, uid.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into();
        snapshot.attachments = kernel.attachments().into();
        snapshot.counters = Some(agent.counters().reader());
        let written = &enforced.written;
        if written.map_writes + written.flips > 0 {
            snapshot.last_change = Some(Change {
                time: Timestamp::now(),
                took,
                map_writes: written.map_writes,
                flips: written.flips,
            });
        }
        snapshot.refused = enforced.refused;
        snapshot.retry = enforced.retry;
        snapshot.untidy = enforced.untidy;
        snapshot.incomplete = false;
        self.publish();
    }

    /// What was left over is removed.
    pub fn tidied(&mut self, agent: &Agent) {
        self.snapshot.untidy = false;
        self.snapshot.counters = Some(agent.counters().reader());
        self.publish();
    }

    /// Everything that is wrong.
    pub fn problems(&mut self, problems: &BTreeSet<Problem>) {
        if !self.snapshot.problems.iter().eq(problems) {
            self.snapshot.problems = problems.iter().cloned().collect();
            self.publish();
        }
    }

    /// What may be otherwise without a change.
    pub fn state(&mut self, incomplete: bool, waiting: usize, watches: Option<Watches>) {
        let snapshot = &mut self.snapshot;
        if (snapshot.incomplete, snapshot.waiting, snapshot.watches) != (incomplete, waiting, watches) {
            (snapshot.incomplete, snapshot.waiting, snapshot.watches) = (incomplete, waiting, watches);
            self.publish();
        }
    }

    fn publish(&self) {
        self.report.publish(self.snapshot.clone());
    }
}

//! The embedded default: a watched folder → index → agent, without an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::flows;
use crate::bpf::{Event, EventReader, Settled};
use crate::files::{Folder, Refresh};
use crate::model::{Change, Pod, Problem};
use crate::node::{Agent, Enforced, Wanted, Why};
use crate::observe::{Metrics, Unready};
use crate::resolve::Index;

/// Events that wait to be logged; what comes on top is counted as lost.
pub const EVENTS: usize = 1024;
/// How long a lull must last before what is left over is removed.
const LULL: Duration = Duration::from_millis(100);
/// How often what failed is tried again, and lost events are counted.
const RETRY: Duration = Duration::from_secs(1);
/// Objects that a line names before it only counts.
const NAMED: usize = 5;

/// What runs from a folder.
pub struct Standalone {
    pub from: PathBuf,
    pub folder: Folder,
    pub agent: Agent,
    pub events: mpsc::Receiver<Event>,
    pub reader: EventReader,
    pub metrics: Metrics,
    /// Dropped once the folder is in force.
    pub ready: Option<Unready>,
}

/// What of a change is known before it is enforced.
#[derive(Default)]
struct News {
    objects: Vec<String>,
    more: usize,
    why: Why,
}

impl Standalone {
    /// Runs until `shutdown`; enforcement stays.
    ///
    /// # Errors
    /// The folder's or the links' notifications ended.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        let mut index = Index::new();
        let mut wanted = Wanted::default();
        let mut problems = Problems::default();
        let mut tick = interval(RETRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut first, mut retry, mut lost) = (true, false, 0);
        let (mut tidy_at, mut settling) = (None::<Instant>, None::<JoinHandle<Settled>>);
        loop {
            let mut why = Why {
                pods: first,
                ..Why::default()
            };
            let mut reread = first;
            if !std::mem::take(&mut first) {
                let lull = tidy_at.unwrap_or_else(Instant::now);
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    changed = self.folder.changed() => {
                        changed.with_context(|| format!("cannot watch {}", self.from.display()))?;
                        reread = true;
                    }
                    changed = self.agent.links_changed() => {
                        changed?;
                        why.links = true;
                    }
                    () = sleep_until(lull), if tidy_at.is_some() && settling.is_none() => {
                        let wait = self.agent.settling();
                        settling = Some(spawn_blocking(|| wait.wait()));
                        tidy_at = None;
                        continue;
                    }
                    settled = ended(&mut settling), if settling.is_some() => {
                        settling = None;
                        // If it comes too late, the change that was faster has set the next time.
                        self.agent.tidy(&settled?);
                        continue;
                    }
                    _ = tick.tick() => {
                        self.count_lost(&mut lost);
                        if !retry {
                            continue;
                        }
                        why.pods = true;
                    }
                    Some(event) = self.events.recv() => {
                        flows::log(self.agent.kernel(), &event);
                        continue;
                    }
                }
            }
            let begun = Instant::now();
            let mut news = News {
                why,
                ..News::default()
            };
            if reread {
                let refresh = self.folder.refresh();
                self.metrics.set_skipped(refresh.skipped.clone());
                problems.files = refresh.problems.clone();
                news.take(&refresh);
                if !refresh.changes.is_empty() {
                    news.why.pods |= take(&mut index, &mut wanted, refresh.changes);
                    problems.resolve = index.problems();
                }
            }
            let enforced = self.agent.enforce(&wanted, news.why).await?;
            let took = begun.elapsed();
            retry = enforced.retry;
            tidy_at = enforced.untidy.then(|| Instant::now() + LULL);
            if enforced.written.map_writes + enforced.written.flips > 0 {
                self.metrics.applied_in(took);
                self.metrics.changes_applied.inc();
            }
            news.log(&enforced, took);
            problems.node = enforced.problems;
            self.metrics.set_problems(problems.report());
            if !enforced.refused
                && let Some(ready) = self.ready.take()
            {
                drop(ready);
                info!(
                    policies = wanted.endpoints.len(),
                    pods = wanted.pods.len(),
                    attached = enforced.attached,
                    took = ?took,
                    "in force: {}", self.from.display()
                );
            }
        }
        self.reader.stop()
    }

    fn count_lost(&self, lost: &mut u64) {
        let now = self.agent.kernel().events_lost().unwrap_or(*lost) + self.reader.refused();
        self.metrics.events_lost.inc_by(now.saturating_sub(*lost));
        *lost = now.max(*lost);
    }
}

/// The end of a wait that is under way.
async fn ended(settling: &mut Option<JoinHandle<Settled>>) -> Result<Settled> {
    match settling {
        Some(wait) => wait.await.context("the wait for packets on their way has failed"),
        None => std::future::pending().await,
    }
}

/// One step of the folder into the index, and what it touched out of it. Whether pods are to be found anew.
fn take(index: &mut Index, wanted: &mut Wanted, changes: Vec<Change>) -> bool {
    let (mut touched, mut moved) = (BTreeSet::new(), false);
    for change in changes {
        match &change {
            Change::Pod(pod) => {
                let before = wanted.pods.insert(pod.uid.clone(), pod.clone());
                let place = |pod: &Pod| (pod.is_live(), pod.addresses.clone());
                moved |= before.as_ref().map(place) != Some(place(pod));
            }
            Change::PodGone { uid, .. } => moved |= wanted.pods.remove(uid).is_some(),
            _ => {}
        }
        touched.extend(index.apply(change));
    }
    for uid in touched {
        match index.endpoints(&uid) {
            Some(endpoints) => wanted.endpoints.insert(uid, endpoints),
            None => wanted.endpoints.remove(&uid),
        };
    }
    moved
}

impl News {
    fn take(&mut self, refresh: &Refresh) {
        self.more = refresh.changes.len().saturating_sub(NAMED);
        self.objects = refresh
            .changes
            .iter()
            .take(NAMED)
            .map(ToString::to_string)
            .collect();
    }

    /// One line a change: what changed, and what that took.
    fn log(&self, enforced: &Enforced, took: Duration) {
        let written = &enforced.written;
        if self.objects.is_empty() && written.map_writes + written.flips == 0 {
            return;
        }
        let mut what = self.objects.join(", ");
        if self.more > 0 {
            what += &format!(" and {} more", self.more);
        }
        if what.is_empty() {
            what = "links".into();
        }
        info!(map_writes = written.map_writes, flips = written.flips, took = ?took, "applied: {what}");
    }
}

/// What cannot be enforced as written, by where it was found.
#[derive(Default)]
struct Problems {
    files: Vec<Problem>,
    resolve: Vec<Problem>,
    node: Vec<Problem>,
    told: BTreeSet<Problem>,
}

impl Problems {
    /// Tells of those that are new and those that are gone; counts them by where they were found.
    fn report(&mut self) -> BTreeMap<String, u64> {
        let sources = [
            ("files", &self.files),
            ("resolve", &self.resolve),
            ("node", &self.node),
        ];
        let now = sources
            .iter()
            .flat_map(|(_, list)| list.iter().cloned())
            .collect();
        for problem in BTreeSet::difference(&now, &self.told) {
            warn!("problem: {problem}");
        }
        for problem in self.told.difference(&now) {
            info!("no problem any more: {problem}");
        }
        let counts = sources.map(|(source, list)| (source.to_string(), list.len() as u64));
        self.told = now;
        counts.into()
    }
}

//! The loop of a node, whatever says what is wanted: a folder or an API server.
//!
//! In: changes of the source, links and routes, packets that the programs report, pods that the CNI plugin asks to secure.
//! Out: the kernel at what is wanted, log lines, metrics, readiness, and what there is to tell to whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::flows::Numbers;
use super::secured::Secured;
use super::shown::Shown;
use super::traces::Traces;
use crate::bpf::{Event, EventReader, Settled};
use crate::introspect::{Known, Loser, Watches};
use crate::model::Problem;
use crate::node::{Agent, Enforced, Secure, Wanted, Why};
use crate::observe::{Metrics, Unready};

/// Events that wait to be logged; what comes on top is counted as lost.
pub const EVENTS: usize = 1024;
/// How long a lull must last before what is left over is removed.
const LULL: Duration = Duration::from_millis(100);
/// How often what failed is tried again, and lost events are counted.
const RETRY: Duration = Duration::from_secs(1);
/// Objects that a line names before it only counts.
const NAMED: usize = 5;

/// What says what is wanted.
pub trait Source: Send {
    /// Resolves when there may be something to take; the first time, at once or when there is. Safe to cancel.
    fn changed(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Takes it.
    fn take(&mut self, wanted: &mut Wanted) -> Taken;

    /// Once a second, for what is only to be counted.
    fn tick(&mut self) {}

    /// How the watches are that it has, if it has any.
    fn watches(&self) -> Option<Watches> {
        None
    }

    /// The pod that kubelet knows by this UID, by the UID that `wanted` has it under.
    fn uid_of(&self, uid: &str) -> Option<std::sync::Arc<str>>;
}

/// What a source had to tell.
#[derive(Debug, Default)]
pub struct Taken {
    /// What changed, for the log.
    pub objects: Vec<String>,
    /// Something is to be enforced that was not.
    pub news: bool,
    /// Pods came, went or have other addresses.
    pub pods: bool,
    /// What cannot be enforced as written, by where it was found. What was found before, and is in no list, is no more.
    pub problems: Vec<(&'static str, Vec<Problem>)>,
    /// Not all is known that was in force before: nothing is to be written yet.
    pub incomplete: bool,
    /// Whose addresses there are, as far as it differs.
    pub known: Vec<Known>,
}

/// What the loop runs on.
pub struct Node<S> {
    pub source: S,
    /// What the log calls it.
    pub name: String,
    pub agent: Agent,
    pub events: mpsc::Receiver<Event>,
    pub reader: EventReader,
    /// To whoever asks this node about itself.
    pub shown: Shown,
    /// Pods that the CNI plugin has just made.
    pub secure: mpsc::Receiver<Secure>,
    /// Who follows packets, and how far it is.
    pub traces: Traces,
    /// What stands in the way of the CNI plugin.
    pub cni: watch::Receiver<Vec<Problem>>,
    pub metrics: Metrics,
    /// Dropped once what is wanted is in force.
    pub ready: Option<Unready>,
}

/// What of a change is known before it is enforced.
#[derive(Default)]
struct News {
    objects: Vec<String>,
    why: Why,
}

impl<S: Source> Node<S> {
    /// Runs until `shutdown`; enforcement stays.
    ///
    /// # Errors
    /// The source or the links' notifications ended.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        let mut wanted = Wanted::default();
        let mut secured = Secured::new(self.agent.kernel().image());
        let mut problems = Problems::default();
        let mut tick = interval(RETRY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut first, mut incomplete, mut retry) = (true, true, false);
        let (mut numbers, mut lost) = (Numbers::default(), Lost::default());
        let (mut tidy_at, mut settling) = (None::<Instant>, None::<JoinHandle<Settled>>);
        loop {
            let mut news = News::default();
            let (mut changed, mut asked) = (false, false);
            let lull = tidy_at.unwrap_or_else(Instant::now);
            tokio::select! {
                () = shutdown.cancelled() => break,
                ready = self.source.changed() => {
                    ready?;
                    changed = true;
                }
                Some(request) = self.secure.recv() => {
                    secured.ask(request);
                    while let Ok(more) = self.secure.try_recv() {
                        secured.ask(more);
                    }
                    asked = true;
                }
                Ok(()) = self.cni.changed() => {
                    problems.replace(vec![("cni", self.cni.borrow_and_update().clone())]);
                    self.tell(&mut problems);
                    continue;
                }
                moved = self.agent.links_changed() => {
                    moved?;
                    news.why.links = true;
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
                    if self.agent.tidy(&settled?) {
                        numbers.forget();
                        self.shown.tidied(&self.agent);
                    }
                    continue;
                }
                _ = tick.tick() => {
                    self.count_lost(&mut lost);
                    self.source.tick();
                    self.shown.state(incomplete, secured.waiting(), self.source.watches());
                    if !retry && !secured.is_waiting() {
                        continue;
                    }
                    news.why.pods = true;
                }
                Some(event) = self.events.recv() => {
                    self.shown.report.seen(numbers.seen(self.agent.kernel(), event));
                    continue;
                }
                step = self.traces.next() => {
                    self.traces.take(step, &mut self.agent);
                    continue;
                }
            }
            let begun = Instant::now();
            let (mut due, mut policies) = (!changed && !asked, false);
            if changed {
                let taken = self.source.take(&mut wanted);
                problems.replace(taken.problems);
                self.shown.report.known(taken.known);
                news.why.pods |= taken.pods;
                news.objects = taken.objects;
                incomplete = taken.incomplete;
                due = taken.news;
                policies = taken.news;
            }
            if incomplete {
                secured.give_up_who_is_late("the API server has not told yet what concerns this node");
                self.tell(&mut problems);
                continue;
            }
            news.why.pods |= secured.put(&mut wanted, |uid| self.source.uid_of(uid)) | first;
            if !due && !news.why.pods {
                self.tell(&mut problems);
                continue;
            }
            let enforced = self.agent.enforce(&wanted, news.why).await?;
            numbers.forget();
            let took = begun.elapsed();
            secured.answer(&self.agent, &enforced);
            retry = enforced.retry;
            tidy_at = enforced.untidy.then(|| Instant::now() + LULL);
            if enforced.written.map_writes + enforced.written.flips > 0 {
                self.metrics.applied_in(took);
                self.metrics.changes_applied.inc();
            }
            news.log(&enforced, took);
            if !enforced.refused
                && let Some(ready) = self.ready.take()
            {
                drop(ready);
                info!(
                    policies = wanted.endpoints.len(),
                    pods = wanted.pods.len(),
                    attached = enforced.attached,
                    took = ?took,
                    "in force: {}", self.name
                );
            }
            // What came while not all was known counts from the first change on.
            let policies = std::mem::take(&mut first) | policies;
            self.shown
                .state(incomplete, secured.waiting(), self.source.watches());
            self.shown
                .enforced(&self.agent, &wanted, policies, &enforced, took);
            problems.replace(vec![("node", enforced.problems)]);
            self.tell(&mut problems);
        }
        self.traces.stop(&mut self.agent);
        self.reader.stop()
    }

    fn tell(&mut self, problems: &mut Problems) {
        self.metrics.set_problems(problems.report());
        self.shown.problems(&problems.told);
    }

    fn count_lost(&self, lost: &mut Lost) {
        for (by, before, now) in [
            (
                Loser::Kernel,
                &mut lost.by_kernel,
                self.agent.kernel().events_lost().ok(),
            ),
            (Loser::Agent, &mut lost.by_agent, Some(self.reader.refused())),
        ] {
            let Some(now) = now else { continue };
            self.metrics
                .events_lost
                .inc_by(now.saturating_sub(before.unwrap_or(0)));
            // The kernel's count outlives this process: what was lost before is not ours to tell.
            let more = now.saturating_sub(before.unwrap_or(now));
            if more > 0 {
                self.shown.report.lost(more, by);
            }
            *before = Some(now);
        }
    }
}

/// Events lost so far; `None`: not counted yet.
#[derive(Debug, Default)]
struct Lost {
    by_kernel: Option<u64>,
    by_agent: Option<u64>,
}

/// The end of a wait that is under way.
async fn ended(settling: &mut Option<JoinHandle<Settled>>) -> Result<Settled> {
    match settling {
        Some(wait) => wait.await.context("the wait for packets on their way has failed"),
        None => std::future::pending().await,
    }
}

impl News {
    /// One line a change: what changed, and what that took.
    fn log(&self, enforced: &Enforced, took: Duration) {
        let written = &enforced.written;
        if self.objects.is_empty() && written.map_writes + written.flips == 0 {
            return;
        }
        let mut what = self
            .objects
            .iter()
            .take(NAMED)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if self.objects.len() > NAMED {
            what += &format!(" and {} more", self.objects.len() - NAMED);
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
    found: BTreeMap<&'static str, Vec<Problem>>,
    told: BTreeSet<Problem>,
}

impl Problems {
    fn replace(&mut self, found: Vec<(&'static str, Vec<Problem>)>) {
        self.found.extend(found);
    }

    /// Tells of those that are new and those that are gone; counts them by where they were found.
    fn report(&mut self) -> BTreeMap<String, u64> {
        let now: BTreeSet<Problem> = self.found.values().flatten().cloned().collect();
        for problem in BTreeSet::difference(&now, &self.told) {
            warn!("problem: {problem}");
        }
        for problem in self.told.difference(&now) {
            info!("no problem any more: {problem}");
        }
        self.told = now;
        let count = |(source, list): (&&str, &Vec<_>)| ((*source).to_string(), list.len() as u64);
        self.found.iter().map(count).collect()
    }
}

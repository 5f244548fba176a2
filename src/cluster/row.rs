//! What a leader does: watched objects → index → PolicyEndpoints. It begins with nothing known, and can be dropped at any moment.
//!
//! Nothing is written before every list is complete: of the objects, or else a policy would be published without peers that are
//! only not known yet; and of the PolicyEndpoints, or else what is there already would be written again.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::FutureExt;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use super::controller::Config;
use super::leader::Term;
use super::ledger::Ledger;
use super::metrics::Metrics;
use super::publish::{Endpoint, Herald, Plan, Told, Writer};
use super::tree::{Tree, Watched};
use super::watch::watch;
use crate::api::PolicyEndpoint;
use crate::model::{Change, ObjectId, Problem};
use crate::objects::Kind;
use crate::resolve::Index;

/// Events that are taken together, if they are there already.
const BATCH: usize = 256;
/// Policies that are resolved before others get their turn.
const STRETCH: usize = 32;
/// Policies that are written at the same time.
const JOBS: usize = 8;
/// Policies of which Events are made at the same time; others wait.
const HERALDS: usize = 4;

/// Problems that one look tells.
const NAMED: usize = 20;
/// How often it is looked for what is wrong between objects.
const LOOK: Duration = Duration::from_secs(10);

type Objects = SelectAll<BoxStream<'static, (Kind, Event<Tree<()>>)>>;

/// Resolves and publishes for ever.
pub async fn lead(client: Client, config: &Config, term: Term, metrics: Metrics) {
    let mut objects = Objects::new();
    objects.push(kind::<Namespace>(Kind::Namespace, &client, &metrics));
    objects.push(kind::<Pod>(Kind::Pod, &client, &metrics));
    objects.push(kind::<Service>(Kind::Service, &client, &metrics));
    objects.push(kind::<EndpointSlice>(Kind::EndpointSlice, &client, &metrics));
    objects.push(kind::<NetworkPolicy>(Kind::Policy, &client, &metrics));
    let endpoints = watch::<PolicyEndpoint>(
        Api::all(client.clone()),
        watcher::Config::default(),
        metrics.clone(),
    );
    let mut endpoints = endpoints.filter_map(|event| async { read(event) }).boxed();
    let writer = Writer::new(client.clone(), term.clone(), metrics.clone());
    let herald = Herald::new(client, &config.identity, term);
    let mut cluster = Cluster::new(config.slice_entries);
    let mut publishing = Publishing {
        plan: Plan::default(),
        told: Told::default(),
        news: Vec::new(),
    };
    let (mut jobs, mut heralds) = (FuturesUnordered::new(), FuturesUnordered::new());
    let begun = Instant::now();
    let mut open = false;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while jobs.len() < JOBS
            && let Some(job) = publishing.plan.next(Instant::now())
        {
            let writer = writer.clone();
            jobs.push(async move { writer.run(job).await });
        }
        while heralds.len() < HERALDS
            && let Some((policy, uid, problems)) = publishing.news.pop()
        {
            let herald = herald.clone();
            heralds.push(async move { herald.tell(policy, uid, problems).await });
        }
        let wakes = publishing.plan.wakes();
        tokio::select! {
            Some((kind, event)) = objects.next() => {
                let mut touched = cluster.take(kind, event);
                for _ in 1..BATCH {
                    let Some(Some((kind, event))) = objects.next().now_or_never() else { break };
                    touched.extend(cluster.take(kind, event));
                }
                if cluster.is_listed() {
                    if !std::mem::replace(&mut open, true) {
                        touched = cluster.all();
                        info!(policies = touched.len(), took = ?begun.elapsed(), "all objects are listed");
                    }
                    publishing.want(&mut cluster, touched).await;
                    cluster.report(&metrics);
                    publishing.count(&metrics);
                } else {
                    yield_now().await;
                }
            }
            // Compared as they come, so that it must be known by then what is wanted.
            Some(event) = endpoints.next(), if open => {
                if matches!(event, Event::InitDone) {
                    info!(took = ?begun.elapsed(), "the PolicyEndpoints are listed");
                    publishing.plan.see(event);
                    publishing.announce(&cluster);
                } else {
                    publishing.plan.see(event);
                }
            }
            Some((uid, outcome)) = jobs.next() => publishing.plan.done(&uid, outcome, Instant::now()),
            Some(()) = heralds.next() => {}
            () = until(wakes) => {}
            _ = look.tick(), if open => cluster.look(),
        }
    }
}

fn kind<K: Watched>(
    kind: Kind,
    client: &Client,
    metrics: &Metrics,
) -> BoxStream<'static, (Kind, Event<Tree<()>>)> {
    let api = Api::all(client.clone());
    watch::<K>(api, watcher::Config::default(), metrics.clone())
        .map(move |event| (kind, untyped(event)))
        .boxed()
}

fn untyped<K>(event: Event<Tree<K>>) -> Event<Tree<()>> {
    match event {
        Event::Apply(tree) => Event::Apply(tree.untyped()),
        Event::Delete(tree) => Event::Delete(tree.untyped()),
        Event::Init => Event::Init,
        Event::InitApply(tree) => Event::InitApply(tree.untyped()),
        Event::InitDone => Event::InitDone,
    }
}

fn read<K>(event: Event<Tree<K>>) -> Option<Event<Endpoint>> {
    Some(match event {
        Event::Apply(tree) => Event::Apply(Endpoint::read(tree)?),
        Event::Delete(tree) => Event::Delete(Endpoint::read(tree)?),
        Event::Init => Event::Init,
        Event::InitApply(tree) => Event::InitApply(Endpoint::read(tree)?),
        Event::InitDone => Event::InitDone,
    })
}

async fn until(wakes: Option<Instant>) {
    match wakes {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// What is known of the cluster, and what its policies come to.
struct Cluster {
    index: Index,
    ledgers: [Ledger; 5],
    /// Policies that came before the rest was listed: the index takes them faster last.
    early: Vec<Change>,
    listed: bool,
    /// What is wrong between objects, and has been told.
    told: BTreeSet<Problem>,
}

impl Cluster {
    fn new(slice_entries: usize) -> Self {
        Self {
            index: Index::with_slice_entries(slice_entries),
            ledgers: Kind::ALL.map(Ledger::new),
            early: Vec::new(),
            listed: false,
            told: BTreeSet::new(),
        }
    }

    /// Tells what could not be read. Policies' problems are told with what else is wrong with them.
    fn report(&mut self, metrics: &Metrics) {
        for (kind, ledger) in Kind::ALL.into_iter().zip(&mut self.ledgers) {
            for problem in ledger.news() {
                if kind != Kind::Policy {
                    warn!("{problem}");
                }
            }
        }
        let troubled = self.ledgers.iter().map(Ledger::troubled).sum::<usize>();
        metrics
            .objects_with_problems
            .set(i64::try_from(troubled).unwrap_or(i64::MAX));
    }

    /// Tells what is wrong between objects, such as two pods with one address.
    fn look(&mut self) {
        let now: BTreeSet<Problem> = self.index.problems_of_objects().into_iter().collect();
        for problem in now.difference(&self.told).take(NAMED) {
            warn!("{problem}");
        }
        self.told = now;
    }

    fn ledger(&mut self, kind: Kind) -> &mut Ledger {
        &mut self.ledgers[kind as usize]
    }

    /// The policies that an event touches.
    fn take(&mut self, kind: Kind, event: Event<Tree<()>>) -> BTreeSet<Arc<str>> {
        let before = match (&event, kind) {
            (Event::Apply(tree) | Event::InitApply(tree), Kind::Policy) => id(tree),
            _ => None,
        };
        let changes = self.ledger(kind).take(event);
        let mut touched = BTreeSet::new();
        // What of it cannot be read may have changed alone.
        if let Some(id) = before
            && let Some(uid) = self.ledger(kind).uid_of(&id)
        {
            touched.insert(uid.clone());
        }
        if kind == Kind::Policy && !self.listed {
            self.early.extend(changes);
        } else {
            for change in changes {
                touched.extend(self.index.apply(change));
            }
        }
        if !self.listed && self.ledgers.iter().all(Ledger::is_listed) {
            self.listed = true;
            for change in std::mem::take(&mut self.early) {
                self.index.apply(change);
            }
        }
        touched
    }

    fn is_listed(&self) -> bool {
        self.listed
    }

    /// Every policy.
    fn all(&mut self) -> BTreeSet<Arc<str>> {
        self.ledger(Kind::Policy).uids().cloned().collect()
    }
}

fn id(tree: &Tree<()>) -> Option<ObjectId> {
    Some(ObjectId::new(
        tree.meta.namespace.as_deref()?,
        tree.meta.name.as_deref()?,
    ))
}

struct Publishing {
    plan: Plan,
    told: Told,
    /// To be told in Events.
    news: Vec<(ObjectId, Arc<str>, Vec<Problem>)>,
}

impl Publishing {
    async fn want(&mut self, cluster: &mut Cluster, touched: BTreeSet<Arc<str>>) {
        for (count, uid) in touched.into_iter().enumerate() {
            if count % STRETCH == STRETCH - 1 {
                yield_now().await;
            }
            let slices = cluster.index.endpoints(&uid);
            let id = slices.as_ref().and_then(|slices| {
                let policy = &slices.first()?.spec.policy_ref;
                Some(ObjectId {
                    namespace: policy.namespace.clone(),
                    name: policy.name.clone(),
                })
            });
            let unresolved = cluster.index.problems_of(&uid);
            let mut problems: Vec<&Problem> = unresolved.iter().collect();
            if let Some(id) = &id {
                problems.extend(cluster.ledgers[Kind::Policy as usize].problems_of(id));
            }
            self.plan.want(&uid, slices, &problems);
            let Some(id) = id else {
                self.told.news(&uid, &[], true);
                continue;
            };
            if self.plan.is_open() {
                let news = self.told.news(&uid, &problems, false);
                if !news.is_empty() {
                    self.news.push((id, uid, news));
                }
            }
        }
    }

    /// What there was when the lists were complete, but for what another leader has told already.
    fn announce(&mut self, cluster: &Cluster) {
        let policies = &cluster.ledgers[Kind::Policy as usize];
        for (id, uid) in policies.ids() {
            let unresolved = cluster.index.problems_of(uid);
            let problems: Vec<&Problem> = unresolved.iter().chain(policies.problems_of(id)).collect();
            let silent = self.plan.is_told(uid, &problems);
            let news = self.told.news(uid, &problems, silent);
            if !news.is_empty() {
                self.news.push((id.clone(), uid.clone(), news));
            }
        }
    }

    fn count(&self, metrics: &Metrics) {
        let count = self.plan.policies_with_problems();
        metrics
            .policies_with_problems
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

//! What the API server says to one node: its pods, and the PolicyEndpoints of their namespaces, as changes of what is to be
//! enforced.
//!
//! Pods are watched by `spec.nodeName`; PolicyEndpoints by a watch for each namespace that has a live pod here. A pod is
//! handed over only when all policies of its namespace have been seen: until then it is better unknown than open.
//! A server that does not answer, a list that breaks off, an object that cannot be read change nothing that is in force.

mod endpoint;
mod follow;
mod mirror;
mod names;
mod pod;
mod raw;
mod sets;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info};

use self::endpoint::Endpoint;
use self::follow::Failure;
use self::mirror::{Difference, Mirror};
use self::names::{Names, Selected};
use self::pod::LocalPod;
use self::raw::Raw;
use self::sets::Sets;
use crate::api::PolicyEndpoint;
use crate::model::{Pod, Problem};

/// How long a namespace is watched after its last pod here has gone: pods often come back.
const LINGER: Duration = Duration::from_secs(60);
/// PolicyEndpoints that one answer of a list holds. As trees they take some 300 KB each, when they have 200 entries.
const PAGE: u32 = 50;
/// Events taken at once. What is there is taken together; nothing is waited for.
const AT_ONCE: usize = 4096;

/// What is to be enforced from now on, as far as it differs.
#[derive(Debug, Default, PartialEq)]
pub struct Update {
    /// By policy. `None`: gone.
    pub endpoints: BTreeMap<Arc<str>, Option<Vec<Arc<PolicyEndpoint>>>>,
    /// By the API server's UID. `None`: gone.
    pub pods: BTreeMap<Arc<str>, Option<Pod>>,
    /// The objects that made it so, for the log.
    pub objects: Vec<String>,
    /// Whose addresses objects tell, by their namespaces and names; for people, so no news. None: nobody's any more.
    pub names: BTreeMap<Arc<str>, Selected>,
}

impl Update {
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.pods.is_empty()
    }
}

/// How the watches are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Failures since the start.
    pub errors: u64,
    pub watches: usize,
    /// Those that do not work at the moment.
    pub failing: usize,
}

/// Where an event comes from. The number tells a namespace's watch from an earlier one of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Pods,
    Namespace(Arc<str>, u64),
}

type Message = (From, Result<Event<Raw>, Failure>);

/// What this node watches.
pub struct Local {
    client: Client,
    events: SelectAll<BoxStream<'static, Message>>,
    inbox: Vec<Message>,
    pods: Mirror<LocalPod>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Watches begun.
    begun: u64,
    /// The pods that have been handed over.
    handed: BTreeMap<Arc<str>, Pod>,
    failing: BTreeMap<From, Failure>,
    errors: u64,
    synced: bool,
}

struct Namespace {
    number: u64,
    endpoints: Mirror<Endpoint>,
    names: Names,
    sets: Sets,
    /// Listed, and each policy of the first list counts: its pods may be handed over.
    settled: bool,
    /// Since when it has no pod here.
    idle: Option<Instant>,
    _watch: DropGuard,
}

impl Local {
    /// Begins to watch the pods of `node`; nothing is sent before [`changed`](Self::changed).
    pub fn new(client: Client, node: &str) -> Self {
        let api: Api<Raw> = Api::all_with(client.clone(), &ApiResource::erase::<ApiPod>(&()));
        let fields = format!("spec.nodeName={node}");
        let mut events = SelectAll::new();
        let pods =
            follow::follow(api, watcher::Config::default().fields(&fields)).map(|event| (From::Pods, event));
        events.push(pods.boxed());
        Self {
            client,
            events,
            inbox: Vec::new(),
            pods: Mirror::new(),
            namespaces: BTreeMap::new(),
            begun: 0,
            handed: BTreeMap::new(),
            failing: BTreeMap::new(),
            errors: 0,
            synced: false,
        }
    }

    /// Resolves when there is something to [`take`](Self::take). Safe to cancel.
    pub async fn changed(&mut self) {
        let deadline = self.deadline();
        if self.inbox.is_empty() {
            tokio::select! {
                Some(message) = self.events.next() => self.inbox.push(message),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return,
            }
        }
        while self.inbox.len() < AT_ONCE {
            match self.events.next().now_or_never() {
                Some(Some(message)) => self.inbox.push(message),
                Some(None) | None => break,
            }
        }
    }

    /// Takes what has come.
    pub fn take(&mut self) -> Update {
        self.take_at(Instant::now())
    }

    fn take_at(&mut self, now: Instant) -> Update {
        let mut update = Update::default();
        let mut pods_changed = false;
        for (from, event) in std::mem::take(&mut self.inbox) {
            let event = match event {
                Ok(event) => event,
                Err(failure) => {
                    self.fail(from, failure);
                    continue;
                }
            };
            // A list begins whether or not the server answers.
            if !matches!(event, Event::Init) {
                self.failing.remove(&from);
            }
            match from {
                From::Pods => {
                    let was_listed = self.pods.is_listed();
                    let id = |raw: &Raw| format!("{}/{}", raw.namespace(), raw.name()).into();
                    let differences = self.pods.take(event, id, |raw, _| pod::read(raw));
                    pods_changed |= !differences.is_empty() || self.pods.is_listed() != was_listed;
                    update
                        .objects
                        .extend(differences.iter().map(|d| shown("Pod", None, d)));
                }
                From::Namespace(name, number) => {
                    let namespace = self.namespaces.get_mut(&name);
                    let Some(namespace) = namespace.filter(|namespace| namespace.number == number) else {
                        continue;
                    };
                    namespace.names.take(&event, &mut update.names);
                    let differences = namespace.take(event);
                    let kind = "PolicyEndpoint";
                    let shown = differences.iter().map(|d| shown(kind, Some(&name), d));
                    update.objects.extend(shown);
                }
            }
        }
        if pods_changed {
            self.watch_namespaces(now);
        }
        let settled = self.settle(now, &mut update);
        if pods_changed || settled {
            self.hand_over(&mut update);
        }
        if !self.synced && self.is_complete() {
            self.synced = true;
            info!(
                pods = self.handed.len(),
                namespaces = self.namespaces.len(),
                "the API server has told all that concerns this node"
            );
        }
        update
    }

    /// Whether all pods of the node, and all policies of their namespaces, have been seen once. From then on it stays so.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    pub fn health(&self) -> Health {
        Health {
            errors: self.errors,
            watches: self.namespaces.len() + 1,
            failing: self.failing.len(),
        }
    }

    /// What of the objects cannot be enforced as written, and which watches do not work.
    pub fn problems(&self) -> Vec<Problem> {
        let failing = self.failing.iter().map(|(from, failure)| Problem {
            object: match from {
                From::Pods => "watch of the node's Pods".to_string(),
                From::Namespace(name, _) => format!("watch of PolicyEndpoints in {name}"),
            },
            field: String::new(),
            value: String::new(),
            message: format!("{}; what is in force stays", failure.message),
            remedy: failure.remedy.to_string(),
        });
        let endpoints = self.namespaces.values().flat_map(|n| n.endpoints.problems());
        let objects = self.pods.problems().chain(endpoints).cloned();
        failing.chain(objects).collect()
    }

    /// The API server's UID of the pod that kubelet knows by `uid`.
    pub fn uid_of(&self, uid: &str) -> Option<&Arc<str>> {
        let ours = |pod: &&LocalPod| *pod.pod.uid == *uid || pod.static_uid.as_deref() == Some(uid);
        self.pods.objects().find(ours).map(|local| &local.pod.uid)
    }

    /// The first failure of a row is told; the others may differ in words that say nothing new.
    fn fail(&mut self, from: From, failure: Failure) {
        self.errors += 1;
        debug!(?from, ?failure, "a watch has failed");
        self.failing.entry(from).or_insert(failure);
    }

    fn is_complete(&self) -> bool {
        self.pods.is_listed() && self.namespaces.values().all(|n| n.settled || n.idle.is_some())
    }

    /// A watch for each namespace with a live pod; those that have had none for long end.
    fn watch_namespaces(&mut self, now: Instant) {
        let live = self.pods.objects().filter(|local| local.pod.is_live());
        let wanted: std::collections::BTreeSet<Arc<str>> =
            live.map(|local| local.pod.id.namespace.clone()).collect();
        for (name, namespace) in &mut self.namespaces {
            match (wanted.contains(name), namespace.idle) {
                (true, _) => namespace.idle = None,
                (false, None) => namespace.idle = Some(now),
                (false, Some(_)) => {}
            }
        }
        for name in wanted {
            if !self.namespaces.contains_key(&name) {
                self.watch(name);
            }
        }
    }

    fn watch(&mut self, name: Arc<str>) {
        let number = self.begun;
        self.begun += 1;
        let resource = ApiResource::erase::<PolicyEndpoint>(&());
        let api: Api<Raw> = Api::namespaced_with(self.client.clone(), &name, &resource);
        let end = CancellationToken::new();
        let from = From::Namespace(name.clone(), number);
        let events = follow::follow(api, watcher::Config::default().page_size(PAGE))
            .map(move |event| (from.clone(), event))
            .take_until(end.clone().cancelled_owned());
        self.events.push(events.boxed());
        self.namespaces.insert(
            name,
            Namespace {
                number,
                endpoints: Mirror::new(),
                names: Names::default(),
                sets: Sets::default(),
                settled: false,
                idle: None,
                _watch: end.drop_guard(),
            },
        );
    }

    /// Settles what is due. Whether pods may be handed over that could not be before.
    fn settle(&mut self, now: Instant, update: &mut Update) -> bool {
        let over = |namespace: &Namespace| namespace.idle.is_some_and(|since| since + LINGER <= now);
        let ended: Vec<Arc<str>> = (self.namespaces.iter())
            .filter(|(_, namespace)| over(namespace))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            if let Some(namespace) = self.namespaces.remove(&name) {
                self.failing.remove(&From::Namespace(name, namespace.number));
                let gone = namespace.sets.in_force().map(|key| (key.clone(), None));
                update.endpoints.extend(gone);
                namespace.names.end(&mut update.names);
            }
        }
        let mut settled = false;
        for namespace in self.namespaces.values_mut() {
            // While the first list is on its way nothing counts, so nothing waits either.
            if !namespace.endpoints.is_listed() {
                continue;
            }
            update.endpoints.extend(namespace.sets.settle(now));
            if !namespace.settled && namespace.sets.is_settled() {
                namespace.settled = true;
                settled = true;
            }
        }
        settled
    }

    /// A pod that is not live needs no policies: its going is told at once.
    fn hand_over(&mut self, update: &mut Update) {
        if !self.pods.is_listed() {
            return;
        }
        let known = |pod: &Pod| {
            let namespace = self.namespaces.get(&pod.id.namespace);
            !pod.is_live() || namespace.is_some_and(|namespace| namespace.settled)
        };
        let mut wanted = BTreeMap::new();
        for LocalPod { pod, .. } in self.pods.objects() {
            if known(pod) {
                wanted.insert(pod.uid.clone(), pod.clone());
            }
        }
        for (uid, pod) in &wanted {
            if self.handed.get(uid) != Some(pod) {
                update.pods.insert(uid.clone(), Some(pod.clone()));
            }
        }
        for uid in self.handed.keys() {
            if !wanted.contains_key(uid) {
                update.pods.insert(uid.clone(), None);
            }
        }
        self.handed = wanted;
    }

    fn deadline(&self) -> Option<Instant> {
        let sets = self.namespaces.values().filter_map(|n| n.sets.deadline());
        let idle = self.namespaces.values().filter_map(|n| Some(n.idle? + LINGER));
        sets.chain(idle).min()
    }
}

impl Namespace {
    fn take(&mut self, event: Event<Raw>) -> Vec<Difference<Endpoint>> {
        let name = |raw: &Raw| raw.name().into();
        let differences = self.endpoints.take(event, name, endpoint::read);
        for difference in &differences {
            match &difference.now {
                Some(Endpoint { policy, object }) => {
                    self.sets.put(&difference.name, policy, object.clone());
                }
                None => self.sets.remove(&difference.name),
            }
        }
        differences
    }
}

fn shown<T>(kind: &str, namespace: Option<&str>, difference: &Difference<T>) -> String {
    let namespace = namespace.map(|name| format!("{name}/")).unwrap_or_default();
    let gone = if difference.now.is_some() { "" } else { " gone" };
    format!("{kind} {namespace}{}{gone}", difference.name)
}

#[cfg(test)]
mod tests;

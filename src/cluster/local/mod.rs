//! What the API server says to one node: its pods, and the PolicyEndpoints of their namespaces, as changes of what is to be
//! enforced.
//!
//! Pods are watched by `spec.nodeName`; PolicyEndpoints by a watch for each namespace that has a live pod here. A pod is
//! handed over only when all policies of its namespace have been seen: until then it is better unknown than open.
//! A server that does not answer, a list that breaks off, an object that cannot be read change nothing that is in force.
//! Where the PolicyEndpoints of a policy are gone, it stays in force until its NetworkPolicy is gone too ([`orphans`]).

mod endpoint;
mod follow;
mod mirror;
mod names;
mod orphans;
mod pod;
mod raw;
mod sets;

use std::collections::{BTreeMap, BTreeSet};
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
    /// Which NetworkPolicies there are.
    Policies(Arc<str>, u64),
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events, and none stays")]
enum Said {
    Event(Event<Raw>),
    /// It works again, and has no news.
    Works,
    /// The keys of all policies of a namespace.
    Policies(BTreeSet<Arc<str>>),
}

impl Said {
    fn of(event: Option<Event<Raw>>) -> Self {
        event.map_or(Self::Works, Self::Event)
    }
}

type Message = (From, Result<Said, Failure>);

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
    asked: Option<Asked>,
    _watch: DropGuard,
}

/// While policies of a namespace have lost their PolicyEndpoints: are they gone?
struct Asked {
    number: u64,
    of: BTreeSet<Arc<str>>,
    /// Those that are not, by the last answer.
    there: BTreeSet<Arc<str>>,
    _ask: DropGuard,
}

impl Local {
    /// Begins to watch the pods of `node`; nothing is sent before [`changed`](Self::changed).
    pub fn new(client: Client, node: &str) -> Self {
        let api: Api<Raw> = Api::all_with(client.clone(), &ApiResource::erase::<ApiPod>(&()));
        let fields = format!("spec.nodeName={node}");
        let mut events = SelectAll::new();
        let pods = follow::follow(api, watcher::Config::default().fields(&fields))
            .map(|event| (From::Pods, event.map(Said::of)));
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
        for (from, said) in std::mem::take(&mut self.inbox) {
            let said = match said {
                Ok(said) => said,
                Err(failure) => {
                    self.fail(from, failure);
                    continue;
                }
            };
            // A list begins whether or not the server answers.
            if !matches!(said, Said::Event(Event::Init)) {
                self.failing.remove(&from);
            }
            match (from, said) {
                (From::Pods, Said::Event(event)) => {
                    let was_listed = self.pods.is_listed();
                    let id = |raw: &Raw| format!("{}/{}", raw.namespace(), raw.name()).into();
                    let differences = self.pods.take(event, id, |raw, _| pod::read(raw));
                    pods_changed |= !differences.is_empty() || self.pods.is_listed() != was_listed;
                    update
                        .objects
                        .extend(differences.iter().map(|d| shown("Pod", None, d)));
                }
                (From::Namespace(name, number), Said::Event(event)) => {
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
                (From::Policies(name, number), Said::Policies(there)) => {
                    if let Some(namespace) = self.namespaces.get_mut(&name) {
                        namespace.end_what_is_gone(number, &there, &mut update);
                    }
                }
                // Each stream says its own.
                _ => {}
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
                From::Policies(name, _) => format!("list of NetworkPolicies in {name}"),
            },
            field: String::new(),
            value: String::new(),
            message: format!("{}; what is in force stays", failure.message),
            remedy: failure.remedy.to_string(),
        });
        let endpoints = self.namespaces.values().flat_map(|n| n.endpoints.problems());
        let objects = self.pods.problems().chain(endpoints).cloned();
        let orphans = self.namespaces.values().flat_map(Namespace::orphans);
        failing.chain(orphans).chain(objects).collect()
    }

    /// The API server's UID of the pod that kubelet knows by `uid`.
    pub fn uid_of(&self, uid: &str) -> Option<&Arc<str>> {
        let ours = |pod: &&LocalPod| *pod.pod.uid == *uid || pod.static_uid.as_deref() == Some(uid);
        self.pods.objects().find(ours).map(|local| &local.pod.uid)
    }

    /// The first failure of a row is told, and those that want another remedy than the one before; others may differ in words
    /// that say nothing new.
    fn fail(&mut self, from: From, failure: Failure) {
        self.errors += 1;
        debug!(?from, ?failure, "a watch has failed");
        let told = self.failing.entry(from).or_insert_with(|| failure.clone());
        if told.remedy != failure.remedy {
            *told = failure;
        }
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
            .map(move |event| (from.clone(), event.map(Said::of)))
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
                asked: None,
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
                let gone = namespace.sets.in_force().map(|key| (key.clone(), None));
                update.endpoints.extend(gone);
                if let Some(asked) = &namespace.asked {
                    self.failing.remove(&From::Policies(name.clone(), asked.number));
                }
                self.failing.remove(&From::Namespace(name, namespace.number));
                namespace.names.end(&mut update.names);
            }
        }
        let mut settled = false;
        for namespace in self.namespaces.values_mut() {
            // While the first list is on its way nothing counts, so nothing waits either.
            if !namespace.endpoints.is_listed() {
                continue;
            }
            let changed = namespace.sets.settle(now).into_iter();
            update
                .endpoints
                .extend(changed.map(|(key, objects)| (key, Some(objects))));
            if !namespace.settled && namespace.sets.is_settled() {
                namespace.settled = true;
                settled = true;
            }
        }
        self.ask_for_orphans();
        settled
    }

    /// In each namespace where policies have lost their PolicyEndpoints; anew when more of them have.
    fn ask_for_orphans(&mut self) {
        for (name, namespace) in &mut self.namespaces {
            let orphans = namespace.sets.orphans();
            if let Some(asked) = &mut namespace.asked {
                if !orphans.is_empty() && orphans.is_subset(&asked.of) {
                    asked.of.retain(|key| orphans.contains(key));
                    asked.there.retain(|key| orphans.contains(key));
                    continue;
                }
                self.failing.remove(&From::Policies(name.clone(), asked.number));
                namespace.asked = None;
            }
            if orphans.is_empty() {
                continue;
            }
            let number = self.begun;
            self.begun += 1;
            let from = From::Policies(name.clone(), number);
            let end = CancellationToken::new();
            let answers = orphans::ask(self.client.clone(), name)
                .map(move |there| (from.clone(), there.map(Said::Policies)))
                .take_until(end.clone().cancelled_owned());
            self.events.push(answers.boxed());
            namespace.asked = Some(Asked {
                number,
                of: orphans.clone(),
                there: BTreeSet::new(),
                _ask: end.drop_guard(),
            });
        }
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

    /// `there`: the keys of all policies there are, as the ask of that number was answered.
    fn end_what_is_gone(&mut self, number: u64, there: &BTreeSet<Arc<str>>, update: &mut Update) {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.number == number) else {
            return;
        };
        let (stay, gone): (BTreeSet<_>, BTreeSet<_>) =
            (self.sets.orphans().iter().cloned()).partition(|key| there.contains(key));
        asked.there = stay;
        for key in gone {
            let Some(objects) = self.sets.end(&key) else {
                continue;
            };
            update.objects.extend(objects.iter().map(|object| {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
                format!("PolicyEndpoint {namespace}/{name} gone")
            }));
            update.endpoints.insert(key, None);
        }
    }

    fn orphans(&self) -> impl Iterator<Item = Problem> {
        let there = self.asked.iter().flat_map(|asked| &asked.there);
        there.filter_map(|key| {
            let policy = &self.sets.objects_in_force(key).first()?.spec.policy_ref;
            Some(Problem {
                object: format!("NetworkPolicy {}/{}", policy.namespace, policy.name),
                field: String::new(),
                value: String::new(),
                message: "is there, but its PolicyEndpoints are gone; what is in force stays".into(),
                remedy: "let a controller publish them: see which instance leads, and apply the CustomResourceDefinitions (palisade crds)".into(),
            })
        })
    }
}

fn shown<T>(kind: &str, namespace: Option<&str>, difference: &Difference<T>) -> String {
    let namespace = namespace.map(|name| format!("{name}/")).unwrap_or_default();
    let gone = if difference.now.is_some() { "" } else { " gone" };
    format!("{kind} {namespace}{}{gone}", difference.name)
}

#[cfg(test)]
mod tests;

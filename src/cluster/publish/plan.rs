//! What is wanted of each policy, what the API server has, and so what is to be written next. Pure.
//!
//! A policy is worked on as a whole and by one job at a time: its slices are written, and only when all of them are there
//! those are deleted that it has no more. A change meanwhile makes for another job right after.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::watcher::Event;

use super::endpoint::{Endpoint, Told};
use crate::api::PolicyEndpoint;
use crate::cluster::backoff::Backoff;
use crate::model::{ObjectId, Problem};

/// How long what failed waits: first, and at most.
const RETRIES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// Bytes of a condition's message, of the 32 KiB that the API allows.
const LONGEST_MESSAGE: usize = 4096;

#[derive(Default)]
pub struct Plan {
    objects: HashMap<ObjectId, Object>,
    /// By UID; also those that are gone while objects of theirs are left.
    policies: HashMap<Arc<str>, Policy>,
    queue: VecDeque<Arc<str>>,
    waiting: BTreeSet<(Instant, Arc<str>)>,
    /// What a list that is under way has named.
    listing: Option<HashSet<ObjectId>>,
    open: bool,
}

struct Object {
    policy: Arc<str>,
    wanted: Option<Arc<PolicyEndpoint>>,
    seen: Option<Seen>,
    /// The API server did not keep what was written: to write it again would change nothing.
    refused: bool,
}

struct Seen {
    uid: String,
    version: String,
    same: bool,
    told: Option<Told>,
}

struct Policy {
    objects: BTreeSet<ObjectId>,
    /// The slice that bears the condition.
    first: Option<ObjectId>,
    told: Option<Told>,
    queued: bool,
    busy: bool,
    waits_until: Option<Instant>,
    retries: Backoff,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            objects: BTreeSet::new(),
            first: None,
            told: None,
            queued: false,
            busy: false,
            waits_until: None,
            retries: RETRIES,
        }
    }
}

/// All that is to be done for one policy now.
#[derive(Debug)]
pub struct Job {
    pub policy: Arc<str>,
    pub writes: Vec<Write>,
    /// Only if all writes have been taken.
    pub deletions: Vec<Deletion>,
    /// Last.
    pub condition: Option<(ObjectId, Told)>,
}

#[derive(Debug)]
pub struct Write {
    pub id: ObjectId,
    pub object: Arc<PolicyEndpoint>,
    /// The version that it replaces; `None`: there is none that is known.
    pub version: Option<String>,
}

#[derive(Debug)]
pub struct Deletion {
    pub id: ObjectId,
    pub uid: String,
    pub version: String,
}

/// What became of a job.
#[derive(Debug, Default)]
pub struct Outcome {
    /// As the API server has them after what was written, or after a look at what stood in the way.
    pub found: Vec<(Endpoint, Option<Arc<PolicyEndpoint>>)>,
    pub deleted: Vec<ObjectId>,
    pub failed: bool,
}

impl Plan {
    /// From now on the policy is to have these slices, in order; `None`: it is gone.
    pub fn want(&mut self, uid: &Arc<str>, slices: Option<Vec<Arc<PolicyEndpoint>>>, problems: &[&Problem]) {
        let slices: Vec<_> = (slices.into_iter().flatten())
            .filter_map(|slice| Some((id(&slice)?, slice)))
            .collect();
        let policy = self.policies.entry(uid.clone()).or_default();
        policy.first = slices.first().map(|(id, _)| id.clone());
        policy.told = told(problems);
        let names: HashSet<&ObjectId> = slices.iter().map(|(id, _)| id).collect();
        for id in policy.objects.iter().filter(|id| !names.contains(id)) {
            if let Some(object) = self.objects.get_mut(id) {
                object.wanted = None;
            }
        }
        for (id, slice) in slices {
            policy.objects.insert(id.clone());
            let object = self.objects.entry(id).or_insert_with(|| Object {
                policy: uid.clone(),
                wanted: None,
                seen: None,
                refused: false,
            });
            object.policy = uid.clone();
            let known = (object.wanted.as_ref())
                .is_some_and(|before| Arc::ptr_eq(before, &slice) || **before == *slice);
            if !known {
                object.refused = false;
                if let Some(seen) = &mut object.seen {
                    seen.same = false;
                }
            }
            object.wanted = Some(slice);
        }
        policy.objects.retain(|id| {
            let object = self.objects.get(id);
            let needed = object.is_some_and(|o| o.policy == *uid && (o.wanted.is_some() || o.seen.is_some()));
            if !needed && object.is_some_and(|object| object.policy == *uid) {
                self.objects.remove(id);
            }
            needed
        });
        self.wait_no_longer(uid);
        self.touch(uid);
    }

    /// What the watch of PolicyEndpoints tells.
    pub fn see(&mut self, event: Event<Endpoint>) {
        match event {
            Event::Init => self.listing = Some(HashSet::new()),
            Event::InitApply(endpoint) => {
                if let Some(listing) = &mut self.listing {
                    listing.insert(endpoint.id.clone());
                }
                self.put(&endpoint);
            }
            Event::Apply(endpoint) => self.put(&endpoint),
            Event::Delete(endpoint) => {
                let seen = self
                    .objects
                    .get(&endpoint.id)
                    .and_then(|object| object.seen.as_ref());
                if seen.is_some_and(|seen| seen.uid == endpoint.uid) {
                    self.forget(&endpoint.id);
                }
            }
            Event::InitDone => {
                let listing = self.listing.take().unwrap_or_default();
                let seen = self.objects.iter().filter(|(_, object)| object.seen.is_some());
                let gone = seen.map(|(id, _)| id).filter(|id| !listing.contains(*id));
                for id in gone.cloned().collect::<Vec<_>>() {
                    self.forget(&id);
                }
                // The server answers, and serves the kind: what has failed need wait no longer.
                for (_, uid) in self.waiting.clone() {
                    self.wait_no_longer(&uid);
                    self.touch(&uid);
                }
                self.open = true;
            }
        }
    }

    /// What is next, where anything is. What the API server has must be known first.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        while let Some((_, uid)) = self.waiting.first().filter(|(at, _)| *at <= now).cloned() {
            self.wait_no_longer(&uid);
            self.touch(&uid);
        }
        while self.open {
            let uid = self.queue.pop_front()?;
            if let Some(policy) = self.policies.get_mut(&uid) {
                policy.queued = false;
            }
            if let Some(job) = self.job(&uid) {
                if let Some(policy) = self.policies.get_mut(&uid) {
                    policy.busy = true;
                }
                return Some(job);
            }
            self.drop_if_empty(&uid);
        }
        None
    }

    /// Whether it is known what the API server has.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// When something that failed is to be tried again.
    pub fn wakes(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at).filter(|_| self.open)
    }

    pub fn policies_with_problems(&self) -> usize {
        self.policies
            .values()
            .filter(|policy| policy.told.is_some())
            .count()
    }

    /// Whether the policy's condition, as the API server has it, says this already.
    pub fn is_told(&self, uid: &str, problems: &[&Problem]) -> bool {
        let first = self.policies.get(uid).and_then(|policy| policy.first.as_ref());
        let seen = first.and_then(|id| self.objects.get(id)?.seen.as_ref());
        seen.and_then(|seen| seen.told.clone()) == told(problems)
    }

    pub fn done(&mut self, uid: &Arc<str>, outcome: Outcome, now: Instant) {
        let Outcome {
            found,
            deleted,
            failed,
        } = outcome;
        for id in deleted {
            if let Some(object) = self.objects.get_mut(&id) {
                object.seen = None;
            }
            self.forget(&id);
        }
        for (endpoint, written) in found {
            self.put(&endpoint);
            if let Some(written) = written
                && let Some(object) = self.objects.get_mut(&endpoint.id)
                && object
                    .wanted
                    .as_ref()
                    .is_some_and(|wanted| Arc::ptr_eq(wanted, &written))
            {
                object.refused = !endpoint.is(&written);
            }
        }
        let Some(policy) = self.policies.get_mut(uid) else {
            return;
        };
        policy.busy = false;
        if failed {
            let at = now + policy.retries.next();
            policy.waits_until = Some(at);
            self.waiting.insert((at, uid.clone()));
        } else {
            policy.retries = RETRIES;
            self.touch(uid);
        }
    }

    fn put(&mut self, endpoint: &Endpoint) {
        let Some(object) = self.objects.get_mut(&endpoint.id) else {
            // Nobody wants it. What somebody else wrote is none of ours.
            if let (true, Some(uid)) = (endpoint.ours, &endpoint.policy) {
                self.objects.insert(
                    endpoint.id.clone(),
                    Object {
                        policy: uid.clone(),
                        wanted: None,
                        seen: Some(seen(endpoint, false)),
                        refused: false,
                    },
                );
                let policy = self.policies.entry(uid.clone()).or_default();
                policy.objects.insert(endpoint.id.clone());
                self.touch(&uid.clone());
            }
            return;
        };
        if let Some(before) = &object.seen
            && before.uid == endpoint.uid
            && !is_later(&endpoint.version, &before.version)
        {
            return;
        }
        let same = object.wanted.as_ref().is_some_and(|wanted| endpoint.is(wanted));
        object.seen = Some(seen(endpoint, same));
        object.refused = false;
        let uid = object.policy.clone();
        self.touch(&uid);
    }

    /// The API server no longer has it.
    fn forget(&mut self, id: &ObjectId) {
        let Some(object) = self.objects.get_mut(id) else {
            return;
        };
        object.seen = None;
        object.refused = false;
        let uid = object.policy.clone();
        if object.wanted.is_none() {
            self.objects.remove(id);
            if let Some(policy) = self.policies.get_mut(&uid) {
                policy.objects.remove(id);
            }
        }
        self.touch(&uid);
    }

    fn touch(&mut self, uid: &Arc<str>) {
        let Some(policy) = self.policies.get_mut(uid) else {
            return;
        };
        if !policy.queued && !policy.busy && policy.waits_until.is_none() {
            policy.queued = true;
            self.queue.push_back(uid.clone());
        }
    }

    fn wait_no_longer(&mut self, uid: &Arc<str>) {
        if let Some(at) = (self.policies.get_mut(uid)).and_then(|policy| policy.waits_until.take()) {
            self.waiting.remove(&(at, uid.clone()));
        }
    }

    fn drop_if_empty(&mut self, uid: &Arc<str>) {
        let idle = |policy: &Policy| policy.objects.is_empty() && !policy.busy && !policy.queued;
        if self.policies.get(uid).is_some_and(idle) {
            self.wait_no_longer(uid);
            self.policies.remove(uid);
        }
    }

    fn job(&self, uid: &Arc<str>) -> Option<Job> {
        let policy = self.policies.get(uid)?;
        let mut job = Job {
            policy: uid.clone(),
            writes: Vec::new(),
            deletions: Vec::new(),
            condition: None,
        };
        for id in &policy.objects {
            let Some(object) = self.objects.get(id) else {
                continue;
            };
            match (&object.wanted, &object.seen) {
                (Some(_), Some(seen)) if seen.same || object.refused => {}
                (Some(wanted), seen) => job.writes.push(Write {
                    id: id.clone(),
                    object: wanted.clone(),
                    version: seen.as_ref().map(|seen| seen.version.clone()),
                }),
                (None, Some(seen)) => job.deletions.push(Deletion {
                    id: id.clone(),
                    uid: seen.uid.clone(),
                    version: seen.version.clone(),
                }),
                (None, None) => {}
            }
        }
        if let Some(first) = &policy.first {
            let seen = self.objects.get(first).and_then(|object| object.seen.as_ref());
            let seen = seen.and_then(|seen| seen.told.clone());
            let says = seen.filter(|told| !told.resolved);
            if says != policy.told {
                let resolved = Told {
                    resolved: true,
                    message: String::new(),
                };
                job.condition = Some((first.clone(), policy.told.clone().unwrap_or(resolved)));
            }
        }
        let idle = job.writes.is_empty() && job.deletions.is_empty() && job.condition.is_none();
        (!idle).then_some(job)
    }
}

fn id(object: &PolicyEndpoint) -> Option<ObjectId> {
    let metadata = &object.metadata;
    Some(ObjectId::new(
        metadata.namespace.as_deref()?,
        metadata.name.as_deref()?,
    ))
}

fn seen(endpoint: &Endpoint, same: bool) -> Seen {
    Seen {
        uid: endpoint.uid.clone(),
        version: endpoint.version.clone(),
        same,
        told: endpoint.told.clone(),
    }
}

/// A watch may tell of a version after the answer to a later write is here.
fn is_later(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

fn told(problems: &[&Problem]) -> Option<Told> {
    if problems.is_empty() {
        return None;
    }
    let mut message = String::new();
    for (told, problem) in problems.iter().enumerate() {
        let line = if problem.field.is_empty() {
            format!("{}; {}", problem.message, problem.remedy)
        } else {
            let Problem {
                field,
                value,
                message,
                remedy,
                ..
            } = problem;
            format!("{field} = {value}: {message}; {remedy}")
        };
        if message.len() + line.len() > LONGEST_MESSAGE {
            message.push_str(&format!("\nand {} more", problems.len() - told));
            break;
        }
        if told > 0 {
            message.push('\n');
        }
        message.push_str(&line);
    }
    Some(Told {
        resolved: false,
        message,
    })
}

#[cfg(test)]
mod tests;

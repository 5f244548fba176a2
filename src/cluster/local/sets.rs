//! When the objects of one policy count: the rule of complete sets. Pure but for the time, which the caller tells.
//!
//! A policy's endpoints may be spread over several objects ([`Slice`](crate::api::Slice)), which come one by one.
//! - A new policy counts once all its slices are there, or after [`PATIENCE`] with those that are: its pods are isolated,
//!   and what the missing slices would allow is denied.
//! - A policy in force whose slices are not a whole for a moment (one is split in two, the pod selector of one is already
//!   the new one) stays as it was until they are, or until [`PATIENCE`] has passed.
//! - A policy in force of which only a part was there follows each change at once: nothing whole is at stake.
//! - Objects that do not say which slice they are (of other publishers) are a whole whatever they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::{PolicyEndpoint, PolicyEndpointSpec};

/// How long a set may be incomplete before what is there counts.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The objects of one policy; `None`: the policy is gone.
pub type Verdict = Option<Vec<Arc<PolicyEndpoint>>>;

/// The policies of one namespace, by key.
#[derive(Debug, Default)]
pub struct Sets {
    policies: BTreeMap<Arc<str>, Set>,
    /// Objects by name → the policy that they belong to.
    owners: BTreeMap<Arc<str>, Arc<str>>,
    touched: BTreeSet<Arc<str>>,
    waiting: BTreeMap<Arc<str>, Instant>,
}

#[derive(Debug, Default)]
struct Set {
    objects: BTreeMap<Arc<str>, Arc<PolicyEndpoint>>,
    in_force: Option<InForce>,
}

#[derive(Debug)]
struct InForce {
    objects: Vec<Arc<PolicyEndpoint>>,
    whole: bool,
}

impl Sets {
    /// The object `name` is there, or is another one now. It belongs to the policy `key`.
    pub fn put(&mut self, name: &Arc<str>, key: &Arc<str>, object: Arc<PolicyEndpoint>) {
        if self.owners.get(name).is_some_and(|owner| owner != key) {
            self.remove(name);
        }
        self.owners.insert(name.clone(), key.clone());
        let set = self.policies.entry(key.clone()).or_default();
        set.objects.insert(name.clone(), object);
        self.touched.insert(key.clone());
    }

    pub fn remove(&mut self, name: &Arc<str>) {
        let Some(key) = self.owners.remove(name) else {
            return;
        };
        if let Some(set) = self.policies.get_mut(&key) {
            set.objects.remove(name);
        }
        self.touched.insert(key);
    }

    /// What counts from now on, for each policy for which that is something else than before.
    pub fn settle(&mut self, now: Instant) -> Vec<(Arc<str>, Verdict)> {
        let mut keys = std::mem::take(&mut self.touched);
        let due = self.waiting.iter().filter(|(_, until)| **until <= now);
        keys.extend(due.map(|(key, _)| key.clone()));
        let mut changed = Vec::new();
        for key in keys {
            let Some(set) = self.policies.get_mut(&key) else {
                continue;
            };
            if set.objects.is_empty() {
                let set = self.policies.remove(&key);
                self.waiting.remove(&key);
                if set.is_some_and(|set| set.in_force.is_some()) {
                    changed.push((key, None));
                }
                continue;
            }
            let whole = is_whole(set.objects.values().map(|object| &object.spec));
            let at_stake = set.in_force.as_ref().is_none_or(|in_force| in_force.whole);
            if !whole && at_stake {
                let until = *self.waiting.entry(key.clone()).or_insert(now + PATIENCE);
                if now < until {
                    continue;
                }
            }
            self.waiting.remove(&key);
            let objects: Vec<_> = set.objects.values().cloned().collect();
            let before = set.in_force.replace(InForce {
                objects: objects.clone(),
                whole,
            });
            if before.is_none_or(|before| before.objects != objects) {
                changed.push((key, Some(objects)));
            }
        }
        changed
    }

    /// When to [`settle`](Self::settle) though nothing has come.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// Whether every policy that is there counts already.
    pub fn is_settled(&self) -> bool {
        self.policies.values().all(|set| set.in_force.is_some())
    }

    /// The policies that count.
    pub fn in_force(&self) -> impl Iterator<Item = &Arc<str>> {
        let in_force = self.policies.iter().filter(|(_, set)| set.in_force.is_some());
        in_force.map(|(key, _)| key)
    }
}

/// Whether the slices among the objects cover everything, nothing twice, and agree on whom they isolate.
fn is_whole<'s>(specs: impl Iterator<Item = &'s PolicyEndpointSpec>) -> bool {
    const ALL: u64 = 1 << 32;
    let head = |spec: &'s PolicyEndpointSpec| {
        (
            &spec.policy_ref,
            &spec.pod_selector,
            &spec.pod_isolation,
            spec.enforcement,
        )
    };
    let mut slices = BTreeSet::new();
    let mut first = None;
    for spec in specs {
        let Some(slice) = spec.slice else { continue };
        if *first.get_or_insert(head(spec)) != head(spec) {
            return false;
        }
        let size = ALL / u64::from(slice.count.max(1));
        slices.insert((u64::from(slice.index) * size, size));
    }
    let mut covered = 0;
    for (start, size) in &slices {
        if *start != covered {
            return false;
        }
        covered += size;
    }
    slices.is_empty() || covered == ALL
}

#[cfg(test)]
mod tests;

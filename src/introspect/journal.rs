//! The last records, and their readers. Written by the recorder alone; read by whoever asks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use super::answer::Refusal;
use super::book::{AddressBook, Known};
use super::filter::Filter;
use super::flow::{End, Loser, Record};
use crate::model::ObjectId;

/// Records that a reader may be behind; what is older is lost to it.
const BEHIND: usize = 1024;
/// Names that an error lists.
const SUGGESTED: usize = 5;

/// What is held, and whose addresses they are. Its lock is never taken by what changes policies.
#[derive(Debug)]
pub(super) struct Journal {
    held: Mutex<Held>,
    capacity: usize,
    new: broadcast::Sender<Arc<Record>>,
}

#[derive(Debug, Default)]
struct Held {
    records: VecDeque<Arc<Record>>,
    /// By the kernel, by the agent.
    lost: [u64; 2],
    book: AddressBook,
}

impl Journal {
    /// With room for so many records.
    pub fn new(capacity: usize) -> Self {
        Self {
            held: Mutex::default(),
            capacity,
            new: broadcast::Sender::new(BEHIND),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, record: Record) {
        let record = Arc::new(record);
        let mut held = self.lock();
        if let Record::Lost(lost) = &*record {
            held.lost[usize::from(lost.by == Loser::Agent)] += lost.lost;
        }
        if held.records.len() >= self.capacity {
            held.records.pop_front();
        }
        if self.capacity > 0 {
            held.records.push_back(record.clone());
        }
        // Under the lock, so that who begins to follow misses none and sees none twice. Nobody may be following.
        let _ = self.new.send(record);
    }

    /// Records held; and packets lost by the kernel, and by the agent.
    pub fn counts(&self) -> (usize, [u64; 2]) {
        let held = self.lock();
        (held.records.len(), held.lost)
    }

    pub fn learn(&self, known: Known) {
        self.lock().book.learn(known);
    }

    /// Puts names to addresses.
    pub fn name(&self, ends: [&mut Option<End>; 2]) {
        let held = self.lock();
        for end in ends.into_iter().flatten() {
            end.pod = held.book.pod(end.address).cloned();
            end.service = held.book.service(end.address).cloned();
        }
    }

    /// Of those held, the last `last` flows that fit, with the losses between them, oldest first; and those that come from
    /// then on.
    pub fn read(&self, filter: &Filter, last: usize) -> (Vec<Arc<Record>>, broadcast::Receiver<Arc<Record>>) {
        let (records, new) = {
            let held = self.lock();
            (
                held.records.iter().cloned().collect::<Vec<_>>(),
                self.new.subscribe(),
            )
        };
        let mut found = Vec::new();
        let mut flows = 0;
        for record in records.into_iter().rev().filter(|record| filter.takes(record)) {
            if flows == last {
                break;
            }
            flows += usize::from(matches!(*record, Record::Flow(_)));
            found.push(record);
        }
        found.reverse();
        (found, new)
    }

    /// Those that come.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Record>> {
        self.new.subscribe()
    }

    /// # Errors
    /// The filter names a pod, namespace or policy that no record, and nothing known here, has. `policies`: those in force.
    pub fn check<'p>(
        &self,
        filter: &Filter,
        policies: impl Iterator<Item = &'p ObjectId>,
    ) -> Result<(), Refusal> {
        let held = self.lock();
        let only = |part: Filter| held.records.iter().any(|record| part.is_in(record));
        if let Some(pod) = &filter.pod {
            let part = Filter {
                pod: Some(pod.clone()),
                ..Filter::default()
            };
            if !held.book.pod_names().into_iter().any(|id| pod.is(id)) && !only(part) {
                return Err(unknown("pod", pod, held.book.pod_names().into_iter()));
            }
        }
        if let Some(namespace) = &filter.namespace {
            let part = Filter {
                namespace: Some(namespace.clone()),
                ..Filter::default()
            };
            let namespaces = held.book.namespaces();
            if !namespaces.contains(namespace) && !only(part) {
                return Err(unknown("namespace", namespace, namespaces.into_iter()));
            }
        }
        if let Some(policy) = &filter.policy {
            let part = Filter {
                policy: Some(policy.clone()),
                ..Filter::default()
            };
            let policies: Vec<&ObjectId> = policies.collect();
            if !policies.iter().any(|id| policy.is(id)) && !only(part) {
                return Err(unknown("policy", policy, policies.into_iter()));
            }
        }
        Ok(())
    }
}

impl Filter {
    fn is_in(&self, record: &Record) -> bool {
        matches!(record, Record::Flow(_)) && self.takes(record)
    }
}

/// What is asked for, and what of that kind there is, the most similar first.
pub(super) fn unknown<T: ToString>(
    kind: &str,
    wanted: &impl ToString,
    known: impl Iterator<Item = T>,
) -> Refusal {
    let wanted = wanted.to_string();
    let bare = |text: &str| match wanted.contains('/') {
        true => text.to_string(),
        false => text.rsplit('/').next().unwrap_or_default().to_string(),
    };
    let mut near: Vec<(usize, String)> = known
        .map(|name| name.to_string())
        .map(|name| (strsim::damerau_levenshtein(&wanted, &bare(&name)), name))
        .collect();
    near.sort();
    let error = format!("this node knows no {kind} {wanted:?}");
    if near.is_empty() {
        return Refusal::missing(error, format!("it knows no {kind} at all"));
    }
    let names: Vec<String> = (near.iter().take(SUGGESTED))
        .map(|(_, name)| name.escape_debug().to_string())
        .collect();
    let rest = match near.len() - names.len() {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    Refusal::missing(error, format!("it knows {}{rest}", names.join(", ")))
}

#[cfg(test)]
mod tests;

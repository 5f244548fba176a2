//! Readiness as tokens: not ready as long as one is held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    names: BTreeMap<u64, &'static str>,
}

/// What must happen before the process is ready. Take all tokens before the server is built: without any it is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Pending>>);

/// Holds readiness back until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it says that what it names is ready"]
pub struct Unready {
    of: Readiness,
    number: u64,
}

impl Readiness {
    /// `name` says to an operator what is waited for, as in `policies applied`.
    pub fn wait_for(&self, name: &'static str) -> Unready {
        let mut pending = self.lock();
        let number = pending.next;
        pending.next += 1;
        pending.names.insert(number, name);
        Unready {
            of: self.clone(),
            number,
        }
    }

    /// Names of what is not ready yet, in the order in which they were asked for. Empty: ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.lock().names.values().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unready {
    fn drop(&mut self) {
        self.of.lock().names.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_token_is_gone_also_those_of_one_name() {
        let readiness = Readiness::default();
        assert_eq!(readiness.pending(), [""; 0]);
        let (pods, maps, more) = (
            readiness.wait_for("pods"),
            readiness.wait_for("maps"),
            readiness.clone().wait_for("pods"),
        );
        assert_eq!(readiness.pending(), ["pods", "maps", "pods"]);
        drop(pods);
        assert_eq!(readiness.pending(), ["maps", "pods"]);
        drop((maps, more));
        assert_eq!(readiness.pending(), [""; 0]);
    }
}

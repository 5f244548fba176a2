//! Operations on the image → writes into the maps.
//!
//! All of a list is staged in the mirror before anything is written, so a list that does not fit is refused whole. Each
//! prefix of a list leaves verdicts old or new (`compile::diff` sees to that), so an error of the kernel half way leaves a
//! state that is no wider; the mirror is then read anew and says what is there.

use std::fmt;
use std::sync::atomic::Ordering;

use super::config::Map;
use super::kernel::Kernel;
use super::mirror::Mirror;
use super::stage::{Peaks, Stage, Staged, leaves};
use super::steps::{Written, grace};
use crate::compile::Op;

/// What a list of operations took.
pub type Applied = Written;

/// Why a list of operations was not applied.
#[derive(Debug)]
pub enum ApplyError {
    /// A map is too small. Nothing was written.
    Full {
        map: Map,
        capacity: u32,
        /// Entries that it would have had to hold.
        needed: u32,
    },
    /// An operation names what is not there, or a port table has too many intervals. Nothing was written.
    Refused(String),
    /// The kernel failed; operations before that one are in force.
    Kernel(anyhow::Error),
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full {
                map,
                capacity,
                needed,
            } => write!(
                f,
                "map {} is too small: the change needs {needed} entries, it holds {capacity}; nothing was changed; raise {}",
                map.name(),
                map.flag()
            ),
            Self::Refused(what) => write!(f, "{what}; nothing was changed"),
            Self::Kernel(error) => write!(f, "the kernel refused a write: {error:#}"),
        }
    }
}

impl std::error::Error for ApplyError {}

/// A wait for packets on their way, to be made on a thread of its own: see [`Kernel::settling`].
#[derive(Debug)]
pub struct Settling {
    changes: u64,
}

/// That wait is over.
#[derive(Debug)]
pub struct Settled {
    changes: u64,
}

impl Settling {
    /// Some 30 ms.
    pub fn wait(self) -> Settled {
        grace();
        Settled {
            changes: self.changes,
        }
    }
}

impl Kernel {
    /// Makes the wait that [`Self::apply`] would make before it removes anything, but apart from the kernel side, which takes
    /// changes meanwhile.
    pub fn settling(&self) -> Settling {
        Settling {
            changes: self.changes,
        }
    }

    /// Takes note that the wait is over. Whether it counts: not if there were changes meanwhile.
    pub fn settled(&mut self, settled: &Settled) -> bool {
        let counts = settled.changes == self.changes;
        if counts && self.mirror.unsettled {
            self.mirror.era += 1;
            self.mirror.unsettled = false;
        }
        counts
    }

    /// Brings operations into force, in their order. Before it removes rows, tables or rules it waits for packets on their
    /// way, which takes some 30 ms: see [`Self::publish`].
    ///
    /// # Errors
    /// See [`ApplyError`]; after each of them [`Kernel::image`] is what is in force.
    pub fn apply(&mut self, ops: &[Op]) -> Result<Applied, ApplyError> {
        self.change(|stage| stage.ops(ops))
    }

    /// [`Self::apply`] without the removals at the end, so without a wait: every verdict is the new one when this returns. What
    /// nothing refers to any more stays in the image, so a later difference removes it, or finds it of use again; apply one
    /// when there is time, or when a map is full.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn publish(&mut self, ops: &[Op]) -> Result<Applied, ApplyError> {
        let end = ops.iter().rposition(|op| !leaves(op)).map_or(0, |last| last + 1);
        self.apply(&ops[..end])
    }

    /// Stages a change, and makes its writes if it fits.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut Stage<'_>) -> Result<(), String>,
    ) -> Result<Written, ApplyError> {
        self.changes += 1;
        let mut stage = Stage::new(&mut self.mirror);
        let changed = change(&mut stage);
        let Staged {
            steps,
            peaks,
            forgets,
            renames,
        } = stage.finish();
        if renames {
            self.places.take();
        }
        if let Some(refusal) = changed
            .err()
            .map(ApplyError::Refused)
            .or_else(|| self.overflow(peaks))
        {
            self.reread()?;
            return Err(refusal);
        }
        if forgets {
            // Whoever is reading learns at the end that it has read what changed meanwhile.
            self.meanings.fetch_add(1, Ordering::AcqRel);
        }
        let mut written = Written::default();
        if let Err(error) = self.execute(&steps, &mut written) {
            // Some flow's permission may be gone with what was written; the step that says so may not have been made.
            self.raise_epoch(&mut written);
            self.reread()?;
            return Err(ApplyError::Kernel(error));
        }
        Ok(written)
    }

    fn overflow(&self, peaks: Peaks) -> Option<ApplyError> {
        Map::ALL.iter().find_map(|&map| {
            let (needed, capacity) = (peaks[map as usize], self.maps.capacity(map));
            (needed > capacity).then_some(ApplyError::Full {
                map,
                capacity,
                needed,
            })
        })
    }

    /// Makes the mirror what the maps hold.
    fn reread(&mut self) -> Result<(), ApplyError> {
        // The new mirror does not know what became free only now.
        grace();
        self.places.take();
        self.mirror = Mirror::read(&self.maps, &self.pods).map_err(ApplyError::Kernel)?;
        Ok(())
    }
}

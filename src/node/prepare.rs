//! Veths that have just appeared: what makes the kernel wait is done while the CNI plugins still work on them.
//!
//! In: veths whose other end is in another network namespace, as they appear. Out: placeholders, which let everything
//! pass until a pod's programs take their place. Those that no pod claims are to be taken off again.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::bpf::{Placeholder, PlaceholderSource};

/// Attached at the same time. The kernel does one after the other anyway.
const AT_ONCE: usize = 2;
/// How long a veth may take to become a pod's.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Prepare {
    source: PlaceholderSource,
    /// The newest veth of the last look; `None` before the first, which is of those that were there before.
    newest: Option<u64>,
    under_way: JoinSet<(u32, u64, Result<Placeholder>)>,
    /// By interface.
    coming: BTreeMap<u32, Coming>,
}

#[derive(Debug)]
struct Coming {
    /// Tells the veth from an earlier one of this index.
    incarnation: u64,
    since: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    UnderWay,
    Made,
}

impl Prepare {
    pub fn new(source: PlaceholderSource) -> Self {
        Self {
            source,
            newest: None,
            under_way: JoinSet::new(),
            coming: BTreeMap::new(),
        }
    }

    /// Veths to other network namespaces, by index, and which was the newest link of all. Those that have appeared since the
    /// last look get a placeholder. Returns those whose placeholder is to be released: they are gone, or nobody's.
    pub fn look(&mut self, veths: &BTreeMap<u32, u64>, newest: u64) -> Vec<u32> {
        let now = Instant::now();
        let mut release = Vec::new();
        self.coming.retain(|ifindex, coming| {
            let stays = veths.get(ifindex) == Some(&coming.incarnation)
                && (coming.stage != Stage::Made || now - coming.since < PATIENCE);
            if !stays {
                release.push(*ifindex);
            }
            stays
        });
        if let Some(before) = self.newest.replace(newest) {
            for (&ifindex, &incarnation) in veths.iter().filter(|(_, incarnation)| **incarnation > before) {
                self.coming.insert(
                    ifindex,
                    Coming {
                        incarnation,
                        since: now,
                        stage: Stage::Waiting,
                    },
                );
            }
        }
        self.begin();
        release
    }

    /// Whether a placeholder is on its way, so that it is worth waiting for.
    pub fn is_coming(&self, ifindex: u32) -> bool {
        self.coming
            .get(&ifindex)
            .is_some_and(|coming| coming.stage != Stage::Made)
    }

    /// The interface has its programs.
    pub fn claimed(&mut self, ifindex: u32) {
        self.coming.remove(&ifindex);
    }

    /// The next one that is made, or `None` where the kernel refused; never, where none is under way. Safe to cancel.
    ///
    /// # Errors
    /// Its thread panicked.
    pub async fn made(&mut self) -> Result<Option<Placeholder>> {
        let Some(made) = self.under_way.join_next().await else {
            return pending().await;
        };
        let (ifindex, incarnation, made) = made.context("attaching ahead of time panicked")?;
        let coming = (self.coming.get_mut(&ifindex)).filter(|coming| coming.incarnation == incarnation);
        let made = match (coming, made) {
            (Some(coming), Ok(placeholder)) => {
                coming.stage = Stage::Made;
                Some(placeholder)
            }
            // Whoever needs the interface attaches without, and tells of what fails then.
            (coming, made) => {
                if coming.is_some() {
                    self.coming.remove(&ifindex);
                }
                if let Err(error) = made {
                    debug!(ifindex, "{error:#}");
                }
                None
            }
        };
        self.begin();
        Ok(made)
    }

    /// The oldest first.
    fn begin(&mut self) {
        let mut waiting: Vec<(u64, u32)> = (self.coming.iter())
            .filter(|(_, coming)| coming.stage == Stage::Waiting)
            .map(|(ifindex, coming)| (coming.incarnation, *ifindex))
            .collect();
        waiting.sort_unstable();
        for (incarnation, ifindex) in waiting {
            if self.under_way.len() == AT_ONCE {
                break;
            }
            if let Some(coming) = self.coming.get_mut(&ifindex) {
                coming.stage = Stage::UnderWay;
            }
            let source = self.source.clone();
            self.under_way
                .spawn_blocking(move || (ifindex, incarnation, source.attach(ifindex)));
        }
    }
}

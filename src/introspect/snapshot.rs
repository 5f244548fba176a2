//! What the loop of a node publishes after each change, and what of the agent never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;

use crate::bpf::{Attachment, CounterReader, Inspector};
use crate::compile::{Endpoints, PodImage};
use crate::model::{ObjectId, Problem};
use crate::observe::Readiness;

/// What an agent is and has, from its start to its end.
#[derive(Clone, Debug)]
pub struct Agent {
    /// What the node is called.
    pub node: Arc<str>,
    /// What is enforced: a folder, or a node's part of a cluster.
    pub source: String,
    /// Where /metrics answers.
    pub metrics: SocketAddr,
    pub inspector: Inspector,
    /// Pinned maps of an earlier process were taken up.
    pub adopted: bool,
    /// What an operator should know of this kernel.
    pub notices: Vec<String>,
    pub readiness: Readiness,
    /// 1 while this instance leads; `None`: it takes no part.
    pub leader: Option<Gauge>,
}

/// What is in force on this node, and what is not.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Of the policies that may concern this node, by policy UID.
    pub endpoints: Arc<Endpoints>,
    /// By pod UID.
    pub pods: Arc<BTreeMap<Arc<str>, PodImage>>,
    /// UIDs of the pods that numbers in conntrack stand for.
    pub slots: Arc<BTreeMap<u32, Arc<str>>>,
    pub attachments: Arc<[Attachment]>,
    pub problems: Arc<[Problem]>,
    pub counters: Option<CounterReader>,
    pub last_change: Option<Change>,
    /// The source has not told all yet that was in force before.
    pub incomplete: bool,
    /// The last change was refused: what was in force before stays.
    pub refused: bool,
    /// Something is tried again each second.
    pub retry: bool,
    /// Entries that nothing refers to any more wait for a lull.
    pub untidy: bool,
    /// Pods whose start waits for their policies.
    pub waiting: usize,
    pub watches: Option<Watches>,
}

/// A change that came into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub time: Timestamp,
    /// From when it was noticed.
    pub took: Duration,
    pub map_writes: u64,
    /// Directions of pods that took up another rule set.
    pub flips: u64,
}

/// How the watches of the API server are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watches {
    pub watches: usize,
    pub failing: usize,
    /// Failures since the start.
    pub errors: u64,
}

impl Snapshot {
    /// The policies that may concern this node.
    pub(super) fn policies(&self) -> BTreeSet<ObjectId> {
        let slices = self.endpoints.values().filter_map(|slices| slices.first());
        slices.map(|slice| policy_of(slice)).collect()
    }
}

pub(super) fn policy_of(slice: &crate::api::PolicyEndpoint) -> ObjectId {
    ObjectId {
        namespace: slice.spec.policy_ref.namespace.clone(),
        name: slice.spec.policy_ref.name.clone(),
    }
}

//! What the answers say of the node, as JSON: one object for `status`, a list of objects for the others.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::flow::End;
use super::spelling::{id, lowercase, name, names};
use crate::model::{Direction, ObjectId, Problem};

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub node: Arc<str>,
    pub version: String,
    /// What is enforced: a folder, or a node's part of a cluster.
    pub source: String,
    pub started: Timestamp,
    pub ready: bool,
    /// What is waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<String>,
    /// Whether it resolves the cluster's policies; absent where it takes no part in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<bool>,
    pub kernel: Kernel,
    /// Pods that are enforced here, and interfaces that have the programs.
    pub pods: usize,
    pub interfaces: usize,
    /// Policies that may concern this node, and those of them that isolate a pod here.
    pub policies: usize,
    pub policies_in_force: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<LastChange>,
    pub queue: Queue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watches: Option<WatchState>,
    pub flows: FlowState,
    /// What cannot be enforced as written, or does not work.
    pub problems: Vec<Problem>,
    pub metrics: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kernel {
    /// The machine's.
    pub release: String,
    /// `tcx` or `clsact`.
    pub attach: String,
    pub pin_path: String,
    pub abi_version: u32,
    /// Pinned maps of an earlier process were taken up.
    pub adopted: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastChange {
    pub time: Timestamp,
    /// From when it was noticed until it was in force.
    pub took_milliseconds: f64,
    pub map_writes: u64,
    pub flips: u64,
}

/// What is not done yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// The source has not told all yet; what is pinned goes on.
    pub incomplete: bool,
    /// The last change was refused; what was in force before stays.
    pub refused: bool,
    /// Something is tried again each second.
    pub retry: bool,
    /// Entries that nothing refers to any more wait for a lull.
    pub untidy: bool,
    /// Pods whose start waits for their policies.
    pub waiting_pods: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchState {
    pub watches: usize,
    pub failing: usize,
    pub errors: u64,
}

/// Since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowState {
    /// Records that palisade flows can still show.
    pub held: usize,
    pub lost_by_kernel: u64,
    pub lost_by_agent: u64,
}

/// An element of `GET /v1/pods`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    pub node: Arc<str>,
    #[serde(with = "id")]
    pub pod: ObjectId,
    pub uid: Arc<str>,
    pub addresses: Vec<IpAddr>,
    /// What it may send from besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_prefixes: Vec<String>,
    /// Empty: nothing is enforced on it, as its interface is not known.
    pub interfaces: Vec<Interface>,
    pub ingress: DirectionState,
    pub egress: DirectionState,
    /// What it is allowed is reported too, as its annotation asks for.
    pub log_allowed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub ifindex: u32,
    /// Absent: it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectionState {
    pub state: Isolation,
    /// Those that isolate, or would.
    #[serde(with = "names", default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<ObjectId>,
    /// Id of its rules in the maps, in hexadecimal.
    pub rule_set: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// No policy selects it.
    Open,
    Isolated,
    /// What no policy allows passes, and is counted.
    Audit,
    /// Nothing is known of it: all is denied but what the node itself sends.
    Unknown,
}

/// An element of `GET /v1/policies`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyState {
    pub node: Arc<str>,
    #[serde(with = "id")]
    pub policy: ObjectId,
    /// Directions that it isolates.
    pub directions: Vec<String>,
    /// Pods here that it isolates.
    #[serde(with = "names")]
    pub pods: Vec<ObjectId>,
    /// PolicyEndpoints, and their entries.
    pub slices: usize,
    pub entries: usize,
    /// Allowed by its rules here.
    pub allowed: Count,
    /// Denied here where it isolates, alone or with others, since these isolate together.
    pub denied: Count,
    /// Passed here, only because it is in audit.
    pub audited: Count,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// An element of `GET /v1/maps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapState {
    pub node: Arc<str>,
    pub map: String,
    pub id: u32,
    pub kind: String,
    pub key_bytes: u32,
    pub value_bytes: u32,
    /// Absent where nobody counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Entries; bytes, for the ring.
    pub capacity: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What sets its capacity.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flag: String,
}

/// An element of `GET /v1/progs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramState {
    pub node: Arc<str>,
    pub program: String,
    /// What it judges, as the pod sees it.
    #[serde(with = "lowercase")]
    pub direction: Direction,
    pub id: u32,
    pub tag: String,
    pub loaded: Timestamp,
    /// 0: the kernel does not say.
    pub verified_instructions: u32,
    pub jited_bytes: u32,
    /// Counted while the sysctl kernel.bpf_stats_enabled is on.
    pub runs: u64,
    pub run_nanoseconds: u64,
    /// Interfaces that have it.
    pub interfaces: Vec<String>,
    /// Interfaces of pods that do not: their pods are not enforced as they should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// `GET /v1/conntrack`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conntrack {
    pub flows: Vec<ConntrackFlow>,
    /// There are more that fit.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConntrackFlow {
    pub node: Arc<str>,
    /// Absent: its pod is gone.
    #[serde(with = "name", default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectId>,
    pub ifindex: u32,
    /// Of who began, as the pod sees it.
    #[serde(with = "lowercase")]
    pub direction: Direction,
    /// Who began, and whom it asked.
    pub source: End,
    pub destination: End,
    pub protocol: String,
    pub state: String,
    /// Since its last packet, to a second or two.
    pub idle_seconds: u64,
    /// `rule`, or one of the reasons that the metrics have.
    pub reason: String,
    #[serde(with = "names", default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<ObjectId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// False: its next packet is judged anew.
    pub current: bool,
}

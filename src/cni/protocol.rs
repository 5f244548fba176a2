//! What plugin and agent say to each other: one line of JSON each way, over a unix stream socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where the agent listens, unless it is told otherwise.
pub const SOCKET: &str = "/run/palisade/palisade.sock";
/// Bytes that a line may have, its end included.
pub const LINE: usize = 64 << 10;

/// What the plugin asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Secure the interface of a pod that starts.
    Add,
    /// See to it that the interface of a running pod is secured.
    Check,
}

/// From the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    pub command: Command,
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    /// CNI_CONTAINERID: the sandbox. For messages.
    pub container: String,
    /// The interface's name in the pod.
    pub ifname: String,
    /// CNI_NETNS. For messages.
    pub netns: String,
    /// Names of the host's interfaces that may be the pod's; one where the plugin could tell.
    pub interfaces: Vec<String>,
    /// The pod's addresses on that interface.
    pub addresses: Vec<IpAddr>,
    /// How long the plugin waits for the answer, in milliseconds.
    pub timeout_ms: u64,
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The programs are attached, and the pod's policies in force.
    Secured { ok: bool },
    Refused {
        error: String,
        #[serde(default)]
        remedy: String,
    },
}

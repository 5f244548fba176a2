//! Requests of the CNI plugin, and the unix socket that they come by.
//!
//! In: one line of JSON a connection ([`protocol`](crate::cni::protocol)). Out: a [`Secure`] each, to the agent's loop, which gives it
//! to [`Agent::secure`](super::Agent::secure); the answer goes back when the pod's policies are in force.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// A pod that starts, and waits to be secured.
#[derive(Debug)]
pub struct Secure {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// The interface's name in the pod.
    pub ifname: String,
    /// Names of the host's interfaces that may be the pod's.
    pub interfaces: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// When the plugin gives up.
    pub deadline: Instant,
    /// `Err`: why not, for the event that kubelet writes.
    pub answer: oneshot::Sender<Result<(), String>>,
}

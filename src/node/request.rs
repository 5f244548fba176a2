//! What the CNI plugin asks of the node: a pod that has just been made, to be enforced before its container runs.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::model::{ObjectId, Problem};

/// A pod to enforce now. Who has no time left drops the receiving end.
#[derive(Debug)]
pub struct Secure {
    /// As kubelet has it.
    pub uid: Arc<str>,
    pub id: ObjectId,
    pub addresses: Vec<IpAddr>,
    /// Names of the host's ends of its links.
    pub interfaces: Vec<String>,
    /// `Ok`: all policies that select the pod are in force on its link. An error says what stands in the way; a request
    /// that only has to wait gets no answer until then.
    pub answer: oneshot::Sender<Result<(), Problem>>,
}

//! `GET /v1/trace`: packets as they are judged, each with its way through the programs.
//!
//! In, over the socket: a [`TraceQuery`]. It goes to the loop of the node as an [`Asked`], for only the loop may touch the kernel;
//! what comes back is [`Following`]: packets with what their numbers stand for, and at the end why it ended. Out: [`TraceLine`]s.
//! A reader that goes away ends its trace.

mod packet;
mod query;
mod serve;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use self::serve::busy;
use super::answer::Refusal;
use super::journal::unknown;
use crate::bpf::{Named, TraceCounts, TraceScope, Traced};
use crate::model::ObjectId;

pub use packet::{By, Conntrack, Packet, PacketHeaders, PartOf, Question, Table};
pub use query::{PACKETS, TraceQuery};
pub(super) use serve::answer;

/// A trace that somebody asks for.
#[derive(Debug)]
pub struct Asked {
    pub query: TraceQuery,
    pub reply: oneshot::Sender<Result<Following, Refusal>>,
}

/// A trace that is under way. Dropping `packets` ends it.
#[derive(Debug)]
pub struct Following {
    pub packets: mpsc::Receiver<(Traced, Named)>,
    /// There once `packets` is at its end.
    pub end: oneshot::Receiver<Ended>,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub why: Why,
    pub counts: TraceCounts,
    /// Packets that were read and could not be told of, as the agent or the reader was slow.
    pub untold: u64,
}

/// Why a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Its time was over.
    Time,
    /// As many packets as it was to tell of are told of.
    Packets,
    /// The agent ends.
    Agent,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum TraceLine {
    /// The programs tell from here on.
    Begun {
        node: Arc<str>,
    },
    Packet(Box<Packet>),
    End(TraceEnd),
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEnd {
    pub node: Arc<str>,
    pub why: Why,
    /// Packets that this answer told of.
    pub packets: u64,
    /// Packets of the traced pods, those included that were not asked for.
    pub seen: u64,
    /// Packets that were asked for and not told of: in the kernel, where there was no room, and behind it.
    pub lost: u64,
}

impl Asked {
    /// Says that there is a trace already.
    pub fn refuse_as_busy(self) {
        self.refuse(busy());
    }

    /// Says that this agent cannot trace, and why.
    pub fn refuse_as_impossible(self, error: &anyhow::Error) {
        self.refuse(Refusal::new(
            500,
            format!("the trace cannot begin: {error:#}"),
            "see the agent's log",
        ));
    }

    pub fn refuse(self, refusal: Refusal) {
        // Whoever asked may be gone.
        let _ = self.reply.send(Err(refusal));
    }
}

impl TraceQuery {
    /// Whose packets these are, of the pods of a node.
    ///
    /// # Errors
    /// There is no such pod; the error says which there are.
    pub fn scope<'p>(
        &self,
        pods: impl Iterator<Item = (&'p Arc<str>, &'p ObjectId)>,
    ) -> Result<TraceScope, Refusal> {
        let Some(name) = &self.pod else {
            return Ok(TraceScope::EveryPod);
        };
        let pods: Vec<_> = pods.collect();
        let named = pods.iter().filter(|(_, id)| name.is(id));
        let uids: BTreeSet<Arc<str>> = named.map(|(uid, _)| Arc::clone(uid)).collect();
        if uids.is_empty() {
            return Err(unknown("pod", name, pods.into_iter().map(|(_, id)| id)));
        }
        Ok(TraceScope::Pods(uids))
    }
}

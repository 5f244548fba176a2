//! What a running agent answers about itself, over a unix socket that root alone may use.
//!
//! In, by [`Reporter`], from the loop of a node: what it has brought into force ([`Snapshot`]), packets that the programs reported
//! ([`Seen`]), whose addresses there are ([`Known`]). Out: HTTP with JSON ([`Server`]; its paths are in `server.rs`), JSON lines in a
//! file ([`FlowLog`]), and the client of both that the command line uses ([`Client`]). The loop publishes by a swap of pointers and by
//! channels that never wait, so nothing that a reader does keeps a change of policy waiting.

mod answer;
mod book;
mod client;
mod filter;
mod flow;
mod flow_log;
mod journal;
mod recorder;
mod server;
mod snapshot;
mod spelling;
mod trace;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

pub use answer::Refusal;
pub use book::Known;
pub use client::{Client, Lines};
pub use filter::{Filter, FlowQuery, LAST, Name, reasons};
pub use flow::{End, Flow, Loser, Lost, Record, Verdict};
pub use flow_log::{Destination, File, FlowLog};
use journal::Journal;
pub use recorder::{Recorder, Reporter, Seen};
pub use server::Server;
pub use snapshot::Snapshot;
pub use trace::{
    Asked, By, Conntrack, Ended, Following, PACKETS, Packet, PacketHeaders, PartOf, Question, Table,
    TraceEnd, TraceLine, TraceQuery, Why,
};

/// Where the agent answers.
pub const SOCKET: &str = "/run/palisade/api.sock";
/// Flows that are held.
pub const FLOWS: usize = 4096;

/// What there is to answer from. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Answers {
    pub(self) node: Arc<str>,
    pub(self) journal: Arc<Journal>,
    pub(self) snapshot: Arc<ArcSwap<Snapshot>>,
    /// To the loop.
    pub(self) traces: Option<mpsc::Sender<Asked>>,
}

impl Answers {
    /// Traces too, by what this asks.
    pub fn with_traces(self, traces: mpsc::Sender<Asked>) -> Self {
        Self {
            traces: Some(traces),
            ..self
        }
    }
}

/// The three ends: what the loop tells, what records it, and what is answered from. `node` is what this node is called; `flows`
/// packets are held.
pub fn new(node: Arc<str>, flows: usize) -> (Reporter, Recorder, Answers) {
    let journal = Arc::new(Journal::new(flows));
    let snapshot: Arc<ArcSwap<Snapshot>> = Arc::default();
    let (reporter, recorder) = recorder::channel(node.clone(), journal.clone(), snapshot.clone());
    let answers = Answers {
        node,
        journal,
        snapshot,
        traces: None,
    };
    (reporter, recorder, answers)
}

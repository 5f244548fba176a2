//! What a running agent answers about itself, over a unix socket that root alone may use.
//!
//! In, by [`Reporter`], from the loop of a node: what it has brought into force ([`Snapshot`]), packets that the programs reported
//! ([`Seen`]), whose addresses there are ([`Known`]). Out: HTTP with JSON ([`Server`]; its paths are in `server.rs`), JSON lines in a
//! file ([`FlowLog`]), and the client of both that the command line uses ([`Client`]). The loop publishes by a swap of pointers and by
//! channels that never wait, so nothing that a reader does keeps a change of policy waiting.

mod answer;
mod answers;
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
mod state;
pub mod trace;
mod verdict;

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::mpsc;

pub use answer::Refusal;
pub use book::Known;
pub use client::{Client, Lines};
pub use filter::{CONNTRACK, ConntrackQuery, Filter, FlowQuery, LAST, Name, ObjectQuery, reasons};
pub use flow::{End, Flow, Loser, Lost, Record, Verdict};
pub use flow_log::{Destination, File, FlowLog};
use journal::Journal;
pub use recorder::{Recorder, Reporter, Seen};
pub use server::Server;
pub use snapshot::{Agent, Change, Snapshot, Watches};
pub use state::{
    Conntrack, ConntrackFlow, Count, DirectionState, Interface, Isolation, MapState, PodState, PolicyState,
    ProgramState, Status,
};
pub use verdict::{VerdictQuery, VerdictState};

/// Where the agent answers.
pub const SOCKET: &str = "/run/palisade/api.sock";
/// Flows that are held.
pub const FLOWS: usize = 4096;

/// What there is to answer from. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Answers {
    agent: Arc<Agent>,
    started: Timestamp,
    journal: Arc<Journal>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// To the loop.
    traces: Option<mpsc::Sender<trace::Asked>>,
}

impl Answers {
    /// Traces too, by what this asks.
    pub fn with_traces(self, traces: mpsc::Sender<trace::Asked>) -> Self {
        Self {
            traces: Some(traces),
            ..self
        }
    }
}

/// The three ends: what the loop tells, what records it, and what is answered from. The last `flows` packets are held.
pub fn new(agent: Agent, flows: usize) -> (Reporter, Recorder, Answers) {
    let journal = Arc::new(Journal::new(flows));
    let snapshot: Arc<ArcSwap<Snapshot>> = Arc::default();
    let (reporter, recorder) = recorder::channel(agent.node.clone(), journal.clone(), snapshot.clone());
    let answers = Answers {
        agent: Arc::new(agent),
        started: Timestamp::now(),
        journal,
        snapshot,
        traces: None,
    };
    (reporter, recorder, answers)
}

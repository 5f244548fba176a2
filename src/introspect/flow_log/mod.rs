//! Records as JSON lines on standard output or in a file, for whoever ships logs.
//!
//! It is a reader of the journal like any other: a disk that is slow or full loses records, is told how many as soon as a line can be
//! written, and holds up nobody.

mod file;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::file::Rotated;
use super::Answers;
use super::flow::{Loser, Lost, Record};

/// Records that are written at once.
const BATCH: usize = 256;

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    StandardOutput,
    File(File),
}

/// A file that makes room for a new one when it is full: `NAME`, then `NAME.1`, the newest of the old ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    /// Bytes that a file holds at most, if not for a single line.
    pub max_bytes: u64,
    /// Old files that are kept.
    pub keep: usize,
}

/// Writes what the journal gets from [`open`](Self::open) on.
#[derive(Debug)]
pub struct FlowLog {
    node: Arc<str>,
    new: broadcast::Receiver<Arc<Record>>,
    sink: Sink,
    name: String,
}

#[derive(Debug)]
enum Sink {
    StandardOutput,
    File(Rotated),
}

impl FlowLog {
    /// # Errors
    /// The file cannot be opened.
    pub fn open(destination: &Destination, answers: &Answers) -> Result<Self> {
        let (sink, name) = match destination {
            Destination::StandardOutput => (Sink::StandardOutput, "standard output".into()),
            Destination::File(file) => {
                let name = file.path.display().to_string();
                let open = Rotated::open(file).with_context(|| {
                    format!("cannot write flows to {name}: name another file with --flow-log")
                })?;
                (Sink::File(open), name)
            }
        };
        let new = answers.journal.follow();
        Ok(Self {
            node: answers.agent.node.clone(),
            new,
            sink,
            name,
        })
    }

    /// Writes until `shutdown`, and what has come by then.
    ///
    /// # Errors
    /// None; what cannot be written is logged and counted.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        info!("writing flows to {}", self.name);
        let (mut lost, mut failing) = (0, false);
        loop {
            let first = tokio::select! {
                biased;
                () = shutdown.cancelled() => None,
                received = self.new.recv() => Some(received),
            };
            let mut records = Vec::new();
            let ends = match first {
                Some(Ok(record)) => {
                    records.push(record);
                    false
                }
                Some(Err(RecvError::Lagged(more))) => {
                    lost += more;
                    false
                }
                Some(Err(RecvError::Closed)) | None => true,
            };
            while records.len() < BATCH {
                match self.new.try_recv() {
                    Ok(record) => records.push(record),
                    Err(TryRecvError::Lagged(more)) => lost += more,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            if lost > 0 {
                records.insert(0, self.lost(lost));
            }
            let flows = records.len() as u64 - u64::from(lost > 0);
            let mut sink = self.sink;
            let (written, sink) = spawn_blocking(move || (sink.write(&records), sink))
                .await
                .context("the writer of flows has failed")?;
            self.sink = sink;
            match written {
                Ok(()) => {
                    if failing {
                        info!("flows are written to {} again", self.name);
                    }
                    (lost, failing) = (0, false);
                }
                Err(error) => {
                    if !failing {
                        warn!(%error, "cannot write flows to {}; they are counted as lost", self.name);
                    }
                    lost += flows;
                    failing = true;
                }
            }
            if ends {
                return Ok(());
            }
        }
    }

    fn lost(&self, lost: u64) -> Arc<Record> {
        Arc::new(Record::Lost(Lost {
            time: Timestamp::now(),
            node: self.node.clone(),
            lost,
            by: Loser::Reader,
        }))
    }
}

impl Sink {
    /// All of them, or none as far as that can be had.
    fn write(&mut self, records: &[Arc<Record>]) -> io::Result<()> {
        let mut lines = Vec::with_capacity(records.len());
        for record in records {
            let mut line = serde_json::to_vec(record)?;
            line.push(b'\n');
            lines.push(line);
        }
        match self {
            Self::StandardOutput => {
                let mut out = io::stdout().lock();
                out.write_all(&lines.concat())?;
                out.flush()
            }
            Self::File(file) => file.write(&lines),
        }
    }
}

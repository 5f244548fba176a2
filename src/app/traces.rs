//! The trace that somebody follows, as the loop of a node carries it on: at most one.
//!
//! In: who asks ([`Asked`]), records of the tracing programs. Out: records with names. The loop itself only exchanges programs and
//! looks names up; the programs are loaded, and the reader of their records is ended, on threads apart.

use std::future::pending;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use crate::bpf::{EventReader, Named, Trace, TraceCounts, TracePrograms, Traced};
use crate::introspect::trace::{Asked, Ended, Following, Why};
use crate::node::Agent;

/// Records that wait for the loop, or for the reader; what comes on top is lost, and counted.
const WAITING: usize = 1024;
/// Records that are named at a time.
const PIECE: usize = 64;
/// How soon programs that could not be put back are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What may happen next.
pub enum Step {
    Asked(Asked),
    Loaded(Result<TracePrograms>),
    Records(Vec<Traced>),
    /// The trace is over.
    Over(Why),
    /// Its reader has read all there was; so many records it could not pass on.
    Read(u64),
    PutBack,
}

pub struct Traces {
    asked: mpsc::Receiver<Asked>,
    state: State,
    /// The plain programs are not back everywhere.
    remains: bool,
}

enum State {
    Idle,
    Loading(Loading),
    Running(Running),
}

struct Loading {
    asked: Asked,
    trace: Trace,
    programs: JoinHandle<Result<TracePrograms>>,
}

struct Running {
    programs: TracePrograms,
    records: mpsc::Receiver<Traced>,
    told: mpsc::Sender<(Traced, Named)>,
    end: oneshot::Sender<Ended>,
    until: Instant,
    /// Packets that are still to be told of.
    left: u32,
    untold: u64,
    /// `None`: the trace is over.
    reader: Option<EventReader>,
    /// Why, and what reads all that is left.
    over: Option<(Why, JoinHandle<Result<u64>>)>,
}

impl Traces {
    pub fn new(asked: mpsc::Receiver<Asked>) -> Self {
        Self {
            asked,
            state: State::Idle,
            remains: false,
        }
    }

    /// Safe to cancel.
    pub async fn next(&mut self) -> Step {
        let put_back = async {
            match self.remains {
                true => sleep(RETRY).await,
                false => pending().await,
            }
        };
        tokio::select! {
            // Whoever asks as one ends has to wait for a moment only.
            Some(asked) = self.asked.recv(), if !self.state.ends() => Step::Asked(asked),
            step = self.state.next() => step,
            () = put_back => Step::PutBack,
        }
    }

    pub fn take(&mut self, step: Step, agent: &mut Agent) {
        match step {
            Step::Asked(asked) => self.ask(asked, agent),
            Step::Loaded(programs) => self.begin(programs, agent),
            Step::Records(records) => self.tell(records, agent),
            Step::Over(why) => self.end(why, agent),
            Step::Read(refused) => self.finish(refused),
            Step::PutBack => self.put_back(agent),
        }
    }

    /// Puts the plain programs back, as the loop ends.
    pub fn stop(&mut self, agent: &mut Agent) {
        if self.remains || matches!(self.state, State::Running(_)) {
            self.put_back(agent);
        }
    }

    fn ask(&mut self, asked: Asked, agent: &Agent) {
        if !matches!(self.state, State::Idle) || self.remains {
            return asked.refuse_as_busy();
        }
        let kernel = agent.kernel();
        let behind = kernel.attachments();
        let pods = kernel.image().pods.iter();
        let here = pods.filter(|(uid, _)| behind.iter().any(|place| place.uid == **uid));
        let query = &asked.query;
        let trace = query
            .scope(here.map(|(uid, pod)| (uid, &pod.id)))
            .and_then(|scope| Ok((scope, query.filter()?)));
        match trace {
            Ok((scope, filter)) => {
                let source = kernel.trace_source();
                self.state = State::Loading(Loading {
                    trace: Trace {
                        scope,
                        filter,
                        packets: query.packets,
                        time: query.time,
                    },
                    asked,
                    programs: spawn_blocking(move || source.load()),
                });
            }
            Err(refusal) => asked.refuse(refusal),
        }
    }

    fn begin(&mut self, programs: Result<TracePrograms>, agent: &mut Agent) {
        let State::Loading(Loading { asked, trace, .. }) = std::mem::replace(&mut self.state, State::Idle)
        else {
            return;
        };
        let Asked { reply, .. } = &asked;
        if reply.is_closed() {
            return;
        }
        let begun = programs.and_then(|programs| {
            let (deliver, records) = mpsc::channel(WAITING);
            let reader = programs.records(move |record| deliver.try_send(record).is_ok())?;
            let begun = agent.begin_trace(&programs, &trace);
            // Where it did not begin, it may stand at some interfaces.
            self.remains = begun.is_err();
            begun.map(|()| (programs, records, reader))
        });
        let (programs, records, reader) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                warn!("cannot trace: {error:#}");
                return asked.refuse_as_impossible(&error);
            }
        };
        let (told, packets) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel();
        info!(scope = ?trace.scope, time = ?trace.time, packets = trace.packets, "a trace begins");
        // Whoever asked may be gone by now, which the next step sees.
        let _ = asked.reply.send(Ok(Following { packets, end: ended }));
        self.state = State::Running(Running {
            programs,
            records,
            told,
            end,
            until: Instant::now() + trace.time,
            left: trace.packets,
            untold: 0,
            reader: Some(reader),
            over: None,
        });
    }

    fn tell(&mut self, records: Vec<Traced>, agent: &mut Agent) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        for record in records {
            if running.left == 0 {
                break;
            }
            let named = agent.kernel().name_trace(&record);
            match running.told.try_send((record, named)) {
                Ok(()) => running.left -= 1,
                Err(_) => running.untold += 1,
            }
        }
        if running.left == 0 {
            self.end(Why::Packets, agent);
        }
    }

    fn end(&mut self, why: Why, agent: &mut Agent) {
        let State::Running(running) = &mut self.state else {
            return;
        };
        if let Some(reader) = running.reader.take() {
            running.over = Some((why, spawn_blocking(move || reader.drain())));
            self.put_back(agent);
        }
    }

    fn put_back(&mut self, agent: &mut Agent) {
        let ended = agent.end_trace();
        self.remains = ended.is_err();
        if let Err(error) = ended {
            warn!(
                "programs of a trace still stand at interfaces, and judge as the others do; to be tried again: {error:#}"
            );
        }
    }

    fn finish(&mut self, refused: u64) {
        let State::Running(running) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        let why = running.over.map_or(Why::Agent, |(why, _)| why);
        let counts = running.programs.counts().unwrap_or_else(|error| {
            warn!("{error:#}");
            TraceCounts::default()
        });
        info!(?why, seen = counts.seen, "the trace has ended");
        let _ = running.end.send(Ended {
            why,
            counts,
            untold: running.untold + refused,
        });
    }
}

impl State {
    /// The trace is over, or nobody reads it any more.
    fn ends(&self) -> bool {
        match self {
            Self::Running(running) => running.reader.is_none() || running.told.is_closed(),
            Self::Idle | Self::Loading(_) => false,
        }
    }

    async fn next(&mut self) -> Step {
        match self {
            Self::Idle => pending().await,
            Self::Loading(Loading { programs, .. }) => Step::Loaded(
                programs
                    .await
                    .context("the load of tracing programs has failed")
                    .and_then(|loaded| loaded),
            ),
            Self::Running(running) => running.next().await,
        }
    }
}

impl Running {
    async fn next(&mut self) -> Step {
        let mut found = Vec::new();
        let Self {
            records,
            told,
            until,
            reader,
            over,
            ..
        } = self;
        let goes = reader.is_some();
        tokio::select! {
            biased;
            () = told.closed(), if goes => Step::Over(Why::Agent),
            count = records.recv_many(&mut found, PIECE) => match (count, over) {
                (0, Some((_, rest))) => {
                    let read = rest.await.map_err(|error| anyhow!(error)).and_then(|read| read);
                    Step::Read(read.unwrap_or_else(|error| {
                        warn!("the reader of a trace has failed: {error:#}");
                        0
                    }))
                }
                // The reader's thread has failed.
                (0, None) => Step::Over(Why::Agent),
                _ => Step::Records(found),
            },
            () = sleep_until(*until), if goes => Step::Over(Why::Time),
        }
    }
}

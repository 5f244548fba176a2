//! The HTTP server on the unix socket.
//!
//! `GET /v1/flows?last=&follow=&pod=&namespace=&verdict=&policy=&direction=&port=&reason=`: one JSON record a line, oldest first.
//! `GET /v1/trace?pod=&source=&destination=&port=&protocol=&reason=&verdict=&for=&packets=`: one JSON line a packet, then why it ended.
//! `GET /v1/status`, `/v1/pods?name=&namespace=`, `/v1/policies?name=&namespace=`, `/v1/maps`, `/v1/progs`,
//! `/v1/conntrack?limit=&pod=&namespace=&port=`: JSON, as `state.rs` has it. `/v1/verdict?pod=&direction=&peer=&protocol=&port=`: see
//! `verdict.rs`.
//! What cannot be answered is `{"status", "error", "remedy"}`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use futures::stream;
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Answers;
use super::answer::Refusal;
use super::filter::{ConntrackQuery, Filter, FlowQuery, LAST, ObjectQuery};
use super::flow::{Loser, Lost, Record};
use super::trace;
use super::verdict::VerdictQuery;
use crate::socket;

/// Readers that follow at once.
const FOLLOWERS: usize = 32;
/// Answers that are put together at once: conntrack may have much to read.
const ANSWERING: usize = 2;
/// Records that one piece of an answer holds.
const PIECE: usize = 64;
/// After an error of the socket itself, as when files are used up.
const PAUSE: Duration = Duration::from_millis(100);
/// How long answers under way may take to end after shutdown has begun.
const GRACE: Duration = Duration::from_secs(2);

/// Listens from [`bind`](Self::bind) on; answers while [`run`](Self::run) runs.
#[must_use = "nothing is answered until it runs"]
pub struct Server {
    listener: Roots,
    path: PathBuf,
    answers: Answers,
}

pub(super) struct Seen {
    pub answers: Answers,
    followers: Arc<Semaphore>,
    answering: Semaphore,
    shutdown: CancellationToken,
}

impl Server {
    /// Listens at `path`, in place of a process that is no more; its folder is made, and open to root only.
    ///
    /// # Errors
    /// The folder cannot be made, `path` is something else than a socket, or another process answers there.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO.
    pub fn bind(path: &Path, answers: Answers) -> Result<Self> {
        let answered = std::os::unix::net::UnixStream::connect(path).is_ok();
        ensure!(
            !answered,
            "another process answers at {}; name another socket with --api-socket",
            path.display()
        );
        Ok(Self {
            listener: Roots(socket::listen(path)?),
            path: path.to_path_buf(),
            answers,
        })
    }

    /// Answers until `shutdown`, and 2 s longer at most; then the socket goes.
    ///
    /// # Errors
    /// The socket does not listen any more.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let Self {
            listener,
            path,
            answers,
        } = self;
        let seen = Arc::new(Seen {
            answers,
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            answering: Semaphore::new(ANSWERING),
            shutdown: shutdown.clone(),
        });
        let router = Router::new()
            .route("/v1/flows", get(flows))
            .route("/v1/trace", get(trace::answer))
            .route("/v1/status", get(status))
            .route("/v1/pods", get(pods))
            .route("/v1/policies", get(policies))
            .route("/v1/maps", get(maps))
            .route("/v1/progs", get(programs))
            .route("/v1/conntrack", get(conntrack))
            .route("/v1/verdict", get(verdict))
            .fallback(async || Refusal::missing("there is no such path", "is the agent of another version?"))
            .with_state(seen);
        info!(socket = %path.display(), "answering palisade status, flows and others");
        let serve = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
        let too_late = async {
            shutdown.cancelled().await;
            sleep(GRACE).await;
        };
        let result = tokio::select! {
            result = serve.into_future() => result.with_context(|| format!("cannot answer at {}", path.display())),
            () = too_late => Ok(()),
        };
        // The next process comes after this one's end. If it cannot be removed, it replaces it.
        let _ = std::fs::remove_file(&path);
        result
    }
}

/// Connections of root; others are closed.
struct Roots(UnixListener);

impl Listener for Roots {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) => match socket::refusal(&stream) {
                    None => return (stream, address),
                    Some(why) => warn!(why, "refused at the API socket"),
                },
                Err(error) => {
                    warn!(%error, "cannot accept a connection at the API socket");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, [(CONTENT_TYPE, "application/json")], body).into_response()
    }
}

type Asked = (State<Arc<Seen>>, RawQuery);

async fn status((State(seen), _): Asked) -> Result<Response, Refusal> {
    told(&seen, |answers| Ok(answers.status())).await
}

async fn pods((State(seen), RawQuery(query)): Asked) -> Result<Response, Refusal> {
    let query = ObjectQuery::decode(&query.unwrap_or_default())?;
    told(&seen, move |answers| answers.pods(&query)).await
}

async fn policies((State(seen), RawQuery(query)): Asked) -> Result<Response, Refusal> {
    let query = ObjectQuery::decode(&query.unwrap_or_default())?;
    told(&seen, move |answers| answers.policies(&query)).await
}

async fn maps((State(seen), _): Asked) -> Result<Response, Refusal> {
    told(&seen, Answers::maps).await
}

async fn programs((State(seen), _): Asked) -> Result<Response, Refusal> {
    told(&seen, Answers::programs).await
}

async fn conntrack((State(seen), RawQuery(query)): Asked) -> Result<Response, Refusal> {
    let query = ConntrackQuery::decode(&query.unwrap_or_default())?;
    told(&seen, move |answers| answers.conntrack(&query)).await
}

async fn verdict((State(seen), RawQuery(query)): Asked) -> Result<Response, Refusal> {
    let query = VerdictQuery::decode(&query.unwrap_or_default())?;
    told(&seen, move |answers| answers.verdict(&query)).await
}

/// An answer as JSON. It is put together on a thread that may block, a few at once.
async fn told<T: Serialize>(
    seen: &Seen,
    answer: impl FnOnce(&Answers) -> Result<T, Refusal> + Send + 'static,
) -> Result<Response, Refusal> {
    let ended = || Refusal::new(500, "the answer has failed", "see the agent's log");
    let _permit = seen.answering.acquire().await.map_err(|_| ended())?;
    let answers = seen.answers.clone();
    let body = spawn_blocking(move || answer(&answers).map(|answer| serde_json::to_vec(&answer)));
    let body = body.await.map_err(|_| ended())??.map_err(|_| ended())?;
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

async fn flows(State(seen): State<Arc<Seen>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let FlowQuery { last, follow, filter } = FlowQuery::decode(&query.unwrap_or_default())?;
    let answers = &seen.answers;
    let policies = answers.snapshot.load().policies();
    answers.journal.check(&filter, policies.iter())?;
    let permit = match follow {
        false => None,
        true => Some(seen.followers.clone().try_acquire_owned().map_err(|_| {
            Refusal::new(
                503,
                format!("{FOLLOWERS} readers follow already"),
                "end one of them",
            )
        })?),
    };
    let (records, new) = answers.journal.read(&filter, last.unwrap_or(LAST));
    let first = lines(records.iter().map(|record| &**record));
    let body = match permit {
        None => Body::from(first),
        Some(permit) => {
            let follower = Follower {
                first: Some(first),
                new,
                filter,
                seen: seen.clone(),
                _permit: permit,
            };
            Body::from_stream(stream::unfold(follower, Follower::next))
        }
    };
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn lines<'r>(records: impl Iterator<Item = &'r Record>) -> Vec<u8> {
    let mut text = Vec::new();
    for record in records {
        // Strings and numbers always serialise.
        let _ = serde_json::to_writer(&mut text, record);
        text.push(b'\n');
    }
    text
}

/// A reader that goes on.
struct Follower {
    /// What is there already; empty too, so that the answer begins at once.
    first: Option<Vec<u8>>,
    new: broadcast::Receiver<Arc<Record>>,
    filter: Filter,
    seen: Arc<Seen>,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next piece; `None` at shutdown.
    async fn next(mut self) -> Option<(io::Result<Vec<u8>>, Self)> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Some((Ok(first), self));
        }
        let shutdown = self.seen.shutdown.clone();
        let mut found = Vec::new();
        while found.is_empty() {
            let received = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                received = self.new.recv() => received,
            };
            match received {
                Ok(record) => self.take(record, &mut found),
                Err(RecvError::Lagged(lost)) => found.push(self.lost(lost)),
                Err(RecvError::Closed) => return None,
            }
            while found.len() < PIECE {
                match self.new.try_recv() {
                    Ok(record) => self.take(record, &mut found),
                    Err(TryRecvError::Lagged(lost)) => found.push(self.lost(lost)),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
        }
        let piece = lines(found.iter().map(|record| &**record));
        Some((Ok(piece), self))
    }

    fn take(&self, record: Arc<Record>, found: &mut Vec<Arc<Record>>) {
        if self.filter.takes(&record) {
            found.push(record);
        }
    }

    /// Records that were overwritten before this reader took them; how many of them would have passed its filter, nobody knows.
    fn lost(&self, lost: u64) -> Arc<Record> {
        Arc::new(Record::Lost(Lost {
            time: Timestamp::now(),
            node: self.seen.answers.agent.node.clone(),
            lost,
            by: Loser::Reader,
        }))
    }
}

//! The unix socket that the CNI plugin asks by.
//!
//! In: one line of JSON a connection ([`protocol`](crate::cni::protocol)), from root only. Out: a [`Secure`] each, to the agent's loop;
//! its answer goes back. Who hangs up, or has no time left, is dropped, and the loop sees that by the closed answer.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::cni::protocol::{Answer, LINE, Request};
use crate::observe::Metrics;
use crate::socket;

/// How long a connection may take for its line.
const READ: Duration = Duration::from_secs(5);
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// How long before the plugin gives up the loop is to say why not, and how long before that it is said without the loop. Where
/// the plugin waits for less than twice that, half of its time.
const DUE: Duration = Duration::from_millis(1500);
const LAST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(120);
/// After an error of the socket itself, as when files are used up.
const PAUSE: Duration = Duration::from_millis(100);
const REMEDY: &str = "look at the log of this node's palisade pod in kube-system; the pod is tried again";

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
    /// When an answer, whatever it is, is due: a little before the plugin gives up.
    pub deadline: Instant,
    /// `Err`: why not, for the event that kubelet writes. Closed once nobody waits any more.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// The listening socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    requests: mpsc::Sender<Secure>,
    metrics: Metrics,
}

impl Server {
    /// Listens at `path`, in place of whoever did before; its folder is made, and open to root only. Requests go to `requests`.
    ///
    /// # Errors
    /// The folder cannot be made, or `path` is something else than a socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO.
    pub fn bind(path: &Path, requests: mpsc::Sender<Secure>, metrics: Metrics) -> Result<Self> {
        Ok(Self {
            listener: socket::listen(path)?,
            path: path.to_path_buf(),
            requests,
            metrics,
        })
    }

    /// Answers until `shutdown`. The socket's file stays, so that plugins wait for the next process.
    ///
    /// # Errors
    /// The agent's loop has ended.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = self.requests.closed() => bail!("nobody takes the requests of the CNI plugin any more"),
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "a request of the CNI plugin has failed");
                    }
                }
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, self.requests.clone(), self.metrics.clone()));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a request at {}", self.path.display());
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<Secure>, metrics: Metrics) {
    if let Some(why) = socket::refusal(&stream) {
        return warn!(why, "refused at the CNI plugin's socket");
    }
    let (mut from, mut to) = stream.into_split();
    let answer = match timeout(READ, read(&mut from)).await {
        Ok(Ok(Some(request))) => {
            let pod = format!("{}/{}", request.namespace, request.pod);
            let Some(answer) = ask(request, &mut from, requests).await else {
                metrics.cni_refused.inc();
                return warn!(pod, "the CNI plugin has given up before the pod was enforced");
            };
            match &answer {
                Answer::Refused { error, .. } => {
                    metrics.cni_refused.inc();
                    warn!(
                        pod,
                        "the CNI plugin is told that the pod cannot be secured: {error}"
                    );
                }
                Answer::Secured { .. } => {
                    metrics.cni_secured.inc();
                }
            }
            answer
        }
        Ok(Ok(None)) => return,
        Ok(Err(error)) => refused(format!("the request cannot be read: {error}"), ""),
        Err(_) => refused(format!("there was no whole request in {READ:?}"), ""),
    };
    write(&mut to, &answer).await;
}

/// One line; `None` where there is nothing at all.
async fn read(from: &mut OwnedReadHalf) -> io::Result<Option<Request>> {
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            break end;
        }
        if line.len() > LINE {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("it is longer than {LINE} bytes"),
            ));
        }
        match from.read(&mut piece).await? {
            0 if line.is_empty() => return Ok(None),
            0 => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it has no end")),
            read => line.extend_from_slice(&piece[..read]),
        }
    };
    Ok(Some(serde_json::from_slice(&line[..end])?))
}

/// `None`: nobody waits for the answer any more.
async fn ask(request: Request, from: &mut OwnedReadHalf, requests: mpsc::Sender<Secure>) -> Option<Answer> {
    let limit = Duration::from_millis(request.timeout_ms).min(LONGEST);
    let before = |margin: Duration| Instant::now() + limit.saturating_sub(margin).max(limit / 2);
    let (due, last) = (before(DUE), before(LAST));
    let (answer, answered) = oneshot::channel();
    let pod = format!("{}/{} ({})", request.namespace, request.pod, request.uid);
    let secure = Secure {
        namespace: request.namespace.into(),
        name: request.pod.into(),
        uid: request.uid.into(),
        ifname: request.ifname,
        interfaces: request.interfaces,
        addresses: request.addresses,
        deadline: due,
        answer,
    };
    match timeout_at(last, requests.send(secure)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Some(refused("the agent is stopping", "the pod is tried again")),
        Err(_) => {
            return Some(refused(
                "the agent is busy: it has not taken the request in time",
                REMEDY,
            ));
        }
    }
    let mut byte = [0; 1];
    tokio::select! {
        biased;
        answer = answered => Some(match answer {
            Ok(Ok(())) => Answer::Secured { ok: true },
            Ok(Err(why)) => refused(format!("pod {pod} cannot be secured: {why}"), REMEDY),
            Err(_) => refused("the agent is stopping", "the pod is tried again"),
        }),
        // It sends no more than its line: whatever comes is its end.
        _ = from.read(&mut byte) => None,
        () = sleep_until(last) => Some(refused(format!("the policies of pod {pod} are not in force in time"), REMEDY)),
    }
}

fn refused(error: impl Into<String>, remedy: &str) -> Answer {
    Answer::Refused {
        error: error.into(),
        remedy: remedy.into(),
    }
}

async fn write(to: &mut OwnedWriteHalf, answer: &Answer) {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    let written = timeout(READ, to.write_all(&line)).await;
    if let Err(error) = written.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
        debug!(%error, "the CNI plugin does not take its answer");
    }
}

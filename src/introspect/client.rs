//! The other end of the socket: what the command line asks by.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::Refusal;

const RUNS: &str = "to see whether it runs: kubectl -n kube-system get pods -l app.kubernetes.io/name=palisade -o wide, or on the \
                    node systemctl status palisade; --api-socket names another socket";
/// How long a scrape may take.
const SCRAPE: Duration = Duration::from_secs(10);
/// Bytes that one line holds at most; far more than names can take.
const LINE: usize = 1 << 20;

/// Asks the agent of this node.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// An answer line by line, as it comes.
pub struct Lines {
    body: Incoming,
    read: Vec<u8>,
    ended: bool,
    _connection: JoinSet<hyper::Result<()>>,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_path_buf(),
        }
    }

    /// The answer at this path, whole.
    ///
    /// # Errors
    /// Nobody answers, with how to see why; what the agent refuses, as a [`Refusal`]; or an answer that cannot be understood.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (response, _connection) = self.ask(path).await?;
        let body = response.into_body().collect().await;
        let body = body
            .context("the agent has ended before its answer was whole")?
            .to_bytes();
        serde_json::from_slice(&body)
            .context("the agent's answer cannot be understood; is it of another version than this command?")
    }

    /// The answer at this path, as it comes.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn lines(&self, path: &str) -> Result<Lines> {
        let (response, connection) = self.ask(path).await?;
        Ok(Lines {
            body: response.into_body(),
            read: Vec::new(),
            ended: false,
            _connection: connection,
        })
    }

    /// What an agent's `/metrics` answers at this URL, which is `http://ADDRESS:PORT/PATH`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn scrape(url: &str) -> Result<Vec<u8>> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        let authority = uri
            .authority()
            .with_context(|| format!("{url:?} names no address"))?;
        let asked = async {
            let stream = TcpStream::connect(authority.as_str()).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let mut running = JoinSet::new();
            running.spawn(connection);
            let request = Request::get(uri.path()).header(HOST, authority.as_str());
            let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
            Ok(response.into_body().collect().await?.to_bytes().to_vec())
        };
        let asked = timeout(SCRAPE, asked).await;
        asked
            .unwrap_or_else(|_| Err(anyhow!("no answer within {SCRAPE:?}")))
            .with_context(|| format!("cannot get {url}"))
    }

    async fn ask(&self, path: &str) -> Result<(Response<Incoming>, JoinSet<hyper::Result<()>>)> {
        let mut connection = JoinSet::new();
        let mut sender = self.connect(&mut connection).await?;
        let request = Request::get(path)
            .header(HOST, "palisade")
            .body(Empty::<Bytes>::new())
            .with_context(|| format!("{path:?} is no path"))?;
        let response = sender.send_request(request).await;
        // A peer that is not root is let go without a word.
        let response = response.with_context(|| {
            format!(
                "the agent at {} has closed the connection; it answers root only",
                self.socket.display()
            )
        })?;
        if response.status().is_success() {
            return Ok((response, connection));
        }
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes());
        match body
            .ok()
            .and_then(|body| serde_json::from_slice::<Refusal>(&body).ok())
        {
            Some(refusal) => Err(refusal.into()),
            None => bail!("the agent answers {status}; is it of another version than this command?"),
        }
    }

    async fn connect(&self, running: &mut JoinSet<hyper::Result<()>>) -> Result<SendRequest<Empty<Bytes>>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let at = self.socket.display();
            match error.kind() {
                ErrorKind::NotFound => anyhow!("there is no agent's socket {at} here; {RUNS}"),
                ErrorKind::ConnectionRefused => anyhow!("no agent answers at {at} any more; {RUNS}"),
                ErrorKind::PermissionDenied => {
                    anyhow!("the agent at {at} answers root only; try again as root")
                }
                _ => anyhow!("cannot ask the agent at {at}: {error}; {RUNS}"),
            }
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        running.spawn(connection);
        Ok(sender)
    }
}

impl Lines {
    /// The next line, without its end; `None` at the end of the answer.
    ///
    /// # Errors
    /// The agent has ended in the middle, or a line is too long to be one of its.
    pub async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(line) = self.ready() {
                return Ok(Some(line));
            }
            if self.ended {
                return match self.read.is_empty() {
                    true => Ok(None),
                    false => bail!("the agent has ended in the middle of a line"),
                };
            }
            if self.read.len() > LINE {
                bail!("the agent's answer has a line of more than {LINE} bytes; is it of another version?");
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.context("the agent has ended")?;
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                None => self.ended = true,
            }
        }
    }

    /// A line that has come already.
    pub fn ready(&mut self) -> Option<String> {
        let end = self.read.iter().position(|byte| *byte == b'\n')?;
        let line = String::from_utf8_lossy(&self.read[..end]).into_owned();
        self.read.drain(..=end);
        Some(line)
    }
}

//! The question to the agent, and its answer, within a time limit.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::failure::{Code, Failure};
use crate::cni::protocol::{Answer, LINE, Request};

/// Between two attempts while the agent is away.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks the agent at `path`, until `deadline`. While there is no agent, it is asked again if `patient`: an agent that restarts
/// delays a pod, and does not fail it.
///
/// # Errors
/// There is no agent, it does not answer in time, or it refuses.
pub fn ask(path: &Path, request: &Request, deadline: Instant, patient: bool) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(request).expect("a request is JSON");
    line.push(b'\n');
    loop {
        let error = match exchange(path, &line, deadline) {
            Ok(answer) => return read(&answer),
            Err(error) => error,
        };
        let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        if is_late || !patient || Instant::now() + PAUSE >= deadline {
            return Err(unanswered(path, &error, is_late));
        }
        sleep(PAUSE);
    }
}

/// Whether somebody listens at `path`, or did since the machine started.
///
/// # Errors
/// Nobody did.
pub fn has_agent(path: &Path) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure {
            code: Code::NotAvailable,
            ..unanswered(path, &error, false)
        }),
    }
}

fn unanswered(path: &Path, error: &io::Error, is_late: bool) -> Failure {
    let path = path.display();
    match is_late {
        true => Failure::new(
            Code::AgentIsLate,
            format!("the Palisade agent at {path} did not answer in time"),
            "look at the log of this node's palisade pod in kube-system; the pod is tried again",
        ),
        false => Failure::new(
            Code::NoAgent,
            format!("the Palisade agent at {path} cannot be reached: {error}"),
            "check that the palisade pod of this node runs (kubectl -n kube-system get pods -o wide); the pod is tried again",
        ),
    }
}

fn read(answer: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice(answer) {
        Ok(Answer::Secured { ok: true }) => Ok(()),
        Ok(Answer::Refused { error, remedy }) => Err(Failure::new(Code::Refused, error, remedy)),
        Ok(Answer::Secured { ok: false }) | Err(_) => Err(Failure::new(
            Code::Refused,
            format!(
                "the Palisade agent answers {:?}",
                String::from_utf8_lossy(answer).trim_end()
            ),
            "plugin and agent are of different versions: restart the palisade pod of this node",
        )),
    }
}

fn exchange(path: &Path, line: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::Error::from(io::ErrorKind::TimedOut))
        } else {
            Ok(left)
        }
    };
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Where its queue is full, connecting waits as well.
    set_socket_timeout(&socket, Timeout::Send, Some(left()?))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    stream.write_all(line)?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while !answer.ends_with(b"\n") {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut piece)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up")),
            read => answer.extend_from_slice(&piece[..read]),
        }
        if answer.len() > LINE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its answer has no end",
            ));
        }
    }
    Ok(answer)
}

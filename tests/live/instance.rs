//! `palisade` as a process inside a host's namespace: its log, its metrics, its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::netns::Namespace;

pub const BINARY: &str = env!("CARGO_BIN_EXE_palisade");
/// Each host is a namespace, so its loopback has the default port free.
const PORT: u16 = 9810;
/// For all that is bound to come; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

/// A running `palisade run`; killed on drop.
pub struct Instance {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

impl Instance {
    pub fn start(namespace: &Namespace, arguments: &[String]) -> Self {
        let arguments: Vec<&str> = std::iter::once("run")
            .chain(arguments.iter().map(String::as_str))
            .collect();
        Self::start_as(namespace, BINARY, &arguments)
    }

    /// By way of a program that becomes `palisade run`.
    pub fn start_as(namespace: &Namespace, program: &str, arguments: &[&str]) -> Self {
        let mut child = namespace
            .command(program)
            .args(arguments)
            .env("PALISADE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("palisade");
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("a pipe");
        let reader = std::thread::spawn({
            let log = log.clone();
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log.lines
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                        .push(line);
                    log.more.notify_all();
                }
                log.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
                log.more.notify_all();
            }
        });
        Self {
            child,
            log,
            reader: Some(reader),
        }
    }

    /// How many lines there are: what comes after is new.
    pub fn mark(&self) -> usize {
        self.log.lines.lock().expect("the log").0.len()
    }

    pub fn lines_since(&self, mark: usize) -> Vec<String> {
        self.log.lines.lock().expect("the log").0[mark..].to_vec()
    }

    /// Waits for a line with all these words after `mark`, and returns it.
    pub fn wait_for(&self, mark: usize, words: &[&str]) -> String {
        let until = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().expect("the log");
        loop {
            let has = |line: &&String| words.iter().all(|word| line.contains(word));
            if let Some(line) = lines.0[mark..].iter().find(has) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.1 {
                let why = if lines.1 { "it ended" } else { "in vain" };
                let log = lines.0.join("\n");
                drop(lines);
                panic!("{words:?} after line {mark}: {why}\n{log}");
            }
            lines = self.log.more.wait_timeout(lines, left).expect("the log").0;
        }
    }

    /// Lets it run for a while, whatever it does then.
    pub fn let_run(&self, time: Duration) {
        let lines = self.log.lines.lock().expect("the log");
        let ends = |lines: &mut (Vec<String>, bool)| !lines.1;
        drop(
            self.log
                .more
                .wait_timeout_while(lines, time, ends)
                .expect("the log"),
        );
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("kill");
    }

    /// Signals it, and waits for its end and its whole log.
    pub fn end(mut self, signal: Signal) -> (ExitStatus, Vec<String>) {
        self.signal(signal);
        self.ended()
    }

    /// Waits for its end; the log.
    pub fn ended(&mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().expect("wait");
        self.reader
            .take()
            .map(JoinHandle::join)
            .transpose()
            .expect("the log's reader");
        (status, self.lines_since(0))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            let lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("palisade's log:\n{}", lines.0.join("\n"));
        }
    }
}

/// Status and body of what a host's `palisade` answers.
pub fn get(namespace: &Namespace, path: &str) -> (u16, String) {
    namespace.run(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).expect("the HTTP server");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .expect("a status");
        (status, body.to_string())
    })
}

/// Sum of a metric's samples that have all these labels, as they are written.
pub fn metric(namespace: &Namespace, name: &str, labels: &[&str]) -> f64 {
    let (status, body) = get(namespace, "/metrics");
    assert_eq!(status, 200, "{body}");
    let is_it = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with([' ', '{']))
            && labels.iter().all(|label| line.contains(label))
    };
    let samples: Vec<f64> = body
        .lines()
        .filter(is_it)
        .map(|line| {
            line.rsplit(' ')
                .next()
                .and_then(|value| value.parse().ok())
                .expect("a number")
        })
        .collect();
    assert!(body.contains(name), "no {name} in\n{body}");
    samples.iter().sum()
}

//! One connection that asks and waits for the answer, over and over, while policies change.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::answers::{Protocol, Question};
use crate::shop::Shop;

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(5);
/// A datagram that has not been answered by then is lost.
const LOST: Duration = Duration::from_secs(1);
/// How long its end may take.
const NOTICE: Duration = Duration::from_millis(50);

/// What it has seen so far.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub answered: u64,
    pub last: Instant,
    /// Longest time without an answer since it was last reset, up to the last answer.
    pub longest: Duration,
    /// UDP: questions without an answer. TCP: 1 where the connection was broken.
    pub lost: u64,
}

/// Ends when dropped.
pub struct Flow {
    pub question: Question,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Flow {
    /// Established when it returns.
    pub fn open(shop: &Shop, question: Question) -> Result<Self> {
        let to = shop
            .address(&question.to, question.family)
            .context("an address")?;
        let to = SocketAddr::new(to, question.port.number);
        let namespace = shop.namespace(&question.from);
        let mut wire = namespace
            .run(|| Wire::open(question.port.protocol, to))
            .with_context(|| format!("{question} cannot be opened"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen {
            answered: 0,
            last: Instant::now(),
            longest: Duration::ZERO,
            lost: 0,
        }));
        let (ended, told) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match wire.exchange(&ended) {
                    Ok(Some(())) => {
                        let mut seen = lock(&told);
                        let now = Instant::now();
                        seen.longest = seen.longest.max(now - seen.last);
                        seen.last = now;
                        seen.answered += 1;
                    }
                    Ok(None) => lock(&told).lost += 1,
                    Err(_) => {
                        lock(&told).lost += 1;
                        return;
                    }
                }
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Self {
            question,
            stop,
            seen,
            thread: Some(thread),
        })
    }

    pub fn seen(&self) -> Seen {
        *lock(&self.seen)
    }

    pub fn reset_longest(&self) {
        lock(&self.seen).longest = Duration::ZERO;
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The client's socket and the number of the last question.
enum Wire {
    Tcp(TcpStream, u64),
    Udp(UdpSocket, u64),
}

impl Wire {
    fn open(protocol: Protocol, to: SocketAddr) -> io::Result<Self> {
        Ok(match protocol {
            Protocol::Tcp => {
                let stream = TcpStream::connect_timeout(&to, LOST * 5)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(NOTICE))?;
                Self::Tcp(stream, 0)
            }
            Protocol::Udp => {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(NOTICE))?;
                Self::Udp(socket, 0)
            }
        })
    }

    /// One question; `None` where its answer was lost, or the end came first.
    fn exchange(&mut self, ended: &AtomicBool) -> io::Result<Option<()>> {
        let begun = Instant::now();
        let number = match self {
            Self::Tcp(_, number) | Self::Udp(_, number) => number,
        };
        *number += 1;
        let question = number.to_be_bytes();
        match self {
            Self::Tcp(stream, _) => stream.write_all(&question)?,
            Self::Udp(socket, _) => drop(socket.send(&question)?),
        }
        let (mut answer, mut have) = ([0; 8], 0);
        loop {
            let read = match self {
                Self::Tcp(stream, _) => stream.read(&mut answer[have..]),
                Self::Udp(socket, _) => socket.recv(&mut answer),
            };
            match (read, &self) {
                (Ok(0), Self::Tcp(..)) => return Err(ErrorKind::UnexpectedEof.into()),
                (Ok(read), Self::Tcp(..)) => have += read,
                (Ok(read), Self::Udp(..)) => have = read,
                (Err(error), _) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                (Err(error), _) => return Err(error),
            }
            if have == answer.len() {
                if answer == question {
                    return Ok(Some(()));
                }
                have = 0;
            }
            if ended.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
            if matches!(self, Self::Udp(..)) && begun.elapsed() > LOST {
                return Ok(None);
            }
        }
    }
}

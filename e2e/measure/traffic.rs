//! Allowed and forbidden packets without end between pods of two nodes, each counted at both ends.
//!
//! A lane is a client and an intruder on one node and a server on the other. Allowed: questions and echoes by UDP, one at a
//! time, from a new port now and then; one TCP connection that lasts; short ones. One at a time, so no socket's buffer
//! loses any: what is missing was dropped. Forbidden: datagrams from the intruder to the open port and from the client
//! to a closed one, and the intruder's connections; the server counts what reaches it, the senders what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::RunningPod;
use crate::netns::Netns;

/// UDP and TCP, open to the client only.
pub const OPEN: u16 = 7000;
/// UDP, open to nobody.
const CLOSED: u16 = 7001;
/// What does not come in this time is lost.
const LOST: Duration = Duration::from_secs(2);
/// The first SYN is repeated after 1 s: whoever needed that lost one.
const CONNECTED: Duration = Duration::from_millis(950);
/// Between questions, so that two cores have time for a cluster as well.
const PAUSE: Duration = Duration::from_millis(1);
/// Questions by one UDP port.
const BY_ONE_PORT: u64 = 32;
/// How long the last forbidden packets may be on their way.
const STRAY: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    asked: AtomicU64,
    lost: AtomicU64,
    streamed: AtomicU64,
    connected: AtomicU64,
    unconnected: AtomicU64,
    forbidden: AtomicU64,
    leaked: AtomicU64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub questions: u64,
    /// Questions without an answer in 2 s.
    pub lost: u64,
    /// Exchanges by the connections that last.
    pub streamed: u64,
    pub connections: u64,
    /// Connections whose first SYN, or its answer, did not arrive.
    pub unconnected: u64,
    pub forbidden: u64,
    /// Forbidden packets that reached the server, and answers to such.
    pub leaked: u64,
    /// TCP segments that clients sent again, tail-loss probes among them.
    pub retransmitted: u64,
}

/// Runs until it is ended or dropped.
pub struct Traffic {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
    clients: Vec<(Netns, u64)>,
}

/// Who sends to whom.
pub struct Lane<'a> {
    pub client: &'a RunningPod,
    pub intruder: &'a RunningPod,
    pub server: &'a RunningPod,
}

impl Lane<'_> {
    /// Waits until the client is answered and the intruder is not: both nodes enforce what they were told.
    pub fn wait_until_judged(&self) {
        let to = (self.server.address, OPEN).into();
        let listener = self.server.netns.run(|| listen(OPEN));
        let connects = |from: &RunningPod| from.netns.run(|| TcpStream::connect_timeout(&to, STRAY).is_ok());
        crate::agents::within(crate::cluster::PATIENCE, "the policies are enforced", || {
            (connects(self.client) && !connects(self.intruder)).then_some(())
        });
        drop(listener);
    }
}

impl Traffic {
    pub fn start(lanes: &[Lane]) -> Self {
        let counts = Arc::new(Counts::default());
        let mut traffic = Self {
            counts,
            threads: Vec::new(),
            clients: Vec::new(),
        };
        for lane in lanes {
            traffic.serve(lane);
            traffic.send(lane);
        }
        traffic
    }

    /// A thread in a network namespace that runs until the end.
    fn spawn(&mut self, netns: &Netns, work: impl FnOnce(&Counts) + Send + 'static) {
        let (netns, counts) = (netns.clone(), self.counts.clone());
        self.threads.push(std::thread::spawn(move || {
            netns.enter();
            work(&counts);
        }));
    }

    fn serve(&mut self, lane: &Lane) {
        let client = lane.client.address;
        // Bound before anybody sends.
        let (open, closed, listener) = lane.server.netns.run(|| (udp(OPEN), udp(CLOSED), listen(OPEN)));
        self.spawn(&lane.server.netns, move |counts| {
            let mut buffer = [0; 64];
            while !counts.stop.load(Relaxed) {
                if let Ok((length, from)) = open.recv_from(&mut buffer) {
                    if from.ip() != client {
                        counts.leaked.fetch_add(1, Relaxed);
                    }
                    // An intruder too would be answered, to see whether that comes through.
                    let _ = open.send_to(&buffer[..length], from);
                }
            }
        });
        self.spawn(&lane.server.netns, move |counts| {
            let mut buffer = [0; 64];
            while !counts.stop.load(Relaxed) {
                if closed.recv(&mut buffer).is_ok() {
                    counts.leaked.fetch_add(1, Relaxed);
                }
            }
        });
        self.spawn(&lane.server.netns, move |counts| {
            accept(counts, &listener, client)
        });
    }

    fn send(&mut self, lane: &Lane) {
        let server = lane.server.address;
        let netns = &lane.client.netns;
        self.clients
            .push((netns.clone(), netns.counter("Tcp", "RetransSegs")));
        let stream = netns.run(|| TcpStream::connect((server, OPEN)).expect("the connection that lasts"));
        self.spawn(netns, move |counts| ask(counts, (server, OPEN).into()));
        self.spawn(netns, move |counts| exchange(counts, stream));
        self.spawn(netns, move |counts| connect(counts, (server, OPEN).into()));
        self.spawn(netns, move |counts| flood(counts, (server, CLOSED).into()));
        let netns = &lane.intruder.netns;
        self.spawn(netns, move |counts| flood(counts, (server, OPEN).into()));
        self.spawn(netns, move |counts| intrude(counts, (server, OPEN).into()));
    }

    /// Waits for so many more questions. Panics when a thread has ended, with what ended it.
    pub fn wait_for(&mut self, more: u64) {
        let until = self.counts.asked.load(Relaxed) + more;
        while self.counts.asked.load(Relaxed) < until {
            if self.threads.iter().any(JoinHandle::is_finished) {
                self.join();
                unreachable!("only a panic ends a thread before it is told to");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn seen(&self) -> Seen {
        let counts = &self.counts;
        let retransmitted = |(netns, before): &(Netns, u64)| netns.counter("Tcp", "RetransSegs") - before;
        Seen {
            questions: counts.asked.load(Relaxed),
            lost: counts.lost.load(Relaxed),
            streamed: counts.streamed.load(Relaxed),
            connections: counts.connected.load(Relaxed),
            unconnected: counts.unconnected.load(Relaxed),
            forbidden: counts.forbidden.load(Relaxed),
            leaked: counts.leaked.load(Relaxed),
            retransmitted: self.clients.iter().map(retransmitted).sum(),
        }
    }

    pub fn end(mut self) -> Seen {
        self.join();
        self.seen()
    }

    fn join(&mut self) {
        self.counts.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.counts.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn udp(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
    socket.set_read_timeout(Some(STRAY)).expect("a timeout");
    socket
}

fn listen(port: u16) -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
    listener.set_nonblocking(true).expect("set");
    listener
}

/// Echoes, by one thread a connection.
fn accept(counts: &Counts, listener: &TcpListener, client: IpAddr) {
    std::thread::scope(|scope| {
        while !counts.stop.load(Relaxed) {
            let Ok((stream, from)) = listener.accept() else {
                std::thread::sleep(PAUSE);
                continue;
            };
            if from.ip() != client {
                counts.leaked.fetch_add(1, Relaxed);
            }
            scope.spawn(move || echo(counts, stream));
        }
    });
}

fn echo(counts: &Counts, mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(STRAY));
    let mut buffer = [0; 8];
    while !counts.stop.load(Relaxed) {
        match stream.read_exact(&mut buffer) {
            Ok(()) if stream.write_all(&buffer).is_ok() => {}
            Err(e) if waits(&e) => {}
            _ => break,
        }
    }
}

fn waits(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn ask(counts: &Counts, to: SocketAddr) {
    let open = || {
        let socket = udp(0);
        socket.connect(to).expect("connected");
        socket
    };
    let mut socket = open();
    let mut number = 0_u64;
    while !counts.stop.load(Relaxed) {
        if number.is_multiple_of(BY_ONE_PORT) {
            socket = open();
        }
        number += 1;
        if !socket
            .send(&number.to_be_bytes())
            .is_ok_and(|_| answered(&socket, number))
        {
            counts.lost.fetch_add(1, Relaxed);
        }
        counts.asked.fetch_add(1, Relaxed);
        std::thread::sleep(PAUSE);
    }
}

fn answered(socket: &UdpSocket, number: u64) -> bool {
    let until = Instant::now() + LOST;
    let mut buffer = [0; 64];
    loop {
        match socket.recv(&mut buffer) {
            Ok(8) if buffer[..8] == number.to_be_bytes() => return true,
            Ok(_) => {}
            Err(e) if waits(&e) && Instant::now() < until => {}
            Err(_) => return false,
        }
    }
}

/// An exchange on the connection that lasts may take as long as TCP takes to repair it, but comes to an end.
fn exchange(counts: &Counts, mut stream: TcpStream) {
    stream
        .set_read_timeout(Some(crate::cluster::PATIENCE))
        .expect("a timeout");
    stream.set_nodelay(true).expect("set");
    let mut number = 0_u64;
    while !counts.stop.load(Relaxed) {
        number += 1;
        stream
            .write_all(&number.to_be_bytes())
            .expect("the connection that lasts");
        let mut answer = [0; 8];
        if let Err(e) = stream.read_exact(&mut answer) {
            // The server may have stopped first.
            assert!(counts.stop.load(Relaxed), "the connection that lasts: {e}");
            return;
        }
        assert_eq!(answer, number.to_be_bytes());
        counts.streamed.fetch_add(1, Relaxed);
        std::thread::sleep(PAUSE);
    }
}

fn connect(counts: &Counts, to: SocketAddr) {
    while !counts.stop.load(Relaxed) {
        let answered = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect_timeout(&to, CONNECTED)?;
            stream.set_read_timeout(Some(LOST))?;
            stream.write_all(&[0; 8])?;
            stream.read_exact(&mut [0; 8])
        };
        if let Err(e) = answered() {
            // The server may have stopped first.
            if counts.stop.load(Relaxed) {
                return;
            }
            eprintln!("a connection to {to}: {e}");
            counts.unconnected.fetch_add(1, Relaxed);
        }
        counts.connected.fetch_add(1, Relaxed);
        std::thread::sleep(10 * PAUSE);
    }
}

/// Forbidden datagrams from a port that is new now and then.
fn flood(counts: &Counts, to: SocketAddr) {
    let mut buffer = [0; 64];
    while !counts.stop.load(Relaxed) {
        let socket = udp(0);
        socket.set_nonblocking(true).expect("set");
        for number in 0..BY_ONE_PORT {
            // Refused where a firewall of the host answers, or the peer has no socket: not sent again, but counted.
            let _ = socket.send_to(&number.to_be_bytes(), to);
            counts.forbidden.fetch_add(1, Relaxed);
            while socket.recv(&mut buffer).is_ok() {
                counts.leaked.fetch_add(1, Relaxed);
            }
            std::thread::sleep(PAUSE);
        }
    }
    std::thread::sleep(STRAY);
}

/// Forbidden connections.
fn intrude(counts: &Counts, to: SocketAddr) {
    while !counts.stop.load(Relaxed) {
        counts.forbidden.fetch_add(1, Relaxed);
        if TcpStream::connect_timeout(&to, STRAY / 10).is_ok() {
            counts.leaked.fetch_add(1, Relaxed);
        }
    }
}

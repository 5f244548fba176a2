//! Allowed and forbidden packets without end, each counted at both ends.
//!
//! Allowed: questions and echoes one at a time, by UDP (over IPv4, from a new port now and then, so that both known and
//! new flows are judged) and by one TCP connection (over IPv6). One at a time, so no socket's buffer loses any: what is
//! missing, the programs dropped. Forbidden: as many datagrams, from the intruder to the open port and from web to the
//! closed one; their receivers must stay silent, which the counters of echoes tell.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::instance::PATIENCE;
use crate::netns::{Namespace, Pod};
use crate::probes::retransmissions;

/// What does not come in this time is lost.
const LOST: Duration = Duration::from_secs(2);
/// Questions by one UDP port.
const BY_ONE_PORT: u64 = 64;

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    asked: AtomicU64,
    lost: AtomicU64,
    forbidden: AtomicU64,
    leaked: AtomicU64,
    streamed: AtomicU64,
}

/// Runs until it is ended or dropped.
pub struct Traffic<'a> {
    web: &'a Namespace,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
    before: u64,
}

/// What came of it. Packets of questions and of echoes count each.
#[derive(Debug)]
#[allow(dead_code)] // Read by Debug.
pub struct Seen {
    pub allowed: u64,
    pub forbidden: u64,
    pub streamed: u64,
    pub lost: u64,
    pub leaked: u64,
    pub retransmitted: u64,
}

impl<'a> Traffic<'a> {
    /// `udp` and `tcp` are echo services of `api` that `web` may ask and `intruder` may not; nobody may ask the UDP port
    /// above.
    pub fn start(web: &'a Pod, intruder: &Pod, api: &Pod, udp: SocketAddr, tcp: SocketAddr) -> Self {
        assert!(api.addresses.list().contains(&udp.ip()));
        let counts = Arc::new(Counts::default());
        let stream = web.namespace.run(|| TcpStream::connect(tcp).expect("connected"));
        let bind = |pod: &Pod| {
            let socket = pod
                .namespace
                .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port"));
            socket.set_nonblocking(true).expect("set");
            socket
        };
        let forbidden = [
            (bind(intruder), udp),
            (bind(web), SocketAddr::new(udp.ip(), udp.port() + 1)),
        ];
        let before = retransmissions(&web.namespace);
        let path = web.namespace.path();
        let threads = vec![
            std::thread::spawn({
                let counts = counts.clone();
                move || {
                    crate::netns::enter(&path);
                    datagrams(&counts, udp, &forbidden);
                }
            }),
            std::thread::spawn({
                let counts = counts.clone();
                move || exchange(&counts, stream)
            }),
        ];
        Self {
            web: &web.namespace,
            counts,
            threads,
            before,
        }
    }

    /// Waits for so many more questions to be answered.
    pub fn wait_for(&self, more: u64) {
        self.wait_until(self.counts.asked.load(Relaxed) + more);
    }

    pub fn wait_until(&self, asked: u64) {
        while self.counts.asked.load(Relaxed) < asked && self.threads.iter().all(|t| !t.is_finished()) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn end(mut self) -> Seen {
        self.counts.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let counts = &self.counts;
        Seen {
            allowed: 2 * counts.asked.load(Relaxed),
            forbidden: counts.forbidden.load(Relaxed),
            streamed: 2 * counts.streamed.load(Relaxed),
            lost: counts.lost.load(Relaxed),
            leaked: counts.leaked.load(Relaxed),
            retransmitted: retransmissions(self.web) - self.before,
        }
    }
}

impl Drop for Traffic<'_> {
    fn drop(&mut self) {
        self.counts.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn datagrams(counts: &Counts, to: SocketAddr, forbidden: &[(UdpSocket, SocketAddr)]) {
    let ask_from = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        socket.connect(to).expect("connected");
        socket.set_read_timeout(Some(LOST)).expect("a timeout");
        socket
    };
    let mut socket = ask_from();
    let mut number = 0_u64;
    let mut buffer = [0; 64];
    while !counts.stop.load(Relaxed) {
        if number.is_multiple_of(BY_ONE_PORT) {
            socket = ask_from();
        }
        number += 1;
        for (socket, to) in forbidden {
            socket.send_to(&number.to_be_bytes(), to).expect("sent");
            counts.forbidden.fetch_add(1, Relaxed);
            while socket.recv(&mut buffer).is_ok() {
                counts.leaked.fetch_add(1, Relaxed);
            }
        }
        socket.send(&number.to_be_bytes()).expect("sent");
        loop {
            match socket.recv(&mut buffer) {
                Ok(8) if buffer[..8] == number.to_be_bytes() => break,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    counts.lost.fetch_add(1, Relaxed);
                    break;
                }
                Err(e) => panic!("{to}: {e}"),
            }
        }
        counts.asked.fetch_add(1, Relaxed);
    }
    // What leaked last may still be on its way.
    for (socket, _) in forbidden {
        socket.set_nonblocking(false).expect("set");
        socket.set_read_timeout(Some(LOST / 4)).expect("a timeout");
        while socket.recv(&mut buffer).is_ok() {
            counts.leaked.fetch_add(1, Relaxed);
        }
    }
}

fn exchange(counts: &Counts, mut stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("set");
    let mut number = 0_u64;
    while !counts.stop.load(Relaxed) {
        number += 1;
        stream.write_all(&number.to_be_bytes()).expect("the stream");
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).expect("the stream");
        assert_eq!(answer, number.to_be_bytes());
        counts.streamed.fetch_add(1, Relaxed);
    }
}

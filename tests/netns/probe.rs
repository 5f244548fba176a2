//! Listeners and clients inside namespaces, by plain sockets and with bounded waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::Namespace;

/// How long a service's thread may take to notice that it is to end.
const NOTICE: Duration = Duration::from_millis(20);
const QUESTION: &[u8] = b"who is there?";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What a client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The service echoed what was sent.
    Reached,
    /// A reset or an ICMP unreachable: nothing listens, or something rejects.
    Refused,
    /// Silence until the time was up.
    Dropped,
}

/// An echo service of both families on one port; ends on drop.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Listens when it returns.
    pub fn start(namespace: &Namespace, protocol: Protocol, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let thread = match protocol {
            Protocol::Tcp => {
                // Also takes IPv4, as mapped addresses (net.ipv6.bindv6only is 0).
                let listener = namespace.run(|| TcpListener::bind(any)).expect("a free TCP port");
                bound(&listener);
                let stop = stop.clone();
                std::thread::spawn(move || echo_tcp(&listener, &stop))
            }
            Protocol::Udp => {
                let socket = namespace.run(|| UdpSocket::bind(any)).expect("a free UDP port");
                bound(&socket);
                let stop = stop.clone();
                std::thread::spawn(move || echo_udp(&socket, &stop))
            }
        };
        Self {
            stop,
            threads: vec![thread],
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn bound(socket: &impl std::os::fd::AsFd) {
    set_socket_timeout(socket, Timeout::Recv, Some(NOTICE)).expect("a receive timeout");
}

fn echo_tcp(listener: &TcpListener, stop: &AtomicBool) {
    std::thread::scope(|connections| {
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                continue;
            };
            bound(&stream);
            connections.spawn(move || {
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    match stream.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(n) if stream.write_all(&buffer[..n]).is_err() => return,
                        Ok(_) => {}
                        Err(e) if waits(e.kind()) => {}
                        Err(_) => return,
                    }
                }
            });
        }
    });
}

fn echo_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 65536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}

fn waits(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// Asks the echo service at `to`:`port` from inside `from`, for at most `patience` (a TCP question for at most twice).
pub fn reach(from: &Namespace, protocol: Protocol, to: IpAddr, port: u16, patience: Duration) -> Answer {
    let to = SocketAddr::from((to, port));
    from.run(move || {
        let result = match protocol {
            Protocol::Tcp => ask_tcp(to, patience),
            Protocol::Udp => ask_udp(to, patience),
        };
        match result {
            Ok(()) => Answer::Reached,
            Err(e) if waits(e.kind()) => Answer::Dropped,
            Err(e) if refused(e.kind()) => Answer::Refused,
            Err(e) => panic!("{protocol:?} to {to}: {e}"),
        }
    })
}

fn refused(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied
    )
}

fn ask_tcp(to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(QUESTION)?;
    let mut answer = [0; QUESTION.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, QUESTION, "what {to} echoes");
    Ok(())
}

fn ask_udp(to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    let until = Instant::now() + patience;
    socket.set_read_timeout(Some(patience))?;
    socket.send(QUESTION)?;
    let mut answer = [0; 2048];
    loop {
        let n = socket.recv(&mut answer)?;
        if &answer[..n] == QUESTION {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
    }
}

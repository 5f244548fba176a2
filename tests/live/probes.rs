//! What is sent, and what came of it: TCP, UDP, echo, fragments, and SCTP by raw sockets, as nothing else is to be had
//! without the kernel's module.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, Protocol as Number, RecvFlags, SendFlags, SocketType, ipproto};
use rustix::net::{recv, sendto, socket, sockopt};

use crate::instance::PATIENCE;
use crate::netns::{self, Answer, Namespace, Pod, Protocol, Service};

/// What should come, comes in this time, however busy the machine is.
const SOON: Duration = Duration::from_secs(5);
/// What has not come in this time is held to be dropped; a pass takes well below a millisecond.
const SILENCE: Duration = Duration::from_millis(400);
/// Above every MTU here.
const LARGE: usize = 4000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Tcp(u16),
    Udp(u16),
    /// A datagram that takes several fragments, there and back.
    LargeUdp(u16),
    Echo,
    LargeEcho,
    /// An SCTP INIT, one way.
    Sctp(u16),
}

/// Who asks whom, how, and what is to come of it.
pub struct Probe<'a> {
    pub from: &'a Namespace,
    pub to: (&'a Namespace, IpAddr),
    pub how: How,
    pub expected: Answer,
}

/// Makes all probes at once, and panics with those that came out otherwise.
pub fn check(probes: &[Probe<'_>]) {
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = probes
            .iter()
            .map(|probe| (probe, scope.spawn(|| probe.ask())))
            .collect();
        let shown = |(probe, thread): (&Probe<'_>, std::thread::ScopedJoinHandle<'_, Answer>)| {
            let seen = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (seen != probe.expected).then(|| {
                let (from, to, how) = (probe.from.name(), probe.to.1, probe.how);
                format!(
                    "{from} → {to} {how:?}: expected {:?}, seen {seen:?}",
                    probe.expected
                )
            })
        };
        threads.into_iter().filter_map(shown).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Probe<'_> {
    fn ask(&self) -> Answer {
        let patience = match self.expected {
            Answer::Dropped => SILENCE,
            _ => SOON,
        };
        ask(self.from, self.to, self.how, patience)
    }
}

fn ask(from: &Namespace, (there, to): (&Namespace, IpAddr), how: How, patience: Duration) -> Answer {
    let result = match how {
        How::Tcp(port) => return netns::reach(from, Protocol::Tcp, to, port, patience),
        How::Udp(port) => return netns::reach(from, Protocol::Udp, to, port, patience),
        How::LargeUdp(port) => from.run(|| large_udp(SocketAddr::new(to, port), patience)),
        How::Echo => echo(from, to, 56, patience),
        How::LargeEcho => echo(from, to, LARGE, patience),
        How::Sctp(port) => sctp(from, there, to, port, patience),
    };
    match result {
        Ok(()) => Answer::Reached,
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Answer::Dropped,
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable
            ) =>
        {
            Answer::Refused
        }
        Err(e) => panic!("{how:?} to {to}: {e}"),
    }
}

fn any(like: IpAddr) -> SocketAddr {
    match like {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// On a busy machine a later fragment may overtake the first, and is dropped for it: three tries.
fn asked_again(mut ask: impl FnMut() -> std::io::Result<usize>) -> std::io::Result<usize> {
    ask().or_else(|_| ask()).or_else(|_| ask())
}

fn large_udp(to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let socket = UdpSocket::bind(any(to.ip()))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    let question: Vec<u8> = (0..LARGE).map(|n| n as u8).collect();
    let mut answer = vec![0; 2 * LARGE];
    let n = asked_again(|| socket.send(&question).and_then(|_| socket.recv(&mut answer)))?;
    assert_eq!(answer[..n], question, "what {to} echoes");
    Ok(())
}

/// By a socket that the kernel fills in identifier and checksum for.
fn echo(from: &Namespace, to: IpAddr, size: usize, patience: Duration) -> std::io::Result<()> {
    from.sysctl("net/ipv4/ping_group_range", "0 0");
    from.run(|| {
        let (family, protocol, request, reply) = match to {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
        };
        let socket = UdpSocket::from(socket(family, SocketType::DGRAM, Some(protocol))?);
        socket.connect(SocketAddr::new(to, 0))?;
        socket.set_read_timeout(Some(patience))?;
        let mut question = vec![request, 0, 0, 0, 0, 0, 0, 1];
        question.extend((0..size).map(|n| n as u8));
        let mut answer = vec![0; 2 * LARGE];
        let n = asked_again(|| socket.send(&question).and_then(|_| socket.recv(&mut answer)))?;
        assert_eq!(
            (answer[0], &answer[8..n]),
            (reply, &question[8..]),
            "what {to} echoes"
        );
        Ok(())
    })
}

fn raw(namespace: &Namespace, like: IpAddr) -> std::io::Result<std::os::fd::OwnedFd> {
    let family = match like {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let number = Number::from_raw(132.try_into().expect("not 0"));
    Ok(namespace.run(|| socket(family, SocketType::RAW, Some(number)))?)
}

/// Whether an INIT arrives. The checksum is left out: nothing on the way looks at it.
fn sctp(
    from: &Namespace,
    there: &Namespace,
    to: IpAddr,
    port: u16,
    patience: Duration,
) -> std::io::Result<()> {
    let (sender, receiver) = (raw(from, to)?, raw(there, to)?);
    sockopt::set_socket_timeout(&receiver, sockopt::Timeout::Recv, Some(patience))?;
    // The address stands for the sender, so that probes at once tell their packets apart.
    let tag = (std::ptr::from_ref(from) as usize >> 3) as u16 ^ port;
    let mut init = vec![0; 12 + 20];
    init[0..2].copy_from_slice(&tag.to_be_bytes());
    init[2..4].copy_from_slice(&port.to_be_bytes());
    (init[12], init[15]) = (1, 20);
    sendto(&sender, &init, SendFlags::empty(), &SocketAddr::new(to, 0))?;
    let until = Instant::now() + patience;
    let mut buffer = vec![0; 2048];
    while Instant::now() < until {
        let (n, _) = recv(&receiver, &mut buffer[..], RecvFlags::empty())?;
        // A raw IPv4 socket gives the IP header too.
        let header = match to {
            IpAddr::V4(_) => usize::from(buffer[0] & 15) * 4,
            IpAddr::V6(_) => 0,
        };
        if buffer[header..n].starts_with(&init[..4]) {
            return Ok(());
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// A TCP connection to an echo service that stays open.
pub struct Stream(TcpStream);

impl Stream {
    pub fn open(from: &Namespace, to: SocketAddr) -> Self {
        let stream = from.run(|| TcpStream::connect_timeout(&to, SOON));
        Self(stream.unwrap_or_else(|e| panic!("{} → {to}: {e}", from.name())))
    }

    /// Sends and waits for the echo.
    pub fn ask(&mut self, expected: Answer) {
        let patience = if expected == Answer::Reached {
            SOON
        } else {
            SILENCE
        };
        self.0.set_read_timeout(Some(patience)).expect("a timeout");
        self.0.write_all(b"still there?").expect("written");
        let mut answer = [0; 12];
        let seen = match self.0.read_exact(&mut answer) {
            Ok(()) => Answer::Reached,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Answer::Dropped,
            Err(_) => Answer::Refused,
        };
        assert_eq!(seen, expected, "{:?}", self.0);
    }
}

/// Probes in each family that the destination has, all at once.
pub fn table(rows: &[(&Namespace, &Pod, How, Answer)]) {
    let mut probes = Vec::new();
    for (from, to, how, expected) in rows {
        probes.extend(to.addresses.list().into_iter().map(|address| Probe {
            from,
            to: (&to.namespace, address),
            how: *how,
            expected: *expected,
        }));
    }
    check(&probes);
}

/// TCP and UDP echo services on each of these ports at each of these places.
pub fn echo_services(at: &[&Namespace], ports: &[u16]) -> Vec<Service> {
    let mut services = Vec::new();
    for namespace in at {
        for port in ports {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                services.push(Service::start(namespace, protocol, *port));
            }
        }
    }
    services
}

impl Stream {
    /// Waits for the echo of what was asked in vain before.
    pub fn recover(&mut self) {
        self.0.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut answer = [0; 12];
        self.0
            .read_exact(&mut answer)
            .unwrap_or_else(|e| panic!("{:?}: {e}", self.0));
    }
}

/// TCP segments that a namespace has sent again.
pub fn retransmissions(namespace: &Namespace) -> u64 {
    let text = namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").expect("the kernel's counters"));
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (tcp.next().expect("names"), tcp.next().expect("values"));
    let at = names.split(' ').position(|name| name == "RetransSegs");
    let value = at.and_then(|at| values.split(' ').nth(at));
    value.and_then(|value| value.parse().ok()).expect("a number")
}

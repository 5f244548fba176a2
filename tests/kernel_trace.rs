//! Traces of real packets through real veths, by both kinds of attachment: what each shows, whom it leaves alone, and how it ends.

mod kernel_support;
mod netns;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use kernel_support::Pins;
use libbpf_rs::query::ProgInfoIter;
use netns::{Answer, Host, Layout, Pod, Protocol, Service, reach};
use palisade::bpf::{
    AttachKind, Config, EventReader, FlowState, Kernel, Kind, Lookup, Outcome, Reason, Row, Standing, Trace,
    TraceFilter, TraceScope, Traced,
};
use palisade::compile::{Class, Image, PodDirection, PodImage, Psid, RuleInfo, RuleKey, diff};
use palisade::model::{Cidr, Direction, ObjectId, RuleId};

const KINDS: [AttachKind; 2] = [AttachKind::Auto, AttachKind::Clsact];
const PATIENCE: Duration = Duration::from_millis(600);
/// For what must come.
const WAIT: Duration = Duration::from_secs(5);
const LISTENING: u16 = 8080;
const CLOSED: u16 = 5555;
const ALLOW: RuleKey = RuleKey(1);
const DENY: RuleKey = RuleKey(2);
const ISOLATED: Psid = Psid(20);
const FRIENDS: Class = Class(9);

fn uid(pod: &Pod) -> Arc<str> {
    pod.veth.as_str().into()
}

fn v4(pod: &Pod) -> IpAddr {
    pod.addresses.v4.expect("IPv4").into()
}

/// `server` takes connections from `friend` alone; the others are open.
fn image(server: &Pod, friend: &Pod, stranger: &Pod) -> Image {
    let mut image = Image::default();
    let policy = ObjectId::new("shop", "server");
    let allow = RuleId {
        policy: policy.clone(),
        direction: Direction::Ingress,
        index: Some(0),
    };
    let deny = RuleInfo::Isolation {
        direction: Direction::Ingress,
        policies: [policy].into(),
    };
    image.rules = [(ALLOW, RuleInfo::Rule(allow)), (DENY, deny)].into();
    image
        .rows
        .insert((ISOLATED, FRIENDS), palisade::compile::Row::Allow(ALLOW));
    image.addresses.extend(
        friend
            .addresses
            .list()
            .into_iter()
            .map(|address| (address, FRIENDS)),
    );
    for pod in [server, friend, stranger] {
        let isolated = PodDirection {
            psid: ISOLATED,
            denied_by: Some(DENY),
            audited_by: None,
        };
        let own = PodImage {
            id: ObjectId::new("shop", &pod.veth),
            addresses: pod.addresses.list(),
            source_prefixes: Vec::new(),
            log_allowed: false,
            ingress: if uid(pod) == uid(server) {
                isolated
            } else {
                PodDirection::OPEN
            },
            egress: PodDirection::OPEN,
        };
        image.pods.insert(uid(pod), own);
    }
    image
}

/// Three pods under policies, of which nothing is traced yet.
struct Node {
    kernel: Kernel,
    config: Config,
    host: Host,
    server: Pod,
    friend: Pod,
    stranger: Pod,
    _services: [Service; 2],
    // In the order in which they must go.
    pins: Pins,
}

impl Node {
    fn new(kind: AttachKind) -> Self {
        let pins = Pins::new();
        let host = Host::new(Layout::Routed);
        let [server, friend, stranger] = ["server", "friend", "stranger"].map(|name| host.pod(name));
        let services =
            [Protocol::Tcp, Protocol::Udp].map(|p| Service::start(&server.namespace, p, LISTENING));
        let config = Config {
            attach: kind,
            ..pins.config()
        };
        let mut kernel = Kernel::open(&config).expect("the programs load");
        let wanted = image(&server, &friend, &stranger);
        kernel
            .apply(&diff(kernel.image(), &wanted))
            .expect("the image fits");
        host.namespace.run(|| {
            for pod in [&server, &friend, &stranger] {
                kernel.attach(&uid(pod), host.ifindex(pod)).expect("attached");
            }
        });
        Self {
            kernel,
            config,
            host,
            server,
            friend,
            stranger,
            _services: services,
            pins,
        }
    }

    /// Follows the server, in IPv4.
    fn trace(&mut self) -> (Receiver<Traced>, EventReader) {
        let programs = self
            .kernel
            .trace_source()
            .load()
            .expect("the tracing programs load");
        let (send, records) = sync_channel(1024);
        let reader = programs.records(move |record| send.try_send(record).is_ok());
        let trace = Trace {
            scope: TraceScope::Pods([uid(&self.server)].into()),
            filter: TraceFilter {
                destination: Cidr::new([0, 0, 0, 0].into(), 0),
                ..TraceFilter::default()
            },
            packets: 10_000,
            time: Duration::from_secs(60),
        };
        let begun = self
            .host
            .namespace
            .run(|| self.kernel.begin_trace(&programs, &trace));
        begun.expect("a trace");
        (records, reader.expect("a reader"))
    }

    /// Ids of the programs at a pod's interface: from_pod's, to_pod's.
    fn programs(&self, pod: &Pod) -> [u32; 2] {
        if self.kernel.uses_tcx() {
            let ifindex = self.host.ifindex(pod);
            return ["ingress", "egress"].map(|hook| {
                let path = self.pins.0.join("links").join(format!("{ifindex}-{hook}"));
                libbpf_rs::Link::open(path).unwrap().info().unwrap().prog_id
            });
        }
        ["ingress", "egress"].map(|hook| {
            let shown = self
                .host
                .namespace
                .exec("tc", &["filter", "show", "dev", &pod.veth, hook], "");
            let id = shown
                .split(" id ")
                .nth(1)
                .and_then(|rest| rest.split_whitespace().next());
            id.and_then(|id| id.parse().ok())
                .unwrap_or_else(|| panic!("no program in {shown}"))
        })
    }

    /// Sends one datagram of `length` bytes from a pod.
    fn datagram(&self, from: &Pod, to: SocketAddr, length: usize) {
        from.namespace.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:4321").expect("a socket");
            socket.send_to(&vec![7; length], to).expect("sent");
        });
    }
}

/// The first record of this kind; those before it are of no interest.
fn next(records: &Receiver<Traced>, what: &str, wanted: impl Fn(&Traced) -> bool) -> Traced {
    let until = Instant::now() + WAIT;
    let mut others = Vec::new();
    while let Ok(record) = records.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if wanted(&record) {
            return record;
        }
        others.push(record);
    }
    panic!("no record of {what} in {others:#?}");
}

#[test]
fn each_kind_of_packet_shows_its_real_path() {
    require_root!();
    for kind in KINDS {
        let mut node = Node::new(kind);
        let (records, reader) = node.trace();
        let (server, friend, stranger) = (v4(&node.server), v4(&node.friend), v4(&node.stranger));
        let next = |what, wanted: &dyn Fn(&Traced) -> bool| next(&records, what, wanted);

        let reached = reach(&node.friend.namespace, Protocol::Tcp, server, LISTENING, PATIENCE);
        assert_eq!(reached, Answer::Reached, "{kind:?}");
        let first = next("a first packet", &|r| r.headers.source == Some(friend));
        assert_eq!(
            (first.direction, first.headers.destination_port),
            (Direction::Ingress, LISTENING)
        );
        assert_eq!(
            (first.lookup, first.recorded),
            (Lookup::Missing, true),
            "{first:?}"
        );
        let answer = first.answers[0].expect("policy was asked");
        assert_eq!((answer.class, answer.row), (Some(FRIENDS.0), Row::Allow));
        assert_eq!((first.outcome, first.reason), (Outcome::Allowed, Reason::Policy));
        assert!(
            first.received_on == Some(node.host.ifindex(&node.friend)),
            "{first:?}"
        );
        let reply = next("its reply", &|r| r.headers.destination == Some(friend));
        let Lookup::Found(entry) = reply.lookup else {
            panic!("{reply:?}")
        };
        assert!(reply.established && reply.answers == [None, None]);
        assert_eq!(
            (entry.state, entry.standing),
            (FlowState::TcpSyn, Standing::Current)
        );
        let established = next("an established packet", &|r| r.headers.source == Some(friend));
        let Lookup::Found(entry) = established.lookup else {
            panic!("{established:?}")
        };
        assert!(established.established, "{established:?}");
        assert_eq!(
            (entry.state, entry.counter),
            (FlowState::TcpEstablished, first.counter)
        );

        let dropped = reach(
            &node.stranger.namespace,
            Protocol::Tcp,
            server,
            LISTENING,
            PATIENCE,
        );
        assert_eq!(dropped, Answer::Dropped, "{kind:?}");
        let denied = next("a denied packet", &|r| r.headers.source == Some(stranger));
        assert_eq!(
            (denied.outcome, denied.reason),
            (Outcome::Dropped, Reason::Policy)
        );
        assert_eq!(denied.answers[0].expect("policy was asked").class, None);
        let names = node.kernel.name_trace(&denied);
        assert!(
            matches!(&names.rule, Some(RuleInfo::Isolation { policies, .. }) if *policies[0].name == *"server")
        );
        assert_eq!(
            names.pod.map(|id| id.to_string()).as_deref(),
            Some("shop/vethserver")
        );

        node.datagram(&node.friend, (server, LISTENING).into(), 3000);
        let from_friend = |r: &Traced| r.headers.source == Some(friend);
        let part = next("a first fragment", &|r| {
            from_friend(r) && r.headers.fragment.is_some()
        });
        let fragment = part.headers.fragment.expect("one");
        assert!(
            fragment.offset == 0 && part.first_kept && part.headers.destination_port == LISTENING,
            "{part:?}"
        );
        let later = next("the next fragment", &|r| {
            from_friend(r) && r.headers.fragment.is_some()
        });
        let rest = later.headers.fragment.expect("one");
        assert!(rest.id == fragment.id && rest.offset > 0, "{later:?}");
        assert_eq!(later.headers.destination_port, LISTENING, "as the first one said");
        assert_eq!((later.outcome, later.headers.unfit), (Outcome::Allowed, None));

        node.datagram(&node.server, (friend, CLOSED).into(), 10);
        // There was another before, of what the server echoed.
        let quotes = |r: &Traced| r.quoted.as_ref().is_some_and(|q| q.destination_port == CLOSED);
        let error = next("an ICMP error", &quotes);
        assert_eq!(error.headers.kind, Kind::IcmpError);
        assert_eq!(
            (error.direction, error.headers.source),
            (Direction::Ingress, Some(friend))
        );
        let quoted = error.quoted.as_ref().expect("what it quotes");
        assert_eq!((quoted.source, quoted.destination_port), (Some(server), CLOSED));
        let Lookup::Found(entry) = error.lookup else {
            panic!("{error:?}")
        };
        assert_eq!(
            (entry.state, entry.began),
            (FlowState::DatagramNew, Direction::Egress)
        );
        assert_eq!(
            (error.outcome, error.reason),
            (Outcome::Allowed, Reason::IcmpError)
        );
        reader.stop().expect("it ran until now");
    }
}

#[test]
fn no_other_pod_is_touched_and_the_end_leaves_nothing() {
    require_root!();
    for kind in KINDS {
        let mut node = Node::new(kind);
        let plain = [&node.server, &node.friend, &node.stranger].map(|pod| node.programs(pod));
        let (records, reader) = node.trace();
        let traced = node.programs(&node.server);
        assert!(
            traced.iter().all(|id| !plain[0].contains(id)),
            "{traced:?} {plain:?}"
        );
        assert_eq!(node.programs(&node.friend), plain[1]);
        assert_eq!(node.programs(&node.stranger), plain[2]);
        // Between others, and then with the server.
        reach(
            &node.friend.namespace,
            Protocol::Udp,
            v4(&node.stranger),
            CLOSED,
            PATIENCE,
        );
        reach(
            &node.friend.namespace,
            Protocol::Udp,
            v4(&node.server),
            LISTENING,
            PATIENCE,
        );
        reader.stop().expect("it ran until now");
        let seen: Vec<Traced> = records.try_iter().collect();
        let own = node.host.ifindex(&node.server);
        assert!(
            !seen.is_empty() && seen.iter().all(|record| record.ifindex == own),
            "{seen:?}"
        );
        // What the loop does anyway does not end a trace.
        let again = node
            .host
            .namespace
            .run(|| node.kernel.attach(&uid(&node.server), own));
        again.expect("attached");
        assert_eq!(node.programs(&node.server), traced);
        node.host
            .namespace
            .run(|| node.kernel.end_trace())
            .expect("its end");
        assert_eq!(node.programs(&node.server), plain[0]);
        gone(traced);
    }
}

/// The kernel frees programs a little later than they lose their last place.
fn gone(programs: [u32; 2]) {
    let until = Instant::now() + WAIT;
    while ProgInfoIter::default().any(|program| programs.contains(&program.id)) {
        assert!(Instant::now() < until, "{programs:?} are still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_agent_leaves_no_tracing_program_behind_after_the_next_start() {
    require_root!();
    for kind in KINDS {
        let mut node = Node::new(kind);
        let plain = node.programs(&node.server);
        let (records, reader) = node.trace();
        let traced = node.programs(&node.server);
        drop((records, reader));
        let Node {
            kernel,
            config,
            host,
            server,
            friend,
            stranger,
            _services,
            pins,
        } = node;
        // Nothing of it ends the trace: that is what the kernel sees of a process that is killed.
        drop(kernel);
        for (from, expected) in [(&friend, Answer::Reached), (&stranger, Answer::Dropped)] {
            let seen = reach(&from.namespace, Protocol::Tcp, v4(&server), LISTENING, PATIENCE);
            assert_eq!(seen, expected, "{kind:?}: while no agent runs");
        }
        let kernel = host
            .namespace
            .run(|| Kernel::open(&config))
            .expect("the next start");
        let node = Node {
            kernel,
            config,
            host,
            server,
            friend,
            stranger,
            _services,
            pins,
        };
        assert_eq!(node.programs(&node.server), plain, "{kind:?}");
        gone(traced);
        let reached = reach(
            &node.friend.namespace,
            Protocol::Tcp,
            v4(&node.server),
            LISTENING,
            PATIENCE,
        );
        assert_eq!(reached, Answer::Reached, "{kind:?}");
    }
}

#[test]
fn no_packet_is_lost_or_let_pass_while_programs_are_exchanged() {
    require_root!();
    for kind in KINDS {
        let mut node = Node::new(kind);
        let to = SocketAddr::from((v4(&node.server), 7777));
        let sink = node
            .server
            .namespace
            .run(|| UdpSocket::bind(("0.0.0.0", 7777)).expect("a socket"));
        sink.set_nonblocking(true).expect("a flag");
        let [friend, stranger] = [&node.friend, &node.stranger].map(|pod| {
            pod.namespace.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.connect(to).expect("a peer");
                socket
            })
        });
        let (mut sent, mut received) = (0_u32, 0_u32);
        for _ in 0..20 {
            let (records, reader) = node.trace();
            for ended in [false, true] {
                for _ in 0..10 {
                    friend.send(b"f").expect("sent");
                    stranger.send(b"s").expect("sent");
                    sent += 1;
                }
                if !ended {
                    let end = node.host.namespace.run(|| node.kernel.end_trace());
                    end.expect("its end");
                }
            }
            drop((records, reader));
            // As they come, or the socket's buffer would be full.
            let until = Instant::now() + WAIT;
            let mut bytes = [0; 8];
            while received < sent && Instant::now() < until {
                match sink.recv_from(&mut bytes) {
                    Ok(_) => {
                        assert_eq!(&bytes[..1], b"f", "{kind:?}: a stranger's datagram arrived");
                        received += 1;
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        assert_eq!(received, sent, "{kind:?}");
    }
}

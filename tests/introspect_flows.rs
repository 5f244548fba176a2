//! The agent's API socket: who may ask, what comes of wrong questions, and what becomes of readers that are slow. No kernel side: what
//! the programs would report is made up.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use palisade::bpf::{Event, Kernel, Reason};
use palisade::compile::RuleInfo;
use palisade::introspect::{
    self, Agent, Answers, Client, Filter, FlowQuery, Known, Lines, Loser, Record, Refusal, Reporter, Seen,
    Server, Verdict,
};
use palisade::model::{Direction, ObjectId, Pod, RuleId};
use palisade::observe::Readiness;
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

mod kernel_support;
mod netns;

use kernel_support::Pins;

const PATIENCE: Duration = Duration::from_secs(20);

struct Site {
    home: tempfile::TempDir,
    reporter: Reporter,
    shutdown: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
    pins: Pins,
}

/// An agent whose kernel side nobody changes.
fn agent(pins: &Pins) -> Agent {
    let kernel = Kernel::open(&pins.config()).expect("a kernel side");
    Agent {
        node: "here".into(),
        source: "a folder".into(),
        metrics: "127.0.0.1:9810".parse().expect("an address"),
        inspector: kernel.inspector().expect("an inspector"),
        adopted: false,
        notices: Vec::new(),
        readiness: Readiness::default(),
        leader: None,
    }
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let pins = Pins::new();
        let (reporter, recorder, answers) = introspect::new(agent(&pins), 100);
        let mut site = Self {
            home,
            reporter,
            shutdown: CancellationToken::new(),
            running: JoinSet::new(),
            pins,
        };
        site.running.spawn(recorder.run(site.shutdown.clone()));
        site.serve(answers);
        site
    }

    fn serve(&mut self, answers: Answers) {
        let server = Server::bind(&self.socket(), answers).expect("a socket");
        self.running.spawn(server.run(self.shutdown.clone()));
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("palisade/api.sock")
    }

    fn client(&self) -> Client {
        Client::new(&self.socket())
    }

    async fn lines(&self, query: &str) -> anyhow::Result<Lines> {
        self.client().lines(&format!("/v1/flows?{query}")).await
    }

    async fn follow(&self, filter: Filter) -> Lines {
        let query = FlowQuery {
            last: Some(100),
            follow: true,
            filter,
        };
        self.lines(&query.encode()).await.expect("an answer")
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("no panic").expect("no error");
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// From 10.0.0.9 to port `port` of shop/web at 10.0.0.1.
fn seen(port: u16, rule: Option<RuleInfo>) -> Seen {
    let allowed = matches!(rule, Some(RuleInfo::Rule(_)));
    Seen {
        event: Event {
            time: Duration::from_secs(1),
            ifindex: 7,
            slot: 0,
            source: Some(ip("10.0.0.9")),
            destination: Some(ip("10.0.0.1")),
            source_port: 40_000,
            destination_port: port,
            ethertype: 0x0800,
            protocol: 6,
            direction: Direction::Ingress,
            allowed,
            audited: false,
            reason: match rule {
                Some(_) => Reason::Policy,
                None => Reason::Spoofed,
            },
            tcp_flags: 2,
            icmp_type: 0,
            counter: 64,
            length: 74,
        },
        pod: Some(ObjectId::new("shop", "web")),
        rule,
    }
}

fn isolation() -> Option<RuleInfo> {
    Some(RuleInfo::Isolation {
        direction: Direction::Ingress,
        policies: [ObjectId::new("shop", "db"), ObjectId::new("shop", "deny")].into(),
    })
}

fn rule() -> Option<RuleInfo> {
    Some(RuleInfo::Rule(RuleId {
        policy: ObjectId::new("shop", "web"),
        direction: Direction::Ingress,
        index: Some(2),
    }))
}

fn pod(namespace: &str, name: &str, address: &str) -> Known {
    Known::Pod(Pod {
        id: ObjectId::new(namespace, name),
        uid: name.into(),
        labels: Arc::default(),
        node: None,
        host_ip: None,
        addresses: vec![ip(address)],
        ports: Arc::default(),
        host_network: false,
        finished: false,
        created: None,
        source_prefixes: Vec::new(),
        log_allowed: false,
    })
}

async fn next(lines: &mut Lines) -> Record {
    let line = timeout(PATIENCE, lines.next()).await.expect("a line in time");
    let line = line.expect("a line").expect("not the end");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

async fn next_port(lines: &mut Lines) -> u16 {
    match next(lines).await {
        Record::Flow(flow) => flow.destination.expect("an end").port.expect("a port"),
        Record::Lost(lost) => panic!("{lost}"),
    }
}

#[tokio::test]
async fn a_packet_comes_with_the_names_of_its_pods_its_service_and_its_policies() {
    require_root!();
    let site = Site::new();
    site.reporter.known([
        pod("shop", "web", "10.0.0.1"),
        Known::Service(ObjectId::new("guest", "proxy"), vec![ip("10.0.0.9")]),
    ]);
    let mut lines = site.follow(Filter::default()).await;
    for rule in [isolation(), rule(), None] {
        site.reporter.seen(seen(80, rule));
    }
    let mut told = Vec::new();
    for _ in 0..3 {
        let Record::Flow(flow) = next(&mut lines).await else {
            panic!("a loss");
        };
        let source = flow.source.as_ref().expect("a source");
        let destination = flow.destination.as_ref().expect("a destination");
        assert_eq!(source.service, Some(ObjectId::new("guest", "proxy")));
        assert_eq!(destination.name_and_port(), "shop/web:80");
        assert_eq!(
            (&*flow.node, &*flow.protocol, flow.tcp_flags.as_deref()),
            ("here", "TCP", Some("SYN"))
        );
        told.push(format!("{} {}: {}", flow.verdict, flow.reason, flow.because()));
    }
    assert_eq!(
        told,
        [
            "denied isolation: isolated by shop/db, shop/deny",
            "allowed rule: shop/web spec.ingress[2]",
            "denied spoofed: spoofed"
        ]
    );
    site.stop().await;
}

#[tokio::test]
async fn each_filter_lets_through_what_it_names_and_nothing_else() {
    require_root!();
    let site = Site::new();
    site.reporter
        .known([pod("shop", "web", "10.0.0.1"), pod("guest", "peer", "10.0.0.9")]);
    let mut all = site.follow(Filter::default()).await;
    for (port, rule) in [(80, isolation()), (81, rule()), (82, None)] {
        site.reporter.seen(seen(port, rule));
    }
    for port in [80, 81, 82] {
        assert_eq!(next_port(&mut all).await, port);
    }
    for (query, expected) in [
        ("", &[80, 81, 82][..]),
        ("verdict=denied", &[80, 82]),
        ("verdict=allowed", &[81]),
        ("policy=shop/deny", &[80]),
        ("policy=web", &[81]),
        ("reason=spoofed", &[82]),
        ("reason=isolation", &[80]),
        ("port=82", &[82]),
        ("port=40000", &[]),
        ("direction=ingress", &[80, 81, 82]),
        ("direction=egress", &[]),
        ("pod=shop/web", &[80, 81, 82]),
        ("pod=guest/peer&verdict=allowed", &[81]),
        ("namespace=guest", &[80, 81, 82]),
        ("last=1", &[82]),
        ("last=1&verdict=allowed", &[81]),
    ] {
        let mut lines = site.lines(query).await.expect(query);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.expect(query) {
            match serde_json::from_str(&line).expect(query) {
                Record::Flow(flow) => found.push(flow.destination.expect("an end").port.expect("a port")),
                Record::Lost(lost) => panic!("{query}: {lost}"),
            }
        }
        assert_eq!(found, expected, "{query}");
    }
    site.stop().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_with_what_there_is() {
    require_root!();
    let site = Site::new();
    site.reporter.known([pod("shop", "web-0", "10.0.0.1")]);
    // What is known is known once a packet after it is told.
    let mut lines = site.follow(Filter::default()).await;
    site.reporter.seen(seen(80, isolation()));
    next(&mut lines).await;
    for (query, status, error, remedy) in [
        (
            "pod=shop/web-1",
            404,
            "no pod \"shop/web-1\"",
            "it knows shop/web-0",
        ),
        ("namespace=shopp", 404, "no namespace \"shopp\"", "it knows shop"),
        ("policy=nope", 404, "no policy \"nope\"", ""),
        ("reason=because", 400, "no reason \"because\"", "spoofed"),
        (
            "verdict=maybe",
            400,
            "no verdict \"maybe\"",
            "there are allowed, denied",
        ),
        (
            "colour=red",
            400,
            "no filter \"colour\"",
            "last, follow, pod, namespace",
        ),
    ] {
        let refused = site.lines(query).await.err().expect(query);
        let refusal = refused
            .downcast_ref::<Refusal>()
            .unwrap_or_else(|| panic!("{query}: {refused:#}"));
        assert_eq!(refusal.status, status, "{query}");
        assert!(refusal.error.contains(error), "{query}: {refusal}");
        assert!(refusal.remedy.contains(remedy), "{query}: {refusal}");
    }
    let refused = site
        .client()
        .lines("/v2/flows")
        .await
        .err()
        .expect("no such path");
    assert!(refused.to_string().contains("another version"), "{refused:#}");
    site.stop().await;
}

/// One that takes nothing is behind the room of its socket and the records that wait for it.
#[tokio::test]
async fn a_slow_reader_loses_records_is_told_how_many_and_holds_nobody_up() {
    require_root!();
    const SENT: u16 = 20_000;
    let site = Site::new();
    let mut slow = site.follow(Filter::default()).await;
    let mut quick = site
        .follow(Filter {
            verdict: Some(Verdict::Denied),
            ..Filter::default()
        })
        .await;
    for port in 1..=SENT {
        site.reporter.seen(seen(port, isolation()));
        assert_eq!(next_port(&mut quick).await, port, "the quick one sees each");
    }
    // A last one, so that the slow one can tell where the end is.
    site.reporter.seen(seen(50_000, isolation()));
    let (mut told, mut lost) = (0, 0);
    loop {
        match next(&mut slow).await {
            Record::Flow(flow) if flow.destination.as_ref().expect("an end").port == Some(50_000) => break,
            Record::Flow(_) => told += 1,
            Record::Lost(loss) => {
                assert_eq!(loss.by, Loser::Reader);
                lost += loss.lost;
            }
        }
    }
    assert!(lost > 0, "it was slow");
    assert_eq!(told + lost, u64::from(SENT), "{told} told, {lost} lost");
    site.stop().await;
}

#[tokio::test]
async fn what_the_kernel_and_the_agent_lost_is_a_record_of_its_own() {
    require_root!();
    let site = Site::new();
    let mut lines = site
        .follow(Filter {
            port: Some(1),
            ..Filter::default()
        })
        .await;
    site.reporter.lost(3, Loser::Kernel);
    site.reporter.lost(4, Loser::Agent);
    let mut told = Vec::new();
    for _ in 0..2 {
        match next(&mut lines).await {
            Record::Lost(lost) => told.push((lost.lost, lost.by)),
            Record::Flow(flow) => panic!("{flow:?}"),
        }
    }
    assert_eq!(told, [(3, Loser::Kernel), (4, Loser::Agent)]);
    site.stop().await;
}

#[tokio::test]
async fn followers_are_bounded_and_a_shutdown_ends_their_answers() {
    require_root!();
    let site = Site::new();
    let mut followers = Vec::new();
    let refused = loop {
        match site.lines("follow=true").await {
            Ok(lines) => followers.push(lines),
            Err(refused) => break refused,
        }
        assert!(followers.len() < 1000, "there is no bound");
    };
    let refusal = refused.downcast_ref::<Refusal>().expect("a refusal");
    assert_eq!(refusal.status, 503, "{refusal}");
    // One that leaves makes room.
    followers.pop();
    timeout(PATIENCE, async {
        while let Err(refused) = site.lines("follow=true").await {
            assert_eq!(refused.downcast_ref::<Refusal>().map(|r| r.status), Some(503));
        }
    })
    .await
    .expect("room");
    site.shutdown.cancel();
    for mut lines in followers {
        let end = timeout(PATIENCE, lines.next()).await.expect("an end in time");
        assert_eq!(end.expect("a whole answer"), None);
    }
    site.stop().await;
}

#[tokio::test]
async fn the_socket_is_roots_replaces_a_stale_one_and_spares_one_that_answers() {
    require_root!();
    let mut site = Site::new();
    let socket = site.socket();
    let found = fs::symlink_metadata(&socket).expect("the socket");
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o777, 0o600);
    let folder = fs::metadata(socket.parent().expect("a folder")).expect("the folder");
    assert_eq!(folder.mode() & 0o777, 0o700);

    let (_, _, answers) = introspect::new(agent(&site.pins), 1);
    let refused = Server::bind(&socket, answers.clone()).err().expect("it is taken");
    assert!(refused.to_string().contains("--api-socket"), "{refused:#}");
    site.client()
        .lines("/v1/flows")
        .await
        .expect("the first answers on");

    site.shutdown.cancel();
    while site.running.join_next().await.is_some() {}
    let gone = site
        .client()
        .lines("/v1/flows")
        .await
        .err()
        .expect("nobody answers");
    assert!(
        format!("{gone:#}").contains("kubectl -n kube-system get pods"),
        "{gone:#}"
    );
    site.shutdown = CancellationToken::new();
    site.serve(answers);
    site.client()
        .lines("/v1/flows")
        .await
        .expect("the next one answers");

    fs::remove_file(&socket).expect("removed");
    let gone = site.client().lines("/v1/flows").await.err().expect("no socket");
    assert!(
        format!("{gone:#}").contains("there is no agent's socket"),
        "{gone:#}"
    );
    fs::write(&socket, "a file").expect("written");
    let (_, _, answers) = introspect::new(agent(&site.pins), 1);
    let refused = Server::bind(&socket, answers).err().expect("a file is there");
    assert!(
        format!("{refused:#}").contains("no socket; remove it"),
        "{refused:#}"
    );
}

#[tokio::test]
async fn a_peer_that_is_not_root_is_let_go_without_an_answer() {
    require_root!();
    let site = Site::new();
    // Whoever has changed the modes.
    let socket = site.socket();
    for (path, mode) in [
        (site.home.path(), 0o755),
        (socket.parent().expect("a folder"), 0o755),
        (&socket, 0o666),
    ] {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("modes");
    }
    let asked = move || {
        let nobody = Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody).expect("another uid");
        let mut stream = UnixStream::connect(&socket).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // It may have hung up by then.
        let _ = stream.write_all(b"GET /v1/flows HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    // The uid is a thread's own; this one ends with it.
    let stranger = std::thread::spawn(asked);
    let answer = tokio::task::spawn_blocking(|| stranger.join().expect("no panic"));
    let answer = answer.await.expect("no panic");
    assert_eq!(answer, b"", "{}", String::from_utf8_lossy(&answer));
    site.stop().await;
}

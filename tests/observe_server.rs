//! What a scraper and a kubelet see of the HTTP server.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use palisade::model::{Direction, ObjectId};
use palisade::observe::{
    CniAnswer, Config, CounterSample, Counters, Detail, Flows, MapFill, Metrics, Outcome, Readiness, Rule,
    build,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Kernel(Mutex<Vec<CounterSample>>);

impl Counters for Kernel {
    fn read(&self) -> Vec<CounterSample> {
        self.0.lock().unwrap().clone()
    }

    fn maps(&self) -> Vec<MapFill> {
        vec![MapFill {
            name: "row",
            entries: 12,
            capacity: 65536,
        }]
    }

    fn flows(&self) -> Vec<Flows> {
        let of = |family, entries| Flows {
            family,
            entries,
            capacity: 1024,
            recorded: 40,
            refused: 1,
            evicted: 2,
        };
        vec![of("ipv4", Some(37)), of("ipv6", None)]
    }

    fn events_lost(&self) -> Option<u64> {
        Some(8)
    }
}

struct Page {
    status: u16,
    head: String,
    body: String,
}

fn send(addr: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(text.as_bytes()).expect("sent");
    stream
}

/// As a Prometheus server asks.
const SERVER: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

async fn fetch(addr: SocketAddr, path: &str) -> Page {
    fetch_as(addr, path, SERVER).await
}

async fn fetch_as(addr: SocketAddr, path: &str, accept: &str) -> Page {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: palisade\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    let exchange = tokio::task::spawn_blocking(move || {
        let mut stream = send(addr, &request);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer in time");
        answer
    });
    let answer = exchange.await.expect("an exchange");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status line");
    Page {
        status,
        head: head.to_ascii_lowercase(),
        body: body.to_string(),
    }
}

/// Runs `work` against a server on a free port, then shuts it down.
async fn with_server<F: Future<Output = ()>>(
    metrics: Metrics,
    counters: Option<Arc<dyn Counters>>,
    readiness: Readiness,
    work: impl FnOnce(SocketAddr) -> F,
) {
    let shutdown = CancellationToken::new();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config {
        listen,
        registry: metrics.registry(counters, Detail::default()),
        readiness,
        shutdown: shutdown.clone(),
    };
    let server = build(config).await.expect("a server");
    let addr = server.addr();
    assert_ne!(addr.port(), 0);
    let work = async {
        work(addr).await;
        shutdown.cancel();
    };
    let (result, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(server.wait(), work) })
        .await
        .expect("the server ends when it is told to");
    result.expect("a clean end");
}

/// What the process takes is different each time.
fn without_values(body: &str) -> String {
    let line = |line: &str| match line.split_once(' ') {
        Some((name, _)) if name.starts_with("process_") => format!("{name} 1\n"),
        _ => format!("{line}\n"),
    };
    body.lines().map(line).collect()
}

/// `UPDATE_GOLDEN=1` records it anew.
fn as_recorded(name: &str, body: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/metrics")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, body).expect("recorded");
    }
    let recorded = std::fs::read_to_string(&path).expect("a recorded scrape");
    assert_eq!(body, recorded, "{}", path.display());
}

/// What `promtool check metrics` says of a scrape: nothing.
fn lint(text: &str) {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = tool else {
        assert!(
            std::env::var("CI").is_err(),
            "CI must not skip promtool: make monitoring-packages"
        );
        return eprintln!("skipped: promtool is not there (make monitoring-packages)");
    };
    let mut input = tool.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("taken");
    drop(input);
    let output = tool.wait_with_output().expect("its end");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "promtool: {said}");
}

#[tokio::test]
async fn metrics_are_open_metrics_under_their_documented_names() {
    let metrics = Metrics::default();
    metrics.changes_applied.inc_by(3);
    metrics.changes_refused.inc();
    metrics.map_writes.inc_by(7);
    metrics.events_untaken.inc_by(2);
    metrics.pods_attached.set(5);
    metrics.cni_answered(CniAnswer::Secured, Duration::from_millis(30));
    metrics.cni_answered(CniAnswer::Refused, Duration::from_secs(8));
    metrics.applied_in(Duration::from_micros(100));
    metrics.applied_in(Duration::from_millis(3));
    metrics.applied_in(Duration::from_secs(20));
    metrics.set_problems(BTreeMap::from([("files".into(), 2), ("node".into(), 1)]));
    metrics.set_skipped(BTreeMap::from([("Deployment".into(), 4)]));
    let count = |direction, verdict, policy, reason, packets, bytes| CounterSample {
        direction,
        verdict,
        policy,
        rule: Rule::Index(0),
        reason,
        packets,
        bytes,
    };
    let web = Some(ObjectId::new("shop", "web"));
    let kernel = Kernel(Mutex::new(vec![
        count(
            Direction::Ingress,
            Outcome::Allowed,
            web.clone(),
            "rule",
            10,
            1500,
        ),
        count(Direction::Ingress, Outcome::Allowed, web.clone(), "rule", 5, 500),
        count(Direction::Egress, Outcome::Dropped, web, "isolation", 1, 74),
        count(Direction::Egress, Outcome::Dropped, None, "truncated", 9, 90),
    ]));
    with_server(
        metrics,
        Some(Arc::new(kernel)),
        Readiness::default(),
        async |addr| {
            let page = fetch(addr, "/metrics").await;
            assert_eq!(page.status, 200);
            let content_type = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
            assert!(page.head.contains(content_type), "{}", page.head);
            let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
            let body = without_values(&page.body.replace(&version, "version=\"VERSION\""));
            as_recorded("openmetrics.txt", &body);

            let page = fetch_as(addr, "/metrics", "*/*").await;
            let content_type = "content-type: text/plain; version=0.0.4; charset=utf-8";
            assert!(page.head.contains(content_type), "{}", page.head);
            let body = without_values(&page.body.replace(&version, "version=\"VERSION\""));
            as_recorded("text.txt", &body);
            lint(&body);
        },
    )
    .await;
}

#[tokio::test]
async fn a_hostile_name_stays_one_label_value() {
    let metrics = Metrics::default();
    metrics.set_skipped(BTreeMap::from([("A\"} 1\nfake_total 9 # \\".into(), 1)]));
    with_server(metrics, None, Readiness::default(), async |addr| {
        let page = fetch(addr, "/metrics").await;
        let line = r#"palisade_objects_skipped{kind="A\"} 1\nfake_total 9 # \\"} 1"#;
        assert!(page.body.lines().any(|l| l == line), "{}", page.body);
        assert!(page.body.ends_with("# EOF\n"));
    })
    .await;
}

#[tokio::test]
async fn readiness_names_what_is_waited_for_and_health_does_not_wait() {
    let readiness = Readiness::default();
    let (pods, maps) = (
        readiness.wait_for("pods listed"),
        readiness.wait_for("policies applied"),
    );
    with_server(Metrics::default(), None, readiness.clone(), async |addr| {
        assert_eq!(fetch(addr, "/healthz").await.status, 200);
        let page = fetch(addr, "/readyz").await;
        assert_eq!(
            (page.status, &*page.body),
            (503, "not ready: pods listed, policies applied\n")
        );
        drop(pods);
        let page = fetch(addr, "/readyz").await;
        assert_eq!((page.status, &*page.body), (503, "not ready: policies applied\n"));
        drop(maps);
        let page = fetch(addr, "/readyz").await;
        assert_eq!((page.status, &*page.body), (200, "ready\n"));
        assert_eq!(fetch(addr, "/else").await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_shutdown() {
    let mut idle = None;
    let started = std::time::Instant::now();
    with_server(Metrics::default(), None, Readiness::default(), async |addr| {
        // Half a request, so that the server waits for the rest.
        let stream = send(addr, "GET /metrics HTTP/1.1\r\n");
        fetch(addr, "/healthz").await;
        idle = Some(stream);
    })
    .await;
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn an_address_in_use_is_an_error_with_a_remedy() {
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a listener");
    let config = Config {
        listen: holder.local_addr().expect("an address"),
        registry: Metrics::default().registry(None, Detail::default()),
        readiness: Readiness::default(),
        shutdown: CancellationToken::new(),
    };
    let Err(error) = build(config).await else {
        panic!("two listeners on one port")
    };
    let text = format!("{error:#}");
    assert!(
        text.contains("--listen") && text.contains("Address already in use"),
        "{text}"
    );
}

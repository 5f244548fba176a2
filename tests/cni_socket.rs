//! The agent's socket: who may ask by it, what a question is, and what becomes of those that nobody answers.

mod netns;

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use palisade::cni::protocol::LINE;
use palisade::node::{Secure, Server};
use palisade::observe::{CniAnswer, Metrics};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

struct Site {
    home: tempfile::TempDir,
    requests: mpsc::Receiver<Secure>,
    shutdown: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
    metrics: Metrics,
}

impl Site {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(home: tempfile::TempDir) -> Self {
        let (ask, requests) = mpsc::channel(4);
        let metrics = Metrics::default();
        let shutdown = CancellationToken::new();
        let server = Server::bind(&socket(&home), ask, metrics.clone()).unwrap();
        let mut running = JoinSet::new();
        running.spawn(server.run(shutdown.clone()));
        Self {
            home,
            requests,
            shutdown,
            running,
            metrics,
        }
    }

    fn socket(&self) -> PathBuf {
        socket(&self.home)
    }

    async fn request(&mut self) -> Secure {
        timeout(PATIENCE, self.requests.recv())
            .await
            .expect("a request in time")
            .expect("a request")
    }

    async fn stop(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.running.join_next().await.unwrap().unwrap().unwrap();
        self.home
    }
}

fn socket(home: &tempfile::TempDir) -> PathBuf {
    home.path().join("palisade/palisade.sock")
}

fn question(limit: u64) -> String {
    let request = json!({
        "command": "add", "namespace": "shop", "pod": "web-0", "uid": "u-1", "container": "c0ffee", "ifname": "eth0",
        "netns": "/run/netns/x", "interfaces": ["vethweb"], "addresses": ["10.0.0.1", "fd00::1"], "timeoutMs": limit, "new": 1
    });
    format!("{request}\n")
}

async fn connected(path: &Path, text: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // It may have hung up by then.
    let _ = stream.write_all(text.as_bytes()).await;
    BufReader::new(stream)
}

async fn answer(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    timeout(PATIENCE, stream.read_line(&mut line))
        .await
        .expect("an answer in time")
        .unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[tokio::test]
async fn a_request_reaches_the_loop_and_its_answer_the_plugin() {
    let mut site = Site::new();
    for answered in [Ok(()), Err("the map is full".to_string())] {
        let mut plugin = connected(&site.socket(), &question(10_000)).await;
        let secure = site.request().await;
        assert_eq!(
            (&*secure.namespace, &*secure.name, &*secure.uid),
            ("shop", "web-0", "u-1")
        );
        assert_eq!(
            (&*secure.ifname, &secure.interfaces[..]),
            ("eth0", &["vethweb".to_string()][..])
        );
        assert_eq!(
            secure.addresses,
            [
                "10.0.0.1".parse::<std::net::IpAddr>().unwrap(),
                "fd00::1".parse().unwrap()
            ]
        );
        let left = secure.deadline - Instant::now();
        assert!(
            left > Duration::from_secs(7) && left < Duration::from_secs(9),
            "{left:?}"
        );
        secure.answer.send(answered.clone()).unwrap();
        let got = answer(&mut plugin).await;
        match answered {
            Ok(()) => assert_eq!(got, json!({"ok": true})),
            Err(why) => {
                assert!(got["error"].as_str().unwrap().contains(&why), "{got}");
                assert!(got["error"].as_str().unwrap().contains("shop/web-0"), "{got}");
                assert!(!got["remedy"].as_str().unwrap().is_empty(), "{got}");
            }
        }
    }
    assert_eq!(
        (
            site.metrics.cni_answers(CniAnswer::Secured),
            site.metrics.cni_answers(CniAnswer::Refused)
        ),
        (1, 1)
    );
    site.stop().await;
}

#[tokio::test]
async fn what_is_no_request_is_answered_so_and_never_reaches_the_loop() {
    let mut site = Site::new();
    let without = |key: &str| {
        let mut request: Value = serde_json::from_str(&question(1)).unwrap();
        request.as_object_mut().unwrap().remove(key);
        format!("{request}\n")
    };
    for (text, words) in [
        ("nonsense\n".to_string(), "cannot be read"),
        ("\n".into(), "cannot be read"),
        ("{}\n".into(), "command"),
        (question(1).replace("\"add\"", "\"drop\""), "drop"),
        (question(1).replace("10.0.0.1", "10.0.0.300"), "IP address"),
        (without("uid"), "uid"),
        (without("timeoutMs"), "timeoutMs"),
        ("x".repeat(LINE + 5000), "longer"),
    ] {
        let mut plugin = connected(&site.socket(), &text).await;
        let got = answer(&mut plugin).await;
        assert!(got["error"].as_str().unwrap().contains(words), "{words}: {got}");
    }
    // One that says nothing is given up, and keeps nobody from asking.
    let mut silent = connected(&site.socket(), "{\"command\"").await;
    let mut plugin = connected(&site.socket(), &question(5000)).await;
    site.request().await.answer.send(Ok(())).unwrap();
    assert_eq!(answer(&mut plugin).await, json!({"ok": true}));
    assert!(
        answer(&mut silent).await["error"]
            .as_str()
            .unwrap()
            .contains("no whole request")
    );
    assert!(site.requests.try_recv().is_err());
    site.stop().await;
}

#[tokio::test]
async fn who_has_no_answer_gets_one_before_its_time_is_over_and_who_leaves_is_forgotten() {
    let mut site = Site::new();
    let begun = Instant::now();
    let mut plugin = connected(&site.socket(), &question(2000)).await;
    let kept = site.request().await;
    assert!(kept.deadline <= begun + Duration::from_secs(1) + Duration::from_millis(200));
    let got = answer(&mut plugin).await;
    assert!(
        got["error"].as_str().unwrap().contains("not in force in time"),
        "{got}"
    );
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(kept.answer.is_closed());
    // Nor is the loop kept waiting for one that has hung up.
    let plugin = connected(&site.socket(), &question(60_000)).await;
    let mut left = site.request().await;
    drop(plugin);
    timeout(PATIENCE, left.answer.closed())
        .await
        .expect("it is seen to leave");
    // A loop that is busy takes nothing: those that do not fit are answered too.
    let mut plugins = Vec::new();
    for _ in 0..8 {
        plugins.push(connected(&site.socket(), &question(500)).await);
    }
    for plugin in &mut plugins {
        assert!(answer(plugin).await["error"].is_string());
    }
    site.stop().await;
}

#[tokio::test]
async fn only_root_may_ask() {
    require_root!();
    let mut site = Site::new();
    // As if an administrator had opened it up: the peer is asked for its name all the same.
    for path in [
        site.socket().parent().unwrap().to_path_buf(),
        site.socket(),
        site.home.path().to_path_buf(),
    ] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let (path, text) = (site.socket(), question(5000));
    // Credentials are a thread's own; this one ends with them.
    let stranger = std::thread::spawn(move || {
        let nobody = Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        // It may have been refused by then.
        let _ = stream.write_all(text.as_bytes());
        let mut got = Vec::new();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match stream.read_to_end(&mut got) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            read => assert_eq!(read.unwrap(), 0, "{got:?}"),
        }
    });
    tokio::task::spawn_blocking(|| stranger.join().unwrap())
        .await
        .unwrap();
    assert!(site.requests.try_recv().is_err());
    site.stop().await;
}

#[tokio::test]
async fn the_socket_is_there_at_any_time_and_for_root_only() {
    let site = Site::new();
    let path = site.socket();
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    // A folder that is open, as a container runtime makes it, is closed; a socket that is left over is replaced.
    let home = site.stop().await;
    assert!(path.exists(), "it stays, so that plugins wait for the next agent");
    fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    fs::write(path.with_extension("sock.new"), "left over").unwrap();
    let old = path.metadata().unwrap().ino();
    let mut site = Site::at(home);
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    assert_ne!(path.metadata().unwrap().ino(), old);
    assert!(path.metadata().unwrap().file_type().is_socket());
    let _plugin = connected(&path, &question(5000)).await;
    site.request().await;
    // What is no socket is somebody's, and stays.
    let home = site.stop().await;
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    let error = Server::bind(&path, mpsc::channel(1).0, Metrics::default()).unwrap_err();
    assert!(format!("{error:#}").contains("no socket"), "{error:#}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    drop(home);
}

#[tokio::test]
async fn it_ends_when_nobody_takes_its_requests() {
    let home = tempfile::tempdir().unwrap();
    let (ask, requests) = mpsc::channel(1);
    let server = Server::bind(&socket(&home), ask, Metrics::default()).unwrap();
    drop(requests);
    let ended = timeout(PATIENCE, server.run(CancellationToken::new()))
        .await
        .expect("an end");
    assert!(ended.unwrap_err().to_string().contains("nobody takes"));
}

//! A Prometheus server that scrapes agents: what it is told to scrape in, what it knows out.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// On the loopback of the network namespace that it runs in.
const PORT: u16 = 19090;
/// For all that is bound to come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A series' labels and its value.
pub type Sample = (BTreeMap<String, String>, f64);

/// Ends on drop. Questions are to be asked from within its network namespace.
pub struct Server {
    child: Child,
    _data: tempfile::TempDir,
}

impl Server {
    /// Scrapes these addresses twice a second, as job `palisade`. `command` makes the command of a program where it is to run.
    /// `None`, with a message: it is not installed.
    pub fn start(targets: &[String], command: impl FnOnce(&str) -> Command) -> Option<Self> {
        if Command::new("prometheus").arg("--version").output().is_err() {
            assert!(
                std::env::var("CI").is_err(),
                "CI must not skip this: make monitoring-packages"
            );
            eprintln!("skipped: prometheus is not there (make monitoring-packages)");
            return None;
        }
        let data = tempfile::tempdir().expect("a folder");
        let config = data.path().join("prometheus.yml");
        // JSON is YAML.
        let text = serde_json::json!({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [{"job_name": "palisade", "honor_labels": true, "static_configs": [{"targets": targets}]}],
        });
        std::fs::write(&config, text.to_string()).expect("written");
        let child = command("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                data.path().join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus");
        Some(Self { child, _data: data })
    }

    /// What an expression has now; `None` where the server does not answer yet.
    pub fn query(&self, expression: &str) -> Option<Vec<Sample>> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // 1.0, so that the end of the connection is the end of the body.
        write!(stream, "GET /api/v1/query?query={escaped} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let body: Value = serde_json::from_str(body).ok()?;
        let series = body["data"]["result"].as_array()?.iter().map(|series| {
            let labels = serde_json::from_value(series["metric"].clone()).expect("labels");
            let value = series["value"][1].as_str().and_then(|value| value.parse().ok());
            (labels, value.expect("a number"))
        });
        Some(series.collect())
    }

    /// The one value of an expression; `None`: there is none yet.
    pub fn value(&self, expression: &str) -> Option<f64> {
        match &self.query(expression)?[..] {
            [] => None,
            [(_, value)] => Some(*value),
            more => panic!("{expression}: {more:?}"),
        }
    }

    /// Waits until an expression has this value, and returns what it has in the end.
    pub fn settles(&self, expression: &str, expected: f64) -> Option<f64> {
        let until = Instant::now() + PATIENCE;
        loop {
            let value = self.value(expression);
            if value == Some(expected) || Instant::now() > until {
                return value;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

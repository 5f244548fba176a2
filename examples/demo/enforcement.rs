//! `palisade run` in the shop's host namespace: started, asked over HTTP, stopped, cleaned up after.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::answers::Palisade;
use crate::leftovers::{Scratch, pin_path};
use crate::netns::Namespace;
use crate::shop::Shop;
use crate::wait_until;

/// In the shop's host namespace, so that it is free.
const LISTEN: &str = "127.0.0.1:9810";
/// How long it may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `palisade`; stopped, and its pins removed, when dropped.
pub struct Enforcement<'a> {
    child: Option<Child>,
    program: PathBuf,
    log: PathBuf,
    host: &'a Namespace,
    cleaned: bool,
}

impl<'a> Enforcement<'a> {
    /// Returns when the folder is in force.
    pub fn start(palisade: &Palisade, shop: &'a Shop, scratch: &Scratch) -> Result<Self> {
        let host = &shop.host.namespace;
        let log = scratch.log();
        let written = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        // Not `ip netns exec`, which hides /sys/fs/bpf. If the demo is killed, what it started ends too.
        let child = alone(&mut host.command("setpriv"))
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&palisade.program)
            .arg("run")
            .arg("--from")
            .arg(&palisade.folder)
            .arg("--pin-path")
            .arg(pin_path())
            .args(["--listen", LISTEN])
            .arg("--api-socket")
            .arg(log.with_file_name("api").join("api.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(written)
            .spawn()
            .context("cannot start palisade (util-linux's nsenter and setpriv are needed)")?;
        let mut enforcement = Self {
            child: Some(child),
            program: palisade.program.clone(),
            log,
            host,
            cleaned: false,
        };
        let begun = Instant::now();
        let ready = wait_until(PATIENCE, || {
            if let Some(status) = enforcement.ended()? {
                bail!("palisade has ended ({status}):\n{}", enforcement.log_end());
            }
            Ok(enforcement.get("/readyz").is_ok_and(|answer| answer == "ready\n"))
        })?;
        if ready.is_none() {
            bail!(
                "palisade is not ready after {PATIENCE:?}:\n{}",
                enforcement.log_end()
            );
        }
        println!(
            "palisade run --from shop: in force on the interfaces of {} pods after {} ms",
            Shop::pods().count(),
            begun.elapsed().as_millis()
        );
        Ok(enforcement)
    }

    fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let child = self.child.as_mut().context("palisade has ended")?;
        child.try_wait().context("cannot wait for palisade")
    }

    /// The last lines that it wrote.
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// The body of what HTTP answers.
    fn get(&self, path: &str) -> Result<String> {
        let address: SocketAddr = LISTEN.parse()?;
        let exchange = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: palisade\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = self.host.run(exchange).with_context(|| format!("GET {path}"))?;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("GET {path}: no body"))?;
        Ok(body.to_string())
    }

    /// Packets by labels.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        let text = self.get("/metrics")?;
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("palisade_traffic_packets_total{"));
        lines
            .map(|line| Counter::read(line).with_context(|| format!("in /metrics: {line}")))
            .collect()
    }

    /// As a service manager does.
    pub fn stop(&mut self) -> Result<()> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("palisade's pid")?;
        kill_process(pid, Signal::TERM).context("cannot stop palisade")?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.ended()? {
                self.child = None;
                if status.success() {
                    return Ok(());
                }
                bail!("palisade has ended with {status} on SIGTERM:\n{}", self.log_end());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("palisade does not end on SIGTERM")
    }

    /// What `palisade clean` prints. Fails where anything is left.
    pub fn clean(&mut self) -> Result<String> {
        let program = self.program.display().to_string();
        let output = alone(&mut self.host.command(&program))
            .args(["clean", "--pin-path"])
            .arg(pin_path())
            .output()
            .context("palisade clean")?;
        if !output.status.success() || pin_path().exists() {
            bail!("palisade clean: {}", String::from_utf8_lossy(&output.stderr));
        }
        self.cleaned = true;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Enforcement<'_> {
    fn drop(&mut self) {
        if self.child.is_some()
            && self.stop().is_err()
            && let Some(mut child) = self.child.take()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !self.cleaned
            && let Err(error) = self.clean()
        {
            eprintln!("{error:#}");
        }
    }
}

/// In a process group of its own, which a terminal's Ctrl-C does not reach.
fn alone(command: &mut Command) -> &mut Command {
    command.process_group(0)
}

/// One line of OpenMetrics.
pub struct Counter {
    labels: Vec<(String, String)>,
    pub value: u64,
}

impl Counter {
    fn read(line: &str) -> Option<Self> {
        let (labels, value) = line.rsplit_once("} ")?;
        let labels = labels
            .split(',')
            .map(|label| {
                let (name, value) = label.split_once('=')?;
                Some((name.to_string(), value.trim_matches('"').to_string()))
            })
            .collect::<Option<_>>()?;
        let value = value.parse().ok()?;
        Some(Self { labels, value })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(label, _)| label == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn is(&self, name: &str, value: &str) -> bool {
        self.label(name) == Some(value)
    }

    /// Those of these labels that it has.
    pub fn shown(&self, names: &[&str]) -> String {
        let shown = names
            .iter()
            .filter_map(|name| Some(format!("{name}={}", self.label(name)?)));
        shown.collect::<Vec<_>>().join(" ")
    }
}

//! Palisade's own pods: in, the pods of its DaemonSet; out, their processes, metrics and readiness, and who leads.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, PATIENCE, container_of};
use crate::netns::processes_of;

pub const NAMESPACE: &str = "kube-system";
pub const NAME: &str = "palisade";
const LABEL: &str = "app.kubernetes.io/name=palisade";
const PORT: u16 = 9810;

/// An instance, as of when it was found.
#[derive(Clone, Debug)]
pub struct Agent {
    pub pod: String,
    pub node: String,
    /// Its node's.
    pub address: IpAddr,
    pub pid: i32,
}

/// The running instance of each of the cluster's two nodes; waits until both are ready.
pub fn agents(cluster: &Cluster) -> Vec<Agent> {
    within(PATIENCE, "an agent on each node", || {
        let found = running(cluster)?;
        let ready = found.iter().all(Agent::ready);
        (found.len() == cluster.nodes.len() && ready).then_some(found)
    })
}

/// None while the API server does not answer.
fn running(cluster: &Cluster) -> Option<Vec<Agent>> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), NAMESPACE);
    let list = cluster
        .block_on(pods.list(&ListParams::default().labels(LABEL)))
        .ok()?;
    let agents = list.items.iter().filter_map(|pod| {
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let node = pod.spec.as_ref()?.node_name.clone()?;
        let (_, address) = cluster.nodes.iter().find(|(name, _)| *name == node)?;
        let container = container_of(pod)?;
        Some(Agent {
            pod: pod.metadata.name.clone()?,
            address: *address,
            pid: *processes_of(&container).first()?,
            node,
        })
    });
    Some(agents.collect())
}

/// The instance that holds the lease; waits until one does.
pub fn leader(cluster: &Cluster) -> Agent {
    within(PATIENCE, "a leader", || {
        let holder = holder(cluster)?;
        running(cluster)?.into_iter().find(|agent| agent.pod == holder)
    })
}

/// Who holds the lease, if it has not been given up.
pub fn holder(cluster: &Cluster) -> Option<String> {
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), NAMESPACE);
    let lease = cluster.block_on(leases.get_opt(NAME)).ok()??;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

impl Agent {
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid).expect("a process");
        kill_process(pid, signal).unwrap_or_else(|e| panic!("{self:?}: {signal:?}: {e}"));
    }

    pub fn ready(&self) -> bool {
        get(self.address, "/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// All it counts, by name with labels.
    pub fn metrics(&self) -> Metrics {
        let (status, text) = get(self.address, "/metrics").unwrap_or_else(|| panic!("{self:?}: no metrics"));
        assert_eq!(status, 200, "{self:?}: {text}");
        let values = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                Some((series.to_owned(), value.parse().ok()?))
            });
        Metrics(values.collect())
    }

    /// A field of /proc/PID/status, in KiB, as `VmRSS`.
    pub fn memory(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("its status");
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let line = line.unwrap_or_else(|| panic!("no {field}"));
        let value = line.trim_start_matches(':').trim().trim_end_matches("kB").trim();
        value.parse().expect("a size")
    }
}

/// What one scrape gave.
#[derive(Clone, Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Sum over all series of this name.
    pub fn sum(&self, name: &str) -> f64 {
        let of_name = |series: &str| series.split('{').next() == Some(name);
        self.0
            .iter()
            .filter(|(series, _)| of_name(series))
            .map(|(_, v)| v)
            .sum()
    }

    /// Each series of this name.
    pub fn series(&self, name: &str) -> BTreeMap<String, f64> {
        let of_name = |series: &str| series.split('{').next() == Some(name);
        let series = self.0.iter().filter(|(series, _)| of_name(series));
        series.map(|(name, value)| (name.clone(), *value)).collect()
    }

    /// Upper bound in seconds of the bucket in which this share of what was observed since `before` lies.
    pub fn quantile_since(&self, before: &Self, histogram: &str, share: f64) -> Option<f64> {
        let prefix = format!("{histogram}_bucket{{");
        let mut buckets: BTreeMap<u64, f64> = BTreeMap::new();
        for (series, value) in &self.0 {
            let Some(labels) = series.strip_prefix(&prefix) else {
                continue;
            };
            let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
            let bound: f64 = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse().ok()?
            };
            let since = value - before.0.get(series).copied().unwrap_or(0.0);
            // Positive floats order as their bits do.
            *buckets.entry(bound.to_bits()).or_default() += since;
        }
        let total = *buckets.values().next_back()?;
        if total <= 0.0 {
            return None;
        }
        let found = buckets.iter().find(|(_, count)| **count >= share * total)?;
        Some(f64::from_bits(*found.0))
    }
}

/// Status and body of an HTTP answer; None where there is none.
fn get(address: IpAddr, path: &str) -> Option<(u16, String)> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    // 1.0, so that the end of the connection is the end of the body.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Asks until there is an answer: for what no watch tells. Panics after `patience`.
pub fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_quantile_counts_only_what_came_since() {
    let of = |low: f64, high: f64| {
        Metrics(BTreeMap::from([
            ("d_bucket{le=\"0.001\"}".to_owned(), low),
            ("d_bucket{le=\"0.01\"}".to_owned(), high),
            ("d_bucket{le=\"+Inf\"}".to_owned(), high),
        ]))
    };
    assert_eq!(
        of(90.0, 100.0).quantile_since(&of(0.0, 0.0), "d", 0.9),
        Some(0.001)
    );
    assert_eq!(
        of(90.0, 100.0).quantile_since(&of(90.0, 90.0), "d", 0.5),
        Some(0.01)
    );
    assert_eq!(of(90.0, 100.0).quantile_since(&of(90.0, 100.0), "d", 0.5), None);
}

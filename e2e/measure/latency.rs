//! From a policy's change at the API server until the kernels of both nodes judge by it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use crate::agents::{self, within};
use crate::cluster::{Cluster, PATIENCE, RunningPod, apply, policy};
use crate::fake_pods;
use crate::report::{Limit, Report, setting};

const PORT: u16 = 7100;
/// Between probes.
const EVERY: Duration = Duration::from_micros(200);
/// As long as no probe arrives, the verdict is to drop.
const SILENT: Duration = Duration::from_millis(30);
/// And so many were sent: the sender may have had to wait for a core.
const UNANSWERED: u64 = 50;
const APPLIED: &str = "palisade_apply_duration_seconds";

/// Probes to a pod without end, and when they arrived, in ns since `start`.
#[derive(Debug)]
struct Probe {
    start: Instant,
    stop: AtomicBool,
    /// Last arrival. 0 before any.
    last: AtomicU64,
    /// First arrival since this was set to 0.
    first: AtomicU64,
    sent: AtomicU64,
    /// Of `sent`, at the last arrival.
    answered: AtomicU64,
}

impl Probe {
    fn new(start: Instant) -> Self {
        Self {
            start,
            stop: AtomicBool::new(false),
            last: AtomicU64::new(0),
            first: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos())
            .expect("584 years")
            .max(1)
    }

    fn send(&self, to: SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        while !self.stop.load(SeqCst) {
            let _ = socket.send_to(b"probe", to);
            self.sent.fetch_add(1, SeqCst);
            std::thread::sleep(EVERY);
        }
    }

    fn receive(&self, socket: &UdpSocket) {
        let mut buffer = [0; 64];
        while !self.stop.load(SeqCst) {
            if socket.recv(&mut buffer).is_ok() {
                let now = self.now();
                let _ = self.first.compare_exchange(0, now, SeqCst, SeqCst);
                self.last.store(now, SeqCst);
                self.answered.store(self.sent.load(SeqCst), SeqCst);
            }
        }
    }

    /// When the first probe arrived since `first` was set to 0.
    fn opened(&self) -> Option<u64> {
        Some(self.first.load(SeqCst)).filter(|first| *first > 0)
    }

    /// When the last probe arrived, once none do.
    fn closed(&self) -> Option<u64> {
        let last = self.last.load(SeqCst);
        let unanswered = self.sent.load(SeqCst).saturating_sub(self.answered.load(SeqCst));
        let silent = Duration::from_nanos(self.now().saturating_sub(last));
        (silent > SILENT && unanswered > UNANSWERED).then_some(last)
    }
}

/// Ends the probes also when the test fails, for a scope waits for its threads.
struct End<'a>(&'a [Probe]);

impl Drop for End<'_> {
    fn drop(&mut self) {
        for probe in self.0 {
            probe.stop.store(true, SeqCst);
        }
    }
}

#[test]
fn policy_change_to_verdict() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let changes = setting("PALISADE_E2E_CHANGES", 200);
    let peers = u32::try_from(setting("PALISADE_E2E_PEERS", 5000)).expect("a count of pods");
    agents::agents(&cluster);
    let space = cluster.space("latency");
    let [(one, _), (two, _)] = &cluster.nodes;
    let pods = space.pods(&[
        ("client-1", one, "client"),
        ("server-1", one, "server"),
        ("client-2", two, "client"),
        ("server-2", two, "server"),
    ]);
    fake_pods::create(&space, 0..peers, |_| json!({ "app": "peer" }));
    let api = space.api::<NetworkPolicy>();
    let write = |allow: bool| cluster.block_on(apply(&api, "server", &policy("server", &spec(allow))));
    write(false);

    let start = Instant::now();
    let probes = [Probe::new(start), Probe::new(start)];
    // Each node's server is asked by the other's client.
    let lanes = [(&pods[0], &pods[3]), (&pods[2], &pods[1])];
    let sockets = lanes.map(|(_, server)| listen(server));
    std::thread::scope(|scope| {
        for ((probe, (client, server)), socket) in probes.iter().zip(lanes).zip(sockets) {
            let (from, to) = (client.netns.clone(), SocketAddr::new(server.address, PORT));
            scope.spawn(move || {
                from.enter();
                probe.send(to);
            });
            scope.spawn(move || probe.receive(&socket));
        }
        let end = End(&probes);
        // The peers' addresses are to be in force before anything is measured.
        within(PATIENCE, "the first policy is enforced", || {
            probes.iter().all(|probe| probe.closed().is_some()).then_some(())
        });
        let mut entries = 0.0;
        within(PATIENCE, "the peers are in force", || {
            let found = agents::agents(&cluster)
                .iter()
                .map(|a| a.metrics().sum("palisade_map_entries"))
                .sum();
            let same = entries == found;
            entries = found;
            std::thread::sleep(Duration::from_secs(1));
            same.then_some(())
        });
        let before: Vec<_> = agents::agents(&cluster)
            .iter()
            .map(agents::Agent::metrics)
            .collect();

        let (mut opened, mut closed, mut written) = (Vec::new(), Vec::new(), Vec::new());
        for change in 0..changes {
            let allow = change.is_multiple_of(2);
            for probe in &probes {
                probe.first.store(0, SeqCst);
            }
            let asked = probes[0].now();
            write(allow);
            written.push(Duration::from_nanos(probes[0].now() - asked));
            for probe in &probes {
                let changed = within(PATIENCE, "the change is enforced", || {
                    if allow { probe.opened() } else { probe.closed() }
                });
                let took = Duration::from_nanos(changed.saturating_sub(asked));
                if allow {
                    opened.push(took)
                } else {
                    closed.push(took)
                }
            }
            // Not in step with any clock of the programs.
            std::thread::sleep(Duration::from_millis(100 + change * 37 % 100));
        }
        drop(end);

        let mut all: Vec<Duration> = opened.iter().chain(&closed).copied().collect();
        let mut report = Report::new("latency");
        report.count("peers", peers.into(), Limit::None);
        report.count("changes", changes, Limit::None);
        report.durations(
            "written to enforced on a node",
            &mut all,
            Limit::AtMost(100.0),
            Limit::AtMost(100.0),
        );
        report.durations("of them, opened", &mut opened, Limit::None, Limit::None);
        report.durations("of them, closed", &mut closed, Limit::None, Limit::None);
        report.durations(
            "the API server's answer alone",
            &mut written,
            Limit::None,
            Limit::None,
        );
        for (agent, before) in agents::agents(&cluster).iter().zip(&before) {
            for (share, rank, limit) in [(0.5, "p50", Limit::None), (0.99, "p99", Limit::AtMost(20.0))] {
                let found = agent.metrics().quantile_since(before, APPLIED, share);
                let found = found.unwrap_or_else(|| panic!("{}: {APPLIED} counts nothing", agent.pod));
                let what = format!("{}'s part, {rank}, upper bound of the bucket", agent.node);
                report.figure(what, found * 1000.0, "ms", limit);
            }
        }
        report.finish();
    });
}

/// The peers are those of both; only what is allowed from clients changes.
fn spec(allow: bool) -> Value {
    let mut from = vec![json!({ "podSelector": { "matchLabels": { "app": "peer" } } })];
    if allow {
        from.push(json!({ "podSelector": { "matchLabels": { "app": "client" } } }));
    }
    json!({
        "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"],
        "ingress": [{ "from": from, "ports": [{ "protocol": "UDP", "port": PORT }] }],
    })
}

fn listen(server: &RunningPod) -> UdpSocket {
    let socket = server
        .netns
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("a port"));
    socket.set_read_timeout(Some(SILENT)).expect("a timeout");
    socket
}

//! Pods that start under a policy that allows nothing, each sending with its first instruction and being sent to from
//! before it has an address: nothing passes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use serde_json::json;

use crate::agents;
use crate::cluster::{Cluster, PATIENCE, Space, addresses_of, apply, container_of, pod};
use crate::failover::endpoint_kind;
use crate::netns::Netns;
use crate::report::{Limit, Report, setting};

/// TCP, where pods connect to.
const SINK: u16 = 7200;
/// UDP, where the flood goes. The keeper listens there: what the kernel counts as delivered, a container got; what it counts
/// as without a port came while none ran, between the CNI plugin that gives the address and the last one.
const FLOOD: u16 = 7201;
/// Pods that start at a time.
const BATCH: usize = 20;
/// As long as a process tries to connect.
const TRIES: &str = "--timeout=2s";

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    /// Connections that the sink got.
    connections: AtomicU64,
    /// Datagrams that the flooder sent.
    sent: AtomicU64,
}

struct End<'a>(&'a Counts);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
    }
}

#[test]
fn nothing_passes_before_the_policy_does() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let wanted = setting("PALISADE_E2E_PODS", 200);
    agents::agents(&cluster);
    let space = cluster.space("first-packet");
    let [(one, _), (two, _)] = &cluster.nodes;
    let ends = space.pods(&[
        ("sink", one, "sink"),
        ("flooder", two, "flooder"),
        ("last", one, "last"),
    ]);
    let (sink, flooder) = (&ends[0], &ends[1]);
    // The newest pod of each node.
    let windows = [Window::after(ends[2].address), Window::after(flooder.address)];

    let counts = Counts::default();
    let listener = listen(&sink.netns);
    let (mut control, mut found) = (Vec::new(), Vec::new());
    let mut control_connections = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| accept(&counts, &listener));
        scope.spawn(|| {
            flooder.netns.enter();
            flood(&counts, &windows);
        });
        let end = End(&counts);
        // Without a policy the same pods connect and are reached.
        control = start_batch(
            &space,
            "control",
            &[("control-1", one), ("control-2", two)],
            sink.address,
        );
        control_connections = counts.connections.swap(0, SeqCst);
        space.policy(
            "none",
            &json!({ "podSelector": { "matchLabels": { "app": "started" } }, "policyTypes": ["Ingress", "Egress"] }),
        );
        let published =
            Api::<DynamicObject>::namespaced_with(cluster.client.clone(), &space.name, &endpoint_kind());
        agents::within(PATIENCE, "the policy is published", || {
            let list = cluster.block_on(published.list(&ListParams::default())).ok()?;
            (!list.items.is_empty()).then_some(())
        });
        let names: Vec<String> = (0..wanted).map(|number| format!("started-{number}")).collect();
        let nodes = [one, two].into_iter().cycle();
        let pods: Vec<(&str, &String)> = names.iter().map(String::as_str).zip(nodes).collect();
        for batch in pods.chunks(BATCH) {
            let of_batch = start_batch(&space, "started", batch, sink.address);
            for ((_, node), of_pod) in batch.iter().zip(&of_batch) {
                windows[usize::from(*node == two)].moved_to(of_pod.address);
            }
            found.extend(of_batch);
        }
        std::thread::sleep(Duration::from_secs(1));
        drop(end);
    });

    let sum = |found: &[Found], of: fn(&Found) -> u64| found.iter().map(of).sum::<u64>();
    let connected = |found: &[Found]| found.iter().filter(|pod| pod.connected).count() as u64;
    let mut report = Report::new("first-packet");
    report.count(
        "control: connections of two pods without a policy",
        control_connections,
        Limit::AtLeast(2.0),
    );
    report.count(
        "control: datagrams that reached them",
        sum(&control, |pod| pod.delivered),
        Limit::AtLeast(1.0),
    );
    report.count(
        "pods started under the policy",
        found.len() as u64,
        Limit::AtLeast(1.0),
    );
    report.count(
        "connections that reached the sink",
        counts.connections.load(SeqCst),
        Limit::AtMost(0.0),
    );
    report.count(
        "pods whose process says it connected",
        connected(&found),
        Limit::AtMost(0.0),
    );
    report.count(
        "datagrams sent to the nodes' next pod addresses",
        counts.sent.load(SeqCst),
        Limit::AtLeast(1.0),
    );
    report.count(
        "datagrams that a container got",
        sum(&found, |pod| pod.delivered),
        Limit::AtMost(0.0),
    );
    report.count(
        "datagrams let through after a container was seen to run",
        sum(&found, |pod| pod.unclaimed - pod.early),
        Limit::AtMost(0.0),
    );
    report.count(
        "datagrams that came before any container ran",
        sum(&found, |pod| pod.early),
        Limit::None,
    );
    let mut starts: Vec<Duration> = found.iter().map(|pod| pod.took).collect();
    report.durations(
        "from the API's answer to running",
        &mut starts,
        Limit::None,
        Limit::None,
    );
    report.finish();
}

/// Addresses that a node's next pods will have: host-local gives them in turn.
struct Window(AtomicU32);

impl Window {
    /// A batch, and what other pods of the node may take meanwhile.
    const LENGTH: u32 = 48;
    /// A node's range.
    const RANGE: u32 = 1024;

    fn after(address: IpAddr) -> Self {
        let window = Self(AtomicU32::new(0));
        window.moved_to(address);
        window
    }

    fn moved_to(&self, address: IpAddr) {
        let IpAddr::V4(address) = address else {
            panic!("{address}: pods' first addresses are to be of IPv4");
        };
        self.0.store(address.into(), SeqCst);
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let last = self.0.load(SeqCst);
        // From a few before it, for a batch does not end in order.
        (0..Self::LENGTH).map(move |number| {
            let within = (last % Self::RANGE + Self::RANGE - 16 + number) % Self::RANGE;
            Ipv4Addr::from(last / Self::RANGE * Self::RANGE + within)
        })
    }
}

struct Found {
    address: IpAddr,
    took: Duration,
    /// Datagrams that a container got.
    delivered: u64,
    /// Those that met no socket, before the container was seen to run and until its end.
    early: u64,
    unclaimed: u64,
    connected: bool,
}

/// Starts pods, waits until each has ended, and removes them. Each has two containers: one that connects at once, and one
/// that keeps the network namespace until its counters were read.
fn start_batch(space: &Space, app: &str, batch: &[(&str, &String)], sink: IpAddr) -> Vec<Found> {
    let api = space.api::<Pod>();
    let to = SocketAddr::new(sink, SINK).to_string();
    let asked: Vec<Instant> = batch
        .iter()
        .map(|(name, node)| {
            let mut object = pod(
                name,
                node,
                app,
                &["netexec", "--http-port=7202", &format!("--udp-port={FLOOD}")],
                "Never",
            );
            let containers = object["spec"]["containers"].as_array_mut().expect("a list");
            let mut sender = containers[0].clone();
            sender["name"] = "sender".into();
            sender["args"] = json!(["connect", to, TRIES]);
            containers.insert(0, sender);
            // Which status comes first is the name's order.
            containers[1]["name"] = "keeper".into();
            space.cluster.block_on(apply(&api, name, &object));
            Instant::now()
        })
        .collect();
    let found = batch.iter().zip(asked).map(|((name, _), asked)| {
        space
            .cluster
            .wait(space.api::<Pod>(), name, "runs", |pod: Option<&Pod>| {
                pod.is_some_and(|pod| addresses_of(pod).next().is_some() && container_of(pod).is_some())
            });
        let took = asked.elapsed();
        let pod = space.cluster.block_on(api.get(name)).expect("the pod");
        let keeper = container_of(&pod).unwrap_or_else(|| panic!("{name}: its keeper has ended"));
        let netns = Netns::of_container(&keeper).unwrap_or_else(|| panic!("{name}: no process"));
        let early = netns.counter("Udp", "NoPorts");
        space.cluster.wait(
            space.api::<Pod>(),
            name,
            "its sender ends",
            |pod: Option<&Pod>| pod.is_some_and(|pod| exit_code(pod).is_some()),
        );
        let pod = space.cluster.block_on(api.get(name)).expect("the pod");
        Found {
            address: addresses_of(&pod).next().expect("waited for"),
            took,
            early,
            delivered: netns.counter("Udp", "InDatagrams"),
            unclaimed: netns.counter("Udp", "NoPorts"),
            connected: exit_code(&pod) == Some(0),
        }
    });
    let found: Vec<Found> = found.collect();
    let of_batch = ListParams::default().labels(&format!("app={app}"));
    let removed = space
        .cluster
        .block_on(api.delete_collection(&DeleteParams::default(), &of_batch));
    removed.expect("removed");
    for (name, _) in batch {
        space
            .cluster
            .wait(space.api::<Pod>(), name, "is gone", |pod: Option<&Pod>| {
                pod.is_none()
            });
    }
    found
}

fn exit_code(pod: &Pod) -> Option<i32> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let sender = statuses.iter().find(|status| status.name == "sender")?;
    Some(sender.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn listen(netns: &Netns) -> TcpListener {
    let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, SINK)).expect("a port"));
    listener.set_nonblocking(true).expect("set");
    listener
}

fn accept(counts: &Counts, listener: &TcpListener) {
    while !counts.stop.load(SeqCst) {
        if listener.accept().is_ok() {
            counts.connections.fetch_add(1, SeqCst);
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Sends to each of the addresses, again and again.
fn flood(counts: &Counts, windows: &[Window]) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
    // To the other node and its pod, but not to and fro where no node has the address yet.
    socket.set_ttl(4).expect("set");
    while !counts.stop.load(SeqCst) {
        for to in windows.iter().flat_map(Window::addresses) {
            if socket.send_to(b"flood", (to, FLOOD)).is_ok() {
                counts.sent.fetch_add(1, SeqCst);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

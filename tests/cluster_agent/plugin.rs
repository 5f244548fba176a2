//! The CNI plugin with the agent that it asks: pods are enforced before they start. The test is the container runtime: it reads
//! the conflist that the agent has edited, and calls the binary that the agent has installed.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::Pod;
use crate::probes::{How, Probe, check, echo_services, table};
use crate::require_server;
use crate::site::{NODE, Site, endpoint, from};

const PORT: How = How::Tcp(8080);
const CONFLIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}]}"#;
/// Pods of one test: within the room that the instance is started with.
const PODS: usize = 40;
const MAILBOX: u16 = 9999;

/// The CNI folders of the node.
struct Runtime(tempfile::TempDir);

/// What a call came to: what it printed, and how long it took.
type Called = (Result<Value, Value>, Duration);

impl Runtime {
    /// Folders with a conflist, which the site's instances are told of.
    fn new(site: &mut Site, mode: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name).display().to_string();
        fs::create_dir(at("net.d")).unwrap();
        fs::create_dir(at("bin")).unwrap();
        fs::write(at("net.d/10-net.conflist"), CONFLIST).unwrap();
        site.arguments = vec![
            format!("--cni={mode}"),
            format!("--cni-conf-dir={}", at("net.d")),
            format!("--cni-bin-dir={}", at("bin")),
            format!("--socket={}", at("run/palisade.sock")),
        ];
        Self(home)
    }

    fn conflist(&self) -> PathBuf {
        self.0.path().join("net.d/10-net.conflist")
    }

    /// Waits for the entry, and returns it.
    fn entry(&self) -> Value {
        let begun = Instant::now();
        loop {
            let text = fs::read_to_string(self.conflist()).unwrap();
            let mut list: Value = serde_json::from_str(&text).unwrap();
            if let Some(entry) = list["plugins"].get_mut(1) {
                return entry.take();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "no entry: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Calls the plugin for a pod, as after a plugin that has made its interface.
    fn call(&self, host: &Path, command: &str, limit: u64, name: &str, uid: &str, pod: &Pod) -> Called {
        let mut config = self.entry();
        let sandbox = pod.namespace.path();
        let ips: Vec<Value> = pod
            .addresses
            .list()
            .iter()
            .map(|ip| json!({"address": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }), "interface": 1}))
            .collect();
        config["cniVersion"] = "1.0.0".into();
        config["name"] = "net".into();
        config["timeoutMs"] = limit.into();
        config["prevResult"] = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": pod.veth}, {"name": "eth0", "sandbox": sandbox}],
            "ips": ips
        });
        let begun = Instant::now();
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", host.display()))
            .arg("--")
            .arg(self.0.path().join("bin/palisade"))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", format!("c-{name}"))
            .env("CNI_NETNS", &sandbox)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.0.path().join("bin"))
            .env(
                "CNI_ARGS",
                format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};K8S_POD_UID={uid}"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(config.to_string().as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let took = begun.elapsed();
        let out: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (
            if output.status.success() {
                Ok(out)
            } else {
                Err(out)
            },
            took,
        )
    }

    fn add(&self, site: &Site, name: &str, uid: &str, pod: &Pod) -> Called {
        self.call(&site.host.namespace.path(), "ADD", 10_000, name, uid, pod)
    }
}

/// Takes what is sent to a pod from here on.
fn mailbox(pod: &Pod) -> UdpSocket {
    let socket = pod
        .namespace
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, MAILBOX)))
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Sends one datagram; how many that were.
fn post(from: &UdpSocket, to: &Pod) -> usize {
    from.send_to(b"first", (to.addresses.v4.unwrap(), MAILBOX))
        .map_or(0, |_| 1)
}

fn received(mailbox: &UdpSocket) -> usize {
    std::iter::from_fn(|| mailbox.recv(&mut [0; 16]).ok()).count()
}

/// A pod as it is before its sandbox is: without addresses.
fn unstarted(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "example.com/main"}]},
    })
}

#[test]
fn s46_pods_are_isolated_when_the_plugin_returns_before_the_api_server_knows_an_address() {
    require_server!();
    let mut site = Site::new();
    let runtime = Runtime::new(&mut site, "strict");
    let [web, other] = site.pods(["web", "other"]);
    let mut isolated = endpoint("db-1", "db", from(&web, 8080));
    isolated["spec"]["podIsolation"] = json!(["Ingress", "Egress"]);
    site.server.put(isolated);
    site.start(&["vethweb", "vethother"]);
    let outside = mailbox(&other);
    let (mut inside, mut sent) = (Vec::new(), 0);
    let (mut pods, mut took) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let name = format!("db{number}");
        site.server.create(unstarted(&name, "db"));
        let uid = site.server.uid("Pod", "shop", &name);
        let pod = site.host.pod(&name);
        let mailbox = mailbox(&pod);
        let (result, time) = runtime.add(&site, &name, &uid, &pod);
        // The very first that a container could send, and get.
        sent += post(&mailbox, &other) + post(&outside, &pod);
        inside.push(mailbox);
        let result = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(result["interfaces"][0]["name"], json!(pod.veth));
        took.push(time);
        pods.push(pod);
    }
    assert_eq!(sent, 2 * PODS);
    std::thread::sleep(Duration::from_millis(300));
    let leaked: usize = inside.iter().chain([&outside]).map(received).sum();
    assert_eq!(leaked, 0, "of {sent} packets");
    took.sort();
    eprintln!(
        "ADD with its agent, {PODS} pods, debug builds, with nsenter: p50 {:?}, p99 {:?}",
        took[PODS / 2],
        took[PODS * 99 / 100]
    );
    let namespaces: Vec<_> = pods.iter().map(|pod| &pod.namespace).collect();
    let _services = echo_services(&namespaces, &[8080]);
    let probes = |from: &'static str| -> Vec<Probe<'_>> {
        let (from, expected) = match from {
            "web" => (&web.namespace, Reached),
            _ => (&other.namespace, Dropped),
        };
        let to = pods.iter().flat_map(|pod| {
            pod.addresses
                .list()
                .into_iter()
                .map(move |ip| (&pod.namespace, ip))
        });
        to.map(|to| Probe {
            from,
            to,
            how: PORT,
            expected,
        })
        .collect()
    };
    check(&probes("other"));
    check(&probes("web"));
    // Between pods that no policy selects it does arrive.
    let open = mailbox(&web);
    assert_eq!(post(&outside, &web), 1);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(received(&open), 1);
    // Their statuses come, and change nothing.
    for (number, pod) in pods.iter().enumerate() {
        site.server
            .status("shop", &format!("db{number}"), &pod.addresses.list(), "Running");
    }
    check(&probes("other"));
    check(&probes("web"));
    assert!(took[PODS / 2] < Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_pod_that_the_agent_does_not_know_yet_is_waited_for_and_one_that_never_comes_is_refused() {
    require_server!();
    let mut site = Site::new();
    let runtime = Runtime::new(&mut site, "strict");
    let [web] = site.pods(["web"]);
    site.server.put(endpoint("db-1", "db", json!([])));
    site.start(&["vethweb"]);
    let host = site.host.namespace.path();
    // The watch is behind: it is cut while the pod is made.
    site.way.cut();
    let pod = site.host.pod("db");
    site.server.create(unstarted("db", "db"));
    let uid = site.server.uid("Pod", "shop", "db");
    std::thread::scope(|threads| {
        let asked = threads.spawn(|| runtime.call(&host, "ADD", 60_000, "db", &uid, &pod));
        std::thread::sleep(Duration::from_millis(700));
        assert!(
            !asked.is_finished(),
            "it does not know the pod, and does not say that it is secured"
        );
        site.way.mend();
        let (result, _) = asked.join().unwrap();
        result.unwrap_or_else(|error| panic!("{error}"));
    });
    let _services = echo_services(&[&pod.namespace], &[8080]);
    table(&[(&web.namespace, &pod, PORT, Dropped)]);
    // It is there, and CHECK says so.
    runtime
        .call(&host, "CHECK", 10_000, "db", &uid, &pod)
        .0
        .unwrap_or_else(|error| panic!("{error}"));
    let stranger = site.host.pod("stranger");
    let (result, took) = runtime.call(&host, "ADD", 3_000, "stranger", "no-such-uid", &stranger);
    let error = result.unwrap_err();
    assert_eq!(error["code"], json!(102), "{error}");
    assert!(
        error["msg"].as_str().unwrap().contains("shop/stranger"),
        "{error}"
    );
    assert!(took < Duration::from_millis(3_200), "{took:?}");
}

#[test]
fn a_recreated_sandbox_and_a_restarted_agent_secure_the_new_interface() {
    require_server!();
    let mut site = Site::new();
    let runtime = Runtime::new(&mut site, "strict");
    let [web] = site.pods(["web"]);
    site.server.put(endpoint("db-1", "db", json!([])));
    site.start(&["vethweb"]);
    site.server.create(unstarted("db", "db"));
    let uid = site.server.uid("Pod", "shop", "db");
    let add = |site: &Site, pod: &Pod| {
        let (result, _) = runtime.add(site, "db", &uid, pod);
        result.unwrap_or_else(|error| panic!("{error}"));
        let _services = echo_services(&[&pod.namespace], &[8080]);
        table(&[
            (&web.namespace, pod, PORT, Dropped),
            (&pod.namespace, &web, How::Echo, Reached),
        ]);
    };
    let first = site.host.pod("db");
    add(&site, &first);
    site.server
        .status("shop", "db", &first.addresses.list(), "Running");
    // The sandbox dies. The next one has another interface and address, while the status still names the old one.
    drop(first);
    let second = site.host.pod("db");
    add(&site, &second);
    // The agent is away while a pod starts: the pod waits for it.
    site.crash();
    drop(second);
    let third = site.host.pod("db");
    let host = site.host.namespace.path();
    std::thread::scope(|threads| {
        let asked = threads.spawn(|| runtime.call(&host, "ADD", 60_000, "db", &uid, &third));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!asked.is_finished());
        site.start(&["vethweb"]);
        let (result, _) = asked.join().unwrap();
        result.unwrap_or_else(|error| panic!("{error}"));
    });
    let _services = echo_services(&[&third.namespace], &[8080]);
    table(&[(&web.namespace, &third, PORT, Dropped)]);
}

#[test]
fn uninstall_takes_entry_binary_and_socket_away() {
    require_server!();
    let mut site = Site::new();
    let runtime = Runtime::new(&mut site, "standard");
    let [_web] = site.pods(["web"]);
    site.start(&["vethweb"]);
    assert_eq!(runtime.entry()["mode"], "standard");
    // What stands in the way of the installer is a problem like any other.
    let mark = site.instance().mark();
    fs::write(runtime.conflist(), "{").unwrap();
    site.instance().wait_for(mark, &["problem: ", "10-net.conflist"]);
    assert_eq!(site.metric("palisade_problems", &["source=\"cni\""]), 1.0);
    fs::write(runtime.conflist(), CONFLIST).unwrap();
    site.instance()
        .wait_for(mark, &["no problem any more", "10-net.conflist"]);
    runtime.entry();
    let output = site.uninstall();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(runtime.conflist()).unwrap(), CONFLIST);
    for path in ["bin/palisade", "run/palisade.sock"] {
        assert!(!runtime.0.path().join(path).exists(), "{path}");
    }
}

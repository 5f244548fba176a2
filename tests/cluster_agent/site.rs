//! A node of a cluster that has nothing but an API server: its pods are namespaces, and the test is its kubelet and its
//! controller.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade::cni::protocol::{Answer, Command, Request};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::instance::{BINARY, Instance, get, metric};
use crate::netns::{Host, Layout, Pod};
use crate::server::{Server, Way};

pub const NODE: &str = "here";
/// Each has a server and namespaces: one at a time, or the machine has no room.
static ONE: Mutex<()> = Mutex::new(());

/// Everything goes on drop, also when a test panics.
pub struct Site {
    pins: PathBuf,
    /// In place of the flags for the folders below.
    pub arguments: Vec<String>,
    /// The node's CNI folders and the agent's socket.
    cni: tempfile::TempDir,
    /// Where the agent answers the operator.
    api: tempfile::TempDir,
    more: Vec<String>,
    instance: Option<Instance>,
    pub way: Way,
    pub server: Server,
    // After what runs in it, before what may follow.
    pub host: Host,
    _one: MutexGuard<'static, ()>,
}

impl Site {
    pub fn new() -> Self {
        Self::of(Layout::Routed, Server::with_open_definitions)
    }

    /// With a controller too.
    pub fn led() -> Self {
        let mut site = Self::of(Layout::Routed, Server::with_our_definitions);
        site.more.push("--controller=on".into());
        site
    }

    /// With the CNI plugin; the test is the container runtime.
    pub fn with_plugin(layout: Layout) -> Self {
        let mut site = Self::of(layout, Server::with_open_definitions);
        site.more.push("--cni=standard".into());
        site
    }

    fn of(layout: Layout, server: fn() -> Server) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let server = server();
        let host = Host::new(layout);
        server.namespace("shop");
        Self {
            cni: tempfile::tempdir().expect("a folder"),
            api: tempfile::tempdir().expect("a folder"),
            more: Vec::new(),
            pins: format!("/sys/fs/bpf/palisade-cluster-{}", std::process::id()).into(),
            arguments: Vec::new(),
            instance: None,
            way: Way::new(&host.namespace, server.port()),
            server,
            host,
            _one: one,
        }
    }

    /// Running pods of namespace `shop` on this node, labelled `app: NAME`.
    pub fn pods<const N: usize>(&self, names: [&str; N]) -> [Pod; N] {
        names.map(|name| {
            let pod = self.host.pod(name);
            self.server.pod("shop", name, NODE, &pod.addresses.list());
            pod
        })
    }

    /// Starts it and does not wait.
    pub fn launch(&mut self) -> &mut Instance {
        assert!(self.instance.is_none(), "it runs already");
        let kubeconfig = format!("KUBECONFIG={}", self.server.kubeconfig().display());
        let pins = format!("--pin-path={}", self.pins.display());
        let node = format!("--node-name={NODE}");
        let small = [
            "--max-flows4=65536",
            "--max-flows6=65536",
            "--max-pods=64",
            "--max-fragments=256",
        ];
        let cni = self.cni.path().display();
        let folders = [
            format!("--cni-conf-dir={cni}"),
            format!("--cni-bin-dir={cni}"),
            format!("--socket={}", self.socket().display()),
        ];
        let api_socket = format!("--api-socket={}", self.api_socket().display());
        let mut arguments = vec![&*kubeconfig, BINARY, "run", &node, &pins, &api_socket];
        arguments.extend(small);
        if self.arguments.is_empty() {
            arguments.extend(folders.iter().map(String::as_str));
        }
        arguments.extend(self.arguments.iter().map(String::as_str));
        arguments.extend(self.more.iter().map(String::as_str));
        if !self.more.iter().any(|flag| flag.starts_with("--controller")) {
            arguments.push("--controller=off");
        }
        let instance = Instance::start_as(&self.host.namespace, "env", &arguments);
        self.instance.insert(instance)
    }

    /// Starts it, and waits until it is ready and these veths have their programs.
    pub fn start(&mut self, veths: &[&str]) {
        let instance = self.launch();
        instance.wait_for(0, &["in force: "]);
        for veth in veths {
            instance.wait_for(0, &["attached", &format!("interface={veth} ")]);
        }
        assert_eq!(get(&self.host.namespace, "/readyz"), (200, "ready\n".into()));
    }

    /// The node's CNI folders, which are one.
    pub fn cni(&self) -> &Path {
        self.cni.path()
    }

    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Whether or not it runs.
    pub fn try_uninstall(&self) -> Output {
        let cni = self.cni.path().display();
        self.host
            .namespace
            .command(BINARY)
            .args(["uninstall", "--pin-path"])
            .arg(&self.pins)
            .args([format!("--cni-conf-dir={cni}"), format!("--cni-bin-dir={cni}")])
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--api-socket={}", self.api_socket().display()))
            .output()
            .expect("palisade uninstall")
    }

    /// Where the agent answers the operator.
    pub fn api_socket(&self) -> PathBuf {
        self.api.path().join("api.sock")
    }

    fn socket(&self) -> PathBuf {
        self.cni.path().join("palisade.sock")
    }

    /// What the plugin asks for a pod of `shop`, and the answer.
    pub fn add(&self, pod: &Pod, name: &str, uid: &str, patience: Duration) -> Answer {
        let request = Request {
            command: Command::Add,
            namespace: "shop".into(),
            pod: name.into(),
            uid: uid.into(),
            container: "sandbox".into(),
            ifname: "eth0".into(),
            netns: pod.namespace.path().display().to_string(),
            interfaces: vec![pod.veth.clone()],
            addresses: pod.addresses.list(),
            timeout_ms: patience.as_millis() as u64,
        };
        let mut stream = UnixStream::connect(self.socket()).expect("the agent's socket");
        stream.set_read_timeout(Some(patience)).expect("a timeout");
        let line = serde_json::to_string(&request).expect("JSON") + "\n";
        stream.write_all(line.as_bytes()).expect("asked");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("answered");
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{answer}: {e}"))
    }

    pub fn instance(&mut self) -> &mut Instance {
        self.instance.as_mut().expect("it runs")
    }

    /// Kills it with SIGKILL.
    pub fn crash(&mut self) {
        let instance = self.instance.take().expect("it runs");
        instance.end(Signal::KILL);
    }

    /// Ends it, and takes everything from the node.
    pub fn uninstall(&mut self) -> Output {
        let (status, lines) = self.instance.take().expect("it runs").end(Signal::TERM);
        assert!(status.success(), "{lines:?}");
        let paths = self
            .arguments
            .iter()
            .filter(|argument| !argument.starts_with("--cni="));
        let mut command = self.host.namespace.command(BINARY);
        let command = command.args(["uninstall", "--pin-path"]).arg(&self.pins);
        command.arg("--api-socket").arg(self.api_socket());
        command.args(paths).output().expect("the binary")
    }

    /// Makes a change, and waits for the line with these words that says it is in force.
    pub fn change(&mut self, words: &[&str], change: impl FnOnce(&Server)) -> String {
        let mark = self.instance().mark();
        change(&self.server);
        self.instance().wait_for(mark, words)
    }

    /// Puts an endpoint, and waits until it is in force.
    pub fn put(&mut self, endpoint: Value) -> String {
        let name = endpoint["metadata"]["name"].as_str().expect("a name").to_string();
        self.change(&["applied: ", &format!("PolicyEndpoint shop/{name}")], |server| {
            server.put(endpoint)
        })
    }

    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.host.namespace, name, labels)
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        get(&self.host.namespace, path)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.instance.take());
        let clean = self
            .host
            .namespace
            .command(BINARY)
            .args(["clean", "--pin-path"])
            .arg(&self.pins)
            .output();
        if !std::thread::panicking() {
            assert!(!self.pins.exists(), "{} is left: {clean:?}", self.pins.display());
        }
    }
}

/// An endpoint in the shape of the system that is replaced: selects pods labelled `app: NAME`, isolates them for ingress and
/// allows `ingress`.
pub fn endpoint(name: &str, app: &str, ingress: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.aws/v1alpha1",
        "kind": "PolicyEndpoint",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "policyRef": {"name": app, "namespace": "shop"},
            "podSelector": {"matchLabels": {"app": app}},
            "podIsolation": ["Ingress"],
            "ingress": ingress,
        },
    })
}

/// Entries for all addresses of a pod, on a TCP port.
pub fn from(pod: &Pod, port: u16) -> Value {
    let entries = pod.addresses.list().into_iter();
    entries
        .map(|ip| json!({"cidr": ip, "ports": [{"protocol": "TCP", "port": port}]}))
        .collect()
}

/// An endpoint as one slice of several.
pub fn sliced(mut endpoint: Value, index: u32, count: u32) -> Value {
    endpoint["spec"]["slice"] = json!({"index": index, "count": count});
    endpoint
}

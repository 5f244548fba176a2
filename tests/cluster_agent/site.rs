//! A node of a cluster that has nothing but an API server: its pods are namespaces, and the test is its kubelet and its
//! controller.

use std::path::PathBuf;
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    /// Arguments besides those that every instance here has.
    pub arguments: Vec<String>,
    instance: Option<Instance>,
    pub way: Way,
    pub server: Server,
    // After what runs in it, before what may follow.
    pub host: Host,
    _one: MutexGuard<'static, ()>,
}

impl Site {
    pub fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let server = Server::start();
        let host = Host::new(Layout::Routed);
        server.namespace("shop");
        Self {
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
        let kubeconfig = format!("KUBECONFIG={}", self.server.kubeconfig.display());
        let pins = format!("--pin-path={}", self.pins.display());
        let node = format!("--node-name={NODE}");
        let small = [
            "--max-flows4=65536",
            "--max-flows6=65536",
            "--max-pods=64",
            "--max-fragments=256",
        ];
        let mut arguments = vec![&*kubeconfig, BINARY, "run", "--controller=off", &node, &pins];
        arguments.extend(small);
        arguments.extend(self.arguments.iter().map(String::as_str));
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

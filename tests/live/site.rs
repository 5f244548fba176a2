//! A node with pods, a folder that describes them, and the `palisade` that enforces it.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use crate::folder::Folder;
use crate::instance::{BINARY, Instance, get, metric};
use crate::netns::{Host, Layout, Pod};
use crate::objects;

/// How programs are attached, as the flag writes it.
pub const KINDS: [&str; 2] = ["tcx", "clsact"];
/// Capacities that do for a few pods: the defaults take some 100 MB of kernel memory for each instance.
const SMALL: &[&str] = &[
    "--max-pods=64",
    "--max-addresses=1024",
    "--max-networks=256",
    "--max-sources=64",
    "--max-rows=1024",
    "--max-tables=256",
    "--max-rules=1024",
    "--max-flows4=65536",
    "--max-flows6=65536",
    "--max-fragments=256",
];

/// Everything goes on drop, also when a test panics: the process, links, filters, maps, pins, namespaces.
pub struct Site {
    pub folder: Folder,
    pub kind: &'static str,
    pins: PathBuf,
    sockets: tempfile::TempDir,
    more: Vec<String>,
    instance: Option<Instance>,
    // Last: interfaces are to be there while they are cleaned.
    pub host: Host,
}

impl Site {
    pub fn new(layout: Layout, kind: &'static str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            folder: Folder::new(),
            kind,
            pins: format!("/sys/fs/bpf/palisade-live-{}-{number}", std::process::id()).into(),
            sockets: tempfile::tempdir().expect("a temporary folder"),
            more: Vec::new(),
            instance: None,
            host: Host::new(layout),
        }
    }

    /// More flags; the last of a name counts.
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.more = flags.iter().map(ToString::to_string).collect();
        self
    }

    /// Pods of namespace `shop` with running containers, labelled `app: NAME`, each also in the folder's `pod-NAME.yaml`.
    pub fn pods<const N: usize>(&self, names: [&str; N]) -> [Pod; N] {
        names.map(|name| {
            let pod = self.host.pod(name);
            let text = objects::pod(&format!("shop/{name}"), &format!("app: {name}"), pod.addresses);
            self.folder.put(&format!("pod-{name}.yaml"), &text);
            pod
        })
    }

    /// Where the agent answers.
    pub fn socket(&self) -> PathBuf {
        self.sockets.path().join("api.sock")
    }

    pub fn pins(&self) -> &Path {
        &self.pins
    }

    pub fn arguments(&self) -> Vec<String> {
        let overridden = |flag: &&&str| {
            let name = flag.split('=').next();
            !self.more.iter().any(|more| more.split('=').next() == name)
        };
        let mut arguments: Vec<String> = vec![
            format!("--from={}", self.folder.path().display()),
            format!("--pin-path={}", self.pins.display()),
            format!("--attach={}", self.kind),
            format!("--api-socket={}", self.socket().display()),
        ];
        arguments.extend(SMALL.iter().filter(overridden).map(ToString::to_string));
        arguments.extend(self.more.clone());
        arguments
    }

    /// Starts `palisade run` and does not wait.
    pub fn launch(&mut self) -> &mut Instance {
        assert!(self.instance.is_none(), "it runs already");
        let instance = Instance::start(&self.host.namespace, &self.arguments());
        self.instance.insert(instance)
    }

    /// Starts a program in its place, which is to become `palisade run` in the end.
    pub fn launch_as(&mut self, program: &str, arguments: &[&str]) -> &mut Instance {
        assert!(self.instance.is_none(), "it runs already");
        let instance = Instance::start_as(&self.host.namespace, program, arguments);
        self.instance.insert(instance)
    }

    /// Starts `palisade run`, and waits until the folder is in force and these veths have their programs.
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

    /// Stops it with SIGTERM; the log.
    pub fn stop(&mut self) -> Vec<String> {
        let instance = self.instance.take().expect("it runs");
        let (status, log) = instance.end(Signal::TERM);
        assert!(status.success(), "{status}: {}", log.join("\n"));
        log
    }

    /// Makes a change, and waits for the line with these words that says it is in force.
    pub fn change(&mut self, words: &[&str], change: impl FnOnce(&Folder)) -> String {
        let mark = self.instance().mark();
        change(&self.folder);
        self.instance().wait_for(mark, words)
    }

    /// Moves a file into place, and waits until it is in force.
    pub fn put(&mut self, name: &str, text: &str) -> String {
        // With the name of an object: a late "applied: links" is not this edit, nor is what it would then be mistaken for.
        self.change(&["applied: ", "/"], |folder| folder.put(name, text))
    }

    /// Waits until all edits made so far have been taken up, by one more that changes nothing for anybody.
    pub fn settle(&mut self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("settled-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let text = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        self.change(&["applied: ", &name], |folder| {
            folder.put("zz-settled.yaml", &text)
        });
    }

    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.host.namespace, name, labels)
    }

    /// Names of the pinned links, as in `7-ingress`.
    pub fn pinned_links(&self) -> Vec<String> {
        let links = std::fs::read_dir(self.pins.join("links")).expect("the links");
        let names = links.map(|link| link.expect("a link").file_name().into_string().expect("a name"));
        names.collect()
    }

    /// What the agent answers to a command such as `flows`; panics where it does not.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("palisade");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A command that asks the agent.
    pub fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.host.namespace.command(BINARY);
        command.args(arguments).env("PALISADE_API_SOCKET", self.socket());
        command
    }

    pub fn clean(&self) -> Output {
        self.host
            .namespace
            .command(BINARY)
            .args(["clean", "--pin-path"])
            .arg(&self.pins)
            .output()
            .expect("palisade clean")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.instance.take());
        let cleaned = self.clean();
        let left = self.pins.exists();
        if !std::thread::panicking() {
            assert!(!left, "{} is left: {cleaned:?}", self.pins.display());
        }
    }
}

/// Runs a test on each layout and kind of attachment.
pub fn everywhere(test: impl Fn(Site)) {
    for layout in Layout::ALL {
        for kind in KINDS {
            eprintln!("on {layout:?}, {kind}");
            test(Site::new(layout, kind));
        }
    }
}

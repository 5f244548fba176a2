//! Network namespaces for tests: a host joined to pods by veths, an outside world, and probes between them.
//!
//! Names carry the pid, everything is removed on drop (also when a test panics), and what a killed test left behind is
//! removed by the next one. Nothing but the namespaces' mounts under /run/netns is visible outside.

// Each test file takes what it needs of it.
#![allow(dead_code)]

mod host;
mod probe;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

#[allow(unused_imports)]
pub use host::{Addresses, Host, Layout, Pod};
#[allow(unused_imports)]
pub use probe::{Answer, Protocol, Service, reach};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const MOUNTS: &str = "/run/netns";
const PREFIX: &str = "pal";

/// Leaves the test where it is not run by root; a plain user's run says so, continuous integration must not skip.
#[macro_export]
macro_rules! require_root {
    () => {
        if !$crate::netns::may_make_namespaces() {
            return;
        }
    };
}

pub fn may_make_namespaces() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "CI=true, but this test needs root for network namespaces: run it as root"
    );
    eprintln!("skipped: needs root for network namespaces");
    false
}

/// One network namespace; removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// `label` is for people who look at `ip netns`. Its loopback is up; IPv6 addresses are usable at once.
    pub fn new(label: &str) -> Self {
        static STALE: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        STALE.call_once(remove_stale);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        let namespace = Self::create(&name);
        namespace.ip("link set lo up");
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "0");
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0");
        }
        namespace
    }

    /// A bare namespace of exactly this name.
    pub fn create(name: &str) -> Self {
        run("ip", &["netns", "add", name], "");
        Self { name: name.into() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        Path::new(MOUNTS).join(&self.name)
    }

    /// Runs `ip` commands, one a line, inside. Panics with the line that fails.
    pub fn ip(&self, commands: &str) {
        run("ip", &["-n", &self.name, "-batch", "-"], commands);
    }

    /// What an `ip` command prints.
    pub fn ip_output(&self, arguments: &[&str]) -> String {
        run("ip", &[&["-n", &self.name][..], arguments].concat(), "")
    }

    /// Runs a program inside, with `input` on its standard input, and returns what it prints. It has a /sys of its own,
    /// without what is mounted below it.
    pub fn exec(&self, program: &str, arguments: &[&str], input: &str) -> String {
        run(
            "ip",
            &[&["netns", "exec", &self.name, program][..], arguments].concat(),
            input,
        )
    }

    /// A program to be run inside. Unlike [`exec`](Self::exec) it keeps all mounts, /sys/fs/bpf among them.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// `key` with slashes, as under /proc/sys.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.run(|| std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path} = {value}: {e}")));
    }

    /// Runs `work` on a thread of its own inside; sockets that it opens stay in the namespace. A panic is passed on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&path);
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Like [`run`](Self::run), for a future, with a runtime of one thread.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a tokio runtime").block_on(work())
        })
    }

    /// Index of an interface inside. Panics where it is absent.
    pub fn ifindex(&self, interface: &str) -> u32 {
        let path = format!("/sys/class/net/{interface}/ifindex");
        // /sys shows the namespace in which it was mounted, which `ip netns exec` sees to.
        self.exec("cat", &[&path], "")
            .trim()
            .parse()
            .expect("an interface index")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // No panic here: the test's own failure is what matters.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .stderr(Stdio::null())
            .status();
    }
}

/// Moves the calling thread; for threads that end with their work.
pub(crate) fn enter(path: &Path) {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|e| panic!("cannot enter {}: {e}", path.display()));
}

/// Removes the namespaces of test processes that are no more.
pub fn remove_stale() {
    remove(|pid| !Path::new(&format!("/proc/{pid}")).exists());
}

/// Removes what is left of this process's namespaces, for the end of programs that may have been interrupted while they
/// made one.
pub fn remove_own() {
    remove(|pid| pid == std::process::id());
}

fn remove(of: impl Fn(u32) -> bool) {
    let Ok(entries) = std::fs::read_dir(MOUNTS) else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        if owner.is_some_and(&of) {
            // Another test process may remove it at the same time.
            let _ = Command::new("ip")
                .args(["netns", "del", &name])
                .stderr(Stdio::null())
                .status();
        }
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let shown = || format!("{program} {} <<< {input:?}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", shown()));
    // A program that does not read its input may have closed it.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child
        .wait_with_output()
        .unwrap_or_else(|e| panic!("{}: {e}", shown()));
    assert!(
        output.status.success(),
        "{}: {}",
        shown(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

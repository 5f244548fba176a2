//! What the kernel tests share: root or not, a pin path and a network namespace that go whatever happens.
#![allow(dead_code)]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use palisade::bpf::{Config, MapSizes};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether kernel tests can run; a plain user skips them, but CI must not.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(
            std::env::var("CI").is_err(),
            "kernel tests need root, and CI must not skip them"
        );
        eprintln!("skipped: kernel tests need root");
    }
    root
}

fn unique(what: &str) -> String {
    format!(
        "{what}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A pin path of one test; removed with everything attached from it when dropped.
pub struct Pins(pub PathBuf);

impl Pins {
    pub fn new() -> Self {
        Self(PathBuf::from("/sys/fs/bpf").join(unique("palisade-test")))
    }

    /// Where this build pins a map or a program, as in `maps/ip4`.
    pub fn path(&self, of: &str) -> PathBuf {
        self.0
            .join(format!("v{}", Config::default().abi_version))
            .join(of)
    }

    /// Small maps.
    pub fn config(&self) -> Config {
        Config {
            pin_path: self.0.clone(),
            sizes: MapSizes {
                pods: 16,
                addresses: 4096,
                networks: 1024,
                sources: 64,
                rows: 1024,
                tables: 512,
                rules: 1024,
                flows4: 1024,
                flows6: 1024,
                fragments: 64,
                event_ring: 1 << 16,
            },
            log_allowed: false,
            events_per_second: 1000,
            ..Config::default()
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = palisade::bpf::clean(&self.0);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A network namespace that the test's thread is moved into.
pub struct Namespace(String);

impl Namespace {
    pub fn enter() -> Self {
        let namespace = Self(unique("palisade-test"));
        ip(&["netns", "add", &namespace.0]);
        let file = File::open(format!("/run/netns/{}", namespace.0)).expect("namespace");
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
            .expect("setns");
        namespace
    }
}

impl Namespace {
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs `ip`, in the thread's namespace.
pub fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A veth pair in the thread's namespace; the index of its first end.
pub fn veth(name: &str) -> u32 {
    let peer = format!("{name}p");
    ip(&["link", "add", name, "type", "veth", "peer", "name", &peer]);
    ip(&["link", "set", name, "up"]);
    ip(&["link", "set", &peer, "up"]);
    ifindex(name)
}

pub fn ifindex(name: &str) -> u32 {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .expect("socket");
    rustix::net::netdevice::name_to_index(socket, name).expect("interface")
}

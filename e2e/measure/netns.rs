//! Network namespaces of containers: in, the ID of a container; out, closures run in its network namespace, whose sockets
//! stay there, and the kernel's counters of it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace, held open: it outlives its container.
#[derive(Clone)]
pub struct Netns(Arc<File>);

impl Netns {
    pub fn of_container(id: &str) -> Option<Self> {
        processes_of(id).first().and_then(|pid| Self::of_process(*pid))
    }

    pub fn of_process(pid: i32) -> Option<Self> {
        let file = File::open(format!("/proc/{pid}/ns/net")).ok()?;
        Some(Self(Arc::new(file)))
    }

    /// Moves the calling thread; for threads that end with their work.
    pub fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("entered");
    }

    /// Runs `work` on a thread of its own inside. A panic is passed on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A counter of /proc/net/snmp, as `("Tcp", "RetransSegs")`.
    pub fn counter(&self, protocol: &str, name: &str) -> u64 {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp"));
        counter(&text, protocol, name)
    }
}

fn counter(text: &str, protocol: &str, name: &str) -> u64 {
    let prefix = format!("{protocol}:");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = pairs.find(|(found, _)| *found == name).expect("the counter");
    value.parse().expect("a number")
}

/// Processes in the container's cgroup, oldest pid first.
pub fn processes_of(container: &str) -> Vec<i32> {
    assert!(container.len() >= 32, "{container:?} is no container ID");
    let mut pids: Vec<i32> = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| belongs(*pid, container))
        .collect();
    pids.sort_unstable();
    pids
}

fn belongs(pid: i32, container: &str) -> bool {
    // It may end meanwhile.
    std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup"))
        .is_ok_and(|text| text.contains(container))
}

#[test]
fn a_counter_is_found_by_its_protocol_and_name() {
    let text = "Udp: InDatagrams NoPorts\nUdp: 3 4\nUdpLite: InDatagrams NoPorts\nUdpLite: 5 6\n";
    assert_eq!(counter(text, "Udp", "NoPorts"), 4);
    assert_eq!(counter(text, "UdpLite", "InDatagrams"), 5);
}

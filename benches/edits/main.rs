//! From rename(2) of an edited file to another verdict in the kernel, and the memory of the process that does it. As root.
//!
//! In: `palisade run`, default settings, over a folder of 10,000 peers in ten files and one local pod behind a veth. Edits
//! come at random times, so that they also meet the process while it tidies up. The verdict is asked of the pinned program
//! itself, by BPF_PROG_TEST_RUN in a tight loop. Out: a table, and `target/bench.edits.json`.

mod folder;
#[path = "../datapath/frames.rs"]
#[allow(dead_code)]
mod frames;
#[path = "../../tests/kernel_support/mod.rs"]
mod kernel_support;
mod process;

use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use folder::{Folder, LOCAL, PEERS};
use frames::{L4, frame};
use kernel_support::{Namespace, Pins, ip, veth};
use palisade::bpf::{Frame, PinnedPrograms};
use palisade::model::Direction;
use process::Process;
use serde_json::{Map, Value, json};

/// Of each kind.
const EDITS: usize = 320;
/// Milliseconds from rename to verdict.
const TARGET_P99: f64 = 20.0;
/// Megabytes resident, with all peers in force.
const TARGET_RSS: f64 = 40.0;
/// An edit that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest pause between edits, in milliseconds.
const PAUSE: u64 = 200;

/// What is edited, and which packet tells: from whom, to which port.
struct Kind {
    name: &'static str,
    says: &'static str,
    edit: fn(&Folder, bool),
    from: &'static str,
    port: u16,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "pair",
        says: "a policy names one more peer, or no more",
        edit: Folder::pair,
        from: folder::PAIR,
        port: 9000,
    },
    Kind {
        name: "ports",
        says: "the port of the rule of all peers",
        edit: Folder::ports,
        from: "10.1.0.7",
        port: 8080,
    },
    Kind {
        name: "peer",
        says: "a pod gets the peers' label, or loses it",
        edit: Folder::peer,
        from: folder::LATE,
        port: 8081,
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    if !rustix::process::geteuid().is_root() {
        return Err("the edits bench needs root".into());
    }
    let _namespace = Namespace::enter();
    let pins = Pins::new();
    ip(&["link", "set", "lo", "up"]);
    let ifindex = veth("local");
    ip(&["route", "add", &format!("{LOCAL}/32"), "dev", "local"]);
    let uplink = veth("uplink");
    ip(&["addr", "add", "192.0.2.1/24", "dev", "uplink"]);
    ip(&["route", "add", "default", "via", "192.0.2.2"]);
    let folder = Folder::new()?;
    let process = Process::start(folder.path(), &pins.0)?;
    let programs = PinnedPrograms::open(&pins.0)?;
    let loaded = process.memory()?;

    println!(
        "{:<8} {:>6} {:>9} {:>9} {:>9}  edit",
        "", "edits", "p50 ms", "p99 ms", "max ms"
    );
    let (mut kinds, mut all) = (Map::new(), Vec::new());
    for kind in &KINDS {
        let mut times = edits(kind, &folder, &programs, [ifindex, uplink])?;
        all.extend(&times);
        kinds.insert(kind.name.into(), summary(kind.name, kind.says, &mut times));
    }
    let Value::Object(mut edits) = summary("all", "", &mut all) else {
        unreachable!("a summary is an object")
    };
    let missed = edits["p99_ms"].as_f64().is_none_or(|p99| p99 > TARGET_P99);
    edits.insert("kinds".into(), kinds.into());
    let edited = process.memory()?;
    println!(
        "{PEERS} peers: {:.1} MB resident when in force, {:.1} MB at the end, {:.1} MB at most",
        loaded.now, edited.now, edited.most
    );
    let rss = loaded.now.max(edited.now);
    let report = json!({
        "edits": edits,
        "memory": {"rss_mb": rss, "most_mb": edited.most},
    });
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target)?;
    std::fs::write(target.join("bench.edits.json"), format!("{report:#}\n"))?;
    if missed {
        println!("MISSED: p99 is to be at most {TARGET_P99} ms");
    }
    if rss > TARGET_RSS {
        println!("MISSED: at most {TARGET_RSS} MB are to be resident");
    }
    Ok(())
}

/// How long each edit took, in milliseconds.
fn edits(
    kind: &Kind,
    folder: &Folder,
    programs: &PinnedPrograms,
    [ifindex, uplink]: [u32; 2],
) -> Result<Vec<f64>, Box<dyn Error>> {
    let (from, to): (IpAddr, IpAddr) = (kind.from.parse()?, LOCAL.parse()?);
    let bytes = frame((from, 40_000), (to, kind.port), L4::Udp);
    let allowed = || -> Result<bool, Box<dyn Error>> {
        let ran = programs.test_run(Frame {
            direction: Direction::Ingress,
            ifindex,
            ingress_ifindex: uplink,
            bytes: &bytes,
        })?;
        Ok(!ran.dropped())
    };
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut times = Vec::new();
    let mut allow = !allowed()?;
    for _ in 0..EDITS {
        let begun = folder.timed(|folder| (kind.edit)(folder, allow));
        while allowed()? != allow {
            if begun.elapsed() > PATIENCE {
                return Err(format!("{}: no other verdict after {PATIENCE:?}", kind.name).into());
            }
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        allow = !allow;
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis((seed >> 33) % PAUSE));
    }
    Ok(times)
}

fn summary(name: &str, says: &str, times: &mut [f64]) -> Value {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let (p50, p99, max, count) = (at(0.5), at(0.99), at(1.0), times.len());
    println!("{name:<8} {count:>6} {p50:>9.2} {p99:>9.2} {max:>9.2}  {says}");
    json!({"p50_ms": p50, "p99_ms": p99, "max_ms": max, "count": count})
}

impl Folder {
    /// From just before the rename.
    fn timed(&self, edit: impl FnOnce(&Self)) -> Instant {
        edit(self);
        self.renamed()
    }
}

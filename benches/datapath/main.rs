//! What a packet costs in the kernel, how many writes changes take, and what memory peers take. As root.
//!
//! In: BPF_PROG_TEST_RUN over frames of a node with 10,000 peers of each family, once under 10 rules and once under 10,000,
//! default settings otherwise. Out: a table, and `target/bench.datapath.json`.
//! - `net_ns`: least burst less that of an empty program.
//! - `per_lookup`: `net_ns` by that of a program that does one IPv4 conntrack lookup; `per_own_lookup`: of the case's family.

mod counts;
mod frames;
#[path = "../../tests/kernel_support/mod.rs"]
mod kernel_support;
mod measure;
mod node;
mod reference;

use std::error::Error;
use std::os::fd::AsRawFd;
use std::path::Path;

use kernel_support::{Namespace, Pins, veth};
use libbpf_rs::{MapHandle, Program};
use measure::Setup;
use palisade::bpf::{Applied, Config, Kernel};
use palisade::compile::diff;
use serde_json::{Map, Value, json};

const PEERS: usize = 10_000;
const RULES: [usize; 2] = [10, 10_000];

/// (case, times a lookup that it may take at most)
const TARGETS: &[(&str, f64)] = &[
    ("established_v4", 1.6),
    ("established_v6", 1.7),
    ("reply_v4", 1.7),
    ("denied_known_peer_v4", 5.5),
    ("denied_known_peer_v6", 5.5),
    ("denied_unknown_peer_v4", 5.5),
];

fn main() -> Result<(), Box<dyn Error>> {
    if !rustix::process::geteuid().is_root() {
        return Err("the datapath bench needs root".into());
    }
    let _namespace = Namespace::enter();
    let pins: Vec<Pins> = RULES.iter().map(|_| Pins::new()).collect();
    let mut setups = Vec::new();
    for (index, (rules, pins)) in RULES.iter().zip(&pins).enumerate() {
        setups.push(setup(*rules, pins, index)?);
    }
    let mut report = Map::new();
    packets(&setups, &mut report)?;
    report.insert("verified_insns".into(), verified(&pins[0])?);
    drop((setups, pins));
    report.insert("counts".into(), writes()?);
    report.insert("memory".into(), memory()?);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target)?;
    std::fs::write(
        target.join("bench.datapath.json"),
        format!("{:#}\n", Value::Object(report)),
    )?;
    Ok(())
}

fn default_sizes(pins: &Pins) -> Config {
    Config {
        pin_path: pins.0.clone(),
        ..Config::default()
    }
}

fn setup(rules: usize, pins: &Pins, index: usize) -> Result<Setup, Box<dyn Error>> {
    let mut kernel = Kernel::open(&default_sizes(pins))?;
    kernel.apply(&diff(
        kernel.image(),
        &node::image(&node::endpoints(PEERS, rules)),
    ))?;
    let mut attach = |uid: &str| -> Result<u32, Box<dyn Error>> {
        let ifindex = veth(&format!("{}{index}", &uid[4..]));
        kernel.attach(&uid.into(), ifindex)?;
        Ok(ifindex)
    };
    let (isolated, open) = (attach(node::ISOLATED)?, attach(node::OPEN)?);
    for map in ["ct4", "ct6"] {
        reference::fill(&MapHandle::from_pinned_path(pins.path(&format!("maps/{map}")))?)?;
    }
    Ok(Setup {
        kernel,
        rules,
        isolated,
        open,
    })
}

fn packets(setups: &[Setup], report: &mut Map<String, Value>) -> Result<(), Box<dyn Error>> {
    let mut reference = reference::Reference::load()?;
    let mut cases = Vec::new();
    for setup in 0..setups.len() {
        cases.extend(measure::cases(setups, setup)?);
    }
    let measured = measure::measure(setups, &mut reference, &cases)?;
    let lookup = measured.lookup("lookup4");
    println!(
        "packets, {PEERS} peers of each family: ns net of an empty program, least of {} bursts",
        measure::BURSTS
    );
    println!(
        "  one lookup: IPv4 {lookup:.1} ns, IPv6 {:.1} ns",
        measured.lookup("lookup6")
    );
    println!("  case                           ns   lookups  target  with 10,000 rules");
    let mut table = Map::new();
    let half = cases.len() / 2;
    for case in 0..half {
        let name = &cases[case].name;
        let (net, many) = (measured.net(case, &cases), measured.net(case + half, &cases));
        let target = TARGETS.iter().find(|(target, _)| target == name);
        println!(
            "  {name:27} {net:7.1} {:8.2}  {:>6}  {many:7.1} {:+5.1} %",
            net / lookup,
            target.map_or(String::new(), |(_, most)| most.to_string()),
            (many / net - 1.0) * 100.0
        );
        table.insert(
            name.clone(),
            json!({
                "net_ns": net,
                "per_lookup": net / lookup,
                "per_own_lookup": net / measured.lookup(cases[case].lookup),
                "net_ns_10000_rules": many,
                "growth_10000_rules": many / net - 1.0,
            }),
        );
    }
    report.insert("cases".into(), Value::Object(table));
    report.insert(
        "lookup_ns".into(),
        json!({"v4": lookup, "v6": measured.lookup("lookup6")}),
    );
    Ok(())
}

fn writes() -> Result<Value, Box<dyn Error>> {
    let pins = Pins::new();
    let counts = counts::count(&default_sizes(&pins), PEERS)?;
    println!("writes that a change takes, {PEERS} peers of each family");
    println!("  change               map writes   flips  other stores");
    let mut table = Map::new();
    for (name, applied) in [
        ("remote_pod", counts.remote_pod),
        ("remote_pod_gone", counts.remote_pod_gone),
        ("irrelevant_pod", counts.irrelevant_pod),
        ("pod_isolated", counts.pod_isolated),
        ("pod_flip", counts.pod_flip),
        ("restart", counts.restart),
    ] {
        let Applied {
            map_writes,
            syscalls,
            flips,
            stores,
            graces,
        } = applied;
        println!("  {name:20} {map_writes:10} {flips:7} {stores:13}");
        table.insert(
            name.into(),
            json!({"map_writes": map_writes, "syscalls": syscalls, "flips": flips, "stores": stores, "graces": graces}),
        );
    }
    Ok(Value::Object(table))
}

fn memory() -> Result<Value, Box<dyn Error>> {
    const MANY: usize = 50_000;
    let pins = Pins::new();
    let [v4, v6] = counts::memory(&default_sizes(&pins), MANY)?;
    println!("kernel memory, {MANY} peers: {v4:.1} bytes an IPv4 peer, {v6:.1} an IPv6 peer (target 100)");
    Ok(json!({"peers": MANY, "bytes_a_peer_v4": v4, "bytes_a_peer_v6": v6}))
}

/// Instructions that the verifier walked, by program. 0: this kernel does not say (before 5.16).
fn verified(pins: &Pins) -> Result<Value, Box<dyn Error>> {
    let mut table = Map::new();
    for name in ["from_pod", "to_pod"] {
        let program = Program::fd_from_pinned_path(pins.path(&format!("programs/{name}")))?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
        let line = info.lines().find_map(|line| line.strip_prefix("verified_insns:"));
        let instructions: u64 = line.map_or(Ok(0), |text| text.trim().parse())?;
        println!("  {name}: {instructions} instructions verified (target 15000)");
        table.insert(name.into(), instructions.into());
    }
    Ok(Value::Object(table))
}

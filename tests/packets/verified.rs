//! In how many instructions the verifier walks the programs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{
    MapCore, MapFlags, MapHandle, MapType, ObjectBuilder, OpenObject, PrintLevel, Program, set_print,
};

use crate::kernel_support::Pins;

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/palisade.bpf.o"));
const TRACING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/trace.bpf.o"));
/// Entries of a map that only serves to load a program once more.
const SMALL: u32 = 1024;
/// BPF_LOG_STATS: the verifier's log is its figures alone.
const FIGURES: u32 = 4;

thread_local! {
    static LOG: RefCell<String> = const { RefCell::new(String::new()) };
}

/// By program. Kernels before 5.16 do not keep the figure, so there the programs go through the verifier once more, with the
/// constants of those that are loaded, and its log tells.
pub fn instructions(pins: &Pins) -> BTreeMap<String, u32> {
    ["from_pod", "to_pod"]
        .into_iter()
        .map(|name| {
            let path = pins.path(&format!("programs/{name}"));
            let program = Program::fd_from_pinned_path(path).expect("a pinned program");
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
            let info = info.expect("fdinfo");
            let kept = info.lines().find_map(|line| line.strip_prefix("verified_insns:"));
            let number = kept.map_or_else(|| logged(name), |kept| kept.trim().parse().expect("a number"));
            (name.to_owned(), number)
        })
        .collect()
}

/// Names of the maps of the plain programs, and of those of a trace.
pub fn maps() -> [Vec<String>; 2] {
    [OBJECT, TRACING].map(|bytes| {
        let mut builder = ObjectBuilder::default();
        let object = builder.open_memory(bytes).expect("the object");
        let names = object.maps().map(|map| map.name().to_string_lossy().into_owned());
        names.collect()
    })
}

/// Of a program of a trace, with the constants that are built in.
pub fn tracing(name: &str) -> u32 {
    let mut builder = ObjectBuilder::default();
    let mut object = builder.open_memory(TRACING).expect("the object");
    for mut map in object.maps_mut() {
        if map.max_entries() > SMALL && map.map_type() != MapType::RingBuf {
            map.set_max_entries(SMALL).expect("a smaller map");
        }
    }
    log_of(object, name)
}

fn logged(name: &str) -> u32 {
    let mut builder = ObjectBuilder::default();
    let mut object = builder.open_memory(OBJECT).expect("the object");
    let constants = constants(name);
    for mut map in object.maps_mut() {
        if map.name().to_string_lossy().ends_with(".rodata") {
            map.set_initial_value(&constants).expect("constants of this size");
        }
    }
    log_of(object, name)
}

fn log_of(mut object: OpenObject, name: &str) -> u32 {
    for mut program in object.progs_mut() {
        program.set_log_level(FIGURES);
        program.set_autoload(program.name() == name);
    }
    LOG.take();
    set_print(Some((PrintLevel::Debug, |_, line| {
        LOG.with_borrow_mut(|log| log.push_str(&line))
    })));
    let loaded = object.load();
    set_print(None);
    loaded.expect("the program loads again");
    let log = LOG.take();
    let figures = log.split("processed ").nth(1);
    let number = figures.and_then(|text| text.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no figure for {name} in what libbpf said: {log}"))
}

/// What the agent has set for this machine, as the loaded program has it.
fn constants(name: &str) -> Vec<u8> {
    let options = ProgInfoQueryOptions::default().include_map_ids(true);
    let program = ProgInfoIter::with_query_opts(options)
        .find(|program| program.name.to_string_lossy() == name)
        .expect("the loaded program");
    let maps = program
        .map_ids
        .iter()
        .map(|&id| MapHandle::from_map_id(id).expect("its map"));
    let constants = maps
        .into_iter()
        .find(|map| map.name().to_string_lossy().ends_with(".rodata"))
        .expect("its constants");
    let value = constants.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY);
    value.expect("readable").expect("the one entry")
}

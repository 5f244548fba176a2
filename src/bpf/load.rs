//! Opens what is pinned and loads what is not.
//!
//! Programs are loaded only if the pinned ones came from another build, other settings or other maps. A map that is pinned
//! with the right shape is used as it is; one that is to be larger is made anew and filled from the old one, which goes on
//! serving the old programs until their links are moved.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, OpenMapMut, PrintLevel, set_print};

use super::config::{Config, Map};
use super::inspect::hertz;
use super::open_map::OpenMap;
use super::pins::{Pins, replace_pin};
use super::skel::{OpenPalisadeSkel, PalisadeSkelBuilder};
use super::sys::{self, MapShape};
use super::tables::Maps;
use super::{abi, notes};

/// The programs' names, as pinned and as the kernel knows them: by [`Direction`](crate::model::Direction).
pub(super) const PROGRAMS: [&str; 2] = ["to_pod", "from_pod"];

/// Maps that hold nothing from one packet to the next. (libbpf's own, such as .rodata, have a dot in their names.)
const UNPINNED: &[&str] = &["scratch"];

/// Lines of the verifier's log that an error carries.
const LOG_TAIL: usize = 40;

pub(super) struct Loaded {
    pub maps: Maps,
    /// By direction: ingress, egress.
    pub programs: [OwnedFd; 2],
    /// Every map had been pinned before.
    pub adopted: bool,
    /// Programs went through the verifier; otherwise the pinned ones are in use.
    pub verified: bool,
    /// What an operator should know.
    pub notices: Vec<String>,
}

/// # Errors
/// What is pinned has another shape, or the kernel refuses a map or a program: its last words are in the error.
pub(super) fn load(config: &Config, pins: &Pins) -> Result<Loaded> {
    silence();
    let mut pinned = BTreeMap::new();
    for &map in Map::ALL {
        match sys::open_pin(&pins.map(map)) {
            Ok(fd) => {
                let open =
                    OpenMap::new(fd).with_context(|| format!("{} is no map", pins.map(map).display()))?;
                pinned.insert(map, open);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", pins.map(map).display()));
            }
        }
    }
    let adopted = pinned.len() == Map::ALL.len();
    let mut notices = Vec::new();
    for (map, open) in &pinned {
        let (wanted, entries) = (config.sizes.of(*map), open.shape().max_entries);
        if entries > wanted {
            notices.push(format!(
                "map {} stays at {entries} entries, as pinned, instead of {wanted}; palisade clean makes it smaller",
                map.name()
            ));
        }
    }
    let suffices = |map: Map, open: &OpenMap| open.shape().max_entries >= config.sizes.of(map);
    if adopted
        && pinned.iter().all(|(map, open)| suffices(*map, open))
        && let Some(programs) = pinned_programs(pins)
    {
        let maps = Maps::new(pinned)?;
        if notes::programs(&maps)?.as_deref() == Some(&*settings(config, &maps)) {
            return Ok(Loaded {
                maps,
                programs,
                adopted,
                verified: false,
                notices,
            });
        }
        pinned = maps.into_inner();
    }

    let (open, programs) = verify(config, &pinned)?;
    for (map, new) in &open {
        match pinned.get(map) {
            Some(old) if suffices(*map, old) => continue,
            Some(old) => copy(*map, old, new)?,
            None => {}
        }
        replace_pin(new, &pins.map(*map))?;
    }
    for (program, name) in programs.iter().zip(PROGRAMS) {
        replace_pin(program, &pins.program(name))?;
    }
    let maps = Maps::new(open)?;
    notes::set_programs(&maps, &settings(config, &maps))?;
    Ok(Loaded {
        maps,
        programs,
        adopted,
        verified: true,
        notices,
    })
}

fn pinned_programs(pins: &Pins) -> Option<[OwnedFd; 2]> {
    let [ingress, egress] = PROGRAMS.map(|name| sys::open_pin(&pins.program(name)).ok());
    Some([ingress?, egress?])
}

/// All that makes one load differ from another.
fn settings(config: &Config, maps: &Maps) -> String {
    let ids: Vec<String> = Map::ALL
        .iter()
        .map(|&map| maps.shape(map).id.to_string())
        .collect();
    format!(
        "build {:016x} events {} hz {} maps {}",
        abi::PROGRAMS,
        config.events_per_second,
        hertz(),
        ids.join(",")
    )
}

type Verified = (BTreeMap<Map, OpenMap>, [OwnedFd; 2]);

/// Loads the programs, with the pinned maps where their capacity suffices.
fn verify(config: &Config, pinned: &BTreeMap<Map, OpenMap>) -> Result<Verified> {
    let log = KernelLog::start();
    let mut place = MaybeUninit::uninit();
    let mut skel = PalisadeSkelBuilder::default()
        .open(&mut place)
        .map_err(|error| log.explain(error, "the built-in BPF object cannot be opened"))?;
    set_switches(config, &mut skel)?;
    for mut map in skel.open_object_mut().maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let Some(known) = by_name(&name) else {
            let of_one_load = name.contains('.') || UNPINNED.contains(&&*name);
            if of_one_load {
                continue;
            }
            bail!("map {name} is in the BPF object, but not among the maps that are pinned");
        };
        map.set_max_entries(config.sizes.of(known))?;
        if let Some(open) = pinned.get(&known) {
            check_shape(known, &map, &open.shape())?;
            if open.shape().max_entries >= config.sizes.of(known) {
                map.reuse_fd(open.as_fd())
                    .with_context(|| format!("cannot reuse map {}", known.name()))?;
            }
        }
    }
    let skel = skel
        .load()
        .map_err(|error| log.explain(error, "the kernel does not accept the BPF programs"))?;
    let mut open = BTreeMap::new();
    for map in skel.object().maps() {
        if let Some(known) = by_name(&map.name().to_string_lossy()) {
            open.insert(known, OpenMap::new(map.as_fd().try_clone_to_owned()?)?);
        }
    }
    // Descriptors of our own: the object, with all that libbpf holds for it, ends here.
    let programs = [
        skel.progs.to_pod.as_fd().try_clone_to_owned()?,
        skel.progs.from_pod.as_fd().try_clone_to_owned()?,
    ];
    Ok((open, programs))
}

fn by_name(name: &str) -> Option<Map> {
    Map::ALL.iter().copied().find(|map| map.name() == name)
}

fn check_shape(map: Map, wanted: &OpenMapMut<'_>, pinned: &MapShape) -> Result<()> {
    // Flags that the kernel adds by itself are not ours to compare.
    let same = pinned.kind == wanted.map_type() as u32
        && pinned.key_size == wanted.key_size()
        && pinned.value_size == wanted.value_size();
    if !same {
        bail!(
            "pinned map {} has another shape than this version's (kind {}, key {} and value {} bytes): it was left by a development build; \
             palisade clean removes it, and enforcement stops until palisade runs again",
            map.name(),
            pinned.kind,
            pinned.key_size,
            pinned.value_size
        );
    }
    Ok(())
}

/// How long flows that are silent are known, in seconds, by what they have come to.
pub(super) const TIMEOUTS: [(u32, u32); 7] = [
    (abi::CT_TCP_SYN, 60),
    (abi::CT_TCP_ESTABLISHED, 7200),
    (abi::CT_DATAGRAM_NEW, 30),
    (abi::CT_DATAGRAM_ANSWERED, 180),
    (abi::CT_TCP_CLOSING, 10),
    (abi::CT_SCTP, 7200),
    (abi::CT_ECHO, 30),
];

fn set_switches(config: &Config, skel: &mut OpenPalisadeSkel<'_>) -> Result<()> {
    let switches = skel
        .maps
        .rodata_data
        .as_deref_mut()
        .context("the BPF object has no switches")?;
    let hz = hertz();
    switches.hz = hz;
    switches.events_per_second = config.events_per_second;
    switches.frag_timeout = 30 * hz;
    for (state, seconds) in TIMEOUTS {
        switches.timeouts[state as usize] = seconds * hz;
    }
    Ok(())
}

/// Fills a larger map from the one that it follows.
fn copy(map: Map, from: &OpenMap, to: &OpenMap) -> Result<()> {
    if map == Map::Events {
        return Ok(());
    }
    let copied = (|| {
        let mut key = vec![0; from.shape().key_size as usize];
        let mut value = vec![0; from.value_bytes()];
        let mut more = from.next_key(None, &mut key)?;
        while more {
            if from.get(&key, &mut value)? {
                to.put(&key, &value)?;
            }
            let previous = key.clone();
            more = from.next_key(Some(&previous), &mut key)?;
        }
        io::Result::Ok(())
    })();
    copied.with_context(|| format!("cannot fill the larger map {}", map.name()))
}

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// What libbpf says on this thread while this lives; elsewhere it is silent.
struct KernelLog;

/// Keeps libbpf from writing to standard error: what it says is in errors, where it matters.
pub(super) fn silence() {
    set_print(Some((PrintLevel::Info, |_, line| {
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                lines.extend(line.lines().map(str::to_owned));
            }
        });
    })));
}

impl KernelLog {
    fn start() -> Self {
        silence();
        LINES.set(Some(Vec::new()));
        Self
    }

    fn explain(&self, error: libbpf_rs::Error, what: &str) -> anyhow::Error {
        let lines = LINES.with_borrow(|lines| lines.clone().unwrap_or_default());
        let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
        anyhow::Error::new(error).context(format!("{what}; its last words:\n{tail}"))
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

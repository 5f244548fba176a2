//! What is in the kernel, for people who look: maps, programs, attachments, tracked flows.
//!
//! An [`Inspector`] reads beside whoever changes policies, without a lock that a change waits for; its calls block.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_getres, clock_gettime};

use super::attach::{self, hook};
use super::config::Map;
use super::counters::{CounterReader, Reason};
use super::kernel::Kernel;
use super::load::PROGRAMS;
use super::open_map::OpenMap;
use super::pins::hook_name;
use super::plain::Plain;
use super::tables::Maps;
use super::{abi, keys, sys, types};
use crate::compile::RuleInfo;
use crate::model::Direction;

/// Elements read at a time, and how far that may grow: a bucket of the map must fit.
const BATCH: usize = 1024;
const LARGEST: usize = 1 << 20;

/// Looks at the maps and programs of one [`Kernel`]. Clones look at the same ones.
#[derive(Clone, Debug)]
pub struct Inspector {
    maps: Arc<Maps>,
    programs: Arc<[OwnedFd; 2]>,
    links: PathBuf,
    pin_path: PathBuf,
    abi_version: u32,
    tcx: bool,
}

/// A map as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub map: Map,
    pub id: u32,
    /// As in `hash` or `lru_hash`.
    pub kind: &'static str,
    pub key_bytes: u32,
    /// Of one CPU, where each has its own.
    pub value_bytes: u32,
    /// Bytes, for the ring.
    pub capacity: u32,
    /// As the kernel accounts for them; exact from 6.4 on. `None`: it does not say.
    pub memory_bytes: Option<u64>,
}

/// A program as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    pub name: &'static str,
    /// What it judges, as the pod sees it.
    pub direction: Direction,
    pub id: u32,
    /// Hash of its instructions, in hexadecimal.
    pub tag: String,
    /// After the machine's start.
    pub loaded: Duration,
    /// That the verifier walked through; 0 where the kernel does not say (before 5.16).
    pub verified_instructions: u32,
    pub translated_bytes: u32,
    /// 0: it is interpreted.
    pub jited_bytes: u32,
    /// Counted while the sysctl kernel.bpf_stats_enabled is on.
    pub runs: u64,
    pub run_time: Duration,
}

/// What one interface has for one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooked {
    pub direction: Direction,
    /// Our program's id; `None`: nothing of ours is there.
    pub program: Option<u32>,
}

/// A flow in conntrack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The pod's interface on the host.
    pub ifindex: u32,
    /// See [`Kernel::pod_of_slot`].
    pub slot: u32,
    /// The pod's end.
    pub local: IpAddr,
    /// 0 where the protocol has none; of an echo: its identifier, on the side of who asks.
    pub local_port: u16,
    pub remote: IpAddr,
    pub remote_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Of who began, as the pod sees it.
    pub direction: Direction,
    pub state: FlowState,
    /// Since its last packet, to a second or two.
    pub idle: Duration,
    /// See [`CounterReader::info`].
    pub counter: u32,
    /// Policy's verdict of before still holds; otherwise its next packet is judged anew.
    pub current: bool,
}

macro_rules! states {
    ($($(#[$doc:meta])* $variant:ident = $number:ident $name:literal,)+) => {
        /// How far a flow has come.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FlowState {
            $($(#[$doc])* $variant,)+
        }

        impl FlowState {
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            pub(super) fn from_number(number: u8) -> Option<Self> {
                match u32::from(number) {
                    $(abi::$number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

states! {
    /// Asked for, not answered yet.
    TcpSyn = CT_TCP_SYN "syn",
    TcpEstablished = CT_TCP_ESTABLISHED "established",
    TcpClosing = CT_TCP_CLOSING "closing",
    /// UDP or another protocol, one way so far.
    DatagramNew = CT_DATAGRAM_NEW "new",
    DatagramAnswered = CT_DATAGRAM_ANSWERED "answered",
    Sctp = CT_SCTP "sctp",
    Echo = CT_ECHO "echo",
}

impl Kernel {
    /// UIDs of the pods that slots stand for.
    pub fn slots(&self) -> impl Iterator<Item = (u32, &Arc<str>)> {
        self.mirror.slots.iter().map(|(uid, slot)| (*slot, uid))
    }

    /// # Errors
    /// Descriptors are used up.
    pub fn inspector(&self) -> Result<Inspector> {
        let [ingress, egress] = &self.programs;
        let programs = [ingress.try_clone()?, egress.try_clone()?];
        Ok(Inspector {
            maps: self.maps.clone(),
            programs: Arc::new(programs),
            links: self.pins.links(),
            pin_path: self.config.pin_path.clone(),
            abi_version: self.config.abi_version,
            tcx: self.tcx,
        })
    }
}

impl Inspector {
    pub(super) fn open_maps(&self) -> &Maps {
        &self.maps
    }

    pub fn pin_path(&self) -> &Path {
        &self.pin_path
    }

    pub fn abi_version(&self) -> u32 {
        self.abi_version
    }

    /// Whether interfaces are attached by tcx links; otherwise by clsact filters.
    pub fn uses_tcx(&self) -> bool {
        self.tcx
    }

    pub fn maps(&self) -> Vec<MapInfo> {
        let info = |map: Map| {
            let shape = self.maps.shape(map);
            MapInfo {
                map,
                id: shape.id,
                kind: kind(shape.kind),
                key_bytes: shape.key_size,
                value_bytes: shape.value_size,
                capacity: shape.max_entries,
                memory_bytes: memory(self.maps.get(map)),
            }
        };
        Map::ALL.iter().map(|&map| info(map)).collect()
    }

    /// Entries of a map that the programs fill: walks through it, some 10 ms at 100,000 entries.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn count(&self, map: Map) -> Result<u64> {
        let mut count = 0;
        let walked = walk(self.maps.get(map), |_, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        walked
            .map(|_| count)
            .with_context(|| format!("cannot read map {}", map.name()))
    }

    /// # Errors
    /// The kernel does not tell.
    pub fn programs(&self) -> Result<[ProgramInfo; 2]> {
        let info = |direction: Direction| -> Result<ProgramInfo> {
            let program = self.programs[direction as usize].as_fd();
            let name = PROGRAMS[direction as usize];
            let details = sys::program_details(program)
                .with_context(|| format!("the kernel does not tell of program {name}"))?;
            Ok(ProgramInfo {
                name,
                direction,
                id: details.id,
                tag: details.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
                loaded: details.loaded,
                verified_instructions: details.verified_instructions,
                translated_bytes: details.translated_bytes,
                jited_bytes: details.jited_bytes,
                runs: details.runs,
                run_time: details.run_time,
            })
        };
        Ok([info(Direction::Ingress)?, info(Direction::Egress)?])
    }

    /// What is on an interface of the caller's network namespace, by the kernel's word.
    pub fn hooked(&self, ifindex: u32) -> [Hooked; 2] {
        Direction::ALL.map(|direction| {
            let hook = hook(direction);
            let program = match self.tcx {
                true => {
                    let pin = self.links.join(format!("{ifindex}-{}", hook_name(hook)));
                    let link = sys::open_pin(&pin).ok();
                    let info = link.and_then(|link| sys::tcx_info(link.as_fd()).ok().flatten());
                    info.filter(|info| info.ifindex == ifindex)
                        .map(|info| info.program)
                }
                false => attach::filter(ifindex, hook).ok().flatten(),
            };
            Hooked { direction, program }
        })
    }

    /// Hands tracked flows to `visit` until it has seen enough. Those that are too old to count, and that no other has taken the
    /// place of, are left out. Flows that come and go meanwhile may be missed or come twice.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flows(&self, mut visit: impl FnMut(Tracked) -> ControlFlow<()>) -> Result<()> {
        let clock = Jiffies::now();
        let stamps = Stamps::read(&self.maps)?;
        for map in [Map::Ct4, Map::Ct6] {
            let ended = walk(self.maps.get(map), |key, value| {
                let flow = types::ct::read(value).and_then(|ct| {
                    let ends = match map {
                        Map::Ct4 => Ends::of4(&types::ct4_key::read(key)?),
                        _ => Ends::of6(&types::ct6_key::read(key)?),
                    };
                    tracked(ends, &ct, clock, &stamps)
                });
                flow.map_or(ControlFlow::Continue(()), &mut visit)
            })
            .with_context(|| format!("cannot read map {}", map.name()))?;
            if ended.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl CounterReader {
    /// What counters indices of flows and events stand for: a rule or isolation.
    pub fn infos(&self) -> HashMap<u32, RuleInfo> {
        self.by_index()
            .map(|(index, info)| (index, info.clone()))
            .collect()
    }

    /// The reason that a counters index stands for; `None`: a rule's or isolation's.
    pub fn reason(counter: u32) -> Option<Reason> {
        (counter < abi::COUNTER_FIRST)
            .then(|| Reason::from_number(counter >> 1))
            .flatten()
    }
}

struct Ends {
    ifindex: u32,
    local: IpAddr,
    local_port_be: u16,
    remote: IpAddr,
    remote_port_be: u16,
    protocol: u8,
}

impl Ends {
    fn of4(key: &types::ct4_key) -> Self {
        Self {
            ifindex: key.ifindex,
            local: keys::v4_from(key.local_be).into(),
            local_port_be: key.local_port_be,
            remote: keys::v4_from(key.remote_be).into(),
            remote_port_be: key.remote_port_be,
            protocol: key.protocol,
        }
    }

    fn of6(key: &types::ct6_key) -> Self {
        Self {
            ifindex: key.ifindex,
            local: keys::v6_from(key.local_be).into(),
            local_port_be: key.local_port_be,
            remote: keys::v6_from(key.remote_be).into(),
            remote_port_be: key.remote_port_be,
            protocol: key.protocol,
        }
    }
}

/// `None`: too old, or nothing that the programs write.
fn tracked(ends: Ends, ct: &types::ct, clock: Jiffies, stamps: &Stamps) -> Option<Tracked> {
    let state = FlowState::from_number(ct.state)?;
    let idle = clock.since(ct.seen);
    if idle.as_secs() > u64::from(timeout_seconds(ct.state)) {
        return None;
    }
    Some(Tracked {
        ifindex: ends.ifindex,
        slot: ct.slot,
        local: ends.local,
        local_port: u16::from_be(ends.local_port_be),
        remote: ends.remote,
        remote_port: u16::from_be(ends.remote_port_be),
        protocol: ends.protocol,
        direction: *Direction::ALL.get(usize::from(ct.direction))?,
        state,
        idle,
        counter: ct.counter,
        current: ct.flags != 0 || stamps.of(ct.slot, ct.direction) == Some(ct.stamp),
    })
}

fn timeout_seconds(state: u8) -> u32 {
    let known = super::load::TIMEOUTS.iter();
    known
        .filter(|(of, _)| *of == u32::from(state))
        .map(|(_, seconds)| *seconds)
        .max()
        .unwrap_or(0)
}

/// Which stamps of flows are current.
struct Stamps {
    epoch: u32,
    generations: Vec<[u32; 2]>,
}

impl Stamps {
    fn read(maps: &Maps) -> Result<Self> {
        let control = maps
            .table::<u32, types::control>(Map::Control)
            .get(&0)?
            .unwrap_or_default();
        let mut generations = vec![[0; 2]; maps.capacity(Map::PodState) as usize];
        for (slot, state) in maps.table::<u32, types::pod_state>(Map::PodState).entries()? {
            if let Some(place) = generations.get_mut(slot as usize) {
                *place = state.direction.map(|word| word as u32);
            }
        }
        Ok(Self {
            epoch: control.epoch,
            generations,
        })
    }

    fn of(&self, slot: u32, direction: u8) -> Option<u32> {
        let generation = self
            .generations
            .get(slot as usize)?
            .get(usize::from(direction & 1))?;
        Some(generation.wrapping_add(self.epoch))
    }
}

/// The kernel's tick, which user space has no call for: it began 5 minutes before it wraps, when the machine started, and stands
/// still while the machine sleeps, as the monotonic clock does.
#[derive(Clone, Copy, Debug)]
struct Jiffies {
    now: u32,
    hz: u32,
}

impl Jiffies {
    const BEGINNING: i64 = -300;

    fn now() -> Self {
        let hz = hertz();
        let time = clock_gettime(ClockId::Monotonic);
        let ticks =
            (time.tv_sec + Self::BEGINNING) * i64::from(hz) + time.tv_nsec * i64::from(hz) / 1_000_000_000;
        Self {
            now: ticks as u32,
            hz,
        }
    }

    fn since(self, seen: u32) -> Duration {
        let ticks = self.now.wrapping_sub(seen).cast_signed().max(0);
        Duration::from_millis(ticks.unsigned_abs() as u64 * 1000 / u64::from(self.hz))
    }
}

/// Jiffies a second: the coarse clock ticks once a jiffy.
pub(super) fn hertz() -> u32 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    match u32::try_from(tick.tv_nsec) {
        Ok(nanoseconds) if nanoseconds > 0 => (1_000_000_000 + nanoseconds / 2) / nanoseconds,
        _ => 250,
    }
}

/// Hands elements to `visit`, in no order, a batch at a time.
fn walk(
    map: &OpenMap,
    mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> std::io::Result<ControlFlow<()>> {
    let (key, value) = (map.shape().key_size as usize, map.value_bytes());
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let (mut size, mut position) = (BATCH, None);
    loop {
        keys.resize(key * size, 0);
        values.resize(value * size, 0);
        let before = position.clone();
        let (read, last) = match map.get_batch(&mut position, &mut keys, &mut values) {
            Ok(read) => read,
            // A bucket that is longer than the batch.
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull && size < LARGEST => {
                position = before;
                size *= 4;
                continue;
            }
            Err(error) => return Err(error),
        };
        let pairs = keys.chunks_exact(key).zip(values.chunks_exact(value));
        for (key, value) in pairs.take(read) {
            if visit(key, value).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if last {
            return Ok(ControlFlow::Continue(()));
        }
    }
}

fn memory(map: &OpenMap) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}

fn kind(number: u32) -> &'static str {
    use libbpf_rs::libbpf_sys as raw;
    match number {
        raw::BPF_MAP_TYPE_HASH => "hash",
        raw::BPF_MAP_TYPE_ARRAY => "array",
        raw::BPF_MAP_TYPE_PERCPU_ARRAY => "percpu_array",
        raw::BPF_MAP_TYPE_LRU_HASH => "lru_hash",
        raw::BPF_MAP_TYPE_LPM_TRIE => "lpm_trie",
        raw::BPF_MAP_TYPE_RINGBUF => "ringbuf",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_times_are_told_across_the_ticks_wrap() {
        let clock = Jiffies { now: 100, hz: 250 };
        assert_eq!(clock.since(100u32.wrapping_sub(500)), Duration::from_secs(2));
        // Of a packet while the map was read.
        assert_eq!(clock.since(150), Duration::ZERO);
    }

    #[test]
    fn each_state_has_its_timeout() {
        assert_eq!(timeout_seconds(abi::CT_TCP_ESTABLISHED as u8), 7200);
        assert_eq!(timeout_seconds(abi::CT_DATAGRAM_NEW as u8), 30);
        assert_eq!(FlowState::from_number(200), None);
    }
}

//! What the programs counted, and how full the maps are.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::config::Map;
use super::kernel::Kernel;
use super::plain::Plain;
use super::tables::Maps;
use super::{abi, types};
use crate::compile::{RuleInfo, RuleKey};
use crate::model::Direction;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    /// Of whole frames.
    pub bytes: u64,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:ident $name:literal,)+) => {
        /// Why a packet passed or fell, where no policy is to be named. The names are part of the metrics' contract.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $($(#[$doc])* $variant = abi::$number,)+
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As metrics and logs write it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// A policy decided.
    Policy = REASON_NONE "policy",
    /// No policy selects the pod in this direction.
    Open = REASON_OPEN "open",
    /// The node's own sockets sent it, or it answers that.
    Node = REASON_NODE "node",
    /// The pod reaches itself.
    Itself = REASON_SELF "self",
    /// ARP, neighbour discovery, MLD.
    Neighbour = REASON_NEIGHBOUR "neighbour",
    /// An ICMP error that quotes an allowed flow.
    IcmpError = REASON_ICMP_ERROR "icmp_error",
    UnknownPod = REASON_UNKNOWN_POD "unknown_pod",
    Spoofed = REASON_SPOOFED "spoofed",
    Malformed = REASON_MALFORMED "malformed",
    Vlan = REASON_VLAN "vlan",
    Ethertype = REASON_ETHERTYPE "ethertype",
    Fragment = REASON_FRAGMENT "fragment",
    Overlap = REASON_OVERLAP "overlap",
    Extension = REASON_EXTENSION "extension",
    Unrelated = REASON_UNRELATED "unrelated",
    Router = REASON_ROUTER "router",
}

impl Reason {
    /// Whether packets are dropped for it.
    pub fn drops(self) -> bool {
        self as u32 >= abi::REASON_FIRST_DROP
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u32 == number)
    }
}

const _: () = assert!(abi::REASON_COUNT * 2 <= abi::COUNTER_FIRST);

/// Totals over all CPUs since the maps were made. Counters of a rule that was removed are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub rules: BTreeMap<RuleKey, Count>,
    /// Without [`Reason::Policy`].
    pub reasons: BTreeMap<(Reason, Direction), Count>,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub map: Map,
    pub entries: u32,
    pub capacity: u32,
}

/// Reads counters beside whoever changes policies, without a lock that a change waits for.
#[derive(Clone, Debug)]
pub struct CounterReader {
    maps: Arc<Maps>,
    /// Each rule's place and what it is, as of [`Kernel::counter_reader`].
    rules: Arc<[(RuleKey, u32, RuleInfo)]>,
    fill: Arc<[MapFill]>,
}

impl CounterReader {
    /// The rules that it reads, and what each is.
    pub fn rules(&self) -> impl Iterator<Item = (RuleKey, &RuleInfo)> {
        self.rules.iter().map(|(key, _, info)| (*key, info))
    }

    /// Each rule and isolation by its counters index.
    pub(super) fn by_index(&self) -> impl Iterator<Item = (u32, &RuleInfo)> {
        self.rules.iter().map(|(_, index, info)| (*index, info))
    }

    /// How full the maps were when it was made.
    pub fn fill(&self) -> &[MapFill] {
        &self.fill
    }

    /// Reads all counters. Packets that are counted meanwhile may be in the total or not.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn read(&self) -> Result<Counters> {
        let mut read = PerCpu::<types::counter>::new(&self.maps, Map::Counters)?;
        let mut total = |index: u32| -> Result<Count> {
            Ok(read.get(index)?.iter().fold(Count::default(), |sum, cpu| Count {
                packets: sum.packets.wrapping_add(cpu.packets),
                bytes: sum.bytes.wrapping_add(cpu.bytes),
            }))
        };
        let mut counters = Counters::default();
        for reason in Reason::ALL
            .iter()
            .copied()
            .filter(|reason| *reason != Reason::Policy)
        {
            for direction in Direction::ALL {
                let count = total((reason as u32) << 1 | direction as u32)?;
                counters.reasons.insert((reason, direction), count);
            }
        }
        for (key, index, _) in self.rules.iter() {
            counters.rules.insert(*key, total(*index)?);
        }
        Ok(counters)
    }
}

impl Kernel {
    /// A reader of what is counted now. It does not learn of rules that are added later.
    pub fn counter_reader(&self) -> CounterReader {
        let info =
            |(key, index): (&RuleKey, &u32)| Some((*key, *index, self.mirror.image.rules.get(key)?.clone()));
        CounterReader {
            maps: self.maps.clone(),
            rules: self.mirror.rules.iter().filter_map(info).collect(),
            fill: self.fill().into(),
        }
    }

    /// Reads all counters: see [`CounterReader::read`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&self) -> Result<Counters> {
        self.counter_reader().read()
    }

    /// Events that the programs did not send: too many within a second, or the ring was full.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn events_lost(&self) -> Result<u64> {
        let mut read = PerCpu::<types::event_budget>::new(&self.maps, Map::EventBudget)?;
        Ok(read.get(0)?.iter().map(|cpu| cpu.lost).sum())
    }

    /// How full the maps are that only this process writes. Costs nothing.
    pub fn fill(&self) -> Vec<MapFill> {
        Map::ALL
            .iter()
            .copied()
            .filter(|map| {
                !matches!(
                    map,
                    Map::Control | Map::Ct4 | Map::Ct6 | Map::Frag | Map::Events | Map::EventBudget
                )
            })
            .map(|map| MapFill {
                map,
                entries: self.mirror.count(map),
                capacity: self.maps.capacity(map),
            })
            .collect()
    }

    /// Bytes of kernel memory of each map, as the kernel accounts for them (exact from 6.4 on).
    ///
    /// # Errors
    /// /proc is not there.
    pub fn memory(&self) -> Result<BTreeMap<Map, u64>> {
        let memory = |map: Map| {
            let path = format!("/proc/self/fdinfo/{}", self.maps.get(map).as_fd().as_raw_fd());
            let text = std::fs::read_to_string(&path).context(path)?;
            let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            let bytes = line.and_then(|bytes| bytes.trim().parse().ok());
            Ok((map, bytes.unwrap_or(0)))
        };
        Map::ALL.iter().map(|&map| memory(map)).collect()
    }

    /// How full conntrack is. Reads both maps through: some 20 ms at 100,000 flows.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flow_fill(&self) -> Result<[MapFill; 2]> {
        let fill = |map, entries: usize| MapFill {
            map,
            entries: entries as u32,
            capacity: self.maps.capacity(map),
        };
        Ok([
            fill(
                Map::Ct4,
                self.maps
                    .table::<types::ct4_key, types::ct>(Map::Ct4)
                    .entries()?
                    .len(),
            ),
            fill(
                Map::Ct6,
                self.maps
                    .table::<types::ct6_key, types::ct>(Map::Ct6)
                    .entries()?
                    .len(),
            ),
        ])
    }
}

/// Reads a per-CPU array with one buffer.
struct PerCpu<'a, V> {
    maps: &'a Maps,
    map: Map,
    bytes: Vec<u8>,
    values: Vec<V>,
}

impl<'a, V: Plain> PerCpu<'a, V> {
    fn new(maps: &'a Maps, map: Map) -> Result<Self> {
        // The kernel pads each CPU's value to 8 bytes; ours are multiples of that.
        const { assert!(size_of::<V>().is_multiple_of(8)) };
        assert_eq!(maps.shape(map).value_size as usize, size_of::<V>());
        Ok(Self {
            maps,
            map,
            bytes: vec![0; maps.get(map).value_bytes()],
            values: Vec::new(),
        })
    }

    fn get(&mut self, index: u32) -> Result<&[V]> {
        self.values.clear();
        let found = self
            .maps
            .get(self.map)
            .get(index.bytes(), &mut self.bytes)
            .with_context(|| format!("cannot read map {}", self.map.name()))?;
        if found {
            self.values
                .extend(self.bytes.chunks_exact(size_of::<V>()).filter_map(V::read));
        }
        Ok(&self.values)
    }
}

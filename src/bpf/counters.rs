//! What the programs counted, and how full the maps are.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

use super::accounts::Account;
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

const _: () = assert!(abi::REASON_COUNT * 2 <= abi::COUNTER_FLOWS_RECORDED);

/// Totals over all CPUs since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub rules: BTreeMap<RuleKey, Count>,
    /// Without [`Reason::Policy`].
    pub reasons: BTreeMap<(Reason, Direction), Count>,
    /// What rules that are gone have counted for accounts that have others.
    pub closed: BTreeMap<Account, Count>,
}

/// What became of the flows of one conntrack map, since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowCounts {
    pub map: Map,
    /// At most so many are known at a time; then the least recently used is forgotten.
    pub capacity: u32,
    /// Under a new key.
    pub recorded: u64,
    /// Not recorded, because the map did not take them.
    pub refused: u64,
    /// Forgotten to make room, as far as [`CounterReader::count_flows`] has noticed.
    pub evicted: u64,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub map: Map,
    pub entries: u32,
    pub capacity: u32,
}

/// What each place in the counters is of. Made anew only where a change adds or removes rules.
#[derive(Debug)]
pub(super) struct Places {
    rules: Box<[(RuleKey, u32, RuleInfo)]>,
    closed: Box<[(Account, u32)]>,
}

/// Reads counters beside whoever changes policies, without a lock that a change waits for.
#[derive(Clone, Debug)]
pub struct CounterReader {
    maps: Arc<Maps>,
    /// As of [`Kernel::counter_reader`].
    places: Arc<Places>,
    fill: Arc<[MapFill]>,
    /// See [`Self::is_current`].
    meanings: Arc<AtomicU64>,
    made_at: u64,
}

impl CounterReader {
    /// The rules that it reads, and what each is.
    pub fn rules(&self) -> impl Iterator<Item = (RuleKey, &RuleInfo)> {
        self.places.rules.iter().map(|(key, _, info)| (*key, info))
    }

    /// Whether all that has been read by now was what it was taken for. Otherwise a change has begun since this was made that
    /// removes rules: read again with the reader that there is after it.
    pub fn is_current(&self) -> bool {
        self.meanings.load(Ordering::Acquire) == self.made_at
    }

    /// Each rule and isolation by its counters index.
    pub(super) fn by_index(&self) -> impl Iterator<Item = (u32, &RuleInfo)> {
        self.places.rules.iter().map(|(_, index, info)| (*index, info))
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
        for (key, index, _) in &self.places.rules {
            counters.rules.insert(*key, total(*index)?);
        }
        for (account, index) in &self.places.closed {
            counters.closed.insert(account.clone(), total(*index)?);
        }
        Ok(counters)
    }

    /// Events that the programs did not send: too many within a second, or the ring was full.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn events_lost(&self) -> Result<u64> {
        self.maps.events_lost()
    }

    /// What became of flows: IPv4, IPv6.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flows(&self) -> Result<[FlowCounts; 2]> {
        let counts = |map: Map| -> Result<FlowCounts> {
            let of = |counter| self.maps.total(flow_counter(counter, map));
            Ok(FlowCounts {
                map,
                capacity: self.maps.capacity(map),
                recorded: of(abi::COUNTER_FLOWS_RECORDED)?,
                refused: of(abi::COUNTER_FLOWS_REFUSED)?,
                evicted: of(abi::COUNTER_FLOWS_EVICTED)?,
            })
        };
        Ok([counts(Map::Ct4)?, counts(Map::Ct6)?])
    }

    /// How many flows conntrack knows, IPv4 and IPv6, those included that are too old to count and that no other flow has taken the
    /// place of. Reads both maps through, some 20 ms at 100,000 flows; who looks at flows this way does not make them look
    /// used. What is missing of those that were recorded is noted as evicted. To be called by one at a time.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn count_flows(&self) -> Result<[u64; 2]> {
        let mut counts = [0; 2];
        for (map, count) in [Map::Ct4, Map::Ct6].into_iter().zip(&mut counts) {
            // Before: what is recorded while it is counted must not look evicted.
            let known = self.maps.total(flow_counter(abi::COUNTER_FLOWS_RECORDED, map))?
                + self.maps.total(flow_counter(abi::COUNTER_FLOWS_CARRIED, map))?;
            *count = match map {
                Map::Ct4 => self.maps.table::<types::ct4_key, types::ct>(map).count()?,
                _ => self.maps.table::<types::ct6_key, types::ct>(map).count()?,
            };
            let place = flow_counter(abi::COUNTER_FLOWS_EVICTED, map);
            let (evicted, noted) = (known.saturating_sub(*count), self.maps.total(place)?);
            if evicted > noted {
                self.maps.add(place, evicted - noted)?;
            }
        }
        Ok(counts)
    }
}

/// Its place for a conntrack map.
fn flow_counter(counter: u32, map: Map) -> u32 {
    counter + u32::from(map == Map::Ct6)
}

impl Maps {
    /// Packets in one place of the counters.
    fn total(&self, index: u32) -> Result<u64> {
        let mut read = PerCpu::<types::counter>::new(self, Map::Counters)?;
        Ok(read.get(index)?.iter().map(|cpu| cpu.packets).sum())
    }

    fn events_lost(&self) -> Result<u64> {
        let mut read = PerCpu::<types::event_budget>::new(self, Map::EventBudget)?;
        Ok(read.get(0)?.iter().map(|cpu| cpu.lost).sum())
    }

    /// Adds packets to a place in the counters that no program writes to.
    fn add(&self, index: u32, packets: u64) -> Result<()> {
        let mut read = PerCpu::<types::counter>::new(self, Map::Counters)?;
        let mut counts = read.get(index)?.to_vec();
        if let Some(first) = counts.first_mut() {
            first.packets += packets;
        }
        self.put_counts(index, &counts)
    }

    /// Adds what one place in the counters holds to another, which no program writes to.
    pub(super) fn add_counters(&self, from: u32, into: u32) -> Result<()> {
        let mut read = PerCpu::<types::counter>::new(self, Map::Counters)?;
        let mut sums = read.get(into)?.to_vec();
        for (sum, count) in sums.iter_mut().zip(read.get(from)?) {
            sum.packets = sum.packets.wrapping_add(count.packets);
            sum.bytes = sum.bytes.wrapping_add(count.bytes);
        }
        self.put_counts(into, &sums)
    }

    fn put_counts(&self, index: u32, counts: &[types::counter]) -> Result<()> {
        let bytes: Vec<u8> = counts.iter().flat_map(Plain::bytes).copied().collect();
        self.get(Map::Counters)
            .put(index.bytes(), &bytes)
            .context("cannot write map counters")
    }

    /// Flows of another version's maps that one of ours has now.
    pub(super) fn count_carried(&self, map: Map, flows: u64) -> Result<()> {
        match flows {
            0 => Ok(()),
            _ => self.add(flow_counter(abi::COUNTER_FLOWS_CARRIED, map), flows),
        }
    }
}

impl Kernel {
    /// A reader of what is counted now. It does not learn of rules that are added later.
    pub fn counter_reader(&self) -> CounterReader {
        let places = self.places.get_or_init(|| {
            let image = &self.mirror.image;
            let rules = self.mirror.rules.iter();
            let closed = self.mirror.accounts.closed();
            Arc::new(Places {
                rules: rules
                    .filter_map(|(key, index)| Some((*key, *index, image.rules.get(key)?.clone())))
                    .collect(),
                closed: closed
                    .map(|(account, closed)| (account.clone(), closed.index))
                    .collect(),
            })
        });
        CounterReader {
            maps: self.maps.clone(),
            places: places.clone(),
            fill: self.fill().into(),
            meanings: self.meanings.clone(),
            made_at: self.meanings.load(Ordering::Acquire),
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
        self.maps.events_lost()
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

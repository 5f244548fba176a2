//! What the maps hold, as their one writer remembers it: the image, and where each part of it lies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::accounts::Accounts;
use super::config::Map;
use super::ids::Ids;
use super::l4::Tables;
use super::notes::NoteKey;
use crate::compile::{Image, PodImage, RuleKey};
use crate::model::Cidr;

#[derive(Debug)]
pub(super) struct Mirror {
    pub image: Image,
    /// Slot of every pod that has one: those of the image, and those of which only the interface is known yet.
    pub slots: BTreeMap<Arc<str>, u32>,
    /// Counters index of each rule, those included whose names are not known.
    pub rules: HashMap<RuleKey, u32>,
    /// What rules are counted for.
    pub accounts: Accounts,
    pub tables: Tables,
    /// By slot: its prefixes in source4 and source6.
    pub sources: BTreeMap<u32, BTreeSet<Cidr>>,
    /// Host-side interfaces, each with its pod's slot.
    pub interfaces: BTreeMap<u32, u32>,
    /// Chunks of each note.
    pub notes: HashMap<NoteKey, u32>,
    /// Entries that are part of no whole, by map and key: a crash's leavings.
    pub strays: BTreeSet<(Map, Vec<u8>)>,
    pub slot_ids: Ids,
    pub rule_ids: Ids,
    pub node_ids: Ids,
    /// Rises with every wait for packets on their way: what became free in an earlier era is seen by none.
    pub era: u64,
    /// Something was published since the last such wait.
    pub unsettled: bool,
    /// Entries of each map that is written one by one.
    pub counts: BTreeMap<Map, u32>,
}

impl Mirror {
    pub fn count(&self, map: Map) -> u32 {
        match map {
            Map::PodState => self.slot_ids.used(),
            Map::L4 => self.node_ids.used(),
            Map::Counters => self.rule_ids.used() + super::abi::COUNTER_FIRST,
            Map::PodIf => self.interfaces.len() as u32,
            _ => self.counts.get(&map).copied().unwrap_or(0),
        }
    }
}

/// What a pod may send from besides its first address of each family.
pub(super) fn sources_of(pod: &PodImage) -> BTreeSet<Cidr> {
    let firsts = firsts(&pod.addresses);
    pod.addresses
        .iter()
        .filter(|address| !firsts.contains(&Some(**address)))
        .map(|address| Cidr::single(*address))
        .chain(pod.source_prefixes.iter().copied())
        .collect()
}

/// First IPv4 and first IPv6 address: those that pod_state holds.
pub(super) fn firsts(addresses: &[IpAddr]) -> [Option<IpAddr>; 2] {
    [
        addresses.iter().copied().find(IpAddr::is_ipv4),
        addresses.iter().copied().find(IpAddr::is_ipv6),
    ]
}

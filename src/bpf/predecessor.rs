//! Flows of another ABI version: carried over, interface by interface, while that version's programs still judge there.
//!
//! What is carried has a stamp that holds for nothing, so each flow is judged by today's policy at its next packet; what it
//! keeps is that it is known, and who began it.

use std::io;

use anyhow::{Context, Result};

use super::config::Map;
use super::kernel::Kernel;
use super::open_map::OpenMap;
use super::pins::Pins;
use super::plain::Plain;
use super::tables::Table;
use super::types::{control, ct, ct4_key, ct6_key, pod_if};
use super::{abi, sys};

/// Another version's maps, as far as they mean the same as ours.
#[derive(Debug)]
pub(super) struct Predecessor {
    interfaces: OpenMap,
    flows4: OpenMap,
    flows6: OpenMap,
}

/// A tracked flow's key.
trait Flow: Plain {
    const MAP: Map;
    fn ifindex(&self) -> u32;
}

impl Flow for ct4_key {
    const MAP: Map = Map::Ct4;
    fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

impl Flow for ct6_key {
    const MAP: Map = Map::Ct6;
    fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

impl Predecessor {
    /// Those that are pinned, and whose flows are like ours.
    pub fn all(pins: &Pins) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for version in pins.other_versions()? {
            let open = |map| OpenMap::new(sys::open_pin(&Pins::map_of(&version, map))?);
            let read = (|| {
                let control = open(Map::Control)?;
                let same = Table::<u32, control>::new(Map::Control, &control)
                    .and_then(|table| table.get(&0).ok().flatten())
                    .is_some_and(|control| control.flows_version == abi::FLOWS_VERSION);
                io::Result::Ok(if same {
                    Some(Self {
                        interfaces: open(Map::PodIf)?,
                        flows4: open(Map::Ct4)?,
                        flows6: open(Map::Ct6)?,
                    })
                } else {
                    None
                })
            })();
            match read {
                Ok(predecessor) => found.extend(predecessor),
                // Half of what a sweep left.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot open {}", version.display()));
                }
            }
        }
        Ok(found)
    }

    /// The flows of an interface's pod; none where this version did not know the interface.
    fn flows<K: Flow>(&self, flows: &OpenMap, ifindex: u32) -> Result<Vec<(K, ct)>> {
        let owner = Table::<u32, pod_if>::new(Map::PodIf, &self.interfaces).map(|table| table.get(&ifindex));
        let (Some(owner), Some(flows)) = (owner.transpose()?.flatten(), Table::<K, ct>::new(K::MAP, flows))
        else {
            return Ok(Vec::new());
        };
        let mut entries = flows.entries()?;
        entries.retain(|(key, flow)| key.ifindex() == ifindex && flow.slot == owner.slot);
        Ok(entries)
    }
}

impl Kernel {
    /// What predecessors know of an interface's flows and this version does not.
    pub(super) fn carry_flows(&self, ifindex: u32) -> Result<()> {
        let Some(&slot) = self.mirror.interfaces.get(&ifindex) else {
            return Ok(());
        };
        let (words, epoch) = (self.pods.get(slot).direction, self.control.get(0).epoch);
        // One less than the stamp that holds now: both parts of it only grow.
        let stale = words.map(|word| (word as u32).wrapping_add(epoch).wrapping_sub(1));
        for predecessor in &self.predecessors {
            self.carry::<ct4_key>(predecessor.flows(&predecessor.flows4, ifindex)?, slot, stale)?;
            self.carry::<ct6_key>(predecessor.flows(&predecessor.flows6, ifindex)?, slot, stale)?;
        }
        Ok(())
    }

    fn carry<K: Flow>(&self, flows: Vec<(K, ct)>, slot: u32, stale: [u32; 2]) -> Result<()> {
        let mut carried = 0;
        for (key, mut flow) in flows {
            flow.slot = slot;
            flow.stamp = stale[usize::from(flow.direction & 1)];
            if flow.counter >= abi::COUNTER_FIRST {
                // Of a rule, whose index is another now; the verdict at the next packet gives it.
                flow.counter = 0;
            }
            let is_new = self
                .maps
                .get(K::MAP)
                .put_new(key.bytes(), flow.bytes())
                .with_context(|| format!("cannot carry a flow over into map {}", K::MAP.name()))?;
            carried += u64::from(is_new);
        }
        self.maps.count_carried(K::MAP, carried)
    }
}

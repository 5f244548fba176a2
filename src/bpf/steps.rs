//! Writes in the order in which the kernel must see them, gathered into batches, and how they are made.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result};

use super::config::Map;
use super::kernel::Kernel;
use super::plain::Plain;
use super::types;

/// Where membarrier(2) is not to be had: far longer than a packet takes through a program.
const GRACE: Duration = Duration::from_millis(50);

/// Elements that one call puts or deletes at most.
const BATCH: usize = 4096;

#[derive(Debug)]
pub(super) enum Step {
    Put(Batch),
    Delete(Batch),
    Pod(u32, PodWords),
    Interface {
        slot: u32,
        ifindex: u32,
    },
    Epoch,
    /// Prefixes that net4 or net6 holds from here on.
    Networks(Map, u32),
    /// Packets that may have seen what came before are waited for.
    Grace,
}

/// Elements of one map. `values` is empty for deletions.
#[derive(Debug)]
pub(super) struct Batch {
    map: Map,
    count: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
}

/// What pod_state is to say of a pod.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PodWords {
    /// With the mark of an audit.
    pub psid: [u32; 2],
    pub denied_by: [u32; 2],
    pub audited_by: [u32; 2],
    pub flags: u32,
    pub addr4_be: u32,
    pub addr6_be: [u32; 4],
    /// Its prefixes in source4 or source6 changed.
    pub sources_changed: bool,
}

impl PodWords {
    /// Nobody's: only what the node itself sends passes.
    pub fn unknown() -> Self {
        Self {
            psid: [super::abi::PSID_UNKNOWN; 2],
            ..Self::default()
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Elements put into or deleted from maps.
    pub map_writes: u64,
    /// Calls that took.
    pub syscalls: u64,
    /// Stores by which a pod's direction takes up a rule set, or judges its flows anew.
    pub flips: u64,
    /// Other stores into mapped memory.
    pub stores: u64,
    /// Waits for packets on their way.
    pub graces: u64,
}

/// Builds the list of steps.
#[derive(Debug, Default)]
pub(super) struct Steps {
    steps: Vec<Step>,
    /// Batches from here on may still grow.
    open: usize,
}

impl Steps {
    /// Order matters between what comes before and what comes after.
    pub fn fence(&mut self) {
        self.open = self.steps.len();
    }

    pub fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Packets that may be half way past what was written before are waited for.
    pub fn grace(&mut self) {
        self.steps.push(Step::Grace);
        self.fence();
    }

    pub fn put<K: Plain, V: Plain>(&mut self, map: Map, key: &K, value: &V) {
        let batch = self.batch(map, true);
        batch.count += 1;
        batch.keys.extend_from_slice(key.bytes());
        batch.values.extend_from_slice(value.bytes());
    }

    pub fn put_raw(&mut self, map: Map, key: &[u8], value: &[u8]) {
        let batch = self.batch(map, true);
        batch.count += 1;
        batch.keys.extend_from_slice(key);
        batch.values.extend_from_slice(value);
    }

    /// On every CPU.
    pub fn put_zero_counter(&mut self, index: u32) {
        let size = size_of::<types::counter>() * libbpf_rs::num_possible_cpus().unwrap_or(1);
        self.put_raw(Map::Counters, index.bytes(), &vec![0; size]);
    }

    pub fn delete(&mut self, map: Map, key: &[u8]) {
        let batch = self.batch(map, false);
        batch.count += 1;
        batch.keys.extend_from_slice(key);
    }

    fn batch(&mut self, map: Map, put: bool) -> &mut Batch {
        let found = self.steps[self.open..].iter().position(|step| match step {
            Step::Put(batch) => put && batch.map == map,
            Step::Delete(batch) => !put && batch.map == map,
            _ => false,
        });
        let at = match found {
            Some(at) => self.open + at,
            None => {
                let batch = Batch {
                    map,
                    count: 0,
                    keys: Vec::new(),
                    values: Vec::new(),
                };
                self.steps.push(if put {
                    Step::Put(batch)
                } else {
                    Step::Delete(batch)
                });
                self.steps.len() - 1
            }
        };
        match &mut self.steps[at] {
            Step::Put(batch) | Step::Delete(batch) => batch,
            _ => unreachable!("found or pushed as a batch"),
        }
    }

    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

impl Kernel {
    /// Makes the writes. After an error the steps from that one on are not made; the failed batch may be in part.
    pub(super) fn execute(&self, steps: &[Step], written: &mut Written) -> Result<()> {
        for step in steps {
            match step {
                Step::Put(batch) => self.write(batch, written, Batch::put_all, Batch::put_one)?,
                Step::Delete(batch) => self.write(batch, written, Batch::delete_all, Batch::delete_one)?,
                Step::Pod(slot, words) => self.store_pod(*slot, words, written),
                Step::Interface { slot, ifindex } => {
                    self.store_if_new(
                        *slot,
                        std::mem::offset_of!(types::pod_state, ifindex),
                        *ifindex,
                        written,
                    );
                }
                Step::Epoch => self.raise_epoch(written),
                Step::Networks(map, count) => {
                    let (offset, now) = match map {
                        Map::Net4 => (
                            std::mem::offset_of!(types::control, networks4),
                            self.control.get(0).networks4,
                        ),
                        _ => (
                            std::mem::offset_of!(types::control, networks6),
                            self.control.get(0).networks6,
                        ),
                    };
                    if now != *count {
                        self.control.store_u32(0, offset, *count);
                        written.stores += 1;
                    }
                }
                Step::Grace => {
                    grace();
                    written.graces += 1;
                }
            }
        }
        Ok(())
    }

    pub(super) fn raise_epoch(&self, written: &mut Written) {
        let epoch = self.control.get(0).epoch.wrapping_add(1);
        self.control
            .store_u32(0, std::mem::offset_of!(types::control, epoch), epoch);
        written.stores += 1;
    }

    fn write(
        &self,
        batch: &Batch,
        written: &mut Written,
        all: fn(&Batch, &Self, std::ops::Range<usize>) -> io::Result<()>,
        one: fn(&Batch, &Self, usize) -> io::Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < batch.count {
            let part = done..batch.count.min(done + BATCH);
            done = part.end;
            // A map that takes no batches, or an element that fails: then each by itself, and the error is exact.
            if part.len() > 1 {
                written.syscalls += 1;
                if all(batch, self, part.clone()).is_ok() {
                    written.map_writes += part.len() as u64;
                    continue;
                }
            }
            for index in part {
                written.syscalls += 1;
                one(batch, self, index).with_context(|| format!("map {}", batch.map.name()))?;
                written.map_writes += 1;
            }
        }
        Ok(())
    }

    fn store_if_new(&self, slot: u32, offset: usize, value: u32, written: &mut Written) {
        let old = self.pods.get(slot);
        if old.bytes()[offset..offset + 4] != value.to_ne_bytes() {
            self.pods.store_u32(slot, offset, value);
            written.stores += 1;
        }
    }

    /// Addresses and counters first, then one store for each direction that changes, then what has no counter any more.
    fn store_pod(&self, slot: u32, words: &PodWords, written: &mut Written) {
        use std::mem::offset_of;
        let old = self.pods.get(slot);
        let judge_anew = words.sources_changed
            || old.addr4_be != words.addr4_be
            || old.addr6_be != words.addr6_be
            // What is reported changes no verdict.
            || (old.flags ^ words.flags) & !super::abi::POD_LOG_ALLOWED != 0;
        self.store_if_new(slot, offset_of!(types::pod_state, flags), words.flags, written);
        self.store_if_new(
            slot,
            offset_of!(types::pod_state, addr4_be),
            words.addr4_be,
            written,
        );
        for (place, word) in words.addr6_be.iter().enumerate() {
            let offset = offset_of!(types::pod_state, addr6_be) + 4 * place;
            self.store_if_new(slot, offset, *word, written);
        }
        for direction in 0..2 {
            let counters = [
                (
                    offset_of!(types::pod_state, denied_by),
                    words.denied_by[direction],
                ),
                (
                    offset_of!(types::pod_state, audited_by),
                    words.audited_by[direction],
                ),
            ]
            .map(|(offset, index)| (offset + 4 * direction, index));
            for (offset, index) in counters.into_iter().filter(|(_, index)| *index != 0) {
                self.store_if_new(slot, offset, index, written);
            }
            let (psid, generation) = (
                (old.direction[direction] >> 32) as u32,
                old.direction[direction] as u32,
            );
            if psid != words.psid[direction] || judge_anew {
                // Never reset, also when the slot changes hands: a flow's stamp fits one generation only.
                let word = u64::from(words.psid[direction]) << 32 | u64::from(generation.wrapping_add(1));
                self.pods.store_u64(
                    slot,
                    offset_of!(types::pod_state, direction) + 8 * direction,
                    word,
                );
                written.flips += 1;
            }
            for (offset, index) in counters.into_iter().filter(|(_, index)| *index == 0) {
                self.store_if_new(slot, offset, index, written);
            }
        }
    }
}

/// Returns when every packet that was in a program has left it.
pub(super) fn grace() {
    use rustix::thread::{MembarrierCommand, membarrier};
    // The kernel waits for an RCU grace period; programs run within RCU read sections.
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(GRACE);
    }
}

impl Batch {
    fn key_size(&self) -> usize {
        self.keys.len() / self.count
    }

    fn value_size(&self) -> usize {
        self.values.len() / self.count
    }

    fn key(&self, index: usize) -> &[u8] {
        &self.keys[index * self.key_size()..][..self.key_size()]
    }

    fn put_all(&self, kernel: &Kernel, part: std::ops::Range<usize>) -> io::Result<()> {
        let (key, value) = (self.key_size(), self.value_size());
        kernel.maps.get(self.map).put_batch(
            &self.keys[part.start * key..part.end * key],
            &self.values[part.start * value..part.end * value],
        )
    }

    fn put_one(&self, kernel: &Kernel, index: usize) -> io::Result<()> {
        let size = self.value_size();
        let value = &self.values[index * size..][..size];
        kernel.maps.get(self.map).put(self.key(index), value)
    }

    fn delete_all(&self, kernel: &Kernel, part: std::ops::Range<usize>) -> io::Result<()> {
        let key = self.key_size();
        kernel
            .maps
            .get(self.map)
            .delete_batch(&self.keys[part.start * key..part.end * key])
    }

    fn delete_one(&self, kernel: &Kernel, index: usize) -> io::Result<()> {
        match kernel.maps.get(self.map).delete(self.key(index)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

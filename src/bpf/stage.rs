//! Operations taken into the mirror, and the writes that bring the maps there. Nothing is written here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::config::Map;
use super::l4;
use super::mirror::{Mirror, firsts, sources_of};
use super::notes::{self, NoteKey, PodNote};
use super::plain::Plain;
use super::steps::{PodWords, Step, Steps};
use super::types::{row, row_key};
use super::{abi, keys};
use crate::compile::{Class, L4, L4Key, Op, PodImage, Psid, Row, RuleInfo, RuleKey};
use crate::model::{Cidr, Direction};

/// Most entries that each map holds on the way, by [`Map`].
pub(super) type Peaks = [u32; Map::ALL.len()];

/// Whether an operation removes what nothing refers to any more, but for packets on their way.
pub(super) fn leaves(op: &Op) -> bool {
    matches!(op, Op::RemoveRow(..) | Op::RemoveL4(_) | Op::RemoveRule(_))
}

/// The mirror as it changes, and the writes that follow from it.
pub(super) struct Stage<'a> {
    pub mirror: &'a mut Mirror,
    pub steps: Steps,
    peaks: Peaks,
}

impl<'a> Stage<'a> {
    pub fn new(mirror: &'a mut Mirror) -> Self {
        Self {
            mirror,
            steps: Steps::default(),
            peaks: [0; Map::ALL.len()],
        }
    }

    pub fn finish(self) -> (Vec<Step>, Peaks) {
        (self.steps.into_steps(), self.peaks)
    }

    /// # Errors
    /// An operation names what is not there; what is staged by then is worthless.
    pub fn ops(&mut self, ops: &[Op]) -> Result<(), String> {
        let mut previous = None;
        for op in ops {
            let kind = std::mem::discriminant(op);
            if previous.replace(kind) != Some(kind) {
                self.steps.fence();
            }
            if !leaves(op) {
                self.mirror.unsettled = true;
            } else if self.mirror.unsettled {
                self.let_packets_finish();
            }
            self.op(op)?;
        }
        self.settle_networks();
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::AddRule(key, info) => self.add_rule(*key, info),
            Op::AddL4(key, table) => self.add_table(*key, table)?,
            Op::AddRow(psid, class, row) => self.add_row(*psid, *class, *row)?,
            Op::SetAddress(address, class) => {
                let known = self.mirror.image.addresses.contains_key(address);
                let (map, key) = keys::address(*address);
                self.put_class(map, &key, *class, !known);
            }
            Op::SetNetwork(cidr, class) => self.set_network(*cidr, *class),
            Op::SetPod(uid, pod) => self.set_pod(uid, pod)?,
            Op::BumpEpoch => self.steps.push(Step::Epoch),
            Op::RemoveAddress(address) => {
                if self.mirror.image.addresses.contains_key(address) {
                    let (map, key) = keys::address(*address);
                    self.delete(map, &key);
                }
            }
            Op::RemoveNetwork(cidr) => {
                if self.mirror.image.networks.contains_key(cidr) {
                    let (map, key) = keys::network(*cidr);
                    self.delete(map, &key);
                }
            }
            Op::RemoveRow(psid, class) => {
                if self.mirror.image.rows.contains_key(&(*psid, *class)) {
                    self.delete(Map::Row, &row_bytes(*psid, *class));
                }
            }
            Op::RemoveL4(key) => self.remove_table(*key),
            Op::RemoveRule(key) => self.remove_rule(*key),
            Op::RemovePod(uid) => self.remove_pod(uid),
        }
        self.mirror.image.apply(op);
        Ok(())
    }

    /// Waits for packets on their way; what became free before may then be filled anew.
    fn let_packets_finish(&mut self) {
        self.steps.grace();
        self.mirror.era += 1;
        self.mirror.unsettled = false;
    }

    pub fn see(&mut self, map: Map) {
        let count = self.mirror.count(map);
        let peak = &mut self.peaks[map as usize];
        *peak = count.max(*peak);
    }

    /// One more entry, or a new value of one.
    fn counted(&mut self, map: Map, new: bool, key: &[u8]) {
        // What was stray has a meaning again.
        let stray = self.mirror.strays.remove(&(map, key.to_vec()));
        if new && !stray {
            *self.mirror.counts.entry(map).or_default() += 1;
            self.see(map);
        }
    }

    pub fn delete(&mut self, map: Map, key: &[u8]) {
        if let Some(count) = self.mirror.counts.get_mut(&map) {
            *count = count.saturating_sub(1);
        }
        self.steps.delete(map, key);
    }

    fn put_class(&mut self, map: Map, key: &[u8], class: Class, new: bool) {
        self.counted(map, new, key);
        self.steps.put_raw(map, key, &class.0.to_ne_bytes());
    }

    fn set_network(&mut self, cidr: Cidr, class: Class) {
        let known = self.mirror.image.networks.contains_key(&cidr);
        let (map, key) = keys::network(cidr);
        if self.mirror.count(map) == 0 {
            // The programs look only where something is said to be.
            self.steps.push(Step::Networks(map, 1));
        }
        self.put_class(map, &key, class, !known);
    }

    fn settle_networks(&mut self) {
        for map in [Map::Net4, Map::Net6] {
            let count = self.mirror.count(map);
            self.steps.push(Step::Networks(map, count));
        }
    }

    pub fn note(&mut self, key: NoteKey, text: &str) {
        let before = self.mirror.notes.get(&key).copied().unwrap_or(0);
        let after = notes::chunks(text);
        for (chunk, note) in notes::encode(key, text) {
            self.counted(Map::Note, chunk.chunk >= before, chunk.bytes());
            self.steps.put(Map::Note, &chunk, &note);
        }
        self.drop_chunks(key, after, before);
        self.mirror.notes.insert(key, after);
    }

    fn forget(&mut self, key: NoteKey) {
        let chunks = self.mirror.notes.remove(&key).unwrap_or(0);
        self.drop_chunks(key, 0, chunks);
    }

    fn drop_chunks(&mut self, key: NoteKey, from: u32, to: u32) {
        for chunk in from..to {
            self.delete(Map::Note, key.chunk(chunk).bytes());
        }
    }

    fn index(&self, key: RuleKey) -> Result<u32, String> {
        self.mirror
            .rules
            .get(&key)
            .copied()
            .ok_or_else(|| format!("rule {:016x} is not there", key.0))
    }

    fn add_rule(&mut self, key: RuleKey, info: &RuleInfo) {
        if self.mirror.image.rules.get(&key) != Some(info) {
            self.note(NoteKey::Rule(key), &notes::rule_text(info));
        }
        if self.mirror.rules.contains_key(&key) {
            return;
        }
        let (index, era) = self.mirror.rule_ids.take();
        self.reuse(era);
        self.see(Map::Counters);
        self.steps.put_zero_counter(index);
        self.counted(Map::RuleIndex, true, &key.0.to_ne_bytes());
        self.steps.put(Map::RuleIndex, &key.0, &index);
        self.mirror.rules.insert(key, index);
    }

    pub fn remove_rule(&mut self, key: RuleKey) {
        let Some(index) = self.mirror.rules.remove(&key) else {
            return;
        };
        self.delete(Map::RuleIndex, &key.0.to_ne_bytes());
        self.forget(NoteKey::Rule(key));
        self.mirror.rule_ids.give(index, self.mirror.era);
    }

    /// A place that became free in `era` is about to be filled.
    fn reuse(&mut self, era: u64) {
        if era == self.mirror.era {
            self.let_packets_finish();
        }
    }

    fn add_table(&mut self, key: L4Key, L4(intervals): &L4) -> Result<(), String> {
        if self.mirror.tables.root(key).is_some() {
            return Ok(());
        }
        if intervals.len() > l4::LIMIT || intervals.first().is_none_or(|(start, _)| *start != 0) {
            return Err(format!(
                "a port table has {} intervals; 1 to {} are possible",
                intervals.len(),
                l4::LIMIT
            ));
        }
        let targets = intervals
            .iter()
            .map(|(start, rule)| Ok((*start, rule.map_or(Ok(0), |rule| self.index(rule))?)))
            .collect::<Result<Vec<_>, String>>()?;
        let Mirror { tables, node_ids, .. } = &mut *self.mirror;
        let mut latest = None;
        let nodes = tables.insert(key, &targets, || {
            let (id, era) = node_ids.take();
            latest = latest.max(Some(era));
            id
        });
        if let Some(era) = latest {
            self.reuse(era);
        }
        self.see(Map::L4);
        for (id, node) in nodes {
            self.steps.put(Map::L4, &id, &node.encode());
        }
        if let Some(root) = self.mirror.tables.root(key) {
            self.note(NoteKey::Table(root), &notes::table_text(key));
        }
        Ok(())
    }

    fn remove_table(&mut self, key: L4Key) {
        let Some(root) = self.mirror.tables.root(key) else {
            return;
        };
        for id in self.mirror.tables.remove(key) {
            self.mirror.node_ids.give(id, self.mirror.era);
        }
        self.forget(NoteKey::Table(root));
    }

    fn add_row(&mut self, psid: Psid, class: Class, row: Row) -> Result<(), String> {
        let value = match row {
            Row::Allow(rule) => row {
                l4: abi::L4_ALLOW,
                rule: self.index(rule)?,
            },
            Row::L4(key) => row {
                l4: self
                    .mirror
                    .tables
                    .root(key)
                    .ok_or_else(|| format!("port table {:016x} is not there", key.0))?,
                rule: 0,
            },
        };
        let key = row_key {
            psid: psid.0,
            class_id: class.0,
        };
        let known = self.mirror.image.rows.contains_key(&(psid, class));
        self.counted(Map::Row, !known, &row_bytes(psid, class));
        self.steps.put::<_, row>(Map::Row, &key, &value);
        Ok(())
    }

    /// The pod's slot, a new one if it has none.
    pub fn slot(&mut self, uid: &Arc<str>) -> u32 {
        if let Some(slot) = self.mirror.slots.get(uid) {
            return *slot;
        }
        let (slot, era) = self.mirror.slot_ids.take();
        self.reuse(era);
        self.see(Map::PodState);
        self.mirror.slots.insert(uid.clone(), slot);
        slot
    }

    fn set_pod(&mut self, uid: &Arc<str>, pod: &PodImage) -> Result<(), String> {
        let (mut psid, mut denied_by, mut audited_by) = ([0; 2], [0; 2], [0; 2]);
        for direction in Direction::ALL {
            let place = direction as usize;
            let own = pod.direction(direction);
            psid[place] = own.psid.0;
            if let Some(key) = own.denied_by {
                denied_by[place] = self.index(key)?;
            }
            if let Some(key) = own.audited_by {
                audited_by[place] = self.index(key)?;
                psid[place] |= abi::AUDITED;
            }
        }
        let slot = self.slot(uid);
        let before = self.mirror.image.pods.get(uid);
        let described = before.is_some_and(|before| {
            before.id == pod.id
                && before.addresses == pod.addresses
                && before.source_prefixes == pod.source_prefixes
                && self.mirror.notes.contains_key(&NoteKey::Pod(slot))
        });
        if !described {
            let note = PodNote {
                uid: uid.clone(),
                namespace: pod.id.namespace.clone(),
                name: pod.id.name.clone(),
                addresses: pod.addresses.clone(),
                sources: pod.source_prefixes.clone(),
                published: true,
            };
            self.note(NoteKey::Pod(slot), &notes::text(&note));
        }
        let wanted = sources_of(pod);
        let old = self.mirror.sources.get(&slot).cloned().unwrap_or_default();
        for cidr in wanted.difference(&old) {
            let (map, key) = keys::source(slot, *cidr);
            self.counted(map, true, &key);
            self.steps.put_raw(map, &key, &1_u32.to_ne_bytes());
        }
        let [first4, first6] = firsts(&pod.addresses);
        let has = |v4: bool| wanted.iter().any(|cidr| cidr.net().addr().is_ipv4() == v4);
        self.steps.push(Step::Pod(
            slot,
            PodWords {
                psid,
                denied_by,
                audited_by,
                flags: [
                    (has(true), abi::POD_SOURCES4),
                    (has(false), abi::POD_SOURCES6),
                    (pod.log_allowed, abi::POD_LOG_ALLOWED),
                ]
                .into_iter()
                .filter(|(is, _)| *is)
                .map(|(_, flag)| flag)
                .sum(),
                addr4_be: match first4 {
                    Some(IpAddr::V4(v4)) => keys::v4_be(v4),
                    _ => 0,
                },
                addr6_be: match first6 {
                    Some(IpAddr::V6(v6)) => keys::v6_be(v6),
                    _ => [0; 4],
                },
                sources_changed: wanted != old,
            },
        ));
        self.drop_sources(slot, old.difference(&wanted));
        self.mirror.sources.insert(slot, wanted);
        Ok(())
    }

    fn drop_sources<'c>(&mut self, slot: u32, gone: impl Iterator<Item = &'c Cidr>) {
        for cidr in gone {
            let (map, key) = keys::source(slot, *cidr);
            self.delete(map, &key);
        }
    }

    pub fn remove_pod(&mut self, uid: &str) {
        let Some(slot) = self.mirror.slots.remove(uid) else {
            return;
        };
        self.steps.push(Step::Pod(slot, PodWords::unknown()));
        let interfaces: Vec<u32> = self
            .mirror
            .interfaces
            .iter()
            .filter(|(_, owner)| **owner == slot)
            .map(|(ifindex, _)| *ifindex)
            .collect();
        for ifindex in interfaces {
            self.mirror.interfaces.remove(&ifindex);
            self.steps.delete(Map::PodIf, &ifindex.to_ne_bytes());
        }
        self.steps.push(Step::Interface { slot, ifindex: 0 });
        let sources: BTreeSet<Cidr> = self.mirror.sources.remove(&slot).unwrap_or_default();
        self.drop_sources(slot, sources.iter());
        self.forget(NoteKey::Pod(slot));
        self.mirror.slot_ids.give(slot, self.mirror.era);
    }
}

fn row_bytes(psid: Psid, class: Class) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&psid.0.to_ne_bytes());
    key[4..].copy_from_slice(&class.0.to_ne_bytes());
    key
}

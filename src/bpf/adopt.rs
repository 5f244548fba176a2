//! What the maps hold → [`Mirror`], after a restart or an error.
//!
//! Nothing is written here. What cannot be read as part of an image (a crash came between two writes) is left in force and
//! kept as a stray for [`Kernel::sweep`](super::Kernel::sweep); the places in arrays that strays refer to are not given out
//! before the next start. A pod whose parts contradict each other appears in the
//! image as unknown, so that every difference rewrites it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;

use super::config::Map;
use super::ids::Ids;
use super::l4::Tables;
use super::mirror::{Mirror, firsts, sources_of};
use super::mmap::MappedArray;
use super::notes::{self, NoteKey, Notes, PodNote};
use super::plain::Plain;
use super::tables::Maps;
use super::types::{self, pod_state};
use super::{abi, keys};
use crate::compile::{Class, Image, L4, PodDirection, PodImage, Psid, Row, RuleKey};
use crate::model::{Cidr, Direction, ObjectId};

impl Mirror {
    /// # Errors
    /// A map cannot be read at all.
    pub fn read(maps: &Maps, pods: &MappedArray<pod_state>) -> Result<Self> {
        let mut reading = Reading {
            maps,
            notes: Notes::read(maps)?,
            image: Image::default(),
            rules: HashMap::new(),
            by_index: HashMap::new(),
            tables: Tables::default(),
            strays: BTreeSet::new(),
            counts: BTreeMap::new(),
            held_nodes: BTreeSet::new(),
            held_slots: BTreeSet::new(),
        };
        reading.rules()?;
        reading.tables()?;
        reading.rows()?;
        reading.addresses()?;
        let mut sources = reading.sources()?;
        let (slots, interfaces) = reading.pods(pods, &sources)?;
        let live: BTreeSet<u32> = slots.values().copied().collect();
        reading.stray_sources(&mut sources, &live);
        Ok(reading.finish(slots, interfaces, sources))
    }
}

struct Reading<'a> {
    maps: &'a Maps,
    notes: Notes,
    image: Image,
    rules: HashMap<RuleKey, u32>,
    by_index: HashMap<u32, RuleKey>,
    tables: Tables,
    strays: BTreeSet<(Map, Vec<u8>)>,
    counts: BTreeMap<Map, u32>,
    /// What strays refer to.
    held_nodes: BTreeSet<u32>,
    held_slots: BTreeSet<u32>,
}

type Sources = BTreeMap<u32, BTreeSet<Cidr>>;

impl Reading<'_> {
    fn entries<K: Plain, V: Plain>(&mut self, map: Map) -> Result<Vec<(K, V)>> {
        let entries = self.maps.table::<K, V>(map).entries()?;
        self.counts.insert(map, entries.len() as u32);
        Ok(entries)
    }

    fn stray(&mut self, map: Map, key: &impl Plain) {
        self.strays.insert((map, key.bytes().to_vec()));
    }

    /// A note that describes nothing.
    fn stray_note(&mut self, key: NoteKey) {
        if let Some(text) = self.notes.texts.remove(&key) {
            for chunk in 0..notes::chunks(&text) {
                self.stray(Map::Note, &key.chunk(chunk));
            }
        }
    }

    fn rules(&mut self) -> Result<()> {
        let capacity = self.maps.capacity(Map::Counters);
        let mut entries = self.entries::<u64, u32>(Map::RuleIndex)?;
        entries.sort_unstable();
        for (key, index) in entries {
            let fits = (abi::COUNTER_FIRST..capacity).contains(&index);
            if !fits || self.by_index.contains_key(&index) {
                self.stray(Map::RuleIndex, &key);
                continue;
            }
            self.rules.insert(RuleKey(key), index);
            self.by_index.insert(index, RuleKey(key));
        }
        let noted: Vec<RuleKey> = self
            .notes
            .texts
            .keys()
            .filter_map(|key| match key {
                NoteKey::Rule(rule) => Some(*rule),
                _ => None,
            })
            .collect();
        for key in noted {
            let info = self
                .notes
                .texts
                .get(&NoteKey::Rule(key))
                .and_then(|text| notes::rule_from(text));
            match info {
                Some(info) if self.rules.contains_key(&key) => {
                    self.image.rules.insert(key, info);
                }
                _ => self.stray_note(NoteKey::Rule(key)),
            }
        }
        Ok(())
    }

    fn tables(&mut self) -> Result<()> {
        let nodes = self.maps.table::<u32, types::l4_node>(Map::L4);
        let capacity = self.maps.capacity(Map::L4);
        let noted: Vec<(u32, Option<_>)> = self
            .notes
            .texts
            .iter()
            .filter_map(|(key, text)| match key {
                NoteKey::Table(root) => Some((*root, notes::table_from(text))),
                _ => None,
            })
            .collect();
        for (root, key) in noted {
            let read = |id: u32| {
                let inside = (abi::L4_FIRST..capacity).contains(&id);
                inside.then(|| nodes.get(&id).ok().flatten()).flatten()
            };
            let table = key.and_then(|key| {
                let intervals = self.tables.adopt(key, root, read)?;
                let rules = intervals
                    .iter()
                    .map(|(start, target)| match target {
                        0 => Some((*start, None)),
                        index => Some((*start, Some(*self.by_index.get(index)?))),
                    })
                    .collect::<Option<Arc<[_]>>>();
                if rules.is_none() {
                    self.tables.remove(key);
                }
                Some((key, L4(rules?)))
            });
            match table {
                Some((key, table)) => {
                    self.image.l4.insert(key, table);
                }
                None => self.stray_note(NoteKey::Table(root)),
            }
        }
        Ok(())
    }

    fn rows(&mut self) -> Result<()> {
        for (key, row) in self.entries::<types::row_key, types::row>(Map::Row)? {
            let read = match row.l4 {
                abi::L4_DENY => None,
                abi::L4_ALLOW => self.by_index.get(&row.rule).map(|rule| Row::Allow(*rule)),
                root => self.tables.key(root).map(Row::L4),
            };
            match read {
                Some(row) => {
                    self.image.rows.insert((Psid(key.psid), Class(key.class_id)), row);
                }
                None => {
                    self.hold_nodes(row.l4, abi::L4_LEVELS);
                    self.stray(Map::Row, &key);
                }
            }
        }
        Ok(())
    }

    /// A row that is no part of the image is in force all the same: what it leads to must not become another table.
    fn hold_nodes(&mut self, id: u32, levels: u32) {
        let inside = (abi::L4_FIRST..self.maps.capacity(Map::L4)).contains(&id);
        if levels == 0 || !inside || !self.held_nodes.insert(id) {
            return;
        }
        let node = self.maps.table::<u32, types::l4_node>(Map::L4).get(&id);
        if let Ok(Some(node)) = node
            && node.level > 0
        {
            node.target
                .iter()
                .for_each(|child| self.hold_nodes(*child, levels - 1));
        }
    }

    fn addresses(&mut self) -> Result<()> {
        for (key, class) in self.entries::<u32, u32>(Map::Ip4)? {
            self.image
                .addresses
                .insert(keys::v4_from(key).into(), Class(class));
        }
        for (key, class) in self.entries::<types::ip6_key, u32>(Map::Ip6)? {
            self.image
                .addresses
                .insert(keys::address_from6(&key), Class(class));
        }
        for (key, class) in self.entries::<types::net4_key, u32>(Map::Net4)? {
            match keys::network_from4(&key) {
                Some(cidr) => {
                    self.image.networks.insert(cidr, Class(class));
                }
                None => self.stray(Map::Net4, &key),
            }
        }
        for (key, class) in self.entries::<types::net6_key, u32>(Map::Net6)? {
            match keys::network_from6(&key) {
                Some(cidr) => {
                    self.image.networks.insert(cidr, Class(class));
                }
                None => self.stray(Map::Net6, &key),
            }
        }
        Ok(())
    }

    fn sources(&mut self) -> Result<Sources> {
        let mut sources = Sources::new();
        for (key, _) in self.entries::<types::source4_key, u32>(Map::Source4)? {
            match keys::source_from4(&key) {
                Some((slot, cidr)) => {
                    sources.entry(slot).or_default().insert(cidr);
                }
                None => self.stray(Map::Source4, &key),
            }
        }
        for (key, _) in self.entries::<types::source6_key, u32>(Map::Source6)? {
            match keys::source_from6(&key) {
                Some((slot, cidr)) => {
                    sources.entry(slot).or_default().insert(cidr);
                }
                None => self.stray(Map::Source6, &key),
            }
        }
        Ok(sources)
    }

    fn stray_sources(&mut self, sources: &mut Sources, live: &BTreeSet<u32>) {
        sources.retain(|slot, prefixes| {
            if !live.contains(slot) {
                self.held_slots.insert(*slot);
                self.strays
                    .extend(prefixes.iter().map(|cidr| keys::source(*slot, *cidr)));
            }
            live.contains(slot)
        });
    }

    #[allow(clippy::type_complexity)]
    fn pods(
        &mut self,
        states: &MappedArray<pod_state>,
        sources: &Sources,
    ) -> Result<(BTreeMap<Arc<str>, u32>, BTreeMap<u32, u32>)> {
        let noted: Vec<(u32, Option<PodNote>)> = self
            .notes
            .texts
            .iter()
            .filter_map(|(key, text)| match key {
                NoteKey::Pod(slot) => Some((*slot, notes::pod_from(text))),
                _ => None,
            })
            .collect();
        let mut slots = BTreeMap::new();
        for (slot, note) in noted {
            let capacity = self.maps.capacity(Map::PodState);
            match note {
                Some(note) if slot < capacity && !slots.contains_key(&note.uid) => {
                    if note.published {
                        let pod = self.pod(&note, &states.get(slot), sources.get(&slot));
                        self.image.pods.insert(note.uid.clone(), pod);
                    }
                    slots.insert(note.uid, slot);
                }
                _ => self.stray_note(NoteKey::Pod(slot)),
            }
        }
        let live: BTreeSet<u32> = slots.values().copied().collect();
        let mut interfaces = BTreeMap::new();
        for (ifindex, owner) in self.entries::<u32, types::pod_if>(Map::PodIf)? {
            if live.contains(&owner.slot) {
                interfaces.insert(ifindex, owner.slot);
            } else {
                self.held_slots.insert(owner.slot);
                self.stray(Map::PodIf, &ifindex);
            }
        }
        self.counts.remove(&Map::PodIf);
        Ok((slots, interfaces))
    }

    fn pod(&self, note: &PodNote, state: &pod_state, sources: Option<&BTreeSet<Cidr>>) -> PodImage {
        let direction = |direction: Direction| {
            let place = direction as usize;
            let word = (state.direction[place] >> 32) as u32;
            let rule = |index: u32| match index {
                0 => Some(None),
                index => self.by_index.get(&index).map(|rule| Some(*rule)),
            };
            // Of the two counters the programs look at one; the other may be a crash's leaving.
            let (denied_by, audited_by) = if word & abi::AUDITED == 0 {
                (rule(state.denied_by[place])?, None)
            } else {
                (None, Some(rule(state.audited_by[place])??))
            };
            Some(PodDirection {
                psid: Psid(word & !abi::AUDITED),
                denied_by,
                audited_by,
            })
        };
        let unknown = PodDirection {
            psid: Psid::UNKNOWN,
            denied_by: None,
            audited_by: None,
        };
        let mut pod = PodImage {
            id: ObjectId {
                namespace: note.namespace.clone(),
                name: note.name.clone(),
            },
            addresses: note.addresses.clone(),
            source_prefixes: note.sources.clone(),
            log_allowed: state.flags & abi::POD_LOG_ALLOWED != 0,
            ingress: unknown,
            egress: unknown,
        };
        let [first4, first6] = firsts(&pod.addresses);
        let agrees = first4.unwrap_or(IpAddr::V4(keys::v4_from(0)))
            == IpAddr::V4(keys::v4_from(state.addr4_be))
            && first6.unwrap_or(IpAddr::V6(keys::v6_from([0; 4])))
                == IpAddr::V6(keys::v6_from(state.addr6_be))
            && sources_of(&pod) == *sources.unwrap_or(&BTreeSet::new());
        if let (true, Some(ingress), Some(egress)) = (
            agrees,
            direction(Direction::Ingress),
            direction(Direction::Egress),
        ) {
            (pod.ingress, pod.egress) = (ingress, egress);
        }
        pod
    }

    fn finish(
        mut self,
        slots: BTreeMap<Arc<str>, u32>,
        interfaces: BTreeMap<u32, u32>,
        sources: Sources,
    ) -> Mirror {
        for key in std::mem::take(&mut self.notes.stray) {
            self.stray(Map::Note, &key);
        }
        let known = self
            .notes
            .texts
            .iter()
            .map(|(key, text)| (*key, notes::chunks(text)));
        let notes: HashMap<NoteKey, u32> = known.collect();
        // A stray note's chunks are counted as what they are: entries.
        let chunks: u32 = notes.values().sum();
        let stray = self.strays.iter().filter(|(map, _)| *map == Map::Note).count() as u32;
        self.counts.insert(Map::Note, chunks + stray);
        let mut used_slots = self.held_slots;
        used_slots.extend(slots.values());
        let maps = self.maps;
        Mirror {
            slot_ids: Ids::new(0, maps.capacity(Map::PodState), |id| used_slots.contains(&id)),
            rule_ids: Ids::new(abi::COUNTER_FIRST, maps.capacity(Map::Counters), |id| {
                self.by_index.contains_key(&id)
            }),
            node_ids: Ids::new(abi::L4_FIRST, maps.capacity(Map::L4), |id| {
                self.tables.uses(id) || self.held_nodes.contains(&id)
            }),
            image: self.image,
            slots,
            rules: self.rules,
            tables: self.tables,
            sources,
            interfaces,
            notes,
            strays: self.strays,
            era: 1,
            unsettled: true,
            counts: self.counts,
        }
    }
}

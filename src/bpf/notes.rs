//! What no program reads and a restart must find again: which pod a slot is, which table an l4 node begins, what a rule
//! is called. Text in the map `note`, in chunks that each carry the length and the checksum of the whole, so that a note
//! torn by a crash is no note.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::abi;
use super::config::Map;
use super::plain::Plain;
use super::tables::Maps;
use super::types::{note as Note, note_key};
use crate::compile::{L4Key, RuleInfo, RuleKey};
use crate::model::{Cidr, Direction, ObjectId, RuleId};

const CHUNK: usize = abi::NOTE_TEXT as usize;

/// Which note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum NoteKey {
    /// By slot.
    Pod(u32),
    /// By the id of the table's topmost node.
    Table(u32),
    Rule(RuleKey),
    Programs,
}

impl NoteKey {
    fn parts(self) -> (u64, u32) {
        match self {
            Self::Pod(slot) => (slot.into(), abi::NOTE_POD),
            Self::Table(root) => (root.into(), abi::NOTE_TABLE),
            Self::Rule(RuleKey(key)) => (key, abi::NOTE_RULE),
            Self::Programs => (0, abi::NOTE_PROGRAMS),
        }
    }

    fn from_parts(key: u64, kind: u32) -> Option<Self> {
        Some(match kind {
            abi::NOTE_POD => Self::Pod(u32::try_from(key).ok()?),
            abi::NOTE_TABLE => Self::Table(u32::try_from(key).ok()?),
            abi::NOTE_RULE => Self::Rule(RuleKey(key)),
            abi::NOTE_PROGRAMS => Self::Programs,
            _ => return None,
        })
    }

    pub fn chunk(self, chunk: u32) -> note_key {
        let (key, kind) = self.parts();
        note_key { key, kind, chunk }
    }
}

/// Chunks that a text takes.
pub(super) fn chunks(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(CHUNK)).unwrap_or(u32::MAX)
}

/// A text as the map holds it.
pub(super) fn encode(key: NoteKey, text: &str) -> impl Iterator<Item = (note_key, Note)> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let sum = checksum(text.as_bytes());
    (0..)
        .zip(text.as_bytes().chunks(CHUNK))
        .map(move |(chunk, part)| {
            let mut note = Note {
                length,
                sum,
                ..Note::default()
            };
            note.text[..part.len()].copy_from_slice(part);
            (key.chunk(chunk), note)
        })
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// What the map holds: whole notes, and the keys of chunks that belong to none.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub texts: BTreeMap<NoteKey, String>,
    pub stray: Vec<note_key>,
}

impl Notes {
    pub fn read(maps: &Maps) -> Result<Self> {
        Ok(Self::assemble(maps.table::<note_key, Note>(Map::Note).entries()?))
    }

    fn assemble(entries: Vec<(note_key, Note)>) -> Self {
        let mut notes = Self::default();
        let mut parts: BTreeMap<NoteKey, BTreeMap<u32, Note>> = BTreeMap::new();
        for (key, note) in entries {
            match NoteKey::from_parts(key.key, key.kind) {
                Some(known) => {
                    parts.entry(known).or_default().insert(key.chunk, note);
                }
                None => notes.stray.push(key),
            }
        }
        for (key, mut chunks) in parts {
            let text = chunks.get(&0).copied().and_then(|first| whole(&first, &chunks));
            if let Some(text) = text {
                let used = self::chunks(&text);
                notes.texts.insert(key, text);
                chunks.retain(|chunk, _| *chunk >= used);
            }
            notes.stray.extend(chunks.keys().map(|chunk| key.chunk(*chunk)));
        }
        notes
    }
}

fn whole(first: &Note, chunks: &BTreeMap<u32, Note>) -> Option<String> {
    let length = first.length as usize;
    let mut text = Vec::new();
    for chunk in 0..u32::try_from(length.div_ceil(CHUNK)).ok()? {
        let note = chunks.get(&chunk)?;
        text.extend_from_slice(&note.text);
    }
    text.truncate(length);
    (checksum(&text) == first.sum)
        .then(|| String::from_utf8(text).ok())
        .flatten()
}

/// What the pinned programs were loaded from.
pub(super) fn programs(maps: &Maps) -> Result<Option<String>> {
    let shape = maps.shape(Map::Note);
    if (shape.key_size as usize, shape.value_size as usize) != (size_of::<note_key>(), size_of::<Note>()) {
        return Ok(None);
    }
    let table = maps.table::<note_key, Note>(Map::Note);
    let mut chunks = BTreeMap::new();
    while let Some(note) = table.get(&NoteKey::Programs.chunk(chunks.len() as u32))? {
        chunks.insert(chunks.len() as u32, note);
    }
    Ok(chunks.get(&0).and_then(|first| whole(first, &chunks)))
}

pub(super) fn set_programs(maps: &Maps, text: &str) -> Result<()> {
    for (key, note) in encode(NoteKey::Programs, text) {
        maps.get(Map::Note)
            .put(key.bytes(), note.bytes())
            .context("cannot note what the programs were loaded from")?;
    }
    Ok(())
}

/// The pod of a slot, as far as programs do not know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodNote {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub sources: Vec<Cidr>,
    /// False: only the interface is known yet, the image has no such pod.
    pub published: bool,
}

#[derive(Serialize, Deserialize)]
struct PolicyName(Arc<str>, Arc<str>);

#[derive(Serialize, Deserialize)]
enum RuleNote {
    Rule(PolicyName, Direction, Option<u32>),
    Isolation(Direction, Vec<PolicyName>),
    Audit(Direction, Vec<PolicyName>),
}

/// # Panics
/// Never: strings and numbers always serialise.
pub(super) fn text(note: &impl Serialize) -> String {
    serde_json::to_string(note).unwrap_or_default()
}

pub(super) fn pod_from(text: &str) -> Option<PodNote> {
    serde_json::from_str(text).ok()
}

pub(super) fn rule_text(info: &RuleInfo) -> String {
    let name = |id: &ObjectId| PolicyName(id.namespace.clone(), id.name.clone());
    text(&match info {
        RuleInfo::Rule(rule) => RuleNote::Rule(name(&rule.policy), rule.direction, rule.index),
        RuleInfo::Isolation { direction, policies } => {
            RuleNote::Isolation(*direction, policies.iter().map(name).collect())
        }
        RuleInfo::Audit { direction, policies } => {
            RuleNote::Audit(*direction, policies.iter().map(name).collect())
        }
    })
}

pub(super) fn rule_from(text: &str) -> Option<RuleInfo> {
    let id = |PolicyName(namespace, name)| ObjectId { namespace, name };
    Some(match serde_json::from_str(text).ok()? {
        RuleNote::Rule(policy, direction, index) => RuleInfo::Rule(RuleId {
            policy: id(policy),
            direction,
            index,
        }),
        RuleNote::Isolation(direction, policies) => RuleInfo::Isolation {
            direction,
            policies: policies.into_iter().map(id).collect(),
        },
        RuleNote::Audit(direction, policies) => RuleInfo::Audit {
            direction,
            policies: policies.into_iter().map(id).collect(),
        },
    })
}

pub(super) fn table_text(key: L4Key) -> String {
    format!("{:016x}", key.0)
}

pub(super) fn table_from(text: &str) -> Option<L4Key> {
    u64::from_str_radix(text, 16).ok().map(L4Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(text: &str) -> Vec<(note_key, Note)> {
        encode(NoteKey::Pod(7), text).collect()
    }

    #[test]
    fn a_note_of_any_length_reads_as_it_was_written() {
        for length in [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK] {
            let text = "pä".repeat(length).chars().take(length).collect::<String>();
            let notes = Notes::assemble(stored(&text));
            assert_eq!(notes.texts.get(&NoteKey::Pod(7)), Some(&text));
            assert!(notes.stray.is_empty());
            assert_eq!(chunks(&text) as usize, stored(&text).len());
        }
    }

    #[test]
    fn a_torn_note_is_no_note() {
        let old = stored(&"a".repeat(3 * CHUNK));
        let new = stored(&"b".repeat(3 * CHUNK));
        let torn = vec![new[0], old[1], old[2]];
        let notes = Notes::assemble(torn);
        assert!(notes.texts.is_empty());
        assert_eq!(notes.stray.len(), 3);
        let short = Notes::assemble(old[..2].to_vec());
        assert!(short.texts.is_empty());
        assert_eq!(short.stray.len(), 2);
    }

    #[test]
    fn chunks_past_the_end_of_a_shortened_note_are_stray() {
        let mut chunks = stored(&"b".repeat(CHUNK));
        chunks.push(stored(&"a".repeat(2 * CHUNK))[1]);
        let notes = Notes::assemble(chunks);
        assert_eq!(notes.texts.len(), 1);
        assert_eq!(notes.stray.len(), 1);
        assert_eq!(notes.stray[0].chunk, 1);
    }
}

//! Contents → ids that are the same in every process, on every machine and after every restart.
//!
//! An id is a hash of what it stands for. Two contents that hash alike are told apart by salting, in a way that
//! depends only on the set of contents, never on the order in which they came.

use std::collections::{BTreeMap, BTreeSet};

use super::image::Psid;

/// A fixed 64-bit hash: each 64-bit word is XORed into the state, which then goes through the finalizer of
/// MurmurHash3 and an addition. Strings are their length, then their bytes in little-endian words, padded with zeros.
/// Not keyed: whoever chooses contents can choose collisions, which is why [`assign`] allows for them.
#[derive(Clone)]
pub(super) struct StableHasher(u64);

impl StableHasher {
    /// Different domains and salts give unrelated hashes of one content.
    pub fn new(domain: &str, salt: u64) -> Self {
        let mut hasher = Self(0x7061_6c69_7361_6465);
        hasher.str(domain);
        hasher.u64(salt);
        hasher
    }

    pub fn u64(&mut self, word: u64) {
        let mut x = self.0 ^ word;
        x ^= x >> 33;
        x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
        x ^= x >> 33;
        x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^= x >> 33;
        self.0 = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    }

    pub fn str(&mut self, text: &str) {
        self.u64(text.len() as u64);
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.u64(u64::from_le_bytes(word));
        }
    }

    pub fn finish(&self) -> u64 {
        self.0
    }
}

/// Which numbers may be ids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// Smaller numbers have a meaning of their own.
    pub first: u64,
    pub mask: u64,
}

impl Space {
    pub const fn bits64() -> Self {
        Self {
            first: 1,
            mask: u64::MAX,
        }
    }

    /// 31 bits: see [`Psid`].
    pub const PSIDS: Self = Self {
        first: Psid::FIRST as u64,
        mask: (u32::MAX >> 1) as u64,
    };

    pub const fn bits32(first: u32) -> Self {
        Self {
            first: first as u64,
            mask: u32::MAX as u64,
        }
    }
}

/// One id for each of `contents`, which are distinct; in their order. `hash` takes a salt, 0 at first.
///
/// A content keeps its unsalted hash unless another one has the same. Then all that share it move away, lowest
/// content first, each to its first free salted hash: so the id that they shared means neither of them.
pub(super) fn assign<T: Ord>(contents: &[T], space: Space, hash: impl Fn(&T, u64) -> u64) -> Vec<u64> {
    let mut wanted: BTreeMap<u64, u32> = BTreeMap::new();
    let mut ids: Vec<u64> = contents.iter().map(|c| hash(c, 0) & space.mask).collect();
    for id in &ids {
        *wanted.entry(*id).or_default() += 1;
    }
    let mut moved: Vec<usize> = (0..ids.len())
        .filter(|&i| ids[i] < space.first || wanted[&ids[i]] > 1)
        .collect();
    if moved.is_empty() {
        return ids;
    }
    moved.sort_by(|&a, &b| contents[a].cmp(&contents[b]));
    let mut taken: BTreeSet<u64> = wanted.into_keys().collect();
    for index in moved {
        ids[index] = (1..)
            .map(|salt| hash(&contents[index], salt) & space.mask)
            .find(|id| *id >= space.first && !taken.contains(id))
            .unwrap_or_default();
        taken.insert(ids[index]);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &&str, salt: u64) -> u64 {
        let mut hasher = StableHasher::new("test", salt);
        hasher.str(text);
        hasher.finish()
    }

    #[test]
    fn the_hash_is_the_one_that_pinned_maps_were_written_with() {
        assert_eq!(hash(&"", 0), 0xb348_6feb_bf4a_e9fa);
        assert_eq!(hash(&"palisade", 0), 0x1fc0_a06f_b552_d742);
        assert_ne!(hash(&"palisade", 0), hash(&"palisade", 1));
        assert_ne!(hash(&"a\0", 0), hash(&"a", 0));
    }

    #[test]
    fn contents_that_collide_get_distinct_ids_whatever_their_order() {
        let space = Space {
            first: 16,
            mask: 0x7f,
        };
        let names: Vec<String> = (0..60).map(|i| format!("content {i}")).collect();
        let forward: Vec<&str> = names.iter().map(String::as_str).collect();
        let backward: Vec<&str> = forward.iter().rev().copied().collect();
        let unsalted: BTreeSet<u64> = forward.iter().map(|n| hash(n, 0) & space.mask).collect();
        assert!(unsalted.len() < forward.len(), "the test must force a collision");
        let ids = assign(&forward, space, hash);
        let distinct: BTreeSet<u64> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(ids.iter().all(|id| (16..=0x7f).contains(id)));
        let mut reversed = assign(&backward, space, hash);
        reversed.reverse();
        assert_eq!(ids, reversed);
    }
}

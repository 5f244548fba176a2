//! Port tables as the kernel searches them: B-trees of nodes of 32 entries, shared where equal.
//!
//! A node is written before anything refers to it, and freed when nothing does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::abi;
use super::types::l4_node;
use crate::compile::L4Key;

const FANOUT: usize = abi::L4_FANOUT as usize;
/// Intervals that the deepest tree holds.
pub(super) const LIMIT: usize = FANOUT.pow(abi::L4_LEVELS);

/// Starts and targets, and the height above the leaves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    level: u32,
    entries: Vec<(u32, u32)>,
}

impl Node {
    pub fn encode(&self) -> l4_node {
        // What lies above every value ends the kernel's search, which does not look at count.
        let mut node = l4_node {
            level: self.level,
            count: self.entries.len() as u32,
            first: [u32::MAX; FANOUT],
            target: [0; FANOUT],
        };
        for (place, (first, target)) in self.entries.iter().enumerate() {
            node.first[place] = *first;
            node.target[place] = *target;
        }
        node
    }

    fn decode(node: &l4_node) -> Option<Self> {
        let count = node.count as usize;
        let entries: Vec<_> = node.first.iter().copied().zip(node.target).take(count).collect();
        let sorted = entries.is_sorted_by(|(a, _), (b, _)| a < b);
        ((1..=FANOUT).contains(&count) && sorted && node.level < abi::L4_LEVELS).then_some(Self {
            level: node.level,
            entries,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    /// With how many nodes and tables refer to each.
    nodes: HashMap<u32, (Arc<Node>, u32)>,
    by_content: HashMap<Arc<Node>, u32>,
    roots: BTreeMap<L4Key, u32>,
    keys: HashMap<u32, L4Key>,
}

impl Tables {
    pub fn root(&self, key: L4Key) -> Option<u32> {
        self.roots.get(&key).copied()
    }

    /// The table that begins at a node.
    pub fn key(&self, root: u32) -> Option<L4Key> {
        self.keys.get(&root).copied()
    }

    pub fn uses(&self, id: u32) -> bool {
        self.nodes.contains_key(&id)
    }

    /// Adds a table of `intervals` (sorted starts from 0, each with its counters index or 0). Returns the nodes that are to be
    /// written, children first; `take` gives an id for each.
    pub fn insert(
        &mut self,
        key: L4Key,
        intervals: &[(u32, u32)],
        mut take: impl FnMut() -> u32,
    ) -> Vec<(u32, Arc<Node>)> {
        let mut new = Vec::new();
        let mut level = 0;
        let mut entries = intervals.to_vec();
        loop {
            entries = entries
                .chunks(FANOUT)
                .map(|part| {
                    let node = Node {
                        level,
                        entries: part.to_vec(),
                    };
                    (part[0].0, self.refer(node, &mut take, &mut new))
                })
                .collect();
            if let [(_, root)] = entries[..] {
                self.roots.insert(key, root);
                // Two keys of one content do not occur, but the later one is as good.
                self.keys.insert(root, key);
                return new;
            }
            level += 1;
        }
    }

    /// One more reference to a node of this content.
    fn refer(&mut self, node: Node, take: &mut impl FnMut() -> u32, new: &mut Vec<(u32, Arc<Node>)>) -> u32 {
        if let Some(&id) = self.by_content.get(&node) {
            self.nodes
                .entry(id)
                .and_modify(|(_, references)| *references += 1);
            // Its children are held by the node that is there.
            for (_, child) in node.entries.iter().filter(|_| node.level > 0) {
                self.release(*child, &mut Vec::new());
            }
            return id;
        }
        let (id, node) = (take(), Arc::new(node));
        self.nodes.insert(id, (node.clone(), 1));
        self.by_content.insert(node.clone(), id);
        new.push((id, node));
        id
    }

    /// Removes a table; returns the nodes that nothing refers to any more.
    pub fn remove(&mut self, key: L4Key) -> Vec<u32> {
        let mut freed = Vec::new();
        if let Some(root) = self.roots.remove(&key) {
            if self.keys.get(&root) == Some(&key) {
                self.keys.remove(&root);
            }
            self.release(root, &mut freed);
        }
        freed
    }

    fn release(&mut self, id: u32, freed: &mut Vec<u32>) {
        let Some((node, references)) = self.nodes.get_mut(&id) else {
            return;
        };
        *references -= 1;
        if *references > 0 {
            return;
        }
        let node = node.clone();
        self.nodes.remove(&id);
        if self.by_content.get(&node) == Some(&id) {
            self.by_content.remove(&node);
        }
        freed.push(id);
        if node.level > 0 {
            for (_, child) in &node.entries {
                self.release(*child, freed);
            }
        }
    }

    /// Takes up a table that begins at `root`, reading nodes with `read`. Returns its intervals; `None`, and nothing is taken
    /// up, if what is there is no such tree.
    pub fn adopt(
        &mut self,
        key: L4Key,
        root: u32,
        mut read: impl FnMut(u32) -> Option<l4_node>,
    ) -> Option<Vec<(u32, u32)>> {
        let mut found = BTreeMap::new();
        let mut intervals = Vec::new();
        collect(root, None, &mut read, &mut found, &mut intervals)?;
        let sorted = intervals.is_sorted_by(|(a, _), (b, _)| a < b);
        if !sorted
            || intervals.first()?.0 != 0
            || self.roots.contains_key(&key)
            || self.keys.contains_key(&root)
        {
            return None;
        }
        found.retain(|id, _| !self.nodes.contains_key(id));
        for (id, node) in &found {
            self.nodes.insert(*id, (node.clone(), 0));
            self.by_content.entry(node.clone()).or_insert(*id);
        }
        for node in found.values().filter(|node| node.level > 0) {
            for (_, child) in &node.entries {
                self.hold(*child);
            }
        }
        self.hold(root);
        self.roots.insert(key, root);
        self.keys.insert(root, key);
        Some(intervals)
    }

    fn hold(&mut self, id: u32) {
        if let Some((_, references)) = self.nodes.get_mut(&id) {
            *references += 1;
        }
    }
}

/// Walks down from a node, left to right.
fn collect(
    id: u32,
    level: Option<u32>,
    read: &mut impl FnMut(u32) -> Option<l4_node>,
    found: &mut BTreeMap<u32, Arc<Node>>,
    intervals: &mut Vec<(u32, u32)>,
) -> Option<()> {
    let node = Arc::new(Node::decode(&read(id)?)?);
    if level.is_some_and(|level| node.level != level) {
        return None;
    }
    found.insert(id, node.clone());
    if node.level == 0 {
        intervals.extend(&node.entries);
        return (intervals.len() <= LIMIT).then_some(());
    }
    node.entries
        .iter()
        .try_for_each(|(_, child)| collect(*child, Some(node.level - 1), read, found, intervals))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's search, step by step (bpf/policy.h).
    fn search(nodes: &HashMap<u32, l4_node>, root: u32, value: u32) -> u32 {
        let mut id = root;
        for _ in 0..abi::L4_LEVELS {
            let node = &nodes[&id];
            let mut at = 0;
            let mut step = FANOUT / 2;
            while step > 0 {
                if node.first[at + step] <= value {
                    at += step;
                }
                step /= 2;
            }
            id = node.target[at];
            if node.level == 0 {
                return id;
            }
        }
        panic!("deeper than the kernel looks");
    }

    fn intervals(count: u32, spread: u32) -> Vec<(u32, u32)> {
        (0..count)
            .map(|n| (n * spread, if n % 3 == 0 { 0 } else { 64 + n }))
            .collect()
    }

    fn insert(
        tables: &mut Tables,
        nodes: &mut HashMap<u32, l4_node>,
        key: u64,
        intervals: &[(u32, u32)],
    ) -> usize {
        let mut next = abi::L4_FIRST + nodes.len() as u32;
        let new = tables.insert(L4Key(key), intervals, || {
            next += 1;
            next - 1
        });
        for (id, node) in &new {
            if node.level > 0 {
                assert!(
                    node.entries.iter().all(|(_, child)| nodes.contains_key(child)),
                    "children come first"
                );
            }
            nodes.insert(*id, node.encode());
        }
        new.len()
    }

    #[test]
    fn tables_of_any_size_are_searched_as_they_are_written() {
        for count in [1, 2, 31, 32, 33, 1023, 1024, 1025, 5000, 33_000] {
            let (mut tables, mut nodes) = (Tables::default(), HashMap::new());
            let wanted = intervals(count, 500);
            insert(&mut tables, &mut nodes, 1, &wanted);
            let root = tables.root(L4Key(1)).unwrap();
            for (place, (start, target)) in wanted.iter().enumerate() {
                let end = wanted.get(place + 1).map_or(u32::MAX - 1, |(next, _)| next - 1);
                for value in [*start, start + 1, end] {
                    assert_eq!(search(&nodes, root, value), *target, "{count} intervals, {value}");
                }
            }
            let mut again = Tables::default();
            let read = again.adopt(L4Key(1), root, |id| nodes.get(&id).copied());
            assert_eq!(read, Some(wanted));
            let mut freed = again.remove(L4Key(1));
            freed.sort_unstable();
            let mut all: Vec<u32> = nodes.keys().copied().collect();
            all.sort_unstable();
            assert_eq!(freed, all);
            assert_eq!(tables.remove(L4Key(1)).len(), nodes.len());
        }
    }

    #[test]
    fn equal_nodes_are_shared_and_freed_with_their_last_table() {
        let (mut tables, mut nodes) = (Tables::default(), HashMap::new());
        let first = intervals(100, 1);
        let mut second = first.clone();
        second[99].1 = 7;
        assert_eq!(insert(&mut tables, &mut nodes, 1, &first), 5);
        // The last leaf and the root differ.
        assert_eq!(insert(&mut tables, &mut nodes, 2, &second), 2);
        let mut adopted = Tables::default();
        for key in [1, 2] {
            let root = tables.root(L4Key(key)).unwrap();
            adopted
                .adopt(L4Key(key), root, |id| nodes.get(&id).copied())
                .unwrap();
        }
        for mut tables in [tables, adopted] {
            assert_eq!(tables.remove(L4Key(1)).len(), 2);
            assert_eq!(tables.remove(L4Key(2)).len(), 5);
            assert!(tables.nodes.is_empty() && tables.by_content.is_empty() && tables.keys.is_empty());
        }
    }

    #[test]
    fn what_is_no_tree_is_not_taken_up() {
        let (mut tables, mut nodes) = (Tables::default(), HashMap::new());
        insert(&mut tables, &mut nodes, 1, &intervals(100, 1));
        let root = tables.root(L4Key(1)).unwrap();
        type Damage = fn(&mut l4_node);
        let damages: [Damage; 5] = [
            |node| node.count = 0,
            |node| node.count = 33,
            |node| node.level += 1,
            |node| node.first[1] = node.first[0],
            |node| node.target[0] = 999,
        ];
        for damage in damages {
            let mut damaged = nodes.clone();
            damage(damaged.get_mut(&root).unwrap());
            let mut adopted = Tables::default();
            let read = adopted.adopt(L4Key(1), root, |id| damaged.get(&id).copied());
            assert_eq!(read, None);
            assert!(adopted.nodes.is_empty());
        }
    }
}

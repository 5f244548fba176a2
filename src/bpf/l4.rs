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

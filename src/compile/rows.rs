//! Rule sets × classes → rows: the rules that apply to one class of peers come to one verdict for each port.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::classes::Classes;
use super::image::{Class, L4, L4Key, Psid, Row, RuleKey};
use super::names::{Names, Spaces, l4_keys};
use super::ports::{END, Ranges};
use super::rule_sets::RuleSets;

/// Where the ranges of a rule are in memory, and the rule.
type Applied = (*const (u32, u32), RuleKey);
type Rows = BTreeMap<(Psid, Class), Row>;

/// A row only where some rule of the set matches the class.
pub(super) fn rows(
    rule_sets: &RuleSets<'_>,
    names: &Names,
    classes: &Classes,
    class_ids: &[Class],
    spaces: &Spaces,
) -> (Rows, BTreeMap<L4Key, L4>) {
    let mut users: Vec<Vec<(usize, usize)>> = vec![Vec::new(); names.relevant.len()];
    for (set, content) in rule_sets.sets.iter().enumerate() {
        for (place, (matcher, _)) in content.rules.iter().enumerate() {
            if let Some(position) = names.position[*matcher] {
                users[position as usize].push((set, place));
            }
        }
    }
    let mut tables: Vec<L4> = Vec::new();
    let mut known: HashMap<Vec<Applied>, usize> = HashMap::new();
    let mut found: Vec<((Psid, Class), usize)> = Vec::new();
    for (class, members) in classes.sets.iter().enumerate() {
        let mut applying: Vec<(usize, usize)> = members
            .iter()
            .flat_map(|&m| users[m as usize].iter().copied())
            .collect();
        applying.sort_unstable();
        for of_set in applying.chunk_by(|a, b| a.0 == b.0) {
            let set = of_set[0].0;
            let rule = |&(_, place): &(usize, usize)| {
                let (matcher, ranges) = &rule_sets.sets[set].rules[place];
                Some((ranges, names.rules[names.position[*matcher]? as usize]))
            };
            let rules: Vec<(&Ranges, RuleKey)> = of_set.iter().filter_map(rule).collect();
            // Equal lists of ranges are mostly one list.
            let identity = rules
                .iter()
                .map(|(ranges, rule)| (ranges.as_ptr(), *rule))
                .collect();
            let table = *known.entry(identity).or_insert_with(|| {
                tables.push(table(&rules));
                tables.len() - 1
            });
            found.push(((names.psids[set], class_ids[class]), table));
        }
    }
    let needed: BTreeSet<&L4> = tables.iter().filter(|t| allows_all(t).is_none()).collect();
    let needed: Vec<&L4> = needed.into_iter().collect();
    let l4: BTreeMap<L4Key, L4> = l4_keys(&needed, spaces)
        .into_iter()
        .zip(needed.into_iter().cloned())
        .collect();
    let keys: HashMap<&L4, L4Key> = l4.iter().map(|(key, table)| (table, *key)).collect();
    let as_row = |table: &L4| {
        allows_all(table)
            .map(Row::Allow)
            .or_else(|| keys.get(table).copied().map(Row::L4))
    };
    let as_rows: Vec<Option<Row>> = tables.iter().map(as_row).collect();
    let rows = found
        .into_iter()
        .filter_map(|(key, table)| Some((key, as_rows[table]?)))
        .collect();
    (rows, l4)
}

/// The one rule that allows everything.
fn allows_all(table: &L4) -> Option<RuleKey> {
    match *table.0 {
        [(0, rule)] => rule,
        _ => None,
    }
}

/// `rules` in the order in which they answer for what they allow. The result begins at 0; equal neighbours are one.
fn table(rules: &[(&Ranges, RuleKey)]) -> L4 {
    let mut edges: Vec<(u32, bool, usize)> = rules
        .iter()
        .enumerate()
        .flat_map(|(order, (ranges, _))| {
            ranges
                .iter()
                .flat_map(move |&(first, last)| [(first, true, order), (last + 1, false, order)])
        })
        .collect();
    edges.sort_unstable();
    let mut table: Vec<(u32, Option<RuleKey>)> = vec![(0, None)];
    let mut open: BTreeSet<usize> = BTreeSet::new();
    for place in edges.chunk_by(|a, b| a.0 == b.0) {
        for &(_, begins, order) in place {
            if begins {
                open.insert(order);
            } else {
                open.remove(&order);
            }
        }
        let start = place[0].0;
        let verdict = open.first().map(|&order| rules[order].1);
        if start == 0 {
            table[0].1 = verdict;
        } else if start < END && table.last().is_some_and(|l| l.1 != verdict) {
            table.push((start, verdict));
        }
    }
    L4(table.into())
}

//! Ids of rules, rule sets, relevant matchers, classes and tables: hashes of their contents.

use std::collections::{BTreeMap, BTreeSet};

use super::classes::Classes;
use super::ids::{Space, StableHasher, assign};
use super::image::{Class, L4, L4Key, Psid, RuleInfo, RuleKey};
use super::ports::Ranges;
use super::rule_sets::RuleSets;
use crate::model::{ObjectId, RuleId};

/// Which ids there are. Smaller in tests, so that they collide.
pub(super) struct Spaces {
    pub matchers: Space,
    pub classes: Space,
    pub psids: Space,
    pub keys: Space,
}

impl Default for Spaces {
    fn default() -> Self {
        Self {
            matchers: Space::bits64(),
            classes: Space::bits32(1),
            psids: Space::PSIDS,
            keys: Space::bits64(),
        }
    }
}

pub(super) struct Names {
    /// Matchers that apply to some pod, by id; a class names them by their position here.
    pub relevant: Vec<usize>,
    /// By position in `relevant`.
    ids: Vec<u64>,
    /// By matcher: its position in `relevant`.
    pub position: Vec<Option<u32>>,
    /// By position in `relevant`: whose counters take what it allows.
    pub rules: Vec<RuleKey>,
    /// By rule set: whose counters take what it denies where it is enforced.
    pub isolations: Vec<RuleKey>,
    /// By rule set: whose counters take what it would deny where it is in audit.
    pub audits: Vec<RuleKey>,
    /// By rule set.
    pub psids: Vec<Psid>,
    pub infos: BTreeMap<RuleKey, RuleInfo>,
}

impl Names {
    pub fn assign(rule_sets: &RuleSets<'_>, spaces: &Spaces) -> Self {
        let used: BTreeSet<usize> = rule_sets
            .sets
            .iter()
            .flat_map(|s| s.rules.iter().map(|r| r.0))
            .collect();
        let used: Vec<usize> = used.into_iter().collect();
        let names: Vec<_> = used.iter().map(|&m| &rule_sets.matchers[m].name).collect();
        let mut by_id: Vec<(u64, usize)> = assign(&names, spaces.matchers, |n, salt| n.hash(salt))
            .into_iter()
            .zip(used)
            .collect();
        by_id.sort_unstable();
        let (ids, relevant): (Vec<u64>, Vec<usize>) = by_id.into_iter().unzip();
        let mut position = vec![None; rule_sets.matchers.len()];
        for (place, &matcher) in (0..).zip(&relevant) {
            position[matcher] = Some(place);
        }

        let rules: Vec<RuleInfo> = relevant
            .iter()
            .map(|&m| RuleInfo::Rule(rule_sets.matchers[m].rule.clone()))
            .collect();
        let isolations: Vec<RuleInfo> = rule_sets
            .sets
            .iter()
            .map(|set| RuleInfo::Isolation {
                direction: set.direction,
                policies: set.policies.clone().into(),
            })
            .collect();
        let audits: Vec<RuleInfo> = rule_sets
            .sets
            .iter()
            .map(|set| RuleInfo::Audit {
                direction: set.direction,
                policies: set.policies.clone().into(),
            })
            .collect();
        let infos: Vec<RuleInfo> = rules
            .iter()
            .chain(&isolations)
            .chain(&audits)
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let keys: Vec<RuleKey> = assign(&infos, spaces.keys, hash_of_rule)
            .into_iter()
            .map(RuleKey)
            .collect();
        // Every rule and isolation is in the sorted list.
        let key = |info: &RuleInfo| keys[infos.binary_search(info).unwrap_or_default()];
        let rules: Vec<RuleKey> = rules.iter().map(key).collect();
        let isolations: Vec<RuleKey> = isolations.iter().map(key).collect();
        let audits: Vec<RuleKey> = audits.iter().map(key).collect();

        // A rule set is named by its isolation wherever it is in audit only, so that it has one id in both.
        let deciding = rule_sets.of_pods.iter().flatten().flatten().map(|applied| {
            let of = if applied.audited { &audits } else { &isolations };
            of[applied.set]
        });
        let counted: BTreeSet<RuleKey> = deciding.chain(rules.iter().copied()).collect();
        let mut names = Self {
            psids: Vec::new(),
            infos: (keys.iter().copied().zip(infos.iter().cloned()))
                .filter(|(key, _)| counted.contains(key))
                .collect(),
            relevant,
            ids,
            position,
            rules,
            isolations,
            audits,
        };
        names.psids = names.psids(rule_sets, spaces.psids);
        names
    }

    fn psids(&self, rule_sets: &RuleSets<'_>, space: Space) -> Vec<Psid> {
        let content = |set: usize| -> SetContent {
            let rules = rule_sets.sets[set].rules.iter().filter_map(|(matcher, ranges)| {
                let position = self.position[*matcher]? as usize;
                Some((self.ids[position], self.rules[position], ranges.clone()))
            });
            let mut rules: Vec<_> = rules.collect();
            // Of one rule, which list of ports comes first is all the same.
            rules
                .chunk_by_mut(|a, b| a.1 == b.1)
                .for_each(<[_]>::sort_unstable);
            (self.isolations[set], rules)
        };
        let contents: Vec<SetContent> = (0..rule_sets.sets.len()).map(content).collect();
        let distinct: Vec<&SetContent> = contents.iter().collect::<BTreeSet<_>>().into_iter().collect();
        let ids = assign(&distinct, space, |content, salt| hash_of_set(content, salt));
        contents
            .iter()
            .map(|content| Psid(narrow(ids[distinct.binary_search(&content).unwrap_or_default()])))
            .collect()
    }

    /// By class index; the empty class is 0.
    pub fn classes(&self, classes: &Classes, spaces: &Spaces) -> Vec<Class> {
        let ids = assign(&classes.sets[1..], spaces.classes, |set, salt| {
            let mut hasher = StableHasher::new("class", salt);
            set.iter()
                .for_each(|&position| hasher.u64(self.ids[position as usize]));
            hasher.finish()
        });
        std::iter::once(0)
            .chain(ids)
            .map(|id| Class(narrow(id)))
            .collect()
    }
}

/// Whose counters take denials; then in order, which matcher is allowed where, and by which rule.
type SetContent = (RuleKey, Vec<(u64, RuleKey, Ranges)>);

/// Ids of a 32-bit space.
fn narrow(id: u64) -> u32 {
    id as u32
}

fn hash_of_set((isolation, rules): &SetContent, salt: u64) -> u64 {
    let mut hasher = StableHasher::new("rule set", salt);
    hasher.u64(isolation.0);
    for (matcher, rule, ranges) in rules {
        hasher.u64(*matcher);
        hasher.u64(rule.0);
        hasher.u64(ranges.len() as u64);
        for &(first, last) in &**ranges {
            hasher.u64(u64::from(first) << 32 | u64::from(last));
        }
    }
    hasher.finish()
}

fn hash_of_rule(info: &RuleInfo, salt: u64) -> u64 {
    let mut hasher = StableHasher::new("rule", salt);
    let object = |hasher: &mut StableHasher, id: &ObjectId| {
        hasher.str(&id.namespace);
        hasher.str(&id.name);
    };
    match info {
        RuleInfo::Rule(RuleId {
            policy,
            direction,
            index,
        }) => {
            hasher.u64(*direction as u64);
            object(&mut hasher, policy);
            hasher.u64(index.map_or(0, |i| u64::from(i) + 1));
        }
        RuleInfo::Isolation { direction, policies } => {
            hasher.u64(2 + *direction as u64);
            policies.iter().for_each(|p| object(&mut hasher, p));
        }
        RuleInfo::Audit { direction, policies } => {
            hasher.u64(4 + *direction as u64);
            policies.iter().for_each(|p| object(&mut hasher, p));
        }
    }
    hasher.finish()
}

/// Keys of `tables`, which are distinct and sorted.
pub(super) fn l4_keys(tables: &[&L4], spaces: &Spaces) -> Vec<L4Key> {
    let hash = |table: &&L4, salt: u64| {
        let mut hasher = StableHasher::new("l4", salt);
        for (start, verdict) in &*table.0 {
            hasher.u64(u64::from(*start) << 1 | u64::from(verdict.is_some()));
            hasher.u64(verdict.map_or(0, |r| r.0));
        }
        hasher.finish()
    };
    assign(tables, spaces.keys, hash).into_iter().map(L4Key).collect()
}

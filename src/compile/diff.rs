//! Two images → the writes that lead from one to the other, in an order in which every packet meets the old verdict or
//! the new one, never a mixture.
//!
//! 1. Pods that are gone go first; what is not known is denied.
//! 2. Rules, tables and rows that are new: nothing refers to them yet.
//! 3. Addresses, then blocks from the longest to the shortest. A lookup prefers the address, then the longest block: so
//!    whatever an entry covers goes in one step from the class that it had to the class that it will have.
//! 4. Pods flip to their new rule sets.
//! 5. Addresses that could not change before the flips change now (see [`super::transition`]); blocks that go, from the
//!    shortest to the longest; then addresses that go.
//! 6. The epoch, if some flow may have lost its permission, or is counted otherwise, without its pod having flipped.
//! 7. Pods that are new: they start with all in place.
//! 8. What nothing refers to any more. Whoever writes must let packets that are on their way finish between 7 and 8.
//!
//! Where nothing flips, each address or block that differs takes one write.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::eval::{longest_below, longest_match};
use super::image::{Class, Image, L4Key, PodImage, Psid, Row};
use super::op::Op;
use super::transition::{Passage, Stance, Transition};
use crate::model::Cidr;

/// The writes that turn `old` into `new`. Empty if, and only if, they are equal.
pub fn diff(old: &Image, new: &Image) -> Vec<Op> {
    let addresses = address_steps(old, new);
    let networks = network_steps(old, new);
    let mut transition = Transition::new(old, new);
    transition.plan(
        addresses
            .iter()
            .map(|s| s.passage)
            .chain(networks.iter().map(|s| s.passage)),
    );
    let rows = RowSteps::new(old, new, &transition);

    let mut ops = Vec::new();
    ops.extend(
        old.pods
            .keys()
            .filter(|uid| !new.pods.contains_key(*uid))
            .cloned()
            .map(Op::RemovePod),
    );
    ops.extend(
        rows.refuse
            .iter()
            .map(|&(psid, class)| Op::RemoveRow(psid, class)),
    );
    ops.extend(rows.retabled.iter().copied().map(Op::RemoveL4));
    for (key, _, info) in differing(&old.rules, &new.rules) {
        ops.extend(info.map(|info| Op::AddRule(*key, info.clone())));
    }
    for (key, _, table) in differing(&old.l4, &new.l4) {
        ops.extend(table.map(|table| Op::AddL4(*key, table.clone())));
    }
    ops.extend(
        rows.add
            .iter()
            .map(|&((psid, class), row)| Op::AddRow(psid, class, row)),
    );

    ops.extend(copied_pods(old, new, &transition));
    let via = |step: &Passage| transition.via(*step);
    // Where no block changes, an address that comes can wait: what covers it stays until then.
    let may_wait = networks.is_empty();
    ops.extend(
        addresses
            .iter()
            .filter_map(|s| Some(Op::SetAddress(s.key, s.before_flips(via, may_wait)?))),
    );
    ops.extend(
        networks
            .iter()
            .rev()
            .filter_map(|s| Some(Op::SetNetwork(s.key, s.before_flips(via, false)?))),
    );

    let pods =
        || differing(&old.pods, &new.pods).filter_map(|(uid, before, after)| Some((uid, before, after?)));
    let set =
        |(uid, _, after): (&Arc<str>, Option<&PodImage>, &PodImage)| Op::SetPod(uid.clone(), after.clone());
    ops.extend(pods().filter(|(_, before, _)| before.is_some()).map(set));

    ops.extend(
        addresses
            .iter()
            .filter_map(|s| Some(Op::SetAddress(s.key, s.after_flips(via, may_wait)?))),
    );
    ops.extend(
        networks
            .iter()
            .filter_map(|s| Some(Op::SetNetwork(s.key, s.after_flips(via, false)?))),
    );
    ops.extend(
        networks
            .iter()
            .filter(|s| s.after.is_none())
            .map(|s| Op::RemoveNetwork(s.key)),
    );
    ops.extend(
        addresses
            .iter()
            .filter(|s| s.after.is_none())
            .map(|s| Op::RemoveAddress(s.key)),
    );
    if rows.refuses_live() || transition.unsettles() {
        ops.push(Op::BumpEpoch);
    }
    ops.extend(
        rows.grant
            .iter()
            .map(|&((psid, class), row)| Op::AddRow(psid, class, row)),
    );
    ops.extend(pods().filter(|(_, before, _)| before.is_none()).map(set));

    ops.extend(
        rows.remove
            .iter()
            .map(|&(psid, class)| Op::RemoveRow(psid, class)),
    );
    let gone = |key: &&L4Key| !new.l4.contains_key(key);
    ops.extend(old.l4.keys().filter(gone).copied().map(Op::RemoveL4));
    ops.extend(
        old.rules
            .keys()
            .filter(|key| !new.rules.contains_key(key))
            .copied()
            .map(Op::RemoveRule),
    );
    ops
}

/// An address or a block that differs.
struct Step<K> {
    key: K,
    before: Option<Class>,
    after: Option<Class>,
    /// Of all the addresses for which this entry decides before or after.
    passage: Passage,
}

impl<K> Step<K> {
    /// What to write before pods flip.
    fn before_flips(&self, via: impl Fn(&Passage) -> Class, may_wait: bool) -> Option<Class> {
        let via = via(&self.passage);
        let held = self
            .before
            .or((may_wait && via == self.passage.from).then_some(via));
        (held != Some(via)).then_some(via)
    }

    /// What to write after pods flipped.
    fn after_flips(&self, via: impl Fn(&Passage) -> Class, may_wait: bool) -> Option<Class> {
        let waited = self.before.is_none() && self.before_flips(&via, may_wait).is_none();
        self.after.filter(|after| waited || via(&self.passage) != *after)
    }
}

fn address_steps(old: &Image, new: &Image) -> Vec<Step<IpAddr>> {
    differing(&old.addresses, &new.addresses)
        .map(|(&key, before, after)| {
            let around = |image: &Image| longest_match(&image.networks, key).map(|(_, class)| class);
            Step::new(key, before, after, || around(old), || around(new))
        })
        .collect()
}

/// From the shortest block to the longest.
fn network_steps(old: &Image, new: &Image) -> Vec<Step<Cidr>> {
    let mut steps: Vec<Step<Cidr>> = differing(&old.networks, &new.networks)
        .map(|(&key, before, after)| {
            let around = |image: &Image| {
                let shorter = key.net().prefix_len().checked_sub(1)?;
                longest_below(&image.networks, key.net().addr(), shorter).map(|(_, class)| class)
            };
            Step::new(key, before, after, || around(old), || around(new))
        })
        .collect();
    steps.sort_by_key(|s| s.key.net().prefix_len());
    steps
}

impl<K> Step<K> {
    fn new(
        key: K,
        before: Option<&Class>,
        after: Option<&Class>,
        around_before: impl FnOnce() -> Option<Class>,
        around_after: impl FnOnce() -> Option<Class>,
    ) -> Self {
        let (before, after) = (before.copied(), after.copied());
        Self {
            key,
            before,
            after,
            passage: Passage {
                from: before.or_else(around_before).unwrap_or_default(),
                to: after.or_else(around_after).unwrap_or_default(),
                removed: after.is_none(),
            },
        }
    }
}

/// Pods that leave a rule set by way of its copy.
fn copied_pods(old: &Image, new: &Image, transition: &Transition<'_>) -> Vec<Op> {
    if transition.copies.is_empty() {
        return Vec::new();
    }
    let copied = |(uid, pod): (&Arc<str>, &PodImage)| {
        let after = new.pods.get(uid)?;
        let mut copy = pod.clone();
        for (own, next) in [
            (&mut copy.ingress, after.ingress),
            (&mut copy.egress, after.egress),
        ] {
            if Stance::of(*own) != Stance::of(next) {
                own.psid = transition.copies.get(&own.psid).copied().unwrap_or(own.psid);
            }
        }
        (copy != *pod).then(|| Op::SetPod(uid.clone(), copy))
    };
    old.pods.iter().filter_map(copied).collect()
}

/// Which rows to write when.
#[derive(Default)]
struct RowSteps {
    /// Before all else: rows that nothing uses now but something will, with another meaning; and, where an id means
    /// two things (a collision of hashes, or a map that was meddled with), rows in use: denied until all is in place.
    refuse: Vec<(Psid, Class)>,
    /// Of the latter, which are granted again once all is in place.
    grant: Vec<((Psid, Class), Row)>,
    live: bool,
    add: Vec<((Psid, Class), Row)>,
    remove: Vec<(Psid, Class)>,
    /// Tables whose key means two things.
    retabled: BTreeSet<L4Key>,
}

impl RowSteps {
    fn new(old: &Image, new: &Image, transition: &Transition<'_>) -> Self {
        let mut steps = Self::default();
        for (key, before, after) in differing(&old.l4, &new.l4) {
            if before.is_some() && after.is_some() {
                steps.retabled.insert(*key);
            }
        }
        let retabled = |row: Option<Row>| matches!(row, Some(Row::L4(key)) if steps.retabled.contains(&key));
        let mut differing: BTreeMap<(Psid, Class), (Option<Row>, Option<Row>)> =
            differing(&old.rows, &new.rows)
                .map(|(key, before, after)| (*key, (before.copied(), after.copied())))
                .collect();
        if !steps.retabled.is_empty() {
            let touched = old.rows.iter().filter(|(_, row)| retabled(Some(**row)));
            differing.extend(touched.map(|(key, row)| (*key, (Some(*row), new.rows.get(key).copied()))));
        }
        let temporary: Vec<_> = transition
            .rows
            .iter()
            .filter(|(_, row)| !retabled(**row))
            .filter_map(|(key, row)| Some((*key, (*row)?)))
            .collect();
        for (key, (before, after)) in differing {
            let (live, next) = (
                transition.old_use.both(key.0, key.1),
                transition.new_use.both(key.0, key.1),
            );
            let ambiguous = live && (next || after.is_some()) || before.is_some() && retabled(before);
            match (before, after) {
                (Some(_), None) if live && !ambiguous => steps.remove.push(key),
                (Some(_), _) if ambiguous || after.is_none() => steps.refuse.push(key),
                _ => {}
            }
            if let Some(row) = after {
                if ambiguous {
                    &mut steps.grant
                } else {
                    &mut steps.add
                }
                .push((key, row));
            }
            steps.live |= ambiguous;
        }
        steps.remove.extend(
            temporary
                .iter()
                .map(|t| t.0)
                .filter(|key| !new.rows.contains_key(key)),
        );
        steps.add.extend(temporary);
        steps
    }

    /// Whether a row that packets can meet is withdrawn.
    fn refuses_live(&self) -> bool {
        self.live
    }
}

/// What two sorted maps do not have in common: key, before, after.
fn differing<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            match order {
                Ordering::Less => return old.next().map(|(key, before)| (key, Some(before), None)),
                Ordering::Greater => return new.next().map(|(key, after)| (key, None, Some(after))),
                Ordering::Equal => {
                    if let (Some((key, before)), Some((_, after))) = (old.next(), new.next())
                        && before != after
                    {
                        return Some((key, Some(before), Some(after)));
                    }
                }
            }
        }
    })
}

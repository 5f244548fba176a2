//! How addresses change class while pods change rule set, so that no packet meets half of a change.
//!
//! A pod that flips from rule set A to B, and an address that goes from class `old` to `new`, change one after the
//! other: for a moment the kernel pairs A with the new class, or B with the old one. Each address therefore gets the
//! class that holds at the moment of the flips:
//! - the new one, if A with the new class says on every port what A says of the old class or B of the new;
//! - the old one, if B with the old class does;
//! - else a class made for this passage, which A judges as it does the old class and B as it does the new.
//!
//! Pairs that neither image knows (a rule set that goes, with a class that comes) have no row yet: they get one for
//! the time being. A rule set that one pod leaves while another takes it up, or the same pod enforces from then on instead of
//! auditing, is left by way of a copy, so that the two can be told apart.
//!
//! Verdicts are three: what is audited passes, but is told apart from what is allowed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::ids::{Space, StableHasher};
use super::image::{Class, Image, L4, PodDirection, Psid, Row};

/// Old and new class of the addresses that one entry decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Passage {
    pub from: Class,
    pub to: Class,
    /// The entry goes: it had better keep its class until then.
    pub removed: bool,
}

/// Rule sets and classes that something refers to.
pub(super) struct Use {
    pub psids: BTreeSet<Psid>,
    pub classes: HashSet<Class>,
}

impl Use {
    pub fn of(image: &Image) -> Self {
        Self {
            psids: image
                .pods
                .values()
                .flat_map(|p| [p.ingress.psid, p.egress.psid])
                .collect(),
            classes: image
                .addresses
                .values()
                .chain(image.networks.values())
                .copied()
                .chain([Class(0)])
                .collect(),
        }
    }

    pub fn both(&self, psid: Psid, class: Class) -> bool {
        self.psids.contains(&psid) && self.classes.contains(&class)
    }
}

/// What a pod's direction is judged by: a rule set, and whether what it does not allow passes as audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Stance {
    pub psid: Psid,
    audited: bool,
}

impl Stance {
    pub fn of(direction: PodDirection) -> Self {
        Self {
            psid: direction.psid,
            audited: direction.audited_by.is_some(),
        }
    }

    fn says(self, row: Option<Row>) -> Says {
        let otherwise = match self {
            Self { psid: Psid::OPEN, .. } => Verdict::Allowed,
            Self { audited: true, .. } => Verdict::Audited,
            Self { audited: false, .. } => Verdict::Denied,
        };
        Says {
            row: row.filter(|_| self.psid != Psid::OPEN),
            otherwise,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Denied,
    Audited,
    Allowed,
}

/// What a stance says of a class of peers: the row, and what becomes of all that the row does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Says {
    row: Option<Row>,
    otherwise: Verdict,
}

pub(super) struct Transition<'a> {
    old: &'a Image,
    new: &'a Image,
    pub old_use: Use,
    pub new_use: Use,
    /// Of pods that stay: from one stance to another.
    flips: BTreeSet<(Stance, Stance)>,
    /// Those that some pod has before and after.
    kept: BTreeSet<Stance>,
    /// Rows that last only for the transition; `None`: there must be none for its time.
    pub rows: BTreeMap<(Psid, Class), Option<Row>>,
    /// Rule sets that are left by way of a copy.
    pub copies: BTreeMap<Psid, Psid>,
    /// What each passage goes through.
    via: HashMap<Passage, Class>,
    made: BTreeMap<(Class, Class), Class>,
}

impl<'a> Transition<'a> {
    pub fn new(old: &'a Image, new: &'a Image) -> Self {
        let mut flips = BTreeSet::new();
        let mut kept = BTreeSet::new();
        for (uid, before) in &old.pods {
            let Some(after) = new.pods.get(uid) else { continue };
            for (a, b) in [(before.ingress, after.ingress), (before.egress, after.egress)] {
                let (a, b) = (Stance::of(a), Stance::of(b));
                if a == b {
                    kept.insert(a);
                } else {
                    flips.insert((a, b));
                }
            }
        }
        Self {
            old,
            new,
            old_use: Use::of(old),
            new_use: Use::of(new),
            flips,
            kept,
            rows: BTreeMap::new(),
            copies: BTreeMap::new(),
            via: HashMap::new(),
            made: BTreeMap::new(),
        }
    }

    /// The class of every passage at the moment of the flips, with the rows and copies that it takes.
    pub fn plan(&mut self, passages: impl IntoIterator<Item = Passage>) {
        let passages: BTreeSet<Passage> = passages.into_iter().collect();
        for passage in passages {
            let via = self.choose(passage);
            self.via.insert(passage, via);
        }
        if !self.made.is_empty() {
            self.copy_rule_sets();
            self.fill_made_classes();
        }
    }

    pub fn via(&self, passage: Passage) -> Class {
        self.via.get(&passage).copied().unwrap_or(passage.to)
    }

    /// Whether a flow's verdict may be another in the end than at some time before, without its pod's flip telling, and in a way
    /// that matters to a flow in progress: it lost its permission, or what it is counted as changed.
    pub fn unsettles(&self) -> bool {
        let (audited, enforced): (BTreeSet<Stance>, BTreeSet<Stance>) =
            self.kept.iter().partition(|stance| stance.audited);
        let mut losers: HashMap<Class, Vec<Stance>> = self
            .via
            .keys()
            .map(|passage| (passage.from, audited.iter().copied().collect()))
            .collect();
        // Without a row there is nothing to lose.
        for (psid, class) in self.old.rows.keys() {
            let stance = Stance {
                psid: *psid,
                audited: false,
            };
            if let Some(list) = losers.get_mut(class)
                && enforced.contains(&stance)
            {
                list.push(stance);
            }
        }
        self.via.iter().any(|(&Passage { from, to, .. }, &via)| {
            let kept = |&p: &Stance| self.matters(reading(self.old, p, from), reading(self.new, p, to));
            let flipped = |&(_, b): &(Stance, Stance)| {
                let says = self.known(b, via).unwrap_or_else(|| b.says(None));
                self.matters(says, reading(self.new, b, to))
            };
            losers[&from].iter().any(kept) || via == from && self.flips.iter().any(flipped)
        })
    }

    fn choose(&mut self, Passage { from, to, removed }: Passage) -> Class {
        let preferred = if removed { [from, to] } else { [to, from] };
        match preferred.into_iter().find(|&via| self.holds(from, to, via)) {
            Some(via) => via,
            None => self.make(from, to),
        }
    }

    /// Whether every flip sees nothing but the old or the new verdict while the class is `via`. Pairs without a
    /// meaning are given one that makes it so.
    fn holds(&mut self, from: Class, to: Class, via: Class) -> bool {
        let mut given = BTreeMap::new();
        for &(a, b) in &self.flips {
            let was = reading(self.old, a, from);
            let will = reading(self.new, b, to);
            for (stance, wanted) in [(a, was), (b, will)] {
                let row = || given.get(&(stance.psid, via)).copied();
                let says = self
                    .known(stance, via)
                    .or_else(|| row().map(|row| stance.says(row)));
                match says {
                    Some(says) if self.mixes(says, was, will) => return false,
                    Some(_) => {}
                    None => {
                        given.insert((stance.psid, via), wanted.row);
                    }
                }
            }
        }
        self.rows.extend(given);
        true
    }

    /// What a stance says of a class in the course of the transition; `None` while that is open: no image has both.
    fn known(&self, stance: Stance, class: Class) -> Option<Says> {
        if stance.psid == Psid::OPEN {
            return Some(stance.says(None));
        }
        self.known_row(stance.psid, class).map(|row| stance.says(row))
    }

    fn known_row(&self, psid: Psid, class: Class) -> Option<Option<Row>> {
        let row = |image: &Image| image.rows.get(&(psid, class)).copied();
        match (self.old_use.both(psid, class), self.new_use.both(psid, class)) {
            (true, true) => {
                let (was, will) = (row(self.old), row(self.new));
                // An id with two meanings is refused for the time being.
                Some(if was == will { was } else { None })
            }
            (true, false) => Some(row(self.old)),
            (false, true) => Some(row(self.new)),
            (false, false) => self.rows.get(&(psid, class)).copied(),
        }
    }

    fn make(&mut self, from: Class, to: Class) -> Class {
        if let Some(class) = self.made.get(&(from, to)) {
            return *class;
        }
        let rows = self
            .old
            .rows
            .keys()
            .chain(self.new.rows.keys())
            .map(|(_, class)| *class);
        let mut taken: HashSet<Class> = rows.chain(self.made.values().copied()).collect();
        taken.extend(self.old_use.classes.union(&self.new_use.classes));
        let class = Class(free("passage", [from.0, to.0], Space::bits32(1), |id| {
            taken.contains(&Class(id))
        }));
        self.made.insert((from, to), class);
        class
    }

    /// Gives a copy to each rule set that some pod leaves and another takes up: on a made class, the two differ.
    fn copy_rule_sets(&mut self) {
        let targets: BTreeSet<Psid> = self.flips.iter().map(|(_, b)| b.psid).collect();
        let crossed: BTreeSet<Psid> = self
            .flips
            .iter()
            .map(|(a, _)| a.psid)
            .filter(|a| *a != Psid::OPEN && targets.contains(a))
            .collect();
        let rows = self
            .old
            .rows
            .keys()
            .chain(self.new.rows.keys())
            .map(|(psid, _)| *psid);
        let mut taken: HashSet<Psid> = rows
            .chain(self.old_use.psids.union(&self.new_use.psids).copied())
            .collect();
        for psid in crossed {
            let copy = Psid(free("copy", [psid.0, 0], Space::PSIDS, |id| {
                taken.contains(&Psid(id))
            }));
            taken.insert(copy);
            self.copies.insert(psid, copy);
            let of = (psid, Class(0))..=(psid, Class(u32::MAX));
            let classes = self
                .old
                .rows
                .range(of.clone())
                .chain(self.new.rows.range(of))
                .map(|((_, class), _)| *class);
            let copied: Vec<_> = classes
                .filter_map(|class| Some(((copy, class), self.known_row(psid, class)?)))
                .collect();
            self.rows.extend(copied);
        }
    }

    fn fill_made_classes(&mut self) {
        let mut rows = BTreeMap::new();
        for (&(from, to), &made) in &self.made {
            for &(a, b) in &self.flips {
                let left = self.copies.get(&a.psid).copied().unwrap_or(a.psid);
                rows.insert((left, made), reading(self.old, a, from).row);
                rows.insert((b.psid, made), reading(self.new, b, to).row);
            }
            for &stance in &self.kept {
                rows.entry((stance.psid, made))
                    .or_insert_with(|| reading(self.new, stance, to).row);
            }
        }
        rows.retain(|(psid, _), _| *psid != Psid::OPEN);
        self.rows.extend(rows);
    }

    fn mixes(&self, says: Says, was: Says, will: Says) -> bool {
        says != was
            && says != will
            && self.somewhere([says, was, will], |[says, was, will]| says != was && says != will)
    }

    /// See [`Self::unsettles`].
    fn matters(&self, was: Says, will: Says) -> bool {
        was != will
            && self.somewhere([was, will], |[was, will]| {
                will < was || was == Verdict::Audited && will != was
            })
    }

    /// Whether there is a port at which the verdicts satisfy `test`.
    fn somewhere<const N: usize>(&self, says: [Says; N], test: impl Fn([Verdict; N]) -> bool) -> bool {
        let starts = says
            .iter()
            .flat_map(|s| self.table(*s))
            .flat_map(|t| t.0.iter().map(|&(start, _)| start));
        let starts: BTreeSet<u32> = starts.chain([0]).collect();
        starts.into_iter().any(|start| {
            test(says.map(|s| {
                let allowed = match s.row {
                    Some(Row::Allow(_)) => true,
                    Some(Row::L4(_)) => self.table(s).is_some_and(|t| t.at(start).is_some()),
                    None => false,
                };
                if allowed { Verdict::Allowed } else { s.otherwise }
            }))
        })
    }

    fn table(&self, says: Says) -> Option<&'a L4> {
        match says.row {
            Some(Row::L4(key)) => self.old.l4.get(&key).or_else(|| self.new.l4.get(&key)),
            _ => None,
        }
    }
}

/// What one image says.
fn reading(image: &Image, stance: Stance, class: Class) -> Says {
    stance.says(image.rows.get(&(stance.psid, class)).copied())
}

/// The first free id among the salted hashes of what it is made for.
fn free(domain: &str, content: [u32; 2], space: Space, taken: impl Fn(u32) -> bool) -> u32 {
    let hash = |salt: u64| {
        let mut hasher = StableHasher::new(domain, salt);
        content.iter().for_each(|&word| hasher.u64(u64::from(word)));
        hasher.finish() & space.mask
    };
    let fits = |id: &u64| *id >= space.first && !taken(*id as u32);
    (0..).map(hash).find(fits).unwrap_or_default() as u32
}

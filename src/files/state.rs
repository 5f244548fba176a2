//! The contents of all files → the objects in force, and what a set of edits changes in them. Pure.
//!
//! An edit is first put in file by file and then settled at once, so that an object that moves between files is never
//! gone in between. Settling costs what the edited files hold, whatever the others do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::file;
use super::object::{Contents, Item, StandIn};
use crate::model::{
    Change, ContainerPort, Direction, Enforcement, Labels, ObjectId, Policy, Problem, Rule, Selector,
    Snapshot,
};
use crate::objects::{Key, Kind, Object, pod, text};

#[derive(Default)]
pub struct State {
    files: BTreeMap<Arc<Path>, Holding>,
    /// Which items, by file and position, say that they are this object. Ordered.
    claims: BTreeMap<Key, Vec<(Arc<Path>, u32)>>,
    in_force: BTreeMap<Key, InForce>,
    /// Claimed more than once.
    contested: BTreeSet<Key>,
    /// Files with problems.
    troubled: BTreeSet<Arc<Path>>,
    skipped: BTreeMap<String, u64>,
    /// How many pods and policies in force are in each namespace.
    population: BTreeMap<Arc<str>, usize>,
    touched: BTreeSet<Key>,
}

struct Holding {
    items: Vec<Held>,
    problems: Vec<Problem>,
    skipped: BTreeMap<String, u64>,
}

struct Held {
    item: Item,
    /// From an earlier version of the file, since the present one leaves in doubt whether it is still there.
    kept: bool,
}

struct InForce {
    object: Arc<Object>,
    certain: bool,
    origin: Option<Arc<Path>>,
}

/// What pods of one file have in common, which is kept once: replicas differ in little but their names and addresses.
#[derive(Default)]
struct Replicas {
    labels: BTreeSet<Arc<Labels>>,
    ports: BTreeSet<Arc<[ContainerPort]>>,
    texts: BTreeSet<Arc<str>>,
}

impl Replicas {
    fn share(&mut self, item: &mut Item) {
        let Some(Object::Pod(pod)) = item.object.as_mut().and_then(Arc::get_mut) else {
            return;
        };
        pod.labels = once(&mut self.labels, &pod.labels);
        pod.ports = once(&mut self.ports, &pod.ports);
        pod.id.namespace = once(&mut self.texts, &pod.id.namespace);
        pod.node = pod.node.as_ref().map(|node| once(&mut self.texts, node));
        item.key.id = pod.id.clone();
    }
}

/// The first of all equal ones.
fn once<T: Ord + ?Sized>(known: &mut BTreeSet<Arc<T>>, one: &Arc<T>) -> Arc<T> {
    if let Some(first) = known.get(one) {
        return first.clone();
    }
    known.insert(one.clone());
    one.clone()
}

impl State {
    /// What `file` holds now.
    pub fn put(&mut self, file: &Arc<Path>, contents: Contents) {
        let before = self.take(file);
        let Contents {
            items,
            mut problems,
            skipped,
            mut doubtful,
            empty,
        } = contents;
        if empty && !before.is_empty() {
            // Who wants them gone deletes the file; a write that failed leaves it like this.
            doubtful = true;
            problems.push(file::problem(
                text::path(file),
                "is empty, though it held objects before",
                "delete it if they are to go; until then they stay as they were",
            ));
        }
        let mut replicas = Replicas::default();
        let mut held: Vec<_> = (items.into_iter())
            .map(|mut item| {
                replicas.share(&mut item);
                Held { item, kept: false }
            })
            .collect();
        if doubtful {
            let told = held.iter().filter(|held| held.item.stand_in.is_none());
            let told: BTreeSet<Key> = told.map(|held| held.item.key.clone()).collect();
            let earlier = before.into_iter().map(|held| held.item);
            let kept: Vec<_> = earlier
                .filter(|item| item.stand_in.is_none() && !told.contains(&item.key))
                .map(|item| Held { item, kept: true })
                .collect();
            held.retain(|held| match held.item.stand_in {
                None => true,
                Some(StandIn::Named) => kept.iter().all(|kept| kept.item.key != held.item.key),
                Some(StandIn::Nameless) => kept.iter().all(|kept| kept.item.key.kind != Kind::Policy),
            });
            held.extend(kept);
        }
        for (position, held) in held.iter().enumerate() {
            // Most objects are claimed once.
            let claims = self.claims.entry(held.item.key.clone());
            let claims = claims.or_insert_with(|| Vec::with_capacity(1));
            let claim = (file.clone(), u32::try_from(position).unwrap_or(u32::MAX));
            let at = claims.partition_point(|other| *other < claim);
            claims.insert(at, claim);
            self.touched.insert(held.item.key.clone());
        }
        for (kind, count) in &skipped {
            *self.skipped.entry(kind.clone()).or_default() += count;
        }
        if !problems.is_empty() {
            self.troubled.insert(file.clone());
        }
        self.files.insert(
            file.clone(),
            Holding {
                items: held,
                problems,
                skipped,
            },
        );
    }

    pub fn remove(&mut self, file: &Path) {
        self.take(file);
    }

    fn take(&mut self, file: &Path) -> Vec<Held> {
        let Some(holding) = self.files.remove(file) else {
            return Vec::new();
        };
        self.troubled.remove(file);
        for held in &holding.items {
            if let Some(claims) = self.claims.get_mut(&held.item.key) {
                claims.retain(|(claimant, _)| **claimant != *file);
                if claims.is_empty() {
                    self.claims.remove(&held.item.key);
                }
            }
            self.touched.insert(held.item.key.clone());
        }
        for (kind, count) in &holding.skipped {
            if let Some(total) = self.skipped.get_mut(kind) {
                *total -= count;
                if *total == 0 {
                    self.skipped.remove(kind);
                }
            }
        }
        holding.items
    }

    /// Takes all that was put in since the last time into force. Deletions come first; the changes are one step, to be
    /// applied as a whole.
    pub fn settle(&mut self) -> Vec<Change> {
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        let mut namespaces = BTreeSet::new();
        for key in std::mem::take(&mut self.touched) {
            if matches!(key.kind, Kind::Pod | Kind::Policy) {
                namespaces.insert(key.id.namespace.clone());
            }
            if key.kind == Kind::Namespace {
                namespaces.insert(key.id.name.clone());
            } else {
                self.settle_one(key, &mut gone, &mut there);
            }
        }
        for name in namespaces {
            let id = ObjectId {
                namespace: "".into(),
                name,
            };
            let kind = Kind::Namespace;
            self.settle_one(Key { kind, id }, &mut gone, &mut there);
        }
        gone.extend(there);
        gone
    }

    fn settle_one(&mut self, key: Key, gone: &mut Vec<Change>, there: &mut Vec<Change>) {
        let next = self.decide(&key);
        let before = self.in_force.remove(&key);
        let object = |in_force: &Option<InForce>| in_force.as_ref().map(|in_force| in_force.object.clone());
        let (old, new) = (object(&before), object(&next));
        if matches!(key.kind, Kind::Pod | Kind::Policy) {
            let count = self.population.entry(key.id.namespace.clone()).or_default();
            *count = *count + usize::from(new.is_some()) - usize::from(old.is_some());
            if *count == 0 {
                self.population.remove(&key.id.namespace);
            }
        }
        if old != new {
            if let Some(old) = old
                && new.as_ref().is_none_or(|new| new.uid() != old.uid())
            {
                gone.push(old.deletion());
            }
            there.extend(new.map(|new| new.change()));
        }
        if let Some(next) = next {
            self.in_force.insert(key, next);
        }
    }

    /// What is in force under `key` from now on.
    fn decide(&mut self, key: &Key) -> Option<InForce> {
        let claims = self.claimants(key);
        let contested = claims.len() > 1;
        let before = self.in_force.get(key);
        let Some((file, first)) = incumbent(&claims, before) else {
            self.contested.remove(key);
            let undeclared = key.kind == Kind::Namespace && self.population.contains_key(&key.id.name);
            return undeclared.then(|| InForce {
                object: Arc::new(Object::Namespace(pod::namespace(&key.id.name, Labels::new()))),
                certain: false,
                origin: None,
            });
        };
        let certain = if key.kind == Kind::Policy {
            claims.iter().all(|(_, held)| held.item.certain)
        } else {
            first.item.certain
        };
        let object = match before {
            Some(before) if before.certain && !certain => Some(before.object.clone()),
            _ if contested && key.kind == Kind::Policy => narrowest(&claims),
            _ => first.item.object.clone(),
        };
        let certain = certain || before.is_some_and(|before| before.certain);
        let origin = Some(file.clone());
        if contested {
            self.contested.insert(key.clone());
        } else {
            self.contested.remove(key);
        }
        object.map(|object| InForce {
            object,
            certain,
            origin,
        })
    }

    /// Those that the files say now; only where there are none, those kept from earlier.
    fn claimants(&self, key: &Key) -> Vec<(&Arc<Path>, &Held)> {
        let claims = self.claims.get(key).map(Vec::as_slice).unwrap_or_default();
        let held = |(file, position): &(Arc<Path>, u32)| {
            let (file, holding) = self.files.get_key_value(file)?;
            Some((file, holding.items.get(*position as usize)?))
        };
        let mut all: Vec<_> = claims.iter().filter_map(held).collect();
        if all.iter().any(|(_, held)| !held.kept) {
            all.retain(|(_, held)| !held.kept);
        }
        all
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for in_force in self.in_force.values() {
            match in_force.object.as_ref() {
                Object::Namespace(namespace) => snapshot.namespaces.push(namespace.clone()),
                Object::Pod(pod) => snapshot.pods.push(pod.clone()),
                Object::Policy(policy) => snapshot.policies.push(policy.clone()),
                Object::Service(service) => snapshot.services.push(service.clone()),
                Object::EndpointSlice(slice) => snapshot.endpoint_slices.push(slice.clone()),
            }
        }
        snapshot
    }

    /// Of all files, by file; then objects that are declared more than once.
    pub fn problems(&self) -> Vec<Problem> {
        let troubled = self.troubled.iter().filter_map(|file| self.files.get(file));
        let mut problems: Vec<_> = troubled
            .flat_map(|holding| holding.problems.iter().cloned())
            .collect();
        problems.extend(self.contested.iter().flat_map(|key| self.contest(key)));
        problems
    }

    fn contest(&self, key: &Key) -> Vec<Problem> {
        let claims = self.claimants(key);
        let Some((_, chosen)) = incumbent(&claims, self.in_force.get(key)) else {
            return Vec::new();
        };
        let others = claims.iter().filter(|(_, held)| !std::ptr::eq(*held, chosen));
        let problem = |(_, held): &(&Arc<Path>, &Held)| Problem {
            object: format!("{key} ({})", held.item.place),
            field: "metadata.name".to_string(),
            value: format!("{:?}", key.id.name),
            message: format!("is declared in {} too", chosen.item.place),
            remedy: match key.kind {
                Kind::Policy => {
                    "keep one of them; until then only what all of them allow is allowed".to_string()
                }
                _ => format!(
                    "keep one of them; until then that of {} counts",
                    chosen.item.place
                ),
            },
        };
        others.map(problem).collect()
    }

    /// How many objects of each kind that is not read.
    pub fn skipped(&self) -> &BTreeMap<String, u64> {
        &self.skipped
    }
}

/// The file that the object in force came from goes on to count; else the first in the order of paths.
fn incumbent<'s>(
    claims: &[(&'s Arc<Path>, &'s Held)],
    before: Option<&InForce>,
) -> Option<(&'s Arc<Path>, &'s Held)> {
    let origin = before.and_then(|before| before.origin.as_ref());
    let same = claims.iter().find(|(file, _)| Some(*file) == origin);
    same.or(claims.first()).copied()
}

/// Isolates what any of them isolates, allows only what all of them allow: never wider than one of them alone.
fn narrowest(claims: &[(&Arc<Path>, &Held)]) -> Option<Arc<Object>> {
    let policies: Vec<&Policy> = claims
        .iter()
        .filter_map(|(_, held)| match held.item.object.as_deref() {
            Some(Object::Policy(policy)) => Some(policy),
            _ => None,
        })
        .collect();
    let (first, others) = policies.split_first()?;
    let mut narrowest = (*first).clone();
    let same_pods = others
        .iter()
        .all(|other| other.pod_selector == first.pod_selector);
    if !same_pods {
        narrowest.pod_selector = Selector::everything();
    }
    let rules = |direction: Direction| {
        let mut isolating = policies.iter().filter_map(|policy| policy.rules(direction));
        let mut common = isolating.next()?.to_vec();
        for rules in isolating {
            common.retain(|rule| rules.iter().any(|other| is_same(rule, other)));
        }
        // For pods that one of them does not select, a rule could be more than they were allowed.
        Some(if same_pods { common } else { Vec::new() })
    };
    let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
    narrowest.ingress = ingress;
    narrowest.egress = egress;
    // One that leaves it to the namespace drops no less than one that audits.
    let said = |said| policies.iter().any(|policy| policy.enforcement == said);
    narrowest.enforcement = [Some(Enforcement::Enforce), None, Some(Enforcement::Audit)]
        .into_iter()
        .find(|enforcement| said(*enforcement))
        .flatten();
    Some(Arc::new(Object::Policy(narrowest)))
}

fn is_same(one: &Rule, other: &Rule) -> bool {
    one.peers == other.peers && one.ports == other.ports
}

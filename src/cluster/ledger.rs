//! What one watch has told → changes of the [model](crate::model), and what could not be read. Pure.
//!
//! A watch that begins anew lists all objects again. What the list lacks is gone only once the list is complete, so that for no
//! moment something is missing that is there.
//!
//! An object that cannot be read in full changes nothing to the wider: a policy of which it is not known whom it isolates
//! stays as it was, or else denies all that it may isolate; a Namespace, Service or EndpointSlice stays as it was, or else its
//! readable rest counts. Of a Pod the readable rest counts at once, since an address that it has given up must not stay its;
//! it stays as it was only where its labels are none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kube::runtime::watcher::Event;
use serde_json::{Map, Value};

use super::tree::Tree;
use crate::model::{Change, ObjectId, Problem};
use crate::objects::{self, Identity, Key, Kind, Reader, enforcement};

/// Problems kept until somebody asks for news.
const NEWS: usize = 100;

/// The objects of one kind.
pub struct Ledger {
    kind: Kind,
    held: HashMap<ObjectId, Held>,
    troubled: BTreeMap<ObjectId, Vec<Problem>>,
    /// Problems that came up since they were asked for.
    news: Vec<Problem>,
    /// What a list that is under way has named so far.
    listing: Option<HashSet<ObjectId>>,
    listed: bool,
}

struct Held {
    uid: Arc<str>,
    /// What counts was readable in full.
    certain: bool,
    /// Resolving reads it: it is no headless Service, for one.
    counts: bool,
}

impl Ledger {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            held: HashMap::new(),
            troubled: BTreeMap::new(),
            news: Vec::new(),
            listing: None,
            listed: false,
        }
    }

    /// Whether there has been one complete list.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Of all objects that are there.
    pub fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.held.values().map(|held| &held.uid)
    }

    /// All that are there, with their UIDs.
    pub fn ids(&self) -> impl Iterator<Item = (&ObjectId, &Arc<str>)> {
        self.held.iter().map(|(id, held)| (id, &held.uid))
    }

    pub fn uid_of(&self, id: &ObjectId) -> Option<&Arc<str>> {
        self.held.get(id).map(|held| &held.uid)
    }

    /// What could not be read, by object.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.troubled.values().flatten()
    }

    /// How many objects could not be read in full.
    pub fn troubled(&self) -> usize {
        self.troubled.len()
    }

    /// Problems that came up since the last time, some of them if there are many.
    pub fn news(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.news)
    }

    /// What could not be read of one object.
    pub fn problems_of(&self, id: &ObjectId) -> &[Problem] {
        self.troubled.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// The changes that an event makes, in the order in which they are to be applied.
    pub fn take(&mut self, event: Event<Tree<()>>) -> Vec<Change> {
        match event {
            Event::Init => {
                self.listing = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(tree) => {
                let Some(id) = self.id(&tree) else {
                    return Vec::new();
                };
                if let Some(listing) = &mut self.listing {
                    listing.insert(id.clone());
                }
                self.put(id, &tree)
            }
            Event::InitDone => {
                self.listed = true;
                let Some(listing) = self.listing.take() else {
                    return Vec::new();
                };
                let gone = self.held.keys().filter(|id| !listing.contains(*id));
                let mut gone: Vec<ObjectId> = gone.cloned().collect();
                gone.sort();
                gone.iter().filter_map(|id| self.remove(id)).collect()
            }
            Event::Apply(tree) => {
                let id = self.id(&tree);
                id.map(|id| self.put(id, &tree)).unwrap_or_default()
            }
            Event::Delete(tree) => {
                let Some(id) = self.id(&tree) else {
                    return Vec::new();
                };
                let uid = uid(self.kind, &id, &tree);
                let same = self.held.get(&id).is_some_and(|held| held.uid == uid);
                same.then(|| self.remove(&id)).flatten().into_iter().collect()
            }
        }
    }

    fn id(&self, tree: &Tree<()>) -> Option<ObjectId> {
        let name = tree.meta.name.as_deref()?;
        let namespace = match self.kind {
            Kind::Namespace => "",
            _ => tree.meta.namespace.as_deref()?,
        };
        Some(ObjectId::new(namespace, name))
    }

    fn put(&mut self, id: ObjectId, tree: &Tree<()>) -> Vec<Change> {
        let uid = uid(self.kind, &id, tree);
        let before = self.held.get(&id);
        let successor = before.is_some_and(|held| held.uid != uid);
        let mut changes = Vec::new();
        if successor {
            changes.extend(self.remove(&id));
        }
        let Read {
            object,
            certain,
            mut problems,
        } = read(self.kind, &id, &uid, tree);
        let before = self.held.get(&id);
        let stays = !certain && before.is_some_and(|held| held.certain);
        if !certain && self.kind != Kind::Policy {
            for problem in &mut problems {
                problem.remedy.push_str(if stays {
                    "; until then it stays as it was"
                } else {
                    "; until then the rest of it counts"
                });
            }
        }
        if problems.is_empty() {
            self.troubled.remove(&id);
        } else {
            let known = self.problems_of(&id);
            let new = problems.iter().filter(|problem| !known.contains(problem));
            let new: Vec<Problem> = new.take(NEWS.saturating_sub(self.news.len())).cloned().collect();
            self.news.extend(new);
            self.troubled.insert(id.clone(), problems);
        }
        if stays {
            return changes;
        }
        let counted = before.is_some_and(|held| held.counts);
        let counts = object.is_some();
        match object {
            Some(object) => changes.push(object.change()),
            None if counted => changes.push(gone(self.kind, &id, &uid)),
            None => {}
        }
        let held = Held { uid, certain, counts };
        self.held.insert(id, held);
        changes
    }

    fn remove(&mut self, id: &ObjectId) -> Option<Change> {
        self.troubled.remove(id);
        let held = self.held.remove(id)?;
        held.counts.then(|| gone(self.kind, id, &held.uid))
    }
}

struct Read {
    object: Option<objects::Object>,
    certain: bool,
    problems: Vec<Problem>,
}

fn read(kind: Kind, id: &ObjectId, uid: &Arc<str>, tree: &Tree<()>) -> Read {
    let key = Key { kind, id: id.clone() };
    let mut reader = Reader::checked(key.to_string());
    let none = Map::new();
    let metadata = tree.fields.get("metadata").and_then(Value::as_object);
    let metadata = metadata.unwrap_or(&none);
    let labelled = matches!(
        metadata.get("labels"),
        None | Some(Value::Null | Value::Object(_))
    );
    let identity = Identity::read(kind, id.clone(), uid.clone(), metadata, &mut reader);
    let (object, readable) = objects::read(kind, identity, &tree.fields, &mut reader);
    let certain = match kind {
        Kind::Policy => readable,
        Kind::Pod => labelled,
        // A label that none could have counts as it is written, and an odd enforcement enforces.
        _ => {
            let counts = |field: &str| field.starts_with("metadata.labels") || field == enforcement::FIELD;
            labelled && (reader.problems.iter()).all(|problem| counts(&problem.field))
        }
    };
    Read {
        object,
        certain,
        problems: reader.problems,
    }
}

/// Every object of an API server has one; what lacks it is known by its name.
fn uid(kind: Kind, id: &ObjectId, tree: &Tree<()>) -> Arc<str> {
    match tree.meta.uid.as_deref() {
        Some(uid) if !uid.is_empty() => uid.into(),
        _ => format!("{}/{id}", kind.name()).into(),
    }
}

fn gone(kind: Kind, id: &ObjectId, uid: &Arc<str>) -> Change {
    let (id, uid) = (id.clone(), uid.clone());
    match kind {
        Kind::Namespace => Change::NamespaceGone(id.name),
        Kind::Pod => Change::PodGone { id, uid },
        Kind::Policy => Change::PolicyGone { id, uid },
        Kind::Service => Change::ServiceGone(id),
        Kind::EndpointSlice => Change::EndpointSliceGone(id),
    }
}

#[cfg(test)]
mod tests;

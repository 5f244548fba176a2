//! What one watch says is there. A relist changes nothing until it is whole, and then only by the difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::watcher::Event;

use super::raw::Raw;
use crate::model::Problem;

/// One object, as far as it could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen<T> {
    pub object: T,
    pub problems: Vec<Problem>,
}

/// Objects of one watch, by name.
#[derive(Debug)]
pub struct Mirror<T> {
    objects: BTreeMap<Arc<str>, Seen<T>>,
    /// What the list under way has brought so far.
    listing: BTreeMap<Arc<str>, Seen<T>>,
    listed: bool,
}

/// One difference: what was there under the name, and what is.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference<T> {
    pub name: Arc<str>,
    pub before: Option<T>,
    pub now: Option<T>,
}

impl<T: Clone + PartialEq> Mirror<T> {
    pub fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
            listed: false,
        }
    }

    /// Whether everything has been seen once.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    pub fn objects(&self) -> impl Iterator<Item = &T> {
        self.objects.values().map(|seen| &seen.object)
    }

    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.objects.values().flat_map(|seen| &seen.problems)
    }

    /// Takes one event. `name` is the key; `read` gets what was there under the name, so that it can keep what the new
    /// version leaves unreadable.
    pub fn take(
        &mut self,
        event: Event<Raw>,
        name: impl Fn(&Raw) -> Arc<str>,
        read: impl Fn(&Raw, Option<&T>) -> Seen<T>,
    ) -> Vec<Difference<T>> {
        match event {
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(raw) => {
                let name = name(&raw);
                let seen = read(&raw, self.objects.get(&name).map(|seen| &seen.object));
                self.listing.insert(name, seen);
                Vec::new()
            }
            Event::InitDone => {
                self.listed = true;
                let listing = std::mem::take(&mut self.listing);
                let mut before = std::mem::replace(&mut self.objects, listing);
                let mut differences: Vec<_> = (self.objects.iter())
                    .filter_map(|(name, seen)| difference(name, before.remove(name), Some(seen)))
                    .collect();
                differences.extend(
                    before
                        .into_iter()
                        .filter_map(|(name, gone)| difference(&name, Some(gone), None)),
                );
                differences
            }
            Event::Apply(raw) => {
                let name = name(&raw);
                let before = self.objects.remove(&name);
                let seen = read(&raw, before.as_ref().map(|seen| &seen.object));
                let difference = difference(&name, before, Some(&seen));
                self.objects.insert(name, seen);
                difference.into_iter().collect()
            }
            Event::Delete(raw) => {
                let name = name(&raw);
                let before = self.objects.remove(&name);
                difference(&name, before, None).into_iter().collect()
            }
        }
    }
}

fn difference<T: Clone + PartialEq>(
    name: &Arc<str>,
    before: Option<Seen<T>>,
    now: Option<&Seen<T>>,
) -> Option<Difference<T>> {
    let before = before.map(|seen| seen.object);
    if before.as_ref() == now.map(|seen| &seen.object) {
        return None;
    }
    Some(Difference {
        name: name.clone(),
        before,
        now: now.map(|seen| seen.object.clone()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, value: i64) -> Raw {
        Raw::new(json!({"metadata": {"name": name}, "value": value}))
    }

    fn take(mirror: &mut Mirror<i64>, event: Event<Raw>) -> Vec<(String, Option<i64>, Option<i64>)> {
        let differences = mirror.take(
            event,
            |raw| raw.name().into(),
            |raw, _| Seen {
                object: raw.tree["value"].as_i64().unwrap_or_default(),
                problems: Vec::new(),
            },
        );
        (differences.into_iter())
            .map(|d| (d.name.to_string(), d.before, d.now))
            .collect()
    }

    fn listed(objects: &[(&str, i64)]) -> Mirror<i64> {
        let mut mirror = Mirror::new();
        take(&mut mirror, Event::Init);
        for (name, value) in objects {
            take(&mut mirror, Event::InitApply(object(name, *value)));
        }
        assert!(!mirror.is_listed());
        take(&mut mirror, Event::InitDone);
        assert!(mirror.is_listed());
        mirror
    }

    #[test]
    fn a_relist_is_applied_as_a_difference_and_only_when_it_is_whole() {
        let mut mirror = listed(&[("same", 1), ("changed", 1), ("gone", 1)]);
        assert_eq!(take(&mut mirror, Event::Init), []);
        for (name, value) in [("changed", 2), ("same", 1), ("new", 3)] {
            assert_eq!(take(&mut mirror, Event::InitApply(object(name, value))), []);
            assert_eq!(mirror.objects().copied().collect::<Vec<_>>(), [1, 1, 1]);
        }
        let mut differences = take(&mut mirror, Event::InitDone);
        differences.sort();
        assert_eq!(
            differences,
            [
                ("changed".to_string(), Some(1), Some(2)),
                ("gone".to_string(), Some(1), None),
                ("new".to_string(), None, Some(3)),
            ]
        );
    }

    #[test]
    fn a_list_that_breaks_off_and_begins_anew_leaves_nothing_of_the_first() {
        let mut mirror = listed(&[("a", 1)]);
        take(&mut mirror, Event::Init);
        take(&mut mirror, Event::InitApply(object("of the first", 1)));
        take(&mut mirror, Event::Init);
        take(&mut mirror, Event::InitApply(object("a", 1)));
        assert_eq!(take(&mut mirror, Event::InitDone), []);
    }

    #[test]
    fn an_event_without_news_is_no_difference() {
        let mut mirror = listed(&[("a", 1)]);
        assert_eq!(take(&mut mirror, Event::Apply(object("a", 1))), []);
        assert_eq!(take(&mut mirror, Event::Delete(object("b", 1))), []);
        assert_eq!(
            take(&mut mirror, Event::Delete(object("a", 1))),
            [("a".to_string(), Some(1), None)]
        );
    }
}

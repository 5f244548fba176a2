//! Whose addresses the objects of a namespace tell: the pods that they select, wherever these run. For people only, so nothing of it is
//! kept but what tells that it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use kube::runtime::watcher::Event;
use serde_json::Value;

use super::raw::Raw;
use crate::model::{ObjectId, parse_address};

/// Pods by address, of one object.
pub type Selected = Vec<(IpAddr, ObjectId)>;

/// What the objects of one namespace said last, by name.
#[derive(Debug, Default)]
pub struct Names {
    said: BTreeMap<Arc<str>, u64>,
    /// Of the list under way.
    listed: BTreeSet<Arc<str>>,
}

impl Names {
    /// What an event changes, by the object's namespace and name; none: it names nobody any more.
    pub fn take(&mut self, event: &Event<Raw>, changed: &mut BTreeMap<Arc<str>, Selected>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(raw) => {
                self.listed.insert(key(raw));
                self.apply(raw, changed);
            }
            Event::Apply(raw) => self.apply(raw, changed),
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let gone: Vec<_> = self
                    .said
                    .keys()
                    .filter(|key| !listed.contains(*key))
                    .cloned()
                    .collect();
                for key in gone {
                    self.forget(&key, changed);
                }
            }
            Event::Delete(raw) => self.forget(&key(raw), changed),
        }
    }

    /// Nobody watches the namespace any more.
    pub fn end(self, changed: &mut BTreeMap<Arc<str>, Selected>) {
        changed.extend(self.said.into_keys().map(|key| (key, Selected::new())));
    }

    fn apply(&mut self, raw: &Raw, changed: &mut BTreeMap<Arc<str>, Selected>) {
        let selected = read(raw);
        let mut hasher = DefaultHasher::new();
        selected.hash(&mut hasher);
        let key = key(raw);
        if selected.is_empty() {
            self.forget(&key, changed);
        } else if self.said.insert(key.clone(), hasher.finish()) != Some(hasher.finish()) {
            changed.insert(key, selected);
        }
    }

    fn forget(&mut self, key: &Arc<str>, changed: &mut BTreeMap<Arc<str>, Selected>) {
        if self.said.remove(key).is_some() {
            changed.insert(key.clone(), Selected::new());
        }
    }
}

fn key(raw: &Raw) -> Arc<str> {
    format!("{}/{}", raw.namespace(), raw.name()).into()
}

/// What cannot be read names nobody.
fn read(raw: &Raw) -> Selected {
    let list = raw
        .tree
        .get("spec")
        .and_then(|spec| spec.get("podSelectorEndpoints"));
    let pod = |pod: &Value| {
        let text = |key: &str| {
            pod.get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let id = ObjectId::new(text("namespace")?, text("name")?);
        Some((parse_address(text("podIP")?)?, id))
    };
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(pod)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, pods: Value) -> Raw {
        let tree =
            json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"podSelectorEndpoints": pods}});
        serde_json::from_value(tree).unwrap()
    }

    fn web(address: &str) -> Value {
        json!([{"podIP": address, "name": "web", "namespace": "shop"}, {"podIP": "none", "name": "odd", "namespace": "shop"}, 7])
    }

    fn taken(names: &mut Names, events: Vec<Event<Raw>>) -> Vec<(String, usize)> {
        let mut changed = BTreeMap::new();
        events.iter().for_each(|event| names.take(event, &mut changed));
        changed
            .iter()
            .map(|(key, selected)| (key.to_string(), selected.len()))
            .collect()
    }

    #[test]
    fn only_what_differs_is_told_and_what_is_gone_names_nobody() {
        let mut names = Names::default();
        let (a, b) = (object("a", web("10.0.0.1")), object("b", web("10.0.0.2")));
        let list = |objects: &[&Raw]| {
            let applied = objects.iter().map(|raw| Event::InitApply((*raw).clone()));
            std::iter::once(Event::Init)
                .chain(applied)
                .chain([Event::InitDone])
                .collect::<Vec<_>>()
        };
        let told = taken(&mut names, list(&[&a, &b]));
        assert_eq!(told, [("shop/a".into(), 1), ("shop/b".into(), 1)]);
        assert_eq!(taken(&mut names, vec![Event::Apply(a.clone())]), []);
        let told = taken(&mut names, vec![Event::Apply(object("a", web("10.0.0.3")))]);
        assert_eq!(told, [("shop/a".into(), 1)]);
        assert_eq!(
            taken(&mut names, list(&[&a])),
            [("shop/a".into(), 1), ("shop/b".into(), 0)]
        );
        assert_eq!(
            taken(&mut names, vec![Event::Apply(object("a", json!(null)))]),
            [("shop/a".into(), 0)]
        );
        assert_eq!(taken(&mut names, vec![Event::Delete(a)]), []);
    }
}

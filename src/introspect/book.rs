//! Whose address it is, as far as this node knows: its own pods, pods that policies of its namespaces select, and, from a folder,
//! every pod and Service.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{ObjectId, Pod};

/// Something that says whose address it is.
#[derive(Clone, Debug)]
pub enum Known {
    Pod(Pod),
    /// By UID.
    PodGone(Arc<str>),
    /// Pods that an object of this name tells of, in place of those before.
    Selected(Arc<str>, Vec<(IpAddr, ObjectId)>),
    Service(ObjectId, Vec<IpAddr>),
    ServiceGone(ObjectId),
}

/// By address. Of several claims the one that is known best counts: a pod's own word before a policy's, the later before the
/// earlier.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    pods: HashMap<IpAddr, Vec<(Arc<str>, ObjectId)>>,
    of_pods: HashMap<Arc<str>, Vec<IpAddr>>,
    /// With how many objects name it so.
    selected: HashMap<IpAddr, Vec<(ObjectId, usize)>>,
    of_objects: HashMap<Arc<str>, Vec<(IpAddr, ObjectId)>>,
    services: HashMap<IpAddr, ObjectId>,
    of_services: HashMap<ObjectId, Vec<IpAddr>>,
}

impl AddressBook {
    pub fn pod(&self, address: IpAddr) -> Option<&ObjectId> {
        let own = self.pods.get(&address).and_then(|claims| claims.last());
        let selected = || self.selected.get(&address).and_then(|claims| claims.last());
        own.map(|(_, id)| id).or_else(|| selected().map(|(id, _)| id))
    }

    pub fn service(&self, address: IpAddr) -> Option<&ObjectId> {
        self.services.get(&address)
    }

    /// Every pod that has a name here.
    pub fn pod_names(&self) -> BTreeSet<&ObjectId> {
        let own = self.pods.values().flatten().map(|(_, id)| id);
        own.chain(self.selected.values().flatten().map(|(id, _)| id))
            .collect()
    }

    /// Every namespace of which a pod or Service has a name here.
    pub fn namespaces(&self) -> BTreeSet<&Arc<str>> {
        let pods = self.pod_names().into_iter().map(|id| &id.namespace);
        pods.chain(self.of_services.keys().map(|id| &id.namespace))
            .collect()
    }

    pub fn learn(&mut self, known: Known) {
        match known {
            Known::Pod(pod) => {
                self.forget_pod(&pod.uid);
                // The address of a pod that is not live is not, or not only, its own.
                if pod.is_live() {
                    for address in &pod.addresses {
                        let claims = self.pods.entry(*address).or_default();
                        claims.push((pod.uid.clone(), pod.id.clone()));
                    }
                    self.of_pods.insert(pod.uid, pod.addresses);
                }
            }
            Known::PodGone(uid) => self.forget_pod(&uid),
            Known::Selected(object, pods) => {
                let before = self.of_objects.remove(&object).unwrap_or_default();
                let pods: Vec<_> = pods
                    .into_iter()
                    .map(|(address, id)| self.select(address, id))
                    .collect();
                before
                    .into_iter()
                    .for_each(|(address, id)| self.deselect(address, &id));
                if !pods.is_empty() {
                    self.of_objects.insert(object, pods);
                }
            }
            Known::Service(id, addresses) => {
                self.forget_service(&id);
                for address in &addresses {
                    self.services.insert(*address, id.clone());
                }
                self.of_services.insert(id, addresses);
            }
            Known::ServiceGone(id) => self.forget_service(&id),
        }
    }

    fn forget_pod(&mut self, uid: &str) {
        for address in self.of_pods.remove(uid).unwrap_or_default() {
            if let Some(claims) = self.pods.get_mut(&address) {
                claims.retain(|(owner, _)| **owner != *uid);
                if claims.is_empty() {
                    self.pods.remove(&address);
                }
            }
        }
    }

    fn forget_service(&mut self, id: &ObjectId) {
        for address in self.of_services.remove(id).unwrap_or_default() {
            if self.services.get(&address) == Some(id) {
                self.services.remove(&address);
            }
        }
    }

    /// One more object names it so. Its name is held once, however many do.
    fn select(&mut self, address: IpAddr, id: ObjectId) -> (IpAddr, ObjectId) {
        let claims = self.selected.entry(address).or_default();
        match claims.iter_mut().find(|(known, _)| *known == id) {
            Some((known, objects)) => {
                *objects += 1;
                (address, known.clone())
            }
            None => {
                claims.push((id.clone(), 1));
                (address, id)
            }
        }
    }

    fn deselect(&mut self, address: IpAddr, id: &ObjectId) {
        let Some(claims) = self.selected.get_mut(&address) else {
            return;
        };
        for (known, objects) in &mut *claims {
            *objects -= usize::from(known == id);
        }
        claims.retain(|(_, objects)| *objects > 0);
        if claims.is_empty() {
            self.selected.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn selected(object: &str, pods: &[(&str, u8)]) -> Known {
        let pods = pods
            .iter()
            .map(|(name, last)| (ip(*last), ObjectId::new("shop", name)));
        Known::Selected(object.into(), pods.collect())
    }

    fn pod(uid: &str, name: &str, addresses: Vec<IpAddr>) -> Known {
        Known::Pod(Pod {
            id: ObjectId::new("shop", name),
            uid: uid.into(),
            labels: Arc::default(),
            node: None,
            host_ip: None,
            addresses,
            ports: Arc::default(),
            host_network: false,
            finished: false,
            created: None,
            source_prefixes: Vec::new(),
            log_allowed: false,
        })
    }

    fn name(book: &AddressBook, last: u8) -> Option<String> {
        book.pod(ip(last)).map(|id| id.name.to_string())
    }

    #[test]
    fn what_two_objects_say_stays_until_neither_does() {
        let mut book = AddressBook::default();
        book.learn(selected("a", &[("web", 1), ("api", 2)]));
        book.learn(selected("b", &[("web", 1)]));
        assert_eq!(name(&book, 1).as_deref(), Some("web"));
        book.learn(selected("a", &[]));
        assert_eq!((name(&book, 1).as_deref(), name(&book, 2)), (Some("web"), None));
        // The address is another pod's now.
        book.learn(selected("b", &[("new", 1)]));
        assert_eq!(name(&book, 1).as_deref(), Some("new"));
        book.learn(selected("b", &[]));
        assert!(book.selected.is_empty() && book.of_objects.is_empty());
    }

    #[test]
    fn a_pods_own_word_counts_first_and_is_forgotten_with_it() {
        let mut book = AddressBook::default();
        book.learn(selected("p", &[("old", 1)]));
        book.learn(pod("u1", "web", vec![ip(1)]));
        assert_eq!(name(&book, 1).as_deref(), Some("web"));
        // A successor, before the word that the first is gone.
        book.learn(pod("u2", "web-2", vec![ip(1)]));
        book.learn(Known::PodGone("u1".into()));
        assert_eq!(name(&book, 1).as_deref(), Some("web-2"));
        book.learn(pod("u2", "web-2", vec![ip(3)]));
        assert_eq!(
            (name(&book, 1).as_deref(), name(&book, 3).as_deref()),
            (Some("old"), Some("web-2"))
        );
    }

    #[test]
    fn a_service_that_moves_leaves_no_name_behind() {
        let mut book = AddressBook::default();
        let id = ObjectId::new("shop", "db");
        book.learn(Known::Service(id.clone(), vec![ip(1)]));
        book.learn(Known::Service(id.clone(), vec![ip(2)]));
        assert_eq!((book.service(ip(1)), book.service(ip(2))), (None, Some(&id)));
        book.learn(Known::ServiceGone(id));
        assert_eq!(book.service(ip(2)), None);
    }
}

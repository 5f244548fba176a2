//! Whose address it is, as far as this node knows: its own pods, pods that policies of its namespaces select, and, from a folder,
//! every pod and Service.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::PolicyEndpoint;
use crate::model::{ObjectId, Pod};

/// Something that says whose address it is.
#[derive(Clone, Debug)]
pub enum Known {
    Pod(Pod),
    /// By UID.
    PodGone(Arc<str>),
    /// The slices of a policy, by its UID, in place of those before.
    Policy(Arc<str>, Vec<Arc<PolicyEndpoint>>),
    PolicyGone(Arc<str>),
    Service(ObjectId, Vec<IpAddr>),
    ServiceGone(ObjectId),
}

/// By address. Of several claims the one that is known best counts: a pod's own word before a policy's, the later before the
/// earlier.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    pods: HashMap<IpAddr, Vec<(Arc<str>, ObjectId)>>,
    of_pods: HashMap<Arc<str>, Vec<IpAddr>>,
    /// With how many slices name it so.
    selected: HashMap<IpAddr, Vec<(ObjectId, usize)>>,
    policies: HashMap<Arc<str>, Vec<Arc<PolicyEndpoint>>>,
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
            Known::Policy(uid, slices) => {
                // A slice that did not change is the same one as before.
                let before = self.policies.remove(&uid).unwrap_or_default();
                let is_in = |list: &[Arc<PolicyEndpoint>], slice: &Arc<PolicyEndpoint>| {
                    list.iter().any(|other| Arc::ptr_eq(other, slice))
                };
                for slice in slices.iter().filter(|slice| !is_in(&before, slice)) {
                    self.select(slice);
                }
                for slice in before.iter().filter(|slice| !is_in(&slices, slice)) {
                    self.deselect(slice);
                }
                self.policies.insert(uid, slices);
            }
            Known::PolicyGone(uid) => {
                for slice in self.policies.remove(&uid).unwrap_or_default() {
                    self.deselect(&slice);
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

    fn select(&mut self, slice: &PolicyEndpoint) {
        for pod in &slice.spec.pod_selector_endpoints {
            let claims = self.selected.entry(pod.pod_ip).or_default();
            let is_it = |id: &ObjectId| id.name == pod.name && id.namespace == pod.namespace;
            match claims.iter_mut().find(|(id, _)| is_it(id)) {
                Some((_, slices)) => *slices += 1,
                None => {
                    let id = ObjectId {
                        namespace: pod.namespace.clone(),
                        name: pod.name.clone(),
                    };
                    claims.push((id, 1));
                }
            }
        }
    }

    fn deselect(&mut self, slice: &PolicyEndpoint) {
        for pod in &slice.spec.pod_selector_endpoints {
            let Some(claims) = self.selected.get_mut(&pod.pod_ip) else {
                continue;
            };
            for (id, slices) in &mut *claims {
                if id.name == pod.name && id.namespace == pod.namespace {
                    *slices -= 1;
                }
            }
            claims.retain(|(_, slices)| *slices > 0);
            if claims.is_empty() {
                self.selected.remove(&pod.pod_ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{PodEndpoint, PolicyEndpointSpec};

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn slice(pods: &[(&str, u8)]) -> Arc<PolicyEndpoint> {
        let endpoint = |(name, last): &(&str, u8)| PodEndpoint {
            host_ip: None,
            pod_ip: ip(*last),
            name: (*name).into(),
            namespace: "shop".into(),
        };
        let spec = PolicyEndpointSpec {
            pod_selector_endpoints: pods.iter().map(endpoint).collect(),
            ..PolicyEndpointSpec::default()
        };
        Arc::new(PolicyEndpoint::new("slice", spec))
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
    fn slices_come_and_go_and_what_two_of_them_say_stays_until_neither_does() {
        let mut book = AddressBook::default();
        let (one, two) = (slice(&[("web", 1), ("api", 2)]), slice(&[("web", 1)]));
        book.learn(Known::Policy("p".into(), vec![one.clone(), two.clone()]));
        assert_eq!(name(&book, 1).as_deref(), Some("web"));
        book.learn(Known::Policy("p".into(), vec![two]));
        assert_eq!((name(&book, 1).as_deref(), name(&book, 2)), (Some("web"), None));
        // The address is another pod's now.
        book.learn(Known::Policy("p".into(), vec![slice(&[("new", 1)])]));
        assert_eq!(name(&book, 1).as_deref(), Some("new"));
        book.learn(Known::PolicyGone("p".into()));
        assert!(book.selected.is_empty() && book.policies.is_empty());
    }

    #[test]
    fn a_pods_own_word_counts_first_and_is_forgotten_with_it() {
        let mut book = AddressBook::default();
        book.learn(Known::Policy("p".into(), vec![slice(&[("old", 1)])]));
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

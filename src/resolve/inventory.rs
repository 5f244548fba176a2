//! Pods and namespaces as they are now: who owns which address, and who is in which group.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use slab::Slab;

use super::groups::{GroupKey, Groups, Namespaces, PodKey, PolicyKey, ScopeKey};
use super::report;
use crate::model::{ContainerPort, Labels, ObjectId, Pod, Problem, Protocol, Selector};

#[derive(Default)]
pub(super) struct Inventory {
    namespaces: HashMap<Arc<str>, NamespaceState>,
    pods: Slab<PodState>,
    pod_keys: HashMap<ObjectId, PodKey>,
    claims: HashMap<IpAddr, Claim>,
    contested: BTreeSet<IpAddr>,
    /// Live pods by the names of their container ports.
    names: HashMap<(Protocol, Arc<str>), BTreeSet<PodKey>>,
    pub groups: Groups,
}

#[derive(Default)]
struct NamespaceState {
    /// `None`: pods are there, the Namespace is not.
    labels: Option<Arc<Labels>>,
    pods: BTreeSet<PodKey>,
    scopes: Vec<ScopeKey>,
}

pub(super) struct PodState {
    pub pod: Pod,
    /// Those of its addresses that stand for it.
    pub owned: Vec<IpAddr>,
    /// Sorted; none unless live.
    groups: Vec<GroupKey>,
}

impl PodState {
    pub fn is_in(&self, group: GroupKey) -> bool {
        self.groups.binary_search(&group).is_ok()
    }

    pub fn groups(&self) -> &[GroupKey] {
        &self.groups
    }

    /// Names of container ports that rules can refer to, with repetitions.
    pub fn names(&self) -> impl Iterator<Item = (Protocol, &Arc<str>)> {
        let live = self.pod.is_live();
        let ports = self.pod.ports.iter().filter(move |_| live);
        ports.filter_map(|port| port.name.as_ref().map(|name| (port.protocol, name)))
    }

    /// Numbers of its container ports of this name and protocol.
    pub fn numbers(&self, protocol: Protocol, name: &str) -> impl Iterator<Item = u16> {
        let named =
            move |port: &&ContainerPort| port.protocol == protocol && port.name.as_deref() == Some(name);
        self.pod.ports.iter().filter(named).map(|port| port.number)
    }
}

struct Claim {
    owner: PodKey,
    losers: Vec<PodKey>,
}

impl Inventory {
    pub fn pod(&self, key: PodKey) -> &PodState {
        &self.pods[key]
    }

    pub fn has_pod(&self, key: PodKey) -> bool {
        self.pods.contains(key)
    }

    pub fn pod_key(&self, id: &ObjectId) -> Option<PodKey> {
        self.pod_keys.get(id).copied()
    }

    pub fn pods_of_namespace(&self, name: &str) -> BTreeSet<PodKey> {
        (self.namespaces.get(name)).map_or_else(BTreeSet::new, |n| n.pods.clone())
    }

    pub fn namespace_labels(&self, name: &str) -> Option<&Arc<Labels>> {
        self.namespaces.get(name)?.labels.as_ref()
    }

    pub fn owner(&self, address: IpAddr) -> Option<&PodState> {
        self.claims.get(&address).map(|claim| &self.pods[claim.owner])
    }

    pub fn members(&self, group: GroupKey) -> impl Iterator<Item = &PodState> {
        let members = &self.groups.get(group).members;
        members.iter().map(|key| &self.pods[*key])
    }

    pub fn with_name(&self, protocol: Protocol, name: &Arc<str>) -> impl Iterator<Item = PodKey> + '_ {
        let pods = self.names.get(&(protocol, name.clone()));
        pods.into_iter().flatten().copied()
    }

    /// The pods whose addresses a change of this one can give or take: all that claim one of its addresses.
    pub fn claimants(&self, pod: &Pod) -> impl Iterator<Item = PodKey> {
        let claims = pod.addresses.iter().filter_map(|a| self.claims.get(a));
        claims.flat_map(|claim| std::iter::once(claim.owner).chain(claim.losers.iter().copied()))
    }

    pub fn put_pod(&mut self, pod: Pod) -> PodKey {
        let key = match self.pod_keys.get(&pod.id) {
            Some(key) => {
                let key = *key;
                self.release_all(key);
                self.forget_names(key);
                self.pods[key].pod = pod;
                key
            }
            None => {
                let (id, namespace) = (pod.id.clone(), pod.id.namespace.clone());
                let key = self.pods.insert(PodState {
                    pod,
                    owned: Vec::new(),
                    groups: Vec::new(),
                });
                self.pod_keys.insert(id, key);
                self.enter_namespace(&namespace).pods.insert(key);
                key
            }
        };
        self.claim_all(key);
        self.remember_names(key);
        self.regroup(key);
        key
    }

    pub fn remove_pod(&mut self, key: PodKey) {
        self.release_all(key);
        self.forget_names(key);
        let state = self.pods.remove(key);
        self.groups.move_pod(key, &state.groups, &[]);
        self.pod_keys.remove(&state.pod.id);
        let name = &state.pod.id.namespace;
        if let Some(namespace) = self.namespaces.get_mut(name) {
            namespace.pods.remove(&key);
            self.leave_namespace(name);
        }
    }

    /// Labels `None`: the object is gone.
    pub fn put_namespace(&mut self, name: &Arc<str>, labels: Option<Arc<Labels>>) {
        let now = self.groups.scopes_of(name, labels.as_deref());
        let namespace = self.enter_namespace(name);
        namespace.labels = labels;
        let before = std::mem::replace(&mut namespace.scopes, now.clone());
        let pods: Vec<PodKey> = namespace.pods.iter().copied().collect();
        self.groups.move_namespace(name, &before, &now);
        for pod in pods {
            self.regroup(pod);
        }
        self.leave_namespace(name);
    }

    fn enter_namespace(&mut self, name: &Arc<str>) -> &mut NamespaceState {
        let groups = &self.groups;
        self.namespaces
            .entry(name.clone())
            .or_insert_with(|| NamespaceState {
                scopes: groups.scopes_of(name, None),
                ..NamespaceState::default()
            })
    }

    fn leave_namespace(&mut self, name: &Arc<str>) {
        if (self.namespaces.get(name)).is_some_and(|n| n.labels.is_none() && n.pods.is_empty()) {
            self.namespaces.remove(name);
        }
    }

    fn regroup(&mut self, key: PodKey) {
        let pod = &self.pods[key].pod;
        let now = match self.namespaces.get(&pod.id.namespace) {
            Some(namespace) if pod.is_live() => self.groups.groups_of(&namespace.scopes, &pod.labels),
            _ => Vec::new(),
        };
        self.groups.move_pod(key, &self.pods[key].groups, &now);
        self.pods[key].groups = now;
    }

    /// The group of pods that `selector` selects in `namespaces`, for `policy` to use until
    /// [`Self::leave_group`].
    pub fn use_group(&mut self, namespaces: Namespaces, selector: &Selector, policy: PolicyKey) -> GroupKey {
        let known = self.namespaces.iter().map(|(n, s)| (n, s.labels.as_deref()));
        let (group, new) = self.groups.intern(namespaces, selector, known);
        if new {
            self.fill(group);
        }
        self.groups.add_user(group, policy);
        group
    }

    fn fill(&mut self, group: GroupKey) {
        let scope = self.groups.scope_of(group);
        let mut members = Vec::new();
        for name in self.groups.scope_members(scope) {
            let Some(namespace) = self.namespaces.get_mut(name) else {
                continue;
            };
            if let Err(at) = namespace.scopes.binary_search(&scope) {
                namespace.scopes.insert(at, scope);
            }
            for key in &namespace.pods {
                let state = &mut self.pods[*key];
                if state.pod.is_live() && self.groups.selector(group).matches(&state.pod.labels) {
                    members.push(*key);
                    if let Err(at) = state.groups.binary_search(&group) {
                        state.groups.insert(at, group);
                    }
                }
            }
        }
        members.sort_unstable();
        self.groups.set_members(group, members);
    }

    pub fn leave_group(&mut self, group: GroupKey, policy: PolicyKey) {
        let Some(removed) = self.groups.remove_user(group, policy) else {
            return;
        };
        for key in removed.members {
            self.pods[key].groups.retain(|g| *g != group);
        }
        if let Some((scope, namespaces)) = removed.scope {
            for name in namespaces {
                if let Some(namespace) = self.namespaces.get_mut(&name) {
                    namespace.scopes.retain(|s| *s != scope);
                }
            }
        }
    }

    fn claim_all(&mut self, key: PodKey) {
        if !self.pods[key].pod.is_live() {
            return;
        }
        let mut addresses = self.pods[key].pod.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        for address in addresses {
            let Some(claim) = self.claims.get_mut(&address) else {
                let losers = Vec::new();
                self.claims.insert(address, Claim { owner: key, losers });
                self.pods[key].owned.push(address);
                continue;
            };
            self.contested.insert(address);
            let owner = claim.owner;
            if report::seniority(&self.pods[key].pod) > report::seniority(&self.pods[owner].pod) {
                claim.owner = key;
                claim.losers.push(owner);
                self.pods[owner].owned.retain(|a| *a != address);
                self.pods[key].owned.push(address);
            } else {
                claim.losers.push(key);
            }
        }
    }

    fn release_all(&mut self, key: PodKey) {
        self.pods[key].owned.clear();
        for address in self.pods[key].pod.addresses.clone() {
            let Some(claim) = self.claims.get_mut(&address) else {
                continue;
            };
            if claim.owner != key {
                claim.losers.retain(|loser| *loser != key);
            } else {
                let pods = &self.pods;
                let heir = claim
                    .losers
                    .iter()
                    .copied()
                    .max_by_key(|l| report::seniority(&pods[*l].pod));
                let Some(heir) = heir else {
                    self.claims.remove(&address);
                    continue;
                };
                claim.owner = heir;
                claim.losers.retain(|loser| *loser != heir);
                self.pods[heir].owned.push(address);
            }
            if claim.losers.is_empty() {
                self.contested.remove(&address);
            }
        }
    }

    fn remember_names(&mut self, key: PodKey) {
        for (protocol, name) in self.pods[key].names() {
            let pods = self.names.entry((protocol, name.clone())).or_default();
            pods.insert(key);
        }
    }

    fn forget_names(&mut self, key: PodKey) {
        for (protocol, name) in self.pods[key].names() {
            let name = (protocol, name.clone());
            if let Some(pods) = self.names.get_mut(&name) {
                pods.remove(&key);
                if pods.is_empty() {
                    self.names.remove(&name);
                }
            }
        }
    }

    pub fn problems(&self, out: &mut Vec<Problem>) {
        for address in &self.contested {
            let claim = &self.claims[address];
            let owner = &self.pods[claim.owner].pod.id;
            for loser in &claim.losers {
                out.push(report::address_claimed_twice(
                    &self.pods[*loser].pod.id,
                    *address,
                    owner,
                ));
            }
        }
        for (name, namespace) in &self.namespaces {
            let live = || namespace.pods.iter().any(|key| self.pods[*key].pod.is_live());
            if namespace.labels.is_none() && live() {
                out.push(report::namespace_unknown(name));
            }
        }
    }
}

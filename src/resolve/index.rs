//! The incremental form of [`resolve`](super::resolve): one change at a time, and only what it touches.
//!
//! A policy is worked out when it is first asked for, and from then on kept up to date item by item: before
//! and after a change, the index asks each policy that has to do with the changed pods what it holds for
//! them, and carries the difference into the policy's slices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use slab::Slab;

use super::Resolution;
use super::groups::{GroupKey, Namespaces, PodKey, PolicyKey};
use super::inventory::Inventory;
use super::policy::PolicyState;
use super::rules::{Prepared, Share};
use super::services::{FrontEnd, Services};
use super::slices::{Head, Item, SliceSet};
use crate::api::PolicyEndpoint;
use crate::model::{Change, Direction, Enforcement, Namespace, ObjectId, Pod, Policy, Problem, Protocol};

/// All objects, and what their policies come to. Of two objects of one kind and name, the later one counts.
pub struct Index {
    slice_entries: usize,
    inventory: Inventory,
    services: Services,
    policies: Slab<PolicyState>,
    policy_keys: HashMap<ObjectId, PolicyKey>,
    /// Of namespaces whose policies are in audit.
    audited: BTreeSet<Arc<str>>,
    by_uid: BTreeMap<Arc<str>, PolicyKey>,
    /// Policies that let out to blocks, or anywhere, by a port name.
    by_name: HashMap<(Protocol, Arc<str>), BTreeSet<PolicyKey>>,
    /// Policies that let out to blocks, or anywhere, but not to all: backends of any address concern them.
    by_block: BTreeSet<PolicyKey>,
}

/// What policies hold for some pods at one moment.
#[derive(Default)]
struct View {
    /// Every policy that has to do with them; with nothing while it is not built.
    items: BTreeMap<PolicyKey, Vec<Item>>,
    addresses: BTreeSet<IpAddr>,
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

impl Index {
    pub fn new() -> Self {
        Self::with_slice_entries(super::SLICE_ENTRIES)
    }

    /// With slices of at most `slice_entries` entries (at least 1).
    pub fn with_slice_entries(slice_entries: usize) -> Self {
        Self {
            slice_entries: slice_entries.max(1),
            inventory: Inventory::default(),
            services: Services::default(),
            policies: Slab::new(),
            policy_keys: HashMap::new(),
            audited: BTreeSet::new(),
            by_uid: BTreeMap::new(),
            by_name: HashMap::new(),
            by_block: BTreeSet::new(),
        }
    }

    /// The UIDs of the policies whose endpoints may differ from now on, those of policies that are gone
    /// among them. Policies last is the fastest order for a first load.
    pub fn apply(&mut self, change: Change) -> BTreeSet<Arc<str>> {
        match change {
            Change::Namespace(Namespace {
                name,
                labels,
                enforcement,
            }) => {
                let mut touched = self.put_enforcement(&name, enforcement);
                touched.append(&mut self.put_namespace(&name, Some(labels)));
                touched
            }
            Change::NamespaceGone(name) => {
                let mut touched = self.put_enforcement(&name, Enforcement::Enforce);
                touched.append(&mut self.put_namespace(&name, None));
                touched
            }
            Change::Pod(pod) => self.put_pod(pod),
            Change::PodGone { id, uid } => self.remove_pod(&id, &uid),
            Change::Policy(policy) => self.put_policy(policy),
            Change::PolicyGone { id, uid } => {
                let key = self.policy_keys.get(&id).copied();
                let key = key.filter(|key| self.policies[*key].policy.uid == uid);
                key.map(|key| self.remove_policy(key)).into_iter().collect()
            }
            Change::Service(service) => {
                if self.services.service(&service.id) == Some(&service) {
                    return BTreeSet::new();
                }
                let id = service.id.clone();
                self.change_services(BTreeSet::from([id.clone()]), |services| {
                    services.put_service(&id, Some(service));
                })
            }
            Change::ServiceGone(id) => self.change_services(BTreeSet::from([id.clone()]), |services| {
                services.put_service(&id, None);
            }),
            Change::EndpointSlice(slice) => {
                if self.services.endpoint_slice(&slice.id) == Some(&slice) {
                    return BTreeSet::new();
                }
                let mut concerned: BTreeSet<ObjectId> =
                    self.services.service_of(&slice.id).cloned().into_iter().collect();
                concerned.insert(ObjectId {
                    namespace: slice.id.namespace.clone(),
                    name: slice.service.clone(),
                });
                self.change_services(concerned, |services| services.put_slice(slice))
            }
            Change::EndpointSliceGone(id) => {
                let concerned = self.services.service_of(&id).cloned().into_iter().collect();
                self.change_services(concerned, |services| services.remove_slice(&id))
            }
        }
    }

    /// The slices of the policy, in order; `None`: there is no such policy (any more). A slice that did not
    /// change is the same `Arc` as before.
    pub fn endpoints(&mut self, uid: &str) -> Option<Vec<Arc<PolicyEndpoint>>> {
        let key = *self.by_uid.get(uid)?;
        if self.policies[key].built.is_none() {
            let state = &self.policies[key];
            let head = Head::new(&state.policy, self.enforcement(&state.policy));
            let built = state.build(head, &self.inventory, &self.services, self.slice_entries);
            self.policies[key].built = Some(built);
        }
        let built = self.policies[key].built.as_ref()?;
        Some(built.slices.objects())
    }

    /// Everything: equal to [`resolve`](super::resolve) of the same objects.
    pub fn resolution(&mut self) -> Resolution {
        let uids: Vec<Arc<str>> = self.by_uid.keys().cloned().collect();
        let endpoints = (uids.into_iter())
            .filter_map(|uid| self.endpoints(&uid).map(|slices| (uid, slices)))
            .collect();
        Resolution {
            endpoints,
            problems: self.problems(),
        }
    }

    /// As in [`Resolution::problems`].
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.inventory.problems(&mut problems);
        for (_, state) in &self.policies {
            self.problems_in(state, &mut problems);
        }
        problems.sort_unstable();
        problems.dedup();
        problems
    }

    /// Those of pods and namespaces.
    pub fn problems_of_objects(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.inventory.problems(&mut problems);
        problems.sort_unstable();
        problems.dedup();
        problems
    }

    /// Those of one policy; none where there is no such policy.
    pub fn problems_of(&self, uid: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(key) = self.by_uid.get(uid) {
            self.problems_in(&self.policies[*key], &mut problems);
        }
        problems.sort_unstable();
        problems.dedup();
        problems
    }

    fn problems_in(&self, state: &PolicyState, problems: &mut Vec<Problem>) {
        for rule in &state.rules {
            rule.unresolved(&state.policy, state.subject, &self.inventory, problems);
        }
        match &state.built {
            Some(built) => {
                problems.extend(built.shares.values().flat_map(|s| s.problems.iter().cloned()));
            }
            None => {
                for service in state.services(&self.inventory, &self.services) {
                    let front_ends = self.services.front_ends(&service);
                    problems.append(&mut state.share(&front_ends, &self.inventory).problems);
                }
            }
        }
    }

    /// Of the policy, or else of its namespace.
    fn enforcement(&self, policy: &Policy) -> Enforcement {
        policy.enforcement.unwrap_or({
            if self.audited.contains(&policy.id.namespace) {
                Enforcement::Audit
            } else {
                Enforcement::Enforce
            }
        })
    }

    fn put_enforcement(&mut self, name: &Arc<str>, enforcement: Enforcement) -> BTreeSet<Arc<str>> {
        let changed = match enforcement {
            Enforcement::Audit => self.audited.insert(name.clone()),
            Enforcement::Enforce => self.audited.remove(name),
        };
        let mut touched = BTreeSet::new();
        if changed {
            for (_, state) in &mut self.policies {
                if state.policy.enforcement.is_none() && state.policy.id.namespace == *name {
                    state.built = None;
                    touched.insert(state.policy.uid.clone());
                }
            }
        }
        touched
    }

    fn put_namespace(
        &mut self,
        name: &Arc<str>,
        labels: Option<Arc<crate::model::Labels>>,
    ) -> BTreeSet<Arc<str>> {
        if self.inventory.namespace_labels(name) == labels.as_ref() {
            return BTreeSet::new();
        }
        let pods = self.inventory.pods_of_namespace(name);
        self.change_pods(pods, |inventory| {
            inventory.put_namespace(name, labels);
            None
        })
    }

    fn put_pod(&mut self, pod: Pod) -> BTreeSet<Arc<str>> {
        let mut concerned: BTreeSet<PodKey> = self.inventory.claimants(&pod).collect();
        if let Some(key) = self.inventory.pod_key(&pod.id) {
            let old = &self.inventory.pod(key).pod;
            if *old == pod {
                return BTreeSet::new();
            }
            concerned.extend(self.inventory.claimants(old));
            concerned.insert(key);
        }
        self.change_pods(concerned, |inventory| Some(inventory.put_pod(pod)))
    }

    fn remove_pod(&mut self, id: &ObjectId, uid: &str) -> BTreeSet<Arc<str>> {
        let key = self.inventory.pod_key(id);
        let Some(key) = key.filter(|key| *self.inventory.pod(*key).pod.uid == *uid) else {
            return BTreeSet::new();
        };
        let mut concerned: BTreeSet<PodKey> =
            self.inventory.claimants(&self.inventory.pod(key).pod).collect();
        concerned.insert(key);
        self.change_pods(concerned, |inventory| {
            inventory.remove_pod(key);
            None
        })
    }

    /// Carries a change of the pods `concerned`, and of the one that `change` yields, into the policies.
    fn change_pods(
        &mut self,
        mut concerned: BTreeSet<PodKey>,
        change: impl FnOnce(&mut Inventory) -> Option<PodKey>,
    ) -> BTreeSet<Arc<str>> {
        let mut before = self.view(&concerned);
        concerned.extend(change(&mut self.inventory));
        concerned.retain(|key| self.inventory.has_pod(*key));
        let mut after = self.view(&concerned);

        let policies: BTreeSet<PolicyKey> = before.items.keys().chain(after.items.keys()).copied().collect();
        let addresses = before.addresses.union(&after.addresses);
        let services: BTreeSet<ObjectId> = addresses.flat_map(|a| self.services.at(*a)).cloned().collect();
        let front_ends = self.front_ends(services);
        let mut touched = BTreeSet::new();
        for key in policies {
            let before = before.items.remove(&key).unwrap_or_default();
            let after = after.items.remove(&key).unwrap_or_default();
            if self.update(key, before, after, &front_ends) {
                touched.insert(self.policies[key].policy.uid.clone());
            }
        }
        touched
    }

    fn view(&self, pods: &BTreeSet<PodKey>) -> View {
        let mut view = View::default();
        let none = Arc::default();
        for pod in pods {
            let pod = self.inventory.pod(*pod);
            view.addresses.extend(&pod.owned);
            let selecting = (pod.groups().iter()).flat_map(|group| &self.inventory.groups.get(*group).users);
            let naming = pod
                .names()
                .filter_map(|(protocol, name)| self.by_name.get(&(protocol, name.clone())));
            let policies: BTreeSet<PolicyKey> = selecting.chain(naming.flatten()).copied().collect();
            for key in policies {
                let items = view.items.entry(key).or_default();
                self.policies[key].items_for(pod, &none, items);
            }
        }
        view
    }

    /// Whether anything changed.
    fn update(
        &mut self,
        key: PolicyKey,
        mut before: Vec<Item>,
        mut after: Vec<Item>,
        services: &[(ObjectId, Vec<FrontEnd>)],
    ) -> bool {
        let state = &mut self.policies[key];
        let Some(built) = &mut state.built else {
            return true;
        };
        // An ingress rule's names are resolved on the selected pods: one of those may have changed all its
        // entries.
        let by_name = |rule: &Prepared| rule.direction == Direction::Ingress && !rule.names.is_empty();
        let stale = (state.rules.iter().zip(&built.ports))
            .any(|(rule, ports)| by_name(rule) && rule.ports(state.subject, &self.inventory) != *ports);
        if stale {
            state.built = None;
            return true;
        }
        before.sort_unstable();
        after.sort_unstable();
        let mut changed = carry(&mut built.slices, &before, after);
        for (service, front_ends) in services {
            changed |= self.update_share(key, service, front_ends);
        }
        changed
    }

    fn front_ends(&self, services: BTreeSet<ObjectId>) -> Vec<(ObjectId, Vec<FrontEnd>)> {
        let with_front_ends = |id| {
            let front_ends = self.services.front_ends(&id);
            (id, front_ends)
        };
        services.into_iter().map(with_front_ends).collect()
    }

    /// Whether the policy's items changed.
    fn update_share(&mut self, key: PolicyKey, service: &ObjectId, front_ends: &[FrontEnd]) -> bool {
        let share = self.policies[key].share(front_ends, &self.inventory);
        let Some(built) = &mut self.policies[key].built else {
            return true;
        };
        let old = built.shares.remove(service).unwrap_or_default();
        let changed = carry(&mut built.slices, &old.items, share.items.clone());
        if share != Share::default() {
            built.shares.insert(service.clone(), share);
        }
        changed
    }

    fn change_services(
        &mut self,
        concerned: BTreeSet<ObjectId>,
        change: impl FnOnce(&mut Services),
    ) -> BTreeSet<Arc<str>> {
        let backends = |services: &Services| -> BTreeSet<IpAddr> {
            concerned.iter().flat_map(|id| services.backends_of(id)).collect()
        };
        let mut addresses = backends(&self.services);
        change(&mut self.services);
        addresses.extend(backends(&self.services));
        let mut policies = self.by_block.clone();
        for pod in addresses
            .iter()
            .filter_map(|address| self.inventory.owner(*address))
        {
            for group in pod.groups() {
                policies.extend(&self.inventory.groups.get(*group).users);
            }
        }
        let services = self.front_ends(concerned);
        let mut touched = BTreeSet::new();
        for key in policies {
            self.renew_blocks(key, &addresses);
            for (service, front_ends) in &services {
                let isolates = self.policies[key].policy.egress.is_some();
                if isolates && self.update_share(key, service, front_ends) {
                    touched.insert(self.policies[key].policy.uid.clone());
                }
            }
        }
        touched
    }

    /// Has a policy worked out anew if its blocks except other ClusterIPs now that these addresses' Services have changed.
    fn renew_blocks(&mut self, key: PolicyKey, addresses: &BTreeSet<IpAddr>) {
        let state = &mut self.policies[key];
        let Some(built) = &state.built else { return };
        let concerned = state.rules.iter().any(|rule| rule.excepts(addresses));
        if concerned && state.entry_blocks(&self.services) != built.blocks {
            state.built = None;
        }
    }

    fn put_policy(&mut self, policy: Policy) -> BTreeSet<Arc<str>> {
        let mut touched = BTreeSet::from([policy.uid.clone()]);
        let old = self.policy_keys.get(&policy.id).copied();
        if old.is_some_and(|key| self.policies[key].policy == policy) {
            return BTreeSet::new();
        }
        let entry = self.policies.vacant_entry();
        let key = entry.key();
        let inventory = &mut self.inventory;
        let own = Namespaces::One(policy.id.namespace.clone());
        let subject = inventory.use_group(own, &policy.pod_selector, key);
        let mut rules = Vec::new();
        for direction in Direction::ALL {
            for rule in policy.rules(direction).into_iter().flatten() {
                rules.push(Prepared::new(&policy, key, direction, rule, inventory));
            }
        }
        for rule in rules.iter().filter(|rule| rule.reaches_blocks()) {
            self.by_block.insert(key);
            for name in &rule.names {
                self.by_name.entry(name.clone()).or_default().insert(key);
            }
        }
        self.policy_keys.insert(policy.id.clone(), key);
        self.by_uid.insert(policy.uid.clone(), key);
        entry.insert(PolicyState {
            policy,
            subject,
            rules,
            built: None,
        });
        // Last, so that groups that both use are kept.
        if let Some(old) = old {
            touched.insert(self.remove_policy(old));
        }
        touched
    }

    /// Its UID.
    fn remove_policy(&mut self, key: PolicyKey) -> Arc<str> {
        let state = self.policies.remove(key);
        let mut groups: BTreeSet<GroupKey> = state
            .rules
            .iter()
            .flat_map(|r| r.groups.iter().copied())
            .collect();
        groups.insert(state.subject);
        for group in groups {
            self.inventory.leave_group(group, key);
        }
        self.by_block.remove(&key);
        for name in state.rules.iter().flat_map(|rule| &rule.names) {
            if let Some(policies) = self.by_name.get_mut(name) {
                policies.remove(&key);
                if policies.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        if self.policy_keys.get(&state.policy.id) == Some(&key) {
            self.policy_keys.remove(&state.policy.id);
        }
        if self.by_uid.get(&state.policy.uid) == Some(&key) {
            self.by_uid.remove(&state.policy.uid);
        }
        state.policy.uid
    }
}

/// Turns what was `before` in the slices into what is `after`; both sorted. Whether they differ.
fn carry(slices: &mut SliceSet, before: &[Item], after: Vec<Item>) -> bool {
    let mut gone = before.iter().peekable();
    let mut withdrawn = Vec::new();
    let mut changed = false;
    for item in after {
        while let Some(old) = gone.next_if(|old| **old < item) {
            withdrawn.push(old);
        }
        if gone.next_if(|old| **old == item).is_none() {
            slices.insert(item);
            changed = true;
        }
    }
    withdrawn.extend(gone);
    changed |= !withdrawn.is_empty();
    for item in withdrawn {
        slices.remove(item);
    }
    changed
}

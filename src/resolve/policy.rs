//! One policy in the index: what it holds altogether, for one pod, and for one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::groups::{GroupKey, PodKey};
use super::inventory::{Inventory, PodState};
use super::rules::{Prepared, Share, self_service, subject_items};
use super::services::{FrontEnd, Services};
use super::slices::{Head, Item, SliceSet};
use crate::api::Port;
use crate::model::{Cidr, Direction, ObjectId, Policy};

pub(super) struct PolicyState {
    pub policy: Policy,
    pub subject: GroupKey,
    pub rules: Vec<Prepared>,
    pub built: Option<Built>,
}

/// What the policy comes to, as of the last change.
pub(super) struct Built {
    pub slices: SliceSet,
    /// Of each of `rules`.
    pub ports: Vec<Option<Arc<[Port]>>>,
    /// Of each of `rules`, as their entries have them.
    pub blocks: Vec<Vec<(Cidr, Arc<[Cidr]>)>>,
    /// Those that are not empty.
    pub shares: BTreeMap<ObjectId, Share>,
}

impl PolicyState {
    /// What it holds for `pod` in any role, while it is built.
    pub fn items_for(&self, pod: &PodState, none: &Arc<[Cidr]>, out: &mut Vec<Item>) {
        let Some(built) = &self.built else { return };
        if pod.is_in(self.subject) {
            subject_items(pod, out);
        }
        for (rule, ports) in self.rules.iter().zip(&built.ports) {
            if rule.selects(pod) {
                rule.selected_items(ports.as_ref(), pod, none, out);
            } else {
                rule.covered_items(pod, none, out);
            }
        }
    }

    /// From the current state of everything else.
    pub fn build(
        &self,
        head: Head,
        inventory: &Inventory,
        services: &Services,
        slice_entries: usize,
    ) -> Built {
        let none: Arc<[Cidr]> = Arc::default();
        let mut items = Vec::new();
        for pod in inventory.members(self.subject) {
            subject_items(pod, &mut items);
        }
        let ports: Vec<Option<Arc<[Port]>>> = (self.rules.iter())
            .map(|rule| rule.ports(self.subject, inventory))
            .collect();
        let blocks = self.entry_blocks(services);
        for ((rule, ports), blocks) in self.rules.iter().zip(&ports).zip(&blocks) {
            rule.block_items(blocks, ports.as_ref(), &mut items);
            if let [group] = rule.groups[..] {
                items.reserve(inventory.groups.get(group).members.len());
                for pod in inventory.members(group) {
                    rule.selected_items(ports.as_ref(), pod, &none, &mut items);
                }
            } else {
                let groups = rule
                    .groups
                    .iter()
                    .map(|group| &inventory.groups.get(*group).members);
                let pods: BTreeSet<PodKey> = groups.flatten().copied().collect();
                for pod in pods {
                    rule.selected_items(ports.as_ref(), inventory.pod(pod), &none, &mut items);
                }
            }
            if rule.reaches_blocks() {
                let named = (rule.names.iter()).flat_map(|(p, name)| inventory.with_name(*p, name));
                for pod in named.collect::<BTreeSet<PodKey>>() {
                    let pod = inventory.pod(pod);
                    if !rule.selects(pod) {
                        rule.covered_items(pod, &none, &mut items);
                    }
                }
            }
        }
        let mut shares = BTreeMap::new();
        for service in self.services(inventory, services) {
            let share = self.share(&services.front_ends(&service), inventory);
            items.extend(share.items.iter().cloned());
            if share != Share::default() {
                shares.insert(service, share);
            }
        }
        Built {
            slices: SliceSet::build(head, slice_entries, items),
            ports,
            blocks,
            shares,
        }
    }

    /// See [`Prepared::entry_blocks`].
    pub fn entry_blocks(&self, services: &Services) -> Vec<Vec<(Cidr, Arc<[Cidr]>)>> {
        self.rules
            .iter()
            .map(|rule| rule.entry_blocks(services))
            .collect()
    }

    /// What it holds for one Service, given as its ports at its ClusterIPs.
    pub fn share(&self, front_ends: &[FrontEnd], inventory: &Inventory) -> Share {
        let PolicyState {
            policy,
            rules,
            subject,
            ..
        } = self;
        let mut share = Share::default();
        if policy.egress.is_none() {
            return share;
        }
        for front in front_ends {
            for rule in rules.iter().filter(|rule| rule.direction == Direction::Egress) {
                rule.service_items(policy, front, inventory, &mut share);
            }
            share.items.extend(self_service(front, *subject, inventory));
        }
        share.items.sort_unstable();
        share.items.dedup();
        share.problems.sort_unstable();
        share.problems.dedup();
        share
    }

    /// Every Service that the policy can have a share for.
    pub fn services(&self, inventory: &Inventory, services: &Services) -> BTreeSet<ObjectId> {
        let mut found = BTreeSet::new();
        if self.policy.egress.is_none() || services.is_empty() {
            return found;
        }
        let rules = || {
            self.rules
                .iter()
                .filter(|rule| rule.direction == Direction::Egress)
        };
        for rule in rules().filter(|rule| rule.reaches_blocks()) {
            found.extend(
                rule.blocks
                    .iter()
                    .flat_map(|(cidr, _)| services.within(*cidr))
                    .cloned(),
            );
        }
        let groups = rules().flat_map(|rule| rule.groups.iter().copied());
        for group in groups.chain([self.subject]).collect::<BTreeSet<GroupKey>>() {
            if inventory.groups.get(group).members.len() < services.backend_count() {
                let addresses = inventory.members(group).flat_map(|pod| &pod.owned);
                found.extend(addresses.flat_map(|a| services.at(*a)).cloned());
            } else {
                let is_member = |address| inventory.owner(address).is_some_and(|pod| pod.is_in(group));
                let backends = services.backends().filter(|(address, _)| is_member(*address));
                found.extend(backends.flat_map(|(_, services)| services).cloned());
            }
        }
        found
    }
}

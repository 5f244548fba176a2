//! Interned selectors: each distinct (namespaces, pod selector) keeps its member set, shared by every rule
//! that uses it.
//!
//! A scope is a distinct way to choose namespaces; a group is a pod selector within a scope. A pod's groups
//! are found by way of the few scopes that its namespace is in, and there by the pod's labels.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use slab::Slab;

use super::label_index::LabelIndex;
use crate::model::{Labels, Selector};

pub(super) type PodKey = usize;
pub(super) type PolicyKey = usize;
pub(super) type GroupKey = usize;
pub(super) type ScopeKey = usize;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Namespaces {
    One(Arc<str>),
    Matching(Selector),
}

#[derive(Default)]
pub(super) struct Groups {
    scopes: Slab<Scope>,
    scope_keys: HashMap<Namespaces, ScopeKey>,
    /// Of the scopes that match namespaces by their labels.
    scopes_by_label: LabelIndex,
    groups: Slab<Group>,
    group_keys: HashMap<(ScopeKey, Selector), GroupKey>,
}

struct Scope {
    which: Namespaces,
    /// Those that have pods or an object. A scope of one namespace is kept even while that has neither.
    members: BTreeSet<Arc<str>>,
    groups_by_label: LabelIndex,
    groups: usize,
}

pub(super) struct Group {
    scope: ScopeKey,
    selector: Selector,
    /// Live pods, with and without addresses. Sorted.
    pub members: Vec<PodKey>,
    /// The policies that select by it, as subject or as peer.
    pub users: BTreeSet<PolicyKey>,
}

impl Groups {
    pub fn get(&self, group: GroupKey) -> &Group {
        &self.groups[group]
    }

    /// The group, and whether it is new: then its scope's members (see [`Self::scope_members`]) are to be
    /// admitted. `known` are all namespaces that there are, with their labels if they have an object.
    pub fn intern<'a>(
        &mut self,
        which: Namespaces,
        selector: &Selector,
        known: impl Iterator<Item = (&'a Arc<str>, Option<&'a Labels>)>,
    ) -> (GroupKey, bool) {
        let scope = match self.scope_keys.get(&which) {
            Some(scope) => *scope,
            None => self.new_scope(which, known),
        };
        if let Some(group) = self.group_keys.get(&(scope, selector.clone())) {
            return (*group, false);
        }
        let group = self.groups.insert(Group {
            scope,
            selector: selector.clone(),
            members: Vec::new(),
            users: BTreeSet::new(),
        });
        self.group_keys.insert((scope, selector.clone()), group);
        self.scopes[scope].groups += 1;
        self.scopes[scope].groups_by_label.insert(selector, group);
        (group, true)
    }

    fn new_scope<'a>(
        &mut self,
        which: Namespaces,
        known: impl Iterator<Item = (&'a Arc<str>, Option<&'a Labels>)>,
    ) -> ScopeKey {
        let members = match &which {
            Namespaces::One(name) => BTreeSet::from([name.clone()]),
            Namespaces::Matching(selector) => known
                .filter(|(_, labels)| labels.is_some_and(|labels| selector.matches(labels)))
                .map(|(name, _)| name.clone())
                .collect(),
        };
        let scope = self.scopes.insert(Scope {
            which: which.clone(),
            members,
            groups_by_label: LabelIndex::default(),
            groups: 0,
        });
        if let Namespaces::Matching(selector) = &which {
            self.scopes_by_label.insert(selector, scope);
        }
        self.scope_keys.insert(which, scope);
        scope
    }

    pub fn scope_of(&self, group: GroupKey) -> ScopeKey {
        self.groups[group].scope
    }

    pub fn scope_members(&self, scope: ScopeKey) -> &BTreeSet<Arc<str>> {
        &self.scopes[scope].members
    }

    pub fn selector(&self, group: GroupKey) -> &Selector {
        &self.groups[group].selector
    }

    pub fn add_user(&mut self, group: GroupKey, policy: PolicyKey) {
        self.groups[group].users.insert(policy);
    }

    /// What went with the last user: the group's members, which are to forget it; and its scope, where this
    /// was the last group of it, with the namespaces that are to forget that.
    pub fn remove_user(&mut self, group: GroupKey, policy: PolicyKey) -> Option<Removed> {
        let users = &mut self.groups[group].users;
        users.remove(&policy);
        if !users.is_empty() {
            return None;
        }
        let removed = self.groups.remove(group);
        let scope_key = removed.scope;
        self.group_keys.remove(&(scope_key, removed.selector.clone()));
        let scope = &mut self.scopes[scope_key];
        scope.groups_by_label.remove(&removed.selector, group);
        scope.groups -= 1;
        let scope = (scope.groups == 0).then(|| {
            let scope = self.scopes.remove(scope_key);
            self.scope_keys.remove(&scope.which);
            if let Namespaces::Matching(selector) = &scope.which {
                self.scopes_by_label.remove(selector, scope_key);
            }
            (scope_key, scope.members)
        });
        Some(Removed {
            members: removed.members,
            scope,
        })
    }

    /// The scopes that a namespace is in, sorted; labels `None`: it has no object, so only its own name
    /// finds it.
    pub fn scopes_of(&self, namespace: &Arc<str>, labels: Option<&Labels>) -> Vec<ScopeKey> {
        let own = self.scope_keys.get(&Namespaces::One(namespace.clone()));
        let matching = labels
            .into_iter()
            .flat_map(|labels| {
                let candidates = self.scopes_by_label.candidates(labels);
                candidates.filter(|scope| match &self.scopes[*scope].which {
                    Namespaces::Matching(selector) => selector.matches(labels),
                    Namespaces::One(_) => false,
                })
            })
            .chain(own.copied());
        let mut scopes: Vec<ScopeKey> = matching.collect();
        scopes.sort_unstable();
        scopes
    }

    /// The namespace is in the scopes `now`, and no longer in those of `before` that are not there.
    pub fn move_namespace(&mut self, namespace: &Arc<str>, before: &[ScopeKey], now: &[ScopeKey]) {
        for scope in before.iter().filter(|s| now.binary_search(s).is_err()) {
            if matches!(self.scopes[*scope].which, Namespaces::Matching(_)) {
                self.scopes[*scope].members.remove(namespace);
            }
        }
        for scope in now.iter().filter(|s| before.binary_search(s).is_err()) {
            self.scopes[*scope].members.insert(namespace.clone());
        }
    }

    /// The groups that a live pod with these labels is in, sorted, in a namespace that is in `scopes`.
    pub fn groups_of(&self, scopes: &[ScopeKey], labels: &Labels) -> Vec<GroupKey> {
        let mut groups: Vec<GroupKey> = (scopes.iter())
            .flat_map(|scope| self.scopes[*scope].groups_by_label.candidates(labels))
            .filter(|group| self.groups[*group].selector.matches(labels))
            .collect();
        groups.sort_unstable();
        groups
    }

    /// The pod is in the groups `now`, and no longer in those of `before` that are not there.
    pub fn move_pod(&mut self, pod: PodKey, before: &[GroupKey], now: &[GroupKey]) {
        for group in before.iter().filter(|g| now.binary_search(g).is_err()) {
            let members = &mut self.groups[*group].members;
            if let Ok(at) = members.binary_search(&pod) {
                members.remove(at);
            }
        }
        for group in now.iter().filter(|g| before.binary_search(g).is_err()) {
            let members = &mut self.groups[*group].members;
            if let Err(at) = members.binary_search(&pod) {
                members.insert(at, pod);
            }
        }
    }

    pub fn set_members(&mut self, group: GroupKey, members: Vec<PodKey>) {
        self.groups[group].members = members;
    }
}

pub(super) struct Removed {
    pub members: Vec<PodKey>,
    pub scope: Option<(ScopeKey, BTreeSet<Arc<str>>)>,
}

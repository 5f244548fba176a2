//! A policy's items → its slices: PolicyEndpoints of bounded size, such that one item more or less rewrites
//! one of them.
//!
//! The slices of a policy are the leaves of a binary trie over the items' content hashes: a node that holds
//! too much has two children, by the next bit of the hash. Where an item lands, and which nodes are leaves,
//! depends on the set of items alone, never on how it came about. So equal policies give equal objects, and
//! an item that comes or goes touches one leaf, which now and then splits or joins its sibling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};

use super::content_hash::ContentHash;
use crate::api::{Entry, PodEndpoint, PolicyEndpoint, PolicyEndpointSpec, PolicyRef, SelfService, Slice};
use crate::model::{Cidr, Direction, Enforcement, Operator, Policy, Selector};

/// Slices beyond this depth are not split, so that `count` fits its field. Only equal hashes could get there.
const MAX_BITS: u32 = 31;

/// Bits of an entry's hash that its peer alone decides: enough for 256 slices. More would split rules of many ports for one
/// block, which these bits keep together, into as many empty slices.
const PEER_BITS: u32 = 8;

/// The smallest part of a policy that slices carry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Entry(Direction, Entry),
    Subject(PodEndpoint),
    SelfService(SelfService),
}

/// What all slices of a policy have in common.
#[derive(Clone, Debug)]
pub(super) struct Head {
    name_stem: String,
    metadata: ObjectMeta,
    spec: PolicyEndpointSpec,
}

impl Head {
    pub fn new(policy: &Policy, enforcement: Enforcement) -> Self {
        let isolation = Direction::ALL.into_iter().filter(|d| policy.rules(*d).is_some());
        Self {
            name_stem: name_stem(&policy.id.name, &policy.uid),
            metadata: ObjectMeta {
                namespace: Some(policy.id.namespace.to_string()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "networking.k8s.io/v1".to_string(),
                    kind: "NetworkPolicy".to_string(),
                    name: policy.id.name.to_string(),
                    uid: policy.uid.to_string(),
                    controller: Some(true),
                    block_owner_deletion: None,
                }]),
                ..ObjectMeta::default()
            },
            spec: PolicyEndpointSpec {
                policy_ref: PolicyRef {
                    name: policy.id.name.clone(),
                    namespace: policy.id.namespace.clone(),
                },
                pod_selector: Some(label_selector(&policy.pod_selector)),
                pod_isolation: isolation.collect(),
                enforcement,
                ..PolicyEndpointSpec::default()
            },
        }
    }

    /// The object of the trie node at `start` (its first hash) and depth `bits`, still without items.
    fn object(&self, start: u64, bits: u32) -> PolicyEndpoint {
        let slice = Slice {
            index: if bits == 0 {
                0
            } else {
                (start >> (64 - bits)) as u32
            },
            count: 1 << bits,
        };
        PolicyEndpoint {
            metadata: ObjectMeta {
                name: Some(format!("{}-{}-{}", self.name_stem, slice.count, slice.index)),
                ..self.metadata.clone()
            },
            spec: PolicyEndpointSpec {
                slice: Some(slice),
                ..self.spec.clone()
            },
            status: None,
        }
    }
}

/// The policy's name for people, cut so that the whole stays within 253 characters, and the UID's hash for
/// uniqueness. Never parsed back.
fn name_stem(policy: &str, uid: &str) -> String {
    let mut hash = ContentHash::new();
    hash.text(uid);
    let name: String = policy
        .chars()
        .take(200)
        .map(|c| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || c == '.' => c,
            _ => '-',
        })
        .collect();
    let name = name.trim_matches(['-', '.']);
    let name = if name.is_empty() { "policy" } else { name };
    format!("{name}-{:016x}", hash.finish())
}

/// The selector as the API spells it: one value per key goes to `matchLabels`, the rest to
/// `matchExpressions`.
fn label_selector(selector: &Selector) -> LabelSelector {
    let mut labels = BTreeMap::new();
    let mut expressions = Vec::new();
    for requirement in selector.requirements() {
        let key = requirement.key.to_string();
        let strings = |values: &[Arc<str>]| Some(values.iter().map(|v| v.to_string()).collect());
        let (operator, values) = match &requirement.operator {
            Operator::In(values) => {
                if let [value] = &values[..]
                    && !labels.contains_key(&key)
                {
                    labels.insert(key, value.to_string());
                    continue;
                }
                ("In", strings(values))
            }
            Operator::NotIn(values) => ("NotIn", strings(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        expressions.push(LabelSelectorRequirement {
            key,
            operator: operator.to_string(),
            values,
        });
    }
    LabelSelector {
        match_labels: (!labels.is_empty()).then_some(labels),
        match_expressions: (!expressions.is_empty()).then_some(expressions),
    }
}

/// From scratch: the definition that [`SliceSet`] is held to.
pub(super) fn pack(head: &Head, limit: usize, items: BTreeSet<Item>) -> Vec<Arc<PolicyEndpoint>> {
    fn node(
        head: &Head,
        limit: usize,
        start: u64,
        bits: u32,
        items: Vec<(u64, Item)>,
        out: &mut Vec<Arc<PolicyEndpoint>>,
    ) {
        let load = items
            .iter()
            .fold(Load::default(), |load, (_, item)| load.with(item));
        if load.fits(limit) || bits == MAX_BITS {
            let mut object = head.object(start, bits);
            for (_, item) in items {
                push(&mut object.spec, item);
            }
            out.push(Arc::new(object));
            return;
        }
        let bit = 1 << (63 - bits);
        let (low, high) = items.into_iter().partition(|(hash, _)| hash & bit == 0);
        node(head, limit, start, bits + 1, low, out);
        node(head, limit, start | bit, bits + 1, high, out);
    }
    let mut out = Vec::new();
    let items = items.into_iter().map(|item| (hash(&item), item)).collect();
    node(head, limit, 0, 0, items, &mut out);
    out
}

/// How much a slice carries of each kind. Each kind has the limit for itself, so that a policy that selects
/// many pods is sliced as one that allows many peers.
#[derive(Clone, Copy, Default)]
struct Load {
    entries: usize,
    subjects: usize,
    self_services: usize,
}

impl Load {
    fn of(spec: &PolicyEndpointSpec) -> Self {
        Self {
            entries: spec.ingress.len() + spec.egress.len(),
            subjects: spec.pod_selector_endpoints.len(),
            self_services: spec.self_services.len(),
        }
    }

    fn with(mut self, item: &Item) -> Self {
        match item {
            Item::Entry(..) => self.entries += 1,
            Item::Subject(_) => self.subjects += 1,
            Item::SelfService(_) => self.self_services += 1,
        }
        self
    }

    fn and(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            subjects: self.subjects + other.subjects,
            self_services: self.self_services + other.self_services,
        }
    }

    fn fits(self, limit: usize) -> bool {
        self.entries <= limit && self.subjects <= limit && self.self_services <= limit
    }
}

fn push(spec: &mut PolicyEndpointSpec, item: Item) {
    match item {
        Item::Entry(Direction::Ingress, entry) => spec.ingress.push(entry),
        Item::Entry(Direction::Egress, entry) => spec.egress.push(entry),
        Item::Subject(pod) => spec.pod_selector_endpoints.push(pod),
        Item::SelfService(service) => spec.self_services.push(service),
    }
}

/// The same slices, kept up to date item by item. An item may be contributed more than once (two rules
/// cannot, two peers of one rule can); it stays until the last contribution is withdrawn.
pub(super) struct SliceSet {
    head: Head,
    limit: usize,
    /// By the first hash that the slice holds.
    leaves: BTreeMap<u64, Leaf>,
    /// Contributions beyond the first.
    repeats: BTreeMap<Item, u32>,
}

struct Leaf {
    bits: u32,
    object: Arc<PolicyEndpoint>,
}

impl SliceSet {
    pub fn build(head: Head, limit: usize, items: Vec<Item>) -> Self {
        let mut order: Vec<(u64, u32)> = items.iter().map(hash).zip(0..).collect();
        order.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0)
                .then_with(|| items[a.1 as usize].cmp(&items[b.1 as usize]))
        });
        let mut repeats = BTreeMap::new();
        order.dedup_by(|later, first| {
            let item = &items[first.1 as usize];
            let same = later.0 == first.0 && items[later.1 as usize] == *item;
            if same {
                *repeats.entry(item.clone()).or_insert(0) += 1;
            }
            same
        });
        let mut set = Self {
            head,
            limit,
            leaves: BTreeMap::new(),
            repeats,
        };
        let mut items: Vec<Option<Item>> = items.into_iter().map(Some).collect();
        set.build_node(0, 0, &order, &mut items);
        set
    }

    fn build_node(&mut self, start: u64, bits: u32, order: &[(u64, u32)], items: &mut [Option<Item>]) {
        let at = |i: &(u64, u32)| items[i.1 as usize].as_ref();
        let load = order
            .iter()
            .filter_map(at)
            .fold(Load::default(), |load, item| load.with(item));
        if !load.fits(self.limit) && bits < MAX_BITS {
            let bit = 1 << (63 - bits);
            let (low, high) = order.split_at(order.partition_point(|(hash, _)| hash & bit == 0));
            self.build_node(start, bits + 1, low, items);
            self.build_node(start | bit, bits + 1, high, items);
            return;
        }
        let mut object = self.head.object(start, bits);
        let spec = &mut object.spec;
        spec.ingress.reserve_exact(
            order
                .iter()
                .filter_map(at)
                .filter(|i| matches!(i, Item::Entry(Direction::Ingress, _)))
                .count(),
        );
        spec.egress.reserve_exact(load.entries - spec.ingress.capacity());
        spec.pod_selector_endpoints.reserve_exact(load.subjects);
        spec.self_services.reserve_exact(load.self_services);
        for item in order {
            if let Some(item) = items[item.1 as usize].take() {
                push(spec, item);
            }
        }
        spec.ingress.sort_unstable();
        spec.egress.sort_unstable();
        spec.pod_selector_endpoints.sort_unstable();
        spec.self_services.sort_unstable();
        self.leaves.insert(
            start,
            Leaf {
                bits,
                object: Arc::new(object),
            },
        );
    }

    pub fn objects(&self) -> Vec<Arc<PolicyEndpoint>> {
        self.leaves.values().map(|leaf| leaf.object.clone()).collect()
    }

    pub fn insert(&mut self, item: Item) {
        let hash = hash(&item);
        let Some((&start, leaf)) = self.leaves.range_mut(..=hash).next_back() else {
            return;
        };
        let spec = &leaf.object.spec;
        let load = Load::of(spec).with(&item);
        match position(spec, &item) {
            Ok(_) => *self.repeats.entry(item).or_insert(0) += 1,
            Err(at) => {
                let spec = &mut Arc::make_mut(&mut leaf.object).spec;
                match item {
                    Item::Entry(Direction::Ingress, entry) => spec.ingress.insert(at, entry),
                    Item::Entry(Direction::Egress, entry) => spec.egress.insert(at, entry),
                    Item::Subject(pod) => spec.pod_selector_endpoints.insert(at, pod),
                    Item::SelfService(service) => spec.self_services.insert(at, service),
                }
                if !load.fits(self.limit) {
                    self.split(start);
                }
            }
        }
    }

    pub fn remove(&mut self, item: &Item) {
        if let Some(count) = self.repeats.get_mut(item) {
            *count -= 1;
            if *count == 0 {
                self.repeats.remove(item);
            }
            return;
        }
        let Some((&start, leaf)) = self.leaves.range_mut(..=hash(item)).next_back() else {
            return;
        };
        let Ok(at) = position(&leaf.object.spec, item) else {
            debug_assert!(false, "withdrawn but never contributed: {item:?}");
            return;
        };
        let spec = &mut Arc::make_mut(&mut leaf.object).spec;
        match item {
            Item::Entry(Direction::Ingress, _) => drop(spec.ingress.remove(at)),
            Item::Entry(Direction::Egress, _) => drop(spec.egress.remove(at)),
            Item::Subject(_) => drop(spec.pod_selector_endpoints.remove(at)),
            Item::SelfService(_) => drop(spec.self_services.remove(at)),
        }
        self.join(start);
    }

    fn split(&mut self, start: u64) {
        let Some(leaf) = self.leaves.remove(&start) else {
            return;
        };
        let spec = Arc::unwrap_or_clone(leaf.object).spec;
        let mut items: Vec<(u64, Item)> = all(spec).map(|item| (hash(&item), item)).collect();
        items.sort();
        let order: Vec<(u64, u32)> = items.iter().map(|(hash, _)| *hash).zip(0..).collect();
        let mut items: Vec<Option<Item>> = items.into_iter().map(|(_, item)| Some(item)).collect();
        self.build_node(start, leaf.bits, &order, &mut items);
    }

    /// Replaces the leaf and its sibling by their parent for as long as that fits.
    fn join(&mut self, mut start: u64) {
        loop {
            let Some(leaf) = self.leaves.get(&start) else {
                return;
            };
            let bits = leaf.bits;
            if bits == 0 {
                return;
            }
            let sibling_start = start ^ (1 << (64 - bits));
            let Some(sibling) = self.leaves.get(&sibling_start) else {
                return;
            };
            let load = Load::of(&leaf.object.spec).and(Load::of(&sibling.object.spec));
            if sibling.bits != bits || !load.fits(self.limit) {
                return;
            }
            let parent_start = start & sibling_start;
            let mut parent = self.head.object(parent_start, bits - 1);
            for start in [start, sibling_start] {
                if let Some(leaf) = self.leaves.remove(&start) {
                    for item in all(Arc::unwrap_or_clone(leaf.object).spec) {
                        push(&mut parent.spec, item);
                    }
                }
            }
            parent.spec.ingress.sort_unstable();
            parent.spec.egress.sort_unstable();
            parent.spec.pod_selector_endpoints.sort_unstable();
            parent.spec.self_services.sort_unstable();
            self.leaves.insert(
                parent_start,
                Leaf {
                    bits: bits - 1,
                    object: Arc::new(parent),
                },
            );
            start = parent_start;
        }
    }
}

fn position(spec: &PolicyEndpointSpec, item: &Item) -> Result<usize, usize> {
    match item {
        Item::Entry(Direction::Ingress, entry) => spec.ingress.binary_search(entry),
        Item::Entry(Direction::Egress, entry) => spec.egress.binary_search(entry),
        Item::Subject(pod) => spec.pod_selector_endpoints.binary_search(pod),
        Item::SelfService(service) => spec.self_services.binary_search(service),
    }
}

fn all(spec: PolicyEndpointSpec) -> impl Iterator<Item = Item> {
    let entries = |direction| move |entry| Item::Entry(direction, entry);
    (spec.ingress.into_iter().map(entries(Direction::Ingress)))
        .chain(spec.egress.into_iter().map(entries(Direction::Egress)))
        .chain(spec.pod_selector_endpoints.into_iter().map(Item::Subject))
        .chain(spec.self_services.into_iter().map(Item::SelfService))
}

/// An entry's upper bits say only whose it is: while slices are written one by one, a peer has its old entries or its new
/// ones, and never none of both.
fn hash(item: &Item) -> u64 {
    let mut hash = ContentHash::new();
    match item {
        Item::Entry(direction, entry) => {
            hash.bytes(&[*direction as u8]);
            hash.cidr(entry.cidr);
            let peer = hash.finish();
            hash.bytes(&entry.rule.map_or(u32::MAX, |rule| rule).to_le_bytes());
            hash.count(entry.except.len());
            entry.except.iter().for_each(|except| hash.cidr(*except));
            hash.count(entry.ports.len());
            entry.ports.iter().for_each(|port| hash.port(port));
            return peer & !(u64::MAX >> PEER_BITS) | hash.finish() >> PEER_BITS;
        }
        Item::Subject(pod) => {
            hash.bytes(&[2]);
            hash.cidr(Cidr::single(pod.pod_ip));
            match pod.host_ip {
                Some(host) => hash.cidr(Cidr::single(host)),
                None => hash.bytes(&[0]),
            }
            hash.text(&pod.namespace);
            hash.text(&pod.name);
        }
        Item::SelfService(service) => {
            hash.bytes(&[3]);
            hash.cidr(Cidr::single(service.pod_ip));
            hash.cidr(Cidr::single(service.cluster_ip));
            hash.bytes(&[service.protocol.number()]);
            hash.bytes(&service.port.to_le_bytes());
        }
    }
    hash.finish()
}

//! The index and the definition agree after any sequence of changes.
//!
//! Few names, labels, addresses and ports, so that everything collides: reused addresses and names, late
//! deletes of predecessors, Services of pods that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use palisade::model::{
    Change, Cidr, ContainerPort, EndpointPort, EndpointSlice, Enforcement, Labels, Namespace, ObjectId,
    Operator, Peer, Pod, Policy, PortMatch, Problem, Protocol, Requirement, Rule, Selector, Service,
    ServicePort, Snapshot,
};
use palisade::resolve::{Index, Resolution, resolve_sliced};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn text(choices: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    select(choices).prop_map(Arc::from)
}

fn id(names: &'static [&'static str]) -> impl Strategy<Value = ObjectId> {
    (text(&["n1", "n2", "n3"]), text(names)).prop_map(|(namespace, name)| ObjectId { namespace, name })
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(text(&["app", "tier"]), text(&["a", "b", ""]), 0..3)
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values = || vec(text(&["a", "b", ""]), 1..3).prop_map(Arc::from);
    let operator = prop_oneof![
        4 => values().prop_map(Operator::In),
        1 => values().prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    (text(&["app", "tier"]), operator).prop_map(|(key, operator)| Requirement { key, operator })
}

fn selector() -> impl Strategy<Value = Selector> {
    vec(requirement(), 0..3).prop_map(Selector::new)
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => (1u8..9).prop_map(|host| IpAddr::from([10, 0, 0, host])),
        1 => (1u16..5).prop_map(|host| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host])),
    ]
}

fn cidr() -> impl Strategy<Value = Cidr> {
    let block = (address(), select(&[0u8, 24, 29, 30, 32][..]))
        .prop_map(|(address, bits)| Cidr::new(address, bits).unwrap_or(Cidr::single(address)));
    prop_oneof![block, address().prop_map(Cidr::single)]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp)]
}

fn number() -> impl Strategy<Value = u16> {
    select(&[80u16, 81, 8080][..])
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    prop_oneof![
        1 => protocol().prop_map(PortMatch::Every),
        3 => (protocol(), number(), number()).prop_map(|(protocol, a, b)| PortMatch::Range {
            protocol,
            first: a.min(b),
            last: a.max(b),
        }),
        3 => (protocol(), text(&["web", "dns"])).prop_map(|(protocol, name)| PortMatch::Named { protocol, name }),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        3 => (option::of(selector()), option::of(selector()))
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        1 => (cidr(), vec(cidr(), 0..3)).prop_map(|(cidr, except)| Peer::Block { cidr, except }),
    ]
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (
        option::weighted(0.8, vec(peer(), 0..4)),
        option::weighted(0.7, vec(port_match(), 0..4)),
    );
    option::weighted(
        0.8,
        vec(rule, 0..3).prop_map(|rules| {
            (0..)
                .zip(rules)
                .map(|(index, (peers, ports))| Rule { index, peers, ports })
                .collect()
        }),
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    (
        id(&["p", "q"]),
        text(&["1", "2"]),
        selector(),
        rules(),
        rules(),
        option::weighted(0.4, enforcement()),
    )
        .prop_map(|(id, uid, pod_selector, ingress, egress, enforcement)| Policy {
            uid: format!("{id}:{uid}").into(),
            id,
            pod_selector,
            ingress,
            egress,
            enforcement,
        })
}

fn enforcement() -> impl Strategy<Value = Enforcement> {
    prop_oneof![Just(Enforcement::Enforce), Just(Enforcement::Audit)]
}

fn pod() -> impl Strategy<Value = Pod> {
    let port = (option::weighted(0.8, text(&["web", "dns"])), protocol(), number()).prop_map(
        |(name, protocol, number)| ContainerPort {
            name,
            protocol,
            number,
        },
    );
    (
        id(&["x", "y", "z", "w"]),
        text(&["1", "2"]),
        labels(),
        vec(address(), 0..3),
        vec(port, 0..3),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        option::of(0..3i64),
        option::of(address()),
    )
        .prop_map(
            |(id, uid, labels, addresses, ports, host_network, finished, created, host_ip)| Pod {
                uid: format!("{id}:{uid}").into(),
                id,
                labels: labels.into(),
                node: None,
                host_ip,
                addresses,
                ports: ports.into(),
                host_network,
                finished,
                created,
                source_prefixes: Vec::new(),
                log_allowed: false,
            },
        )
}

fn service() -> impl Strategy<Value = Service> {
    let port = (text(&["", "web"]), protocol(), number()).prop_map(|(name, protocol, port)| ServicePort {
        name,
        protocol,
        port,
    });
    let cluster_ip = prop_oneof![
        (1u8..4).prop_map(|host| IpAddr::from([10, 96, 0, host])),
        (1u8..4).prop_map(|host| IpAddr::from([10, 0, 0, host])),
        Just(IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, 1])),
    ];
    (id(&["s", "t"]), vec(cluster_ip, 1..3), vec(port, 1..3)).prop_map(|(id, cluster_ips, ports)| Service {
        id,
        cluster_ips,
        ports,
    })
}

fn endpoint_slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (text(&["", "web"]), protocol(), option::weighted(0.9, number()))
        .prop_map(|(name, protocol, port)| EndpointPort { name, protocol, port });
    (
        id(&["s1", "s2", "t1"]),
        text(&["s", "t"]),
        vec(address(), 0..3),
        vec(port, 1..3),
    )
        .prop_map(|(id, service, ready, ports)| EndpointSlice {
            id,
            service,
            ready,
            ports,
        })
}

fn change() -> impl Strategy<Value = Change> {
    let namespace_name = || text(&["n1", "n2", "n3"]);
    let uid = || text(&["1", "2"]);
    let of = |(id, uid): (ObjectId, Arc<str>)| (id.clone(), Arc::<str>::from(format!("{id}:{uid}")));
    prop_oneof![
        4 => (namespace_name(), labels(), enforcement()).prop_map(|(name, labels, enforcement)| {
            Change::Namespace(Namespace { name, labels: labels.into(), enforcement })
        }),
        1 => namespace_name().prop_map(Change::NamespaceGone),
        12 => pod().prop_map(Change::Pod),
        4 => (id(&["x", "y", "z", "w"]), uid()).prop_map(of).prop_map(|(id, uid)| Change::PodGone { id, uid }),
        6 => policy().prop_map(Change::Policy),
        1 => (id(&["p", "q"]), uid()).prop_map(of).prop_map(|(id, uid)| Change::PolicyGone { id, uid }),
        3 => service().prop_map(Change::Service),
        1 => id(&["s", "t"]).prop_map(Change::ServiceGone),
        4 => endpoint_slice().prop_map(Change::EndpointSlice),
        1 => id(&["s1", "s2", "t1"]).prop_map(Change::EndpointSliceGone),
    ]
}

/// What the changes have left, by the plainest means.
#[derive(Default)]
struct World {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pods: BTreeMap<ObjectId, Pod>,
    policies: BTreeMap<ObjectId, Policy>,
    services: BTreeMap<ObjectId, Service>,
    endpoint_slices: BTreeMap<ObjectId, EndpointSlice>,
}

impl World {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(n) => drop(self.namespaces.insert(n.name.clone(), n)),
            Change::NamespaceGone(name) => drop(self.namespaces.remove(&name)),
            Change::Pod(pod) => drop(self.pods.insert(pod.id.clone(), pod)),
            Change::PodGone { id, uid } => {
                if self.pods.get(&id).is_some_and(|pod| pod.uid == uid) {
                    self.pods.remove(&id);
                }
            }
            Change::Policy(policy) => drop(self.policies.insert(policy.id.clone(), policy)),
            Change::PolicyGone { id, uid } => {
                if self.policies.get(&id).is_some_and(|policy| policy.uid == uid) {
                    self.policies.remove(&id);
                }
            }
            Change::Service(service) => drop(self.services.insert(service.id.clone(), service)),
            Change::ServiceGone(id) => drop(self.services.remove(&id)),
            Change::EndpointSlice(slice) => drop(self.endpoint_slices.insert(slice.id.clone(), slice)),
            Change::EndpointSliceGone(id) => drop(self.endpoint_slices.remove(&id)),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            namespaces: self.namespaces.values().cloned().collect(),
            pods: self.pods.values().cloned().collect(),
            policies: self.policies.values().cloned().collect(),
            services: self.services.values().cloned().collect(),
            endpoint_slices: self.endpoint_slices.values().cloned().collect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn index_and_definition_agree_after_any_changes(
        changes in vec((change(), prop::bool::weighted(0.8)), 1..60),
        slice_entries in select(&[1usize, 3, 200][..]),
    ) {
        let (mut index, mut world) = (Index::with_slice_entries(slice_entries), World::default());
        let mut known = Resolution::default();
        for (change, look) in changes {
            let touched = index.apply(change.clone());
            world.apply(change.clone());
            let expected = resolve_sliced(&world.snapshot(), slice_entries);
            prop_assert_eq!(index.problems(), expected.problems.clone(), "problems after {:?}", change);
            let each = expected.endpoints.keys().flat_map(|uid| index.problems_of(uid));
            let each: BTreeSet<Problem> = each.chain(index.problems_of_objects()).collect();
            prop_assert_eq!(Vec::from_iter(each), expected.problems.clone(), "one by one, after {:?}", change);
            // What is not reported as touched must be as it was.
            let uids = known.endpoints.keys().chain(expected.endpoints.keys());
            for uid in uids.filter(|uid| !touched.contains(*uid)) {
                prop_assert_eq!(known.endpoints.get(uid), expected.endpoints.get(uid), "untouched by {:?}", change);
            }
            // Policies that nobody has asked for yet take another path.
            if look {
                prop_assert_eq!(&index.resolution(), &expected, "after {:?}", change);
            }
            known = expected;
        }
        prop_assert_eq!(index.resolution(), known);
    }

    #[test]
    fn the_order_of_a_first_load_does_not_matter(changes in vec(change(), 1..40).prop_shuffle()) {
        let mut world = World::default();
        for change in changes {
            world.apply(change);
        }
        let snapshot = world.snapshot();
        let mut forward = Index::new();
        let mut backward = Index::new();
        let all = || {
            (snapshot.namespaces.iter().cloned().map(Change::Namespace))
                .chain(snapshot.pods.iter().cloned().map(Change::Pod))
                .chain(snapshot.policies.iter().cloned().map(Change::Policy))
                .chain(snapshot.services.iter().cloned().map(Change::Service))
                .chain(snapshot.endpoint_slices.iter().cloned().map(Change::EndpointSlice))
        };
        all().for_each(|change| drop(forward.apply(change)));
        all().collect::<Vec<_>>().into_iter().rev().for_each(|change| drop(backward.apply(change)));
        prop_assert_eq!(&forward.resolution(), &resolve_sliced(&snapshot, 200));
        prop_assert_eq!(forward.resolution(), backward.resolution());
    }
}

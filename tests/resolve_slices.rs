//! Slices: small enough, complete, and one change rewrites one of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use palisade::api::PolicyEndpoint;
use palisade::model::{Change, Enforcement, Namespace, ObjectId, Peer, Pod, Policy, Rule, Selector};
use palisade::resolve::Index;
use proptest::prelude::*;

type Slices = Vec<Arc<PolicyEndpoint>>;

/// Its peer is every pod of the cluster; it selects the pods of a namespace that has none.
fn everyone() -> Policy {
    let peer = Peer::Pods {
        namespaces: Some(Selector::everything()),
        pods: None,
    };
    Policy {
        id: ObjectId::new("watched", "everyone"),
        uid: "policy".into(),
        pod_selector: Selector::everything(),
        ingress: Some(vec![Rule {
            index: 0,
            peers: Some(vec![peer]),
            ports: None,
        }]),
        egress: None,
        enforcement: None,
    }
}

fn mk_pod(n: u32) -> Pod {
    Pod {
        id: ObjectId::new("shop", &format!("pod-{n}")),
        uid: format!("pod-{n}").into(),
        labels: Arc::default(),
        node: None,
        host_ip: None,
        addresses: vec![IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n))],
        ports: Arc::default(),
        host_network: false,
        finished: false,
        created: None,
        source_prefixes: Vec::new(),
        log_allowed: false,
    }
}

fn gone(n: u32) -> Change {
    let Pod { id, uid, .. } = mk_pod(n);
    Change::PodGone { id, uid }
}

fn mk_index(slice_entries: usize) -> Index {
    let mut index = Index::with_slice_entries(slice_entries);
    index.apply(Change::Namespace(Namespace {
        name: "shop".into(),
        labels: Arc::default(),
        enforcement: Enforcement::Enforce,
    }));
    index.apply(Change::Policy(everyone()));
    index
}

fn slices(index: &mut Index) -> Slices {
    index.endpoints("policy").expect("the policy is there")
}

/// 1 = complete. In units of 2^-31.
fn covered(slices: &Slices) -> u64 {
    slices
        .iter()
        .map(|s| (1u64 << 31) / u64::from(s.spec.slice.expect("said").count))
        .sum()
}

/// How many of the objects of either are not the same in the other.
fn rewritten(before: &Slices, after: &Slices) -> usize {
    let by_name = |slices: &Slices| -> BTreeMap<String, Arc<PolicyEndpoint>> {
        slices
            .iter()
            .map(|s| (s.metadata.name.clone().expect("named"), s.clone()))
            .collect()
    };
    let (before, after) = (by_name(before), by_name(after));
    let names = before
        .keys()
        .chain(after.keys().filter(|name| !before.contains_key(*name)));
    names.filter(|name| before.get(*name) != after.get(*name)).count()
}

#[test]
fn slices_are_complete_distinct_and_within_their_size() {
    let mut index = mk_index(200);
    assert_eq!(
        slices(&mut index).len(),
        1,
        "a policy without peers has one slice"
    );
    (0..5000).for_each(|n| drop(index.apply(Change::Pod(mk_pod(n)))));
    let slices = slices(&mut index);
    assert_eq!(covered(&slices), 1 << 31);
    assert!(slices.iter().all(|s| s.spec.ingress.len() <= 200));
    assert_eq!(slices.iter().map(|s| s.spec.ingress.len()).sum::<usize>(), 5000);
    assert!(
        slices.len() < 64,
        "{} slices are more than 5000 entries need",
        slices.len()
    );
    let kept: Vec<_> = slices.iter().map(|s| s.spec.slice).collect();
    let expected: std::collections::BTreeSet<_> = kept.iter().copied().collect();
    assert_eq!(expected.len(), kept.len());
    for slice in &slices {
        assert!(slice.spec.ingress.is_sorted());
        assert_eq!(slice.spec.pod_isolation, [palisade::model::Direction::Ingress]);
    }
}

#[test]
fn the_hash_is_part_of_the_format() {
    let mut index = mk_index(1);
    (0..4).for_each(|n| drop(index.apply(Change::Pod(mk_pod(n)))));
    let places: BTreeMap<String, (u32, u32)> = (slices(&mut index).iter())
        .flat_map(|s| {
            s.spec
                .ingress
                .iter()
                .map(|e| (e.cidr.to_string(), s.spec.slice.unwrap()))
        })
        .map(|(cidr, slice)| (cidr, (slice.index, slice.count)))
        .collect();
    // Worked out from the description of the hash, not from this program.
    let expected = [
        ("10.0.0.0", (6, 8)),
        ("10.0.0.1", (1, 4)),
        ("10.0.0.2", (7, 8)),
        ("10.0.0.3", (0, 4)),
    ];
    let expected = expected.map(|(cidr, slice)| (cidr.to_string(), slice)).into();
    assert_eq!(
        places, expected,
        "a change of the hash rewrites every slice in every cluster"
    );
}

#[test]
fn unchanged_slices_are_the_same_objects() {
    let mut index = mk_index(200);
    (0..5000).for_each(|n| drop(index.apply(Change::Pod(mk_pod(n)))));
    let before = slices(&mut index);
    index.apply(gone(17));
    let after = slices(&mut index);
    assert_eq!(before.len(), after.len());
    assert_eq!(
        before
            .iter()
            .zip(&after)
            .filter(|(b, a)| !Arc::ptr_eq(b, a))
            .count(),
        1
    );
    assert_eq!(rewritten(&before, &after), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn one_pod_rewrites_one_slice_unless_that_splits_or_joins(
        steps in prop::collection::vec((0u32..60, any::<bool>()), 1..120),
        slice_entries in 1usize..8,
    ) {
        let mut index = mk_index(slice_entries);
        let mut before = slices(&mut index);
        for (n, there) in steps {
            index.apply(if there { Change::Pod(mk_pod(n)) } else { gone(n) });
            let after = slices(&mut index);
            prop_assert_eq!(covered(&after), 1 << 31);
            prop_assert!(after.iter().all(|s| s.spec.ingress.len() <= slice_entries));
            let changed = rewritten(&before, &after);
            if before.len() == after.len() {
                prop_assert!(changed <= 1, "{changed} slices rewritten");
            } else {
                // The slice that splits, or the one that comes of a join, and what it splits into or comes
                // of.
                prop_assert_eq!(changed, before.len().abs_diff(after.len()) + 2);
            }
            before = after;
        }
    }
}

#[test]
fn an_edit_of_a_rules_ports_moves_no_peer_to_another_slice() {
    let mut index = mk_index(100);
    for n in 0..5_000 {
        index.apply(Change::Pod(mk_pod(n)));
    }
    let places = |index: &mut Index| -> BTreeMap<String, String> {
        let slices = index.endpoints("policy").expect("the policy");
        let entries = |slice: &Arc<PolicyEndpoint>| {
            let name = slice.metadata.name.clone().expect("a name");
            let cidrs = slice
                .spec
                .ingress
                .iter()
                .map(move |entry| (entry.cidr.to_string(), name.clone()));
            cidrs.collect::<Vec<_>>()
        };
        slices.iter().flat_map(entries).collect()
    };
    let before = places(&mut index);
    assert_eq!(before.len(), 5_000);
    let mut policy = everyone();
    if let Some(rules) = &mut policy.ingress {
        rules[0].ports = Some(vec![palisade::model::PortMatch::Range {
            protocol: palisade::model::Protocol::Tcp,
            first: 80,
            last: 80,
        }]);
    }
    index.apply(Change::Policy(policy));
    assert_eq!(places(&mut index), before);
}

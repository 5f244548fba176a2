//! Who a peer is: selectors, labels, blocks.

use std::collections::BTreeSet;

use crate::world::{
    block, egress, egress_of, entries, ingress, ingress_of, is, load, mk_labels, mk_namespace, mk_pod,
    mk_service, pods, requirement, resolved, set, subjects, values, world,
};
use palisade::model::{Change, Direction, Operator, Pod, Policy, Selector};
use palisade::resolve::Index;

#[test]
fn s13_absent_and_empty_selectors_in_a_peer_differ() {
    let a = || Some(is("app", "a"));
    let members = || {
        vec![
            mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]),
            mk_pod("shop/b", &[], &["10.0.0.2"]),
            mk_pod("office/a", &[("app", "a")], &["10.0.1.1"]),
            mk_pod("office/b", &[], &["10.0.1.2"]),
        ]
    };
    let everything = || Some(Selector::everything());
    for (peer, expected) in [
        (pods(None, a()), &["10.0.0.1"][..]),
        (pods(None, everything()), &["10.0.0.1", "10.0.0.2"]),
        (pods(Some(is("kind", "office")), None), &["10.0.1.1", "10.0.1.2"]),
        (pods(Some(is("kind", "office")), a()), &["10.0.1.1"]),
        (pods(everything(), a()), &["10.0.0.1", "10.0.1.1"]),
        (
            pods(everything(), None),
            &["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2"],
        ),
    ] {
        assert_eq!(
            ingress_of(members(), ingress(Some(vec![peer.clone()]), None)),
            set(expected),
            "{peer:?}"
        );
    }
}

#[test]
fn s14_all_operators_hold_and_the_negative_ones_match_objects_without_the_key() {
    let members = || {
        vec![
            mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]),
            mk_pod("shop/b", &[("app", "b"), ("old", "")], &["10.0.0.2"]),
            mk_pod("shop/c", &[], &["10.0.0.3"]),
        ]
    };
    for (requirements, expected) in [
        (
            vec![requirement("app", Operator::In(values(&["a", "b"])))],
            &["10.0.0.1", "10.0.0.2"][..],
        ),
        (
            vec![requirement("app", Operator::NotIn(values(&["a"])))],
            &["10.0.0.2", "10.0.0.3"],
        ),
        (
            vec![requirement("app", Operator::Exists)],
            &["10.0.0.1", "10.0.0.2"],
        ),
        (vec![requirement("app", Operator::DoesNotExist)], &["10.0.0.3"]),
        (
            vec![
                requirement("app", Operator::Exists),
                requirement("old", Operator::DoesNotExist),
            ],
            &["10.0.0.1"],
        ),
    ] {
        let peer = pods(None, Some(Selector::new(requirements.clone())));
        assert_eq!(
            ingress_of(members(), ingress(Some(vec![peer]), None)),
            set(expected),
            "{requirements:?}"
        );
    }
}

#[test]
fn s14_the_subject_selector_is_published_whole() {
    let selector = Selector::new([
        requirement("app", Operator::In(values(&["a"]))),
        requirement("tier", Operator::In(values(&["x", "y"]))),
        requirement("old", Operator::DoesNotExist),
        requirement("zone", Operator::NotIn(values(&["z"]))),
    ]);
    let policy = Policy {
        pod_selector: selector,
        ..ingress(None, None)
    };
    let resolution = resolved(&world(vec![], vec![policy]));
    assert_eq!(
        serde_json::to_value(&resolution.endpoints["policy"][0].spec.pod_selector).unwrap(),
        serde_json::json!({
            "matchLabels": {"app": "a"},
            "matchExpressions": [
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "tier", "operator": "In", "values": ["x", "y"]},
                {"key": "zone", "operator": "NotIn", "values": ["z"]},
            ],
        })
    );
}

#[test]
fn s15_empty_values_count_and_a_namespace_has_its_name_as_a_label() {
    let members = vec![
        mk_pod("shop/a", &[("app", "")], &["10.0.0.1"]),
        mk_pod("office/b", &[("app", "x")], &["10.0.1.1"]),
    ];
    let empty = pods(None, Some(is("app", "")));
    let by_name = pods(Some(is("kubernetes.io/metadata.name", "office")), None);
    assert_eq!(
        ingress_of(members, ingress(Some(vec![empty, by_name]), None)),
        set(&["10.0.0.1", "10.0.1.1"])
    );
}

#[test]
fn s16_label_changes_of_pods_and_namespaces_move_subjects_and_peers() {
    let peers = vec![pods(Some(is("kind", "office")), Some(is("app", "a")))];
    let policy = Policy {
        pod_selector: is("app", "a"),
        ..ingress(Some(peers), None)
    };
    let (a, b) = (
        mk_pod("shop/a", &[], &["10.0.0.1"]),
        mk_pod("office/b", &[], &["10.0.1.1"]),
    );
    let mut index = Index::new();
    load(&mut index, &world(vec![a.clone(), b.clone()], vec![policy]));
    let touched = BTreeSet::from(["policy".into()]);
    let now = |index: &mut Index| {
        let resolution = index.resolution();
        (subjects(&resolution), entries(&resolution, Direction::Ingress))
    };
    assert_eq!(now(&mut index), (set(&[]), set(&[])));
    let labels = mk_labels(&[("app", "a")]);
    assert_eq!(
        index.apply(Change::Pod(Pod {
            labels: labels.clone(),
            ..a
        })),
        touched
    );
    assert_eq!(index.apply(Change::Pod(Pod { labels, ..b.clone() })), touched);
    assert_eq!(now(&mut index), (set(&["shop/a 10.0.0.1"]), set(&["10.0.1.1"])));
    assert_eq!(
        index.apply(Change::Namespace(mk_namespace("office", &[]))),
        touched
    );
    assert_eq!(now(&mut index), (set(&["shop/a 10.0.0.1"]), set(&[])));
    assert_eq!(
        index.apply(Change::Namespace(mk_namespace("office", &[("kind", "office")]))),
        touched
    );
    assert_eq!(index.apply(Change::Pod(b)), touched);
    assert_eq!(now(&mut index), (set(&["shop/a 10.0.0.1"]), set(&[])));
}

#[test]
fn s17_peers_are_live_pods_with_an_address_outside_the_host_network() {
    let everyone = || ingress(Some(vec![pods(Some(Selector::everything()), None)]), None);
    let members = vec![
        mk_pod("shop/a", &[], &["10.0.0.1"]),
        Pod {
            host_network: true,
            ..mk_pod("shop/host", &[], &["172.16.0.1"])
        },
        mk_pod("shop/starting", &[], &[]),
    ];
    let mut snapshot = world(members, vec![everyone()]);
    snapshot.services = vec![mk_service("s", &["10.96.0.1"], 80)];
    let resolution = resolved(&snapshot);
    assert_eq!(entries(&resolution, Direction::Ingress), set(&["10.0.0.1"]));
    assert_eq!(subjects(&resolution), set(&["shop/a 10.0.0.1"]));
}

#[test]
fn s17_a_namespace_without_an_object_is_reached_by_no_namespace_selector_and_reported() {
    let pod = || mk_pod("shop/a", &[], &["10.0.0.1"]);
    let policy = ingress(Some(vec![pods(Some(Selector::everything()), None)]), None);
    let mut snapshot = world(vec![pod()], vec![policy]);
    snapshot.namespaces.clear();
    let resolution = resolved(&snapshot);
    assert_eq!(entries(&resolution, Direction::Ingress), set(&[]));
    assert_eq!(resolution.problems[0].object, "Namespace shop");
    snapshot.policies = vec![ingress(
        Some(vec![pods(None, Some(Selector::everything()))]),
        None,
    )];
    assert_eq!(
        entries(&resolved(&snapshot), Direction::Ingress),
        set(&["10.0.0.1"])
    );
}

#[test]
fn s18_invalid_stored_label_values_match_nothing_and_never_panic() {
    let wild = "not a label value! \u{1f980} ".repeat(20);
    let members = vec![mk_pod("shop/a", &[("app", &wild), ("", "")], &["10.0.0.1"])];
    let peers = vec![
        pods(None, Some(is("app", "a"))),
        pods(
            None,
            Some(Selector::new([requirement("app", Operator::In(values(&[])))])),
        ),
    ];
    assert_eq!(ingress_of(members, ingress(Some(peers), None)), set(&[]));
}

#[test]
fn s19_except_carves_only_out_of_its_own_peer() {
    let peers = vec![block("10.0.0.0/8", &["10.1.0.0/16"]), block("10.1.2.0/24", &[])];
    assert_eq!(
        egress_of(vec![], egress(Some(peers), None)),
        set(&["10.0.0.0/8 !10.1.0.0/16", "10.1.2.0/24"])
    );
}

#[test]
fn s20_duplicate_and_nested_blocks_stand_side_by_side() {
    let peers = [
        "10.1.2.3/8",
        "10.0.0.0/8",
        "10.0.0.7/32",
        "0.0.0.0/0",
        "fd00::7/128",
    ]
    .map(|c| block(c, &[]));
    assert_eq!(
        egress_of(vec![], egress(Some(peers.to_vec()), None)),
        set(&["10.0.0.0/8", "10.0.0.7", "0.0.0.0/0", "fd00::7"])
    );
}

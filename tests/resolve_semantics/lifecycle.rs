//! Pods and policies that come, go and share names and addresses.

use std::collections::BTreeSet;

use crate::world::{entries, ingress, ip, is, load, mk_pod, pods, resolved, set, subjects, world};
use palisade::model::{Change, Direction, ObjectId, Pod, Policy, Selector};
use palisade::resolve::Index;

#[test]
fn s47_finished_pods_are_neither_subject_nor_peer_at_once() {
    let policy = || ingress(Some(vec![pods(None, Some(Selector::everything()))]), None);
    let pod = mk_pod("shop/a", &[], &["10.0.0.1"]);
    let mut index = Index::new();
    load(&mut index, &world(vec![pod.clone()], vec![policy()]));
    assert_eq!(
        entries(&index.resolution(), Direction::Ingress),
        set(&["10.0.0.1"])
    );
    index.apply(Change::Pod(Pod {
        finished: true,
        ..pod
    }));
    let resolution = index.resolution();
    assert_eq!(entries(&resolution, Direction::Ingress), set(&[]));
    assert_eq!(subjects(&resolution), set(&[]));
}

#[test]
fn s48_a_late_delete_of_the_old_pod_does_not_undo_the_new_one() {
    let policy = ingress(Some(vec![pods(None, Some(is("app", "a")))]), None);
    let old = mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]);
    let new = Pod {
        uid: "new".into(),
        addresses: vec![ip("10.0.0.2")],
        ..old.clone()
    };
    let mut index = Index::new();
    load(&mut index, &world(vec![old.clone()], vec![policy]));
    index.apply(Change::Pod(new));
    assert_eq!(
        index.apply(Change::PodGone {
            id: old.id,
            uid: old.uid
        }),
        BTreeSet::new()
    );
    assert_eq!(
        entries(&index.resolution(), Direction::Ingress),
        set(&["10.0.0.2"])
    );
}

#[test]
fn s48_an_address_stands_for_the_newest_of_the_pods_that_claim_it() {
    let policy = ingress(Some(vec![pods(None, Some(is("app", "a")))]), None);
    let old = Pod {
        created: Some(1),
        ..mk_pod("shop/z", &[("app", "a")], &["10.0.0.1", "fd00::1"])
    };
    let new = Pod {
        created: Some(2),
        ..mk_pod("shop/b", &[], &["10.0.0.1"])
    };
    let there = resolved(&world(vec![old.clone(), new.clone()], vec![policy.clone()]));
    assert_eq!(
        there,
        resolved(&world(vec![new.clone(), old.clone()], vec![policy.clone()]))
    );
    assert_eq!(entries(&there, Direction::Ingress), set(&["fd00::1"]));
    assert_eq!(subjects(&there), set(&["shop/b 10.0.0.1", "shop/z fd00::1"]));
    let [problem] = &there.problems[..] else {
        panic!("one problem: {:?}", there.problems)
    };
    assert_eq!(
        (problem.object.as_str(), problem.value.as_str()),
        ("Pod shop/z", "10.0.0.1")
    );

    let mut index = Index::new();
    load(&mut index, &world(vec![old, new.clone()], vec![policy]));
    index.apply(Change::PodGone {
        id: new.id,
        uid: new.uid,
    });
    assert_eq!(
        entries(&index.resolution(), Direction::Ingress),
        set(&["10.0.0.1", "fd00::1"])
    );
    assert_eq!(index.problems(), []);
}

#[test]
fn s49_names_of_253_characters_and_equal_names_in_two_namespaces_give_valid_distinct_objects() {
    for name in [
        "a".repeat(253),
        format!("{}.b", "a".repeat(251)),
        "..Not A Name".to_string(),
        "x.y".to_string(),
    ] {
        let one = Policy {
            id: ObjectId::new("shop", &name),
            uid: "one".into(),
            ..ingress(None, None)
        };
        let two = Policy {
            id: ObjectId::new("office", &name),
            uid: "two".into(),
            ..ingress(None, None)
        };
        let resolution = resolved(&world(vec![], vec![one, two]));
        let names: BTreeSet<_> = resolution
            .endpoints
            .values()
            .map(|s| s[0].metadata.name.clone().unwrap())
            .collect();
        assert_eq!(names.len(), 2);
        for object in names {
            assert!(object.len() <= 253, "{object}");
            for label in object.split('.') {
                let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                assert!(!label.is_empty() && label.chars().all(fine), "{object}");
                assert!(!label.starts_with('-') && !label.ends_with('-'), "{object}");
            }
        }
        let spec = &resolution.endpoints["one"][0].spec;
        assert_eq!(
            (&*spec.policy_ref.namespace, &*spec.policy_ref.name),
            ("shop", &*name)
        );
    }
}

#[test]
fn s50_pods_of_one_deployment_with_different_labels_may_have_different_policies() {
    let hash = ("pod-template-hash", "5d8f");
    let members = vec![
        mk_pod("shop/web-1", &[hash, ("canary", "yes")], &["10.0.0.1"]),
        mk_pod("shop/web-2", &[hash], &["10.0.0.2"]),
    ];
    let policy = Policy {
        pod_selector: is("canary", "yes"),
        ..ingress(None, None)
    };
    assert_eq!(
        subjects(&resolved(&world(members, vec![policy]))),
        set(&["shop/web-1 10.0.0.1"])
    );
}

#[test]
fn s51_both_addresses_of_a_pod_are_peer_and_subject() {
    let members = vec![mk_pod("shop/a", &[], &["fd00::1", "10.0.0.1"])];
    let policy = ingress(Some(vec![pods(None, Some(Selector::everything()))]), None);
    let resolution = resolved(&world(members, vec![policy]));
    assert_eq!(
        entries(&resolution, Direction::Ingress),
        set(&["10.0.0.1", "fd00::1"])
    );
    assert_eq!(subjects(&resolution), set(&["shop/a 10.0.0.1", "shop/a fd00::1"]));
}

//! Whom a policy isolates, and that it allows what its rules say.

use std::collections::BTreeSet;

use crate::world::{
    block, egress, egress_of, entries, ingress, ingress_of, is, mk_pod, mk_policy, pods, resolved, set,
    subjects, tcp, world,
};
use palisade::model::{Change, Direction, ObjectId, Policy};
use palisade::resolve::Index;

#[test]
fn s2_only_the_directions_of_the_policy_isolate() {
    for (policy, isolation) in [
        (ingress(None, None), vec![Direction::Ingress]),
        (egress(None, None), vec![Direction::Egress]),
        (
            Policy {
                ingress: Some(vec![]),
                ..egress(None, None)
            },
            vec![Direction::Ingress, Direction::Egress],
        ),
        (mk_policy("shop", "p"), vec![]),
    ] {
        let resolution = resolved(&world(vec![], vec![policy]));
        assert_eq!(resolution.endpoints["policy"][0].spec.pod_isolation, isolation);
    }
}

#[test]
fn s3_an_empty_pod_selector_selects_all_pods_of_its_own_namespace_only() {
    let pods = vec![
        mk_pod("shop/a", &[], &["10.0.0.1"]),
        mk_pod("office/b", &[], &["10.0.0.2"]),
    ];
    let resolution = resolved(&world(pods, vec![ingress(None, None)]));
    assert_eq!(subjects(&resolution), set(&["shop/a 10.0.0.1"]));
    let spec = &resolution.endpoints["policy"][0].spec;
    assert_eq!(spec.pod_selector, Some(Default::default()));
}

#[test]
fn s4_each_policy_has_its_own_endpoints_and_order_is_irrelevant() {
    let one = Policy {
        uid: "one".into(),
        ..ingress(Some(vec![block("10.0.0.0/8", &[])]), None)
    };
    let two = Policy {
        id: ObjectId::new("shop", "q"),
        uid: "two".into(),
        ..ingress(None, Some(vec![tcp(80)]))
    };
    let forward = resolved(&world(vec![], vec![one.clone(), two.clone()]));
    assert_eq!(forward, resolved(&world(vec![], vec![two, one])));
    assert_eq!(forward.endpoints.len(), 2);
}

#[test]
fn s8_no_rules_deny_all_and_an_empty_rule_allows_all() {
    let deny = Policy {
        ingress: Some(vec![]),
        ..mk_policy("shop", "p")
    };
    assert_eq!(ingress_of(vec![], deny), set(&[]));
    assert_eq!(
        ingress_of(vec![], ingress(None, None)),
        set(&["0.0.0.0/0", "::/0"])
    );
}

#[test]
fn s9_absent_peers_are_any_address_and_absent_ports_every_port() {
    assert_eq!(
        egress_of(vec![], egress(None, Some(vec![tcp(80)]))),
        set(&["0.0.0.0/0 80/TCP", "::/0 80/TCP"])
    );
    assert_eq!(
        egress_of(vec![], egress(Some(vec![block("10.0.0.0/8", &[])]), None)),
        set(&["10.0.0.0/8"])
    );
}

#[test]
fn s10_peers_and_ports_are_ored_and_anded_with_each_other() {
    let peers = vec![pods(None, Some(is("app", "a"))), block("192.0.2.0/24", &[])];
    let policy = ingress(Some(peers), Some(vec![tcp(80), tcp(81)]));
    let members = vec![
        mk_pod("shop/a", &[("app", "a")], &["10.0.0.1"]),
        mk_pod("shop/b", &[], &["10.0.0.2"]),
    ];
    assert_eq!(
        ingress_of(members, policy),
        set(&["10.0.0.1 80/TCP 81/TCP", "192.0.2.0/24 80/TCP 81/TCP"])
    );
}

#[test]
fn s11_a_policy_that_lost_its_peers_or_ports_still_isolates_and_allows_nothing() {
    for policy in [ingress(Some(vec![]), None), ingress(None, Some(vec![]))] {
        let resolution = resolved(&world(vec![], vec![policy]));
        assert_eq!(entries(&resolution, Direction::Ingress), set(&[]));
        assert_eq!(
            resolution.endpoints["policy"][0].spec.pod_isolation,
            [Direction::Ingress]
        );
    }
}

#[test]
fn s12_a_policy_recreated_under_its_name_converges_to_the_new_uid() {
    let mut index = Index::new();
    let old = ingress(None, None);
    let new = Policy {
        uid: "new".into(),
        ..old.clone()
    };
    index.apply(Change::Policy(old.clone()));
    assert_eq!(
        index.apply(Change::Policy(new.clone())),
        BTreeSet::from(["policy".into(), "new".into()])
    );
    let late = Change::PolicyGone {
        id: old.id,
        uid: old.uid,
    };
    assert_eq!(index.apply(late), BTreeSet::new());
    assert!(index.endpoints("policy").is_none());
    let slices = index.endpoints("new").expect("the new one");
    let owner = slices[0].metadata.owner_references.as_ref().expect("owned");
    assert_eq!((owner[0].uid.as_str(), owner[0].controller), ("new", Some(true)));
    assert_eq!(
        (owner[0].kind.as_str(), owner[0].api_version.as_str()),
        ("NetworkPolicy", "networking.k8s.io/v1")
    );
}

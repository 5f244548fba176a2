//! Policies that only watch.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::world::{ingress, mk_namespace, mk_policy, resolved, world};
use palisade::model::{Change, Enforcement, Namespace, Policy};
use palisade::resolve::Index;

#[test]
fn s4_a_policy_is_in_audit_by_its_own_word_or_else_its_namespaces() {
    use Enforcement::{Audit, Enforce};
    for (own, namespace, expected) in [
        (None, None, Enforce),
        (None, Some(Enforce), Enforce),
        (None, Some(Audit), Audit),
        (Some(Enforce), Some(Audit), Enforce),
        (Some(Audit), Some(Enforce), Audit),
        (Some(Audit), None, Audit),
    ] {
        let policy = Policy {
            enforcement: own,
            ..ingress(None, None)
        };
        let mut snapshot = world(vec![], vec![policy]);
        snapshot.namespaces.retain(|n| &*n.name != "shop");
        snapshot.namespaces.extend(namespace.map(|enforcement| Namespace {
            enforcement,
            ..mk_namespace("shop", &[])
        }));
        let resolution = resolved(&snapshot);
        let slices = &resolution.endpoints["policy"];
        assert!(
            slices.iter().all(|slice| slice.spec.enforcement == expected),
            "{own:?} in {namespace:?}"
        );
    }
}

#[test]
fn a_namespace_that_enters_audit_touches_the_policies_that_do_not_say_themselves() {
    let mut index = Index::new();
    let policies = [
        ("q", None),
        ("r", Some(Enforcement::Enforce)),
        ("s", Some(Enforcement::Audit)),
    ];
    for (name, enforcement) in policies {
        index.apply(Change::Policy(Policy {
            uid: name.into(),
            enforcement,
            ..mk_policy("shop", name)
        }));
        index.endpoints(name);
    }
    let namespace = |enforcement| {
        Change::Namespace(Namespace {
            enforcement,
            ..mk_namespace("shop", &[])
        })
    };
    let touched: Vec<BTreeSet<Arc<str>>> = [Enforcement::Audit, Enforcement::Audit, Enforcement::Enforce]
        .map(|enforcement| index.apply(namespace(enforcement)))
        .to_vec();
    let only: BTreeSet<Arc<str>> = [Arc::from("q")].into();
    assert_eq!(touched, [only.clone(), BTreeSet::new(), only.clone()]);
    index.apply(namespace(Enforcement::Audit));
    assert_eq!(index.apply(Change::NamespaceGone("shop".into())), only);
    assert!(index.endpoints("q").unwrap()[0].spec.enforcement.is_enforce());
}

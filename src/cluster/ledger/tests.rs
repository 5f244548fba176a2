use std::net::IpAddr;

use serde_json::json;

use super::*;

fn tree(value: Value) -> Tree<()> {
    match value {
        Value::Object(fields) => Tree::new(fields),
        other => panic!("{other} is no object"),
    }
}

fn meta(name: &str, uid: &str) -> Value {
    json!({"name": name, "namespace": "shop", "uid": uid, "resourceVersion": "1", "labels": {"app": name}})
}

fn policy(name: &str, uid: &str, spec: Value) -> Tree<()> {
    tree(json!({"metadata": meta(name, uid), "spec": spec}))
}

fn pod(name: &str, uid: &str, address: &str) -> Tree<()> {
    tree(json!({"metadata": meta(name, uid), "status": {"phase": "Running", "podIPs": [{"ip": address}]}}))
}

fn shown(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

/// A ledger that has listed these.
fn listed(kind: Kind, trees: &[Tree<()>]) -> Ledger {
    let mut ledger = Ledger::new(kind);
    list(&mut ledger, trees);
    ledger
}

fn list(ledger: &mut Ledger, trees: &[Tree<()>]) -> Vec<Change> {
    let mut changes = ledger.take(Event::Init);
    for tree in trees {
        changes.extend(ledger.take(Event::InitApply(tree.clone())));
    }
    changes.extend(ledger.take(Event::InitDone));
    changes
}

#[test]
fn s52_a_list_anew_removes_nothing_before_it_is_complete() {
    let (a, b, c) = (
        policy("a", "1", json!({})),
        policy("b", "2", json!({})),
        policy("c", "3", json!({})),
    );
    let mut ledger = listed(Kind::Policy, &[a.clone(), b]);
    assert!(ledger.is_listed());
    // One that is begun and broken off, and then one that is complete.
    assert_eq!(shown(&ledger.take(Event::Init)), [""; 0]);
    let of_first = ledger.take(Event::InitApply(a.clone()));
    assert!(of_first.iter().all(|change| matches!(change, Change::Policy(_))));
    assert!(ledger.is_listed(), "what is known goes on to count");
    let mut changes = ledger.take(Event::Init);
    changes.extend(ledger.take(Event::InitApply(a)));
    changes.extend(ledger.take(Event::InitApply(c)));
    assert!(
        !changes
            .iter()
            .any(|change| matches!(change, Change::PolicyGone { .. }))
    );
    let done = ledger.take(Event::InitDone);
    assert_eq!(shown(&done), ["NetworkPolicy shop/b gone"]);
    let uids: Vec<&str> = ledger.uids().map(|uid| &**uid).collect();
    assert_eq!(uids.len(), 2);
}

#[test]
fn s48_a_late_delete_of_an_old_object_does_not_undo_the_new_one() {
    let mut ledger = listed(Kind::Pod, &[pod("a", "1", "10.0.0.1")]);
    let changes = ledger.take(Event::Apply(pod("a", "2", "10.0.0.2")));
    assert!(
        matches!(&changes[..], [Change::PodGone { uid, .. }, Change::Pod(pod)] if &**uid == "1" && &*pod.uid == "2"),
        "{changes:?}"
    );
    assert_eq!(ledger.take(Event::Delete(pod("a", "1", "10.0.0.1"))), []);
    assert_eq!(
        shown(&ledger.take(Event::Delete(pod("a", "2", "10.0.0.2")))),
        ["Pod shop/a gone"]
    );
}

#[test]
fn a_policy_of_which_it_is_not_known_whom_it_isolates_stays_as_it_was_or_denies() {
    let good = json!({"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{}]});
    let bad =
        json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}, "ingress": [{}]});
    let mut ledger = listed(Kind::Policy, &[policy("p", "1", good.clone())]);
    assert_eq!(
        ledger.take(Event::Apply(policy("p", "1", bad.clone()))),
        [],
        "as it was"
    );
    let id = ObjectId::new("shop", "p");
    let problem = &ledger.problems_of(&id)[0];
    assert_eq!(
        (&*problem.object, &*problem.field, &*problem.value),
        (
            "NetworkPolicy shop/p",
            "spec.podSelector.matchExpressions[0].operator",
            "\"Near\""
        )
    );
    assert!(problem.remedy.contains("In, NotIn"), "{problem}");
    assert_eq!(ledger.news().len(), 1);
    assert_eq!(ledger.take(Event::Apply(policy("p", "1", bad.clone()))), []);
    assert_eq!((ledger.news().len(), ledger.troubled()), (0, 1), "told already");

    // A new object of that name has no earlier version.
    let changes = ledger.take(Event::Apply(policy("p", "2", bad)));
    let [Change::PolicyGone { .. }, Change::Policy(denies)] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert!(
        denies.pod_selector.requirements().is_empty(),
        "everybody, to be safe"
    );
    assert_eq!(denies.ingress, Some(Vec::new()));

    assert_eq!(ledger.take(Event::Apply(policy("p", "2", good))).len(), 1);
    assert_eq!(ledger.problems().count(), 0, "healed");
}

#[test]
fn a_field_that_only_a_newer_api_has_denies_in_a_policy_and_matters_nowhere_else() {
    let newer =
        json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}, "onlyOnMondays": true}]}]});
    let mut ledger = listed(Kind::Policy, &[]);
    let changes = ledger.take(Event::Apply(policy("p", "1", newer)));
    let [Change::Policy(policy)] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(policy.ingress.as_ref().unwrap()[0].peers, Some(Vec::new()));
    assert_eq!(ledger.problems().count(), 1);

    let mut newer = pod("a", "1", "10.0.0.1");
    newer.fields.insert("novelty".into(), json!({}));
    let mut ledger = listed(Kind::Pod, &[newer]);
    assert_eq!(ledger.problems().count(), 0);
    assert_eq!(ledger.take(Event::InitDone), []);
}

#[test]
fn of_a_pod_the_readable_rest_counts_at_once_but_never_without_its_labels() {
    let mut odd = pod("a", "1", "10.0.0.1");
    odd.fields["metadata"]["labels"]["odd"] = json!("no such value!");
    let mut ledger = listed(Kind::Pod, &[odd.clone()]);
    assert_eq!(ledger.problems().count(), 1);
    odd.fields["status"] = json!({"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.1"}]});
    let changes = ledger.take(Event::Apply(odd.clone()));
    assert!(
        matches!(&changes[..], [Change::Pod(pod)] if pod.finished),
        "{changes:?}"
    );

    odd.fields["metadata"]["labels"] = json!([]);
    assert_eq!(ledger.take(Event::Apply(odd)), [], "as it was");
}

#[test]
fn a_slice_that_cannot_be_read_stays_as_it_was_and_a_service_that_loses_its_address_goes() {
    let slice = |ports: Value| {
        tree(json!({
            "metadata": {"name": "s", "namespace": "shop", "uid": "1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": ports,
        }))
    };
    let mut ledger = listed(Kind::EndpointSlice, &[slice(json!([{"port": 80}]))]);
    assert_eq!(ledger.take(Event::Apply(slice(json!("80")))), []);
    assert!(
        ledger
            .problems()
            .next()
            .unwrap()
            .remedy
            .ends_with("until then it stays as it was")
    );

    let service = |ip: &str| {
        tree(json!({"metadata": meta("web", "1"), "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}))
    };
    let mut ledger = listed(Kind::Service, &[service("10.96.0.1")]);
    assert_eq!(
        shown(&ledger.take(Event::Apply(service("None")))),
        ["Service shop/web gone"]
    );
    assert_eq!(ledger.take(Event::Delete(service("None"))), []);
}

#[test]
fn a_namespace_has_its_name_as_a_label_and_a_pod_the_uid_of_the_api_server() {
    let namespace = tree(json!({"metadata": {"name": "shop", "uid": "1", "labels": {"team": "a"}}}));
    let mut ledger = Ledger::new(Kind::Namespace);
    let changes = list(&mut ledger, &[namespace]);
    let [Change::Namespace(namespace)] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(namespace.labels.len(), 2);
    let mut ledger = Ledger::new(Kind::Pod);
    let changes = list(&mut ledger, &[pod("a", "uid-1", "10.0.0.1")]);
    let [Change::Pod(pod)] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(&*pod.uid, "uid-1");
    assert_eq!(pod.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn an_odd_enforcement_enforces_at_once_in_a_policy_as_in_a_namespace() {
    for (kind, spec) in [
        (Kind::Namespace, json!({})),
        (Kind::Policy, json!({"podSelector": {}})),
    ] {
        let with = |value: &str| {
            let mut metadata = meta("shop", "1");
            metadata["annotations"] = json!({enforcement::ANNOTATION: value});
            tree(json!({"metadata": metadata, "spec": spec}))
        };
        let mut ledger = listed(kind, &[with("audit")]);
        let changes = ledger.take(Event::Apply(with("Audit")));
        let enforces = match &changes[..] {
            [Change::Namespace(namespace)] => namespace.enforcement.is_enforce(),
            [Change::Policy(policy)] => policy.enforcement == Some(crate::model::Enforcement::Enforce),
            other => panic!("{other:?}"),
        };
        assert!(enforces, "{kind:?}");
        assert_eq!(ledger.problems().count(), 1, "{kind:?}");
    }
}

//! What a watch may bring, one object at a time, and what it makes of the cluster.

use palisade::model::{Change, Policy, Snapshot};

use super::{Rng, clusters};

/// Something new, changed, renewed under its old name, or gone. `number` must be new at each call: it makes names
/// and UIDs that nothing had before.
pub fn random_change(rng: &mut Rng, cluster: &Snapshot, number: usize) -> Change {
    match rng.below(12) {
        0 => {
            let known = cluster.namespaces.iter().map(|n| n.name.to_string());
            let mut names: Vec<String> = known.collect();
            names.extend(["a", "b", "a-b", "default"].map(String::from));
            let name = rng.pick(&names).clone();
            if rng.one_in(3) && !cluster.namespaces.is_empty() {
                // Nothing but whether its policies are enforced.
                let mut namespace = rng.pick(&cluster.namespaces).clone();
                namespace.enforcement = clusters::namespace(rng, "any").enforcement;
                Change::Namespace(namespace)
            } else if rng.one_in(3) {
                Change::NamespaceGone(name.as_str().into())
            } else {
                Change::Namespace(clusters::namespace(rng, &name))
            }
        }
        1..=4 => pod_change(rng, cluster, number),
        5..=7 => policy_change(rng, cluster, number),
        8 | 9 => match (cluster.services.is_empty(), rng.below(4)) {
            (false, 0) => Change::ServiceGone(rng.pick(&cluster.services).id.clone()),
            (false, 1) => {
                let old = rng.pick(&cluster.services).clone();
                let mut new = clusters::service(rng, cluster, &old.id.name);
                new.id = old.id;
                if rng.one_in(2) {
                    new.cluster_ips = old.cluster_ips;
                }
                Change::Service(new)
            }
            _ => Change::Service(clusters::service(rng, cluster, &format!("svc-{}", number % 6))),
        },
        _ => match (cluster.endpoint_slices.is_empty(), rng.below(4)) {
            (false, 0) => Change::EndpointSliceGone(rng.pick(&cluster.endpoint_slices).id.clone()),
            (false, 1 | 2) => {
                let old = rng.pick(&cluster.endpoint_slices).clone();
                let mut new = clusters::endpoint_slice(rng, cluster, &old.id.name);
                new.id = old.id;
                if rng.one_in(2) {
                    new.service = old.service;
                    new.ports = old.ports;
                }
                Change::EndpointSlice(new)
            }
            _ => Change::EndpointSlice(clusters::endpoint_slice(rng, cluster, &format!("slice-{number}"))),
        },
    }
}

fn pod_change(rng: &mut Rng, cluster: &Snapshot, number: usize) -> Change {
    let fresh = format!("uid-pod-new-{number}");
    if cluster.pods.is_empty() || (cluster.pods.len() < 14 && rng.one_in(3)) {
        return Change::Pod(clusters::pod(rng, cluster, &format!("pod-new-{number}"), &fresh));
    }
    let mut pod = rng.pick(&cluster.pods).clone();
    match rng.below(8) {
        0 => {
            return Change::PodGone {
                id: pod.id,
                uid: pod.uid,
            };
        }
        // The delete of a predecessor that comes late.
        1 => {
            return Change::PodGone {
                id: pod.id,
                uid: "uid-of-a-predecessor".into(),
            };
        }
        // A successor of the same name, before or without its predecessor's delete.
        2 => pod.uid = fresh.as_str().into(),
        3 => pod.finished = !pod.finished,
        other => {
            let drawn = clusters::pod(rng, cluster, &pod.id.name, &pod.uid);
            match other {
                4 => pod.labels = drawn.labels,
                5 => pod.addresses = drawn.addresses,
                6 => pod.ports = drawn.ports,
                _ => {
                    pod.labels = drawn.labels;
                    pod.addresses = drawn.addresses;
                    pod.ports = drawn.ports;
                    pod.created = drawn.created;
                }
            }
        }
    }
    Change::Pod(pod)
}

fn policy_change(rng: &mut Rng, cluster: &Snapshot, number: usize) -> Change {
    let fresh = format!("uid-policy-new-{number}");
    if cluster.policies.is_empty() || (cluster.policies.len() < 9 && rng.one_in(3)) {
        let policy = clusters::policy(rng, cluster, &format!("policy-new-{number}"), &fresh);
        return Change::Policy(policy);
    }
    let old = rng.pick(&cluster.policies).clone();
    match rng.below(7) {
        0 => Change::PolicyGone {
            id: old.id,
            uid: old.uid,
        },
        1 => Change::PolicyGone {
            id: old.id,
            uid: "uid-of-a-predecessor".into(),
        },
        2 => {
            let drawn = clusters::policy(rng, cluster, &old.id.name, &old.uid);
            Change::Policy(Policy {
                enforcement: drawn.enforcement,
                ..old
            })
        }
        kind => {
            let mut new = clusters::policy(rng, cluster, &old.id.name, &old.uid);
            new.id = old.id;
            if kind == 3 {
                new.uid = fresh.as_str().into();
            }
            Change::Policy(new)
        }
    }
}

/// The cluster after the change: an object replaces the one of its name, whatever its UID; a delete takes only the
/// UID that it names (48).
pub fn apply(cluster: &mut Snapshot, change: &Change) {
    match change {
        Change::Namespace(new) => {
            cluster.namespaces.retain(|n| n.name != new.name);
            cluster.namespaces.push(new.clone());
        }
        Change::NamespaceGone(name) => cluster.namespaces.retain(|n| n.name != *name),
        Change::Pod(new) => {
            cluster.pods.retain(|p| p.id != new.id && p.uid != new.uid);
            cluster.pods.push(new.clone());
        }
        Change::PodGone { uid, .. } => cluster.pods.retain(|p| p.uid != *uid),
        Change::Policy(new) => {
            cluster.policies.retain(|p| p.id != new.id && p.uid != new.uid);
            cluster.policies.push(new.clone());
        }
        Change::PolicyGone { uid, .. } => cluster.policies.retain(|p| p.uid != *uid),
        Change::Service(new) => {
            cluster.services.retain(|s| s.id != new.id);
            cluster.services.push(new.clone());
        }
        Change::ServiceGone(id) => cluster.services.retain(|s| s.id != *id),
        Change::EndpointSlice(new) => {
            cluster.endpoint_slices.retain(|s| s.id != new.id);
            cluster.endpoint_slices.push(new.clone());
        }
        Change::EndpointSliceGone(id) => cluster.endpoint_slices.retain(|s| s.id != *id),
    }
}

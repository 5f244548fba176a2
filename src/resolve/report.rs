//! The problems that resolving finds, worded once. Reading the objects finds others before that.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Direction, ObjectId, Pod, Policy, Problem, Protocol, ServicePort};

/// `pod` also claims an address of which another live pod is the owner.
pub(super) fn address_claimed_twice(pod: &ObjectId, address: IpAddr, owner: &ObjectId) -> Problem {
    Problem {
        object: format!("Pod {pod}"),
        field: "status.podIPs".to_string(),
        value: address.to_string(),
        message: format!(
            "pod {owner} has this address too, and is newer: as a peer, the address stands for that pod"
        ),
        remedy: "delete the pod that no longer runs, or correct its address".to_string(),
    }
}

/// Which of two live pods an address stands for: the greater key. Nothing but the objects decides, so that
/// every order of arrival gives the same owner.
pub(super) fn seniority(pod: &Pod) -> (Option<i64>, &Arc<str>, &ObjectId) {
    (pod.created, &pod.uid, &pod.id)
}

pub(super) fn namespace_unknown(namespace: &str) -> Problem {
    Problem {
        object: format!("Namespace {namespace}"),
        field: String::new(),
        value: String::new(),
        message: "it has pods, but there is no such object: no namespaceSelector matches them".to_string(),
        remedy: "add the Namespace with its labels".to_string(),
    }
}

/// `rule` is the position in the policy's list.
pub(super) fn named_port_unresolved(
    policy: &Policy,
    direction: Direction,
    rule: u32,
    protocol: Protocol,
    name: &str,
) -> Problem {
    let whose = match direction {
        Direction::Ingress => "no pod that the policy selects",
        Direction::Egress => "no pod that the rule's peers match",
    };
    Problem {
        object: format!("NetworkPolicy {}", policy.id),
        field: format!("spec.{direction}[{rule}].ports"),
        value: format!("{name}/{protocol}"),
        message: format!("{whose} has a container port of this name and protocol: it allows nothing"),
        remedy: "name the port in the pods' containers, or write its number".to_string(),
    }
}

/// Some but not all ready backends of one Service port are allowed by one rule.
pub(super) fn mixed_backends(
    policy: &Policy,
    rule: u32,
    service: &ObjectId,
    port: &ServicePort,
    cluster_ip: IpAddr,
    allowed: usize,
    ready: usize,
) -> Problem {
    Problem {
        object: format!("NetworkPolicy {}", policy.id),
        field: format!("spec.egress[{rule}]"),
        value: format!("Service {service} {cluster_ip} {}/{}", port.port, port.protocol),
        message: format!(
            "the rule allows {allowed} of the {ready} ready backends: the ClusterIP stays denied by this rule"
        ),
        remedy: "let one rule allow all backends of the Service, or none".to_string(),
    }
}

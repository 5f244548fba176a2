//! What endpoints mean, read straight from their entries: no classes, no sets, no tables.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use palisade::api::{Entry, PolicyEndpoint, Port};
use palisade::compile::Endpoints;
use palisade::model::{Direction, Enforcement, Pod};

enum Selected {
    Yes,
    No,
    /// The selector makes no sense: isolated, nothing allowed.
    Nonsense,
}

fn selected(object: &PolicyEndpoint, pod: &Pod) -> Selected {
    if object.metadata.namespace.as_deref() != Some(&*pod.id.namespace) {
        return Selected::No;
    }
    let Some(LabelSelector {
        match_labels,
        match_expressions,
    }) = &object.spec.pod_selector
    else {
        return Selected::Yes;
    };
    let mut all = true;
    for (key, value) in match_labels.iter().flatten() {
        all &= pod.labels.get(&**key).is_some_and(|v| **v == **value);
    }
    for expression in match_expressions.iter().flatten() {
        let value = pod.labels.get(&*expression.key);
        let values = expression.values.clone().unwrap_or_default();
        let listed = value.is_some_and(|v| values.iter().any(|x| **x == **v));
        all &= match expression.operator.as_str() {
            "In" if !values.is_empty() => listed,
            "NotIn" if !values.is_empty() => !listed,
            "Exists" if values.is_empty() => value.is_some(),
            "DoesNotExist" if values.is_empty() => value.is_none(),
            _ => return Selected::Nonsense,
        };
    }
    if all { Selected::Yes } else { Selected::No }
}

fn port_matches(wanted: &Port, pod: &Pod, protocol: u8, port: u16) -> bool {
    let wanted_protocol = wanted.protocol.unwrap_or_default();
    if wanted_protocol.number() != protocol {
        return false;
    }
    match (&wanted.name, wanted.port, wanted.end_port) {
        (None, None, None) => true,
        (None, Some(first), None) => first != 0 && port == first,
        (None, Some(first), Some(last)) => first != 0 && first <= port && port <= last,
        (Some(name), Some(number), None) => {
            number == port
                && pod.ports.iter().any(|p| {
                    p.name.as_ref() == Some(name) && p.number == number && p.protocol == wanted_protocol
                })
        }
        _ => false,
    }
}

fn entry_allows(entry: &Entry, pod: &Pod, peer: IpAddr, protocol: u8, port: u16) -> bool {
    entry.cidr.contains(peer)
        && !entry.except.iter().any(|e| e.contains(peer))
        && (entry.ports.is_empty() || entry.ports.iter().any(|p| port_matches(p, pod, protocol, port)))
}

/// Whether it passes by what is enforced, and whether it would if all were.
pub fn allowed(
    endpoints: &Endpoints,
    pod: &Pod,
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
) -> (bool, bool) {
    // A policy with one object that enforces is enforced.
    let enforced: Endpoints = (endpoints.iter())
        .filter(|(_, objects)| {
            objects
                .iter()
                .any(|object| object.spec.enforcement == Enforcement::Enforce)
        })
        .map(|(uid, objects)| (uid.clone(), objects.clone()))
        .collect();
    let by = |endpoints| allowed_by(endpoints, pod, direction, peer, protocol, port);
    (by(&enforced), by(endpoints))
}

fn allowed_by(
    endpoints: &Endpoints,
    pod: &Pod,
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
) -> bool {
    let mut isolated = false;
    let mut allowed = pod.addresses.contains(&peer);
    for object in endpoints.values().flatten() {
        if !object.spec.pod_isolation.contains(&direction) {
            continue;
        }
        match selected(object, pod) {
            Selected::No => continue,
            Selected::Nonsense => isolated = true,
            Selected::Yes => {
                isolated = true;
                let entries = match direction {
                    Direction::Ingress => &object.spec.ingress,
                    Direction::Egress => &object.spec.egress,
                };
                allowed |= entries.iter().any(|e| entry_allows(e, pod, peer, protocol, port));
                allowed |= direction == Direction::Egress
                    && object.spec.self_services.iter().any(|s| {
                        pod.addresses.contains(&s.pod_ip)
                            && s.cluster_ip == peer
                            && s.protocol.number() == protocol
                            && s.port == port
                    });
            }
        }
    }
    allowed || !isolated
}

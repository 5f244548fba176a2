//! A cluster on a few lines, for a person who looks for the reason of a difference.

use std::fmt::Write;

use palisade::model::{Direction, Labels, Operator, Peer, PortMatch, Requirement, Rule, Selector, Snapshot};

/// One line an object.
pub fn show(cluster: &Snapshot) -> String {
    let mut out = String::new();
    write(&mut out, cluster).expect("a String takes everything");
    out
}

fn write(out: &mut String, cluster: &Snapshot) -> std::fmt::Result {
    for namespace in &cluster.namespaces {
        writeln!(
            out,
            "namespace {}: labels {}, {:?}",
            namespace.name,
            labels(&namespace.labels),
            namespace.enforcement
        )?;
    }
    for pod in &cluster.pods {
        write!(
            out,
            "pod {} ({}): addresses {:?}, labels {}, ports",
            pod.id,
            pod.uid,
            pod.addresses,
            labels(&pod.labels)
        )?;
        for port in pod.ports.iter() {
            let name = port.name.as_deref().unwrap_or("-");
            write!(out, " {name}={}/{}", port.number, port.protocol)?;
        }
        let host = if pod.host_network { ", hostNetwork" } else { "" };
        let finished = if pod.finished { ", finished" } else { "" };
        writeln!(out, ", created {:?}{host}{finished}", pod.created)?;
    }
    for service in &cluster.services {
        write!(out, "service {}: {:?}", service.id, service.cluster_ips)?;
        for port in &service.ports {
            write!(out, " {:?}={}/{}", port.name, port.port, port.protocol)?;
        }
        writeln!(out)?;
    }
    for slice in &cluster.endpoint_slices {
        write!(
            out,
            "slice {} of {}: ready {:?}",
            slice.id, slice.service, slice.ready
        )?;
        for port in &slice.ports {
            write!(out, " {:?}={:?}/{}", port.name, port.port, port.protocol)?;
        }
        writeln!(out)?;
    }
    for policy in &cluster.policies {
        writeln!(
            out,
            "policy {} ({}, {:?}): selects {}",
            policy.id,
            policy.uid,
            policy.enforcement,
            selector(&policy.pod_selector)
        )?;
        for direction in Direction::ALL {
            match policy.rules(direction) {
                None => {}
                Some([]) => writeln!(out, "  {direction}: no rules")?,
                Some(rules) => {
                    for r in rules {
                        writeln!(out, "  {direction}[{}]: {}", r.index, rule(r))?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn labels(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn selector(selector: &Selector) -> String {
    let one = |Requirement { key, operator }: &Requirement| match operator {
        Operator::In(values) => format!("{key} in {values:?}"),
        Operator::NotIn(values) => format!("{key} not in {values:?}"),
        Operator::Exists => key.to_string(),
        Operator::DoesNotExist => format!("!{key}"),
    };
    let all: Vec<String> = selector.requirements().iter().map(one).collect();
    format!("({})", all.join(" and "))
}

fn rule(rule: &Rule) -> String {
    let peers = match &rule.peers {
        None => "any address".to_string(),
        Some(peers) => format!(
            "one of [{}]",
            peers.iter().map(peer).collect::<Vec<_>>().join("; ")
        ),
    };
    let ports = match &rule.ports {
        None => "any port".to_string(),
        Some(ports) => format!(
            "one of [{}]",
            ports.iter().map(port).collect::<Vec<_>>().join("; ")
        ),
    };
    format!("{peers} at {ports}")
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Block { cidr, except } => format!("{cidr} except {except:?}"),
        Peer::Pods { namespaces, pods } => {
            let show = |s: &Option<Selector>, none: &str| s.as_ref().map_or(none.to_string(), selector);
            format!(
                "pods {} in {}",
                show(pods, "all"),
                show(namespaces, "own namespace")
            )
        }
    }
}

fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Every(protocol) => format!("*/{protocol}"),
        PortMatch::Range {
            protocol,
            first,
            last,
        } => format!("{first}-{last}/{protocol}"),
        PortMatch::Named { protocol, name } => format!("{name}/{protocol}"),
    }
}

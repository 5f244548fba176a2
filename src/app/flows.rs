//! Packets that the programs report, as log lines with names.

use tracing::info;

use crate::bpf::{Event, Kernel, Reason};
use crate::compile::RuleInfo;

/// Logs one packet: who to whom, what became of it, and by which policy or for which reason.
pub fn log(kernel: &Kernel, event: &Event) {
    let image = kernel.image();
    let pod = kernel.pod_of_slot(event.slot).and_then(|uid| image.pods.get(uid));
    let pod = pod.map_or_else(
        || format!("interface {}", event.ifindex),
        |pod| pod.id.to_string(),
    );
    let by = match kernel.rule_of_counter(event.counter) {
        Some(RuleInfo::Rule(rule)) => rule.to_string(),
        Some(RuleInfo::Isolation { policies, .. }) => {
            let policies: Vec<_> = policies.iter().map(ToString::to_string).collect();
            format!("isolated by {}", policies.join(", "))
        }
        Some(RuleInfo::Audit { policies, .. }) => {
            let policies: Vec<_> = policies.iter().map(ToString::to_string).collect();
            let policies = policies.join(", ");
            match event.reason {
                Reason::Policy => format!("in audit: {policies}"),
                reason => format!("in audit: {policies}; {}", reason.name()),
            }
        }
        None => event.reason.name().to_string(),
    };
    let end = |address: Option<std::net::IpAddr>, port: u16| match address {
        Some(address) if port != 0 => std::net::SocketAddr::new(address, port).to_string(),
        Some(address) => address.to_string(),
        None => "-".into(),
    };
    info!(
        target: "palisade::flow",
        pod,
        direction = %event.direction,
        source = end(event.source, event.source_port),
        destination = end(event.destination, event.destination_port),
        protocol = event.protocol,
        ethertype = %format_args!("{:#06x}", event.ethertype),
        by,
        "{}", match event {
            Event { audited: true, .. } => "audit",
            Event { allowed: true, .. } => "allowed",
            _ => "denied",
        }
    );
}

//! What a rule's `ports` come to.

use crate::api::Port;
use crate::model::{PortMatch, Protocol};

/// The port as PolicyEndpoints write it; `None` for a named one, which depends on pods.
pub(super) fn numbered(port: &PortMatch) -> Option<Port> {
    match *port {
        PortMatch::Every(protocol) => Some(Port {
            protocol: Some(protocol),
            ..Port::default()
        }),
        PortMatch::Range {
            protocol,
            first,
            last,
        } => Some(Port {
            protocol: Some(protocol),
            port: Some(first),
            end_port: (last > first).then_some(last),
            name: None,
        }),
        PortMatch::Named { .. } => None,
    }
}

/// Whether a numbered port allows `number`; `None` asks for every port of the protocol. Never true for a
/// named one.
pub(super) fn allows(port: &PortMatch, protocol: Protocol, number: Option<u16>) -> bool {
    match *port {
        PortMatch::Every(p) => p == protocol,
        PortMatch::Range {
            protocol: p,
            first,
            last,
        } => {
            p == protocol
                && match number {
                    Some(number) => (first..=last).contains(&number),
                    None => first <= 1 && last == u16::MAX,
                }
        }
        PortMatch::Named { .. } => false,
    }
}

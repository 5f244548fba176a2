//! Ports of an entry → ranges over `protocol << 16 | port`, for one pod.

use std::sync::Arc;

use crate::api::Port;
use crate::model::ContainerPort;

/// Sorted, disjoint, not adjacent; both ends inclusive.
pub(super) type Ranges = Arc<[(u32, u32)]>;

/// The first number that is no `protocol << 16 | port`.
pub(super) const END: u32 = 256 << 16;

pub(super) fn key(protocol: u8, port: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

/// No ports: everything. What cannot be read, and names that the pod does not have, add nothing.
pub(super) fn ranges(ports: &[Port], pod: &[ContainerPort]) -> Ranges {
    if ports.is_empty() {
        return [(0, END - 1)].into();
    }
    let counts = |port: &&Port| match &port.name {
        None => true,
        Some(name) => pod.iter().any(|p| {
            p.name.as_ref() == Some(name)
                && p.protocol == port.protocol.unwrap_or_default()
                && Some(p.number) == port.port
        }),
    };
    union(
        ports
            .iter()
            .filter(counts)
            .filter_map(|p| range(p).ok())
            .collect(),
    )
}

pub(super) fn union(mut ranges: Vec<(u32, u32)>) -> Ranges {
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

/// What a port stands for, its name aside; `Err` says why it stands for nothing.
pub(super) fn range(port: &Port) -> Result<(u32, u32), &'static str> {
    let protocol = port.protocol.unwrap_or_default().number();
    match (port.port, port.end_port, &port.name) {
        (None, None, None) => Ok((key(protocol, 0), key(protocol, u16::MAX))),
        (None, Some(_), _) => Err("an endPort needs a port"),
        (None, None, Some(_)) => Err("a named port needs the number that it stands for"),
        (Some(0), _, _) => Err("port 0 does not exist"),
        (Some(_), Some(_), Some(_)) => Err("a named port cannot start a range"),
        (Some(first), Some(last), None) if last < first => Err("endPort is below port"),
        (Some(first), last, _) => Ok((key(protocol, first), key(protocol, last.unwrap_or(first)))),
    }
}

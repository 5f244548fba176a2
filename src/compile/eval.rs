//! The verdict that the kernel reaches on a flow's first packet, reached from the image.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::image::{Class, Image, L4, Psid, Row, RuleKey};
use super::ports;
use crate::model::{Cidr, Direction};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Allowed only because the policies that would deny it are in audit.
    pub audited: bool,
    /// The rule that allows, the isolation that denies, or the audit that would; `None` where no policy has a say.
    pub by: Option<RuleKey>,
}

/// Judges the first packet of a flow between a pod and `peer`; `direction` is the pod's. `port`: the destination's,
/// 0 for protocols without ports. `None`: the image does not know the pod.
///
/// What does not depend on policy (own source addresses, ARP, neighbour discovery, ICMP errors, what the node itself
/// sends) is the datapath's and not judged here.
pub fn eval(
    image: &Image,
    pod_uid: &str,
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
) -> Option<Decision> {
    let pod = image.pods.get(pod_uid)?;
    let own = pod.direction(direction);
    if own.psid == Psid::OPEN || pod.addresses.contains(&peer) {
        return Some(Decision {
            allowed: true,
            audited: false,
            by: None,
        });
    }
    let rule = match image.rows.get(&(own.psid, image.class_of(peer))) {
        None => None,
        Some(Row::Allow(rule)) => Some(*rule),
        Some(Row::L4(key)) => image.l4.get(key).and_then(|l4| l4.at(ports::key(protocol, port))),
    };
    Some(Decision {
        allowed: rule.or(own.audited_by).is_some(),
        audited: rule.is_none() && own.audited_by.is_some(),
        by: rule.or(own.audited_by).or(own.denied_by),
    })
}

impl Image {
    /// The class that the kernel finds for an address: its own entry, or else the longest block's.
    pub fn class_of(&self, address: IpAddr) -> Class {
        let exact = self.addresses.get(&address).copied();
        exact
            .or_else(|| longest_match(&self.networks, address).map(|(_, class)| class))
            .unwrap_or_default()
    }
}

impl L4 {
    /// What holds at `protocol << 16 | port`.
    pub fn at(&self, key: u32) -> Option<RuleKey> {
        let after = self.0.partition_point(|&(start, _)| start <= key);
        after.checked_sub(1).and_then(|index| self.0[index].1)
    }
}

/// The longest block around `address`.
pub(super) fn longest_match(networks: &BTreeMap<Cidr, Class>, address: IpAddr) -> Option<(Cidr, Class)> {
    longest_below(networks, address, if address.is_ipv4() { 32 } else { 128 })
}

/// The longest block around `address` whose prefix is `limit` or shorter.
pub(super) fn longest_below(
    networks: &BTreeMap<Cidr, Class>,
    address: IpAddr,
    mut limit: u8,
) -> Option<(Cidr, Class)> {
    loop {
        let wanted = Cidr::new(address, limit)?;
        if wanted.net().addr().is_ipv4() != address.is_ipv4() {
            // An IPv4-mapped address on the wire is IPv6, and such blocks are never kept as IPv6.
            limit = 95;
            continue;
        }
        let (nearest, class) = networks.range(..=wanted).next_back()?;
        if nearest.contains(address) {
            return Some((*nearest, *class));
        }
        // All blocks around the address sort before the nearest one, so they contain what the two have in common.
        limit = common_prefix(nearest.net().addr(), address)?;
    }
}

/// Leading bits that two addresses of one family share.
fn common_prefix(a: IpAddr, b: IpAddr) -> Option<u8> {
    let bits = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => return None,
    };
    u8::try_from(bits).ok()
}

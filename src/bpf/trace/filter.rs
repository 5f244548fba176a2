//! Which packets a trace tells of.

use std::net::IpAddr;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::record::Outcome;
use crate::bpf::counters::Reason;
use crate::bpf::types::trace_filter;
use crate::bpf::{abi, keys};
use crate::model::Cidr;

/// Each part that is `None` lets all pass. `source`, `destination`, `port` and `protocol` are a flow's, as its first packet has
/// them: its packets pass whichever way they go, and so do ICMP errors that quote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    pub source: Option<Cidr>,
    pub destination: Option<Cidr>,
    /// The destination's; not 0.
    pub port: Option<u16>,
    /// IANA protocol number.
    pub protocol: Option<u8>,
    /// [`Reason::Policy`]: a rule or an isolation, or policies in audit, decided.
    pub reason: Option<Reason>,
    /// Empty: all.
    pub verdicts: &'static [Outcome],
}

impl TraceFilter {
    /// As the programs read it.
    pub(super) fn entry(&self, packets: u32, time: Duration) -> trace_filter {
        let Self {
            source,
            destination,
            port,
            protocol,
            reason,
            verdicts,
        } = *self;
        let (source_be, source_mask_be, source_family) = block(source);
        let (destination_be, destination_mask_be, destination_family) = block(destination);
        trace_filter {
            until: until(time),
            source_be,
            source_mask_be,
            destination_be,
            destination_mask_be,
            reasons: reason.map_or(u32::MAX, |reason| 1 << reason as u32),
            verdicts: match verdicts {
                [] => u32::MAX,
                some => some.iter().fold(0, |set, verdict| set | 1 << *verdict as u32),
            },
            limit: packets,
            port_be: port.unwrap_or(0).to_be(),
            source_family,
            destination_family,
            protocol: protocol.unwrap_or(0),
            any_protocol: protocol.is_none().into(),
            ..trace_filter::default()
        }
    }
}

const _: () = assert!(abi::REASON_COUNT <= 32);

/// Address, mask, family.
fn block(cidr: Option<Cidr>) -> ([u32; 4], [u32; 4], u8) {
    let Some(cidr) = cidr else {
        return ([0; 4], [0; 4], 0);
    };
    let words = |address| match address {
        IpAddr::V4(v4) => [keys::v4_be(v4), 0, 0, 0],
        IpAddr::V6(v6) => keys::v6_be(v6),
    };
    let net = cidr.net();
    let family = if net.addr().is_ipv4() { 4 } else { 6 };
    (words(net.network()), words(net.netmask()), family)
}

/// That much later than now, by the programs' clock, ns.
fn until(time: Duration) -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    u64::try_from((now + time).as_nanos()).unwrap_or(u64::MAX)
}

//! Sets of ports and protocols, exact, and how they are written.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::model::Protocol;

/// Ranges over `protocol << 16 | port`, both ends inclusive: in order, disjoint, not adjacent.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports(Vec<(u32, u32)>);

/// One beyond the last.
pub(super) const END: u32 = 256 << 16;

/// Ranges that a person reads in one line.
const SHOWN: usize = 12;

impl Ports {
    /// `first` is beyond all that is in the set.
    pub(super) fn push(&mut self, first: u32, last: u32) {
        match self.0.last_mut() {
            Some((_, end)) if first == *end + 1 => *end = last,
            _ => self.0.push((first, last)),
        }
    }

    /// Of ranges in any order.
    pub(super) fn of(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= *end + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// What both have.
    pub(super) fn and(&self, other: &Self) -> Self {
        let common = self.0.iter().flat_map(|&(first, last)| other.within(first, last));
        Self::of(common.collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Some of them: the ends of its ranges, as protocol and port.
    pub fn edges(&self) -> impl Iterator<Item = (u8, u16)> {
        let split = |key: u32| {
            let [_, protocol, high, low] = key.to_be_bytes();
            (protocol, u16::from_be_bytes([high, low]))
        };
        self.0
            .iter()
            .flat_map(move |&(first, last)| [split(first), split(last)])
    }

    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        let key = u32::from(protocol) << 16 | u32::from(port);
        self.0.iter().any(|&(first, last)| (first..=last).contains(&key))
    }

    /// As the JSON answer has them: `80/TCP`, `8000-8010/UDP`; `TCP`: all of its ports; `other`: all protocols but TCP, UDP and
    /// SCTP.
    fn written(&self) -> Vec<String> {
        let mut written = Vec::new();
        for protocol in Protocol::ALL {
            let base = u32::from(protocol.number()) << 16;
            for (first, last) in self.within(base, base | 0xffff) {
                written.push(match (first - base, last - base) {
                    (0, 0xffff) => protocol.to_string(),
                    (first, last) if first == last => format!("{first}/{protocol}"),
                    (first, last) => format!("{first}-{last}/{protocol}"),
                });
            }
        }
        let others = others();
        let there: Vec<Vec<(u32, u32)>> = others.iter().map(|&(a, b)| self.within(a, b)).collect();
        match there.iter().zip(&others).all(|(there, all)| there == &[*all]) {
            true => written.push("other".to_string()),
            // Policies cannot tell these apart; should they one day, they are numbered.
            false => {
                let number = |key: u32| key >> 16;
                let more = there.into_iter().flatten();
                written.extend(more.map(|(a, b)| format!("protocols {}-{}", number(a), number(b))));
            }
        }
        written
    }

    fn within(&self, first: u32, last: u32) -> Vec<(u32, u32)> {
        let overlapping = self.0.iter().filter(|(a, b)| *a <= last && *b >= first);
        overlapping.map(|&(a, b)| (a.max(first), b.min(last))).collect()
    }

    fn is_everything(&self) -> bool {
        self.0 == [(0, END - 1)]
    }
}

/// Between and beyond the protocols with ports.
fn others() -> Vec<(u32, u32)> {
    let mut others = Vec::new();
    let mut from = 0;
    // In the order of their numbers.
    for protocol in Protocol::ALL {
        let base = u32::from(protocol.number()) << 16;
        others.push((from, base - 1));
        from = base + 0x1_0000;
    }
    others.push((from, END - 1));
    others
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.written())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("every port and protocol");
        }
        let mut written = self.written();
        let all = written.len();
        written.truncate(SHOWN);
        for (index, one) in written.iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            match one.as_str() {
                "other" => write!(f, "{separator}all other protocols, ICMP among them")?,
                whole if !whole.contains(['/', ' ']) => write!(f, "{separator}every {whole} port")?,
                one => write!(f, "{separator}{one}")?,
            }
        }
        match all - written.len() {
            0 => Ok(()),
            rest => write!(f, " and {rest} more ranges"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranges: &[(u32, u32)]) -> Ports {
        let mut ports = Ports::default();
        for &(first, last) in ranges {
            ports.push(first, last);
        }
        ports
    }

    #[test]
    fn each_kind_of_range_is_written_so_that_it_can_be_read_back() {
        let (tcp, udp) = (6 << 16, 17 << 16);
        for (ranges, shown, written) in [
            (
                vec![(0, END - 1)],
                "every port and protocol",
                vec!["TCP", "UDP", "SCTP", "other"],
            ),
            (vec![(tcp | 80, tcp | 80)], "80/TCP", vec!["80/TCP"]),
            // Two that touch are one.
            (
                vec![(tcp | 80, tcp | 81), (tcp | 82, tcp | 90), (udp, udp | 0xffff)],
                "80-90/TCP, every UDP port",
                vec!["80-90/TCP", "UDP"],
            ),
            (
                vec![(0, (tcp | 80) - 1), ((tcp | 80) + 1, END - 1)],
                "0-79/TCP, 81-65535/TCP, every UDP port, every SCTP port, all other protocols, ICMP among them",
                vec!["0-79/TCP", "81-65535/TCP", "UDP", "SCTP", "other"],
            ),
            (vec![(1 << 16, 1 << 16)], "protocols 1-1", vec!["protocols 1-1"]),
        ] {
            let ports = of(&ranges);
            assert_eq!(ports.to_string(), shown);
            assert_eq!(ports.written(), written);
        }
    }

    #[test]
    fn sets_are_joined_and_cut() {
        let one = Ports::of(vec![(20, 30), (1, 5), (6, 9), (25, 40)]);
        assert_eq!(one, of(&[(1, 9), (20, 40)]));
        assert_eq!(
            one.and(&of(&[(5, 22), (40, 50)])),
            of(&[(5, 9), (20, 22), (40, 40)])
        );
        assert!(one.and(&of(&[(10, 19)])).is_empty());
    }

    #[test]
    fn what_is_in_a_set_is_found_at_its_edges() {
        let ports = of(&[(6 << 16 | 80, 6 << 16 | 90), (17 << 16, 17 << 16 | 0xffff)]);
        for (protocol, port, is_in) in [
            (6, 79, false),
            (6, 80, true),
            (6, 90, true),
            (6, 91, false),
            (17, 0, true),
            (17, 65535, true),
            (18, 0, false),
        ] {
            assert_eq!(ports.contains(protocol, port), is_in, "{protocol} {port}");
        }
    }
}

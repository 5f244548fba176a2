//! One address of a block, to stand for all that are like it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::Cidr;

/// Documentation's own (RFC 5737, RFC 3849), which nobody takes for something that is there.
const EXAMPLES: [&str; 2] = ["203.0.113.1", "2001:db8::1"];

/// An address of `block` that is in none of `inside`, which are in order and disjoint, and not taken; `None`: there is none.
pub(super) fn example(block: Cidr, inside: &[Cidr], taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let (first, last) = (number(block.net().addr()), number(block.net().broadcast()));
    let ipv4 = block.net().addr().is_ipv4();
    let is_free = |address: &IpAddr| {
        block.contains(*address)
            && !taken.contains(address)
            && !inside.iter().any(|inner| inner.contains(*address))
    };
    let documented = EXAMPLES.iter().filter_map(|text| text.parse().ok());
    // The first address of a block is often its network's name.
    let second = first.checked_add(1).map(|second| address(second, ipv4));
    if let Some(found) = documented.chain(second).find(is_free) {
        return Some(found);
    }
    let mut inside = inside.iter().peekable();
    let mut at = first;
    while at <= last {
        match inside.peek() {
            Some(inner) if number(inner.net().addr()) <= at => {
                at = number(inner.net().broadcast()).checked_add(1)?;
                inside.next();
            }
            _ if taken.contains(&address(at, ipv4)) => at = at.checked_add(1)?,
            _ => return Some(address(at, ipv4)),
        }
    }
    None
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(v4) if ipv4 => IpAddr::V4(v4.into()),
        _ => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().expect("a block")).collect()
    }

    #[test]
    fn an_example_is_of_the_block_and_of_nothing_in_it() {
        for (block, inside, taken, found) in [
            ("0.0.0.0/0", &[][..], &[][..], Some("203.0.113.1")),
            ("::/0", &[], &[], Some("2001:db8::1")),
            ("10.0.0.0/30", &[], &[], Some("10.0.0.1")),
            ("10.0.0.0/30", &["10.0.0.1"], &[], Some("10.0.0.0")),
            ("10.0.0.0/30", &["10.0.0.0/31"], &["10.0.0.2"], Some("10.0.0.3")),
            ("10.0.0.0/30", &["10.0.0.0/31", "10.0.0.2/31"], &[], None),
            ("10.0.0.0/31", &[], &["10.0.0.0", "10.0.0.1"], None),
            (
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127",
                &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
                &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"],
                None,
            ),
        ] {
            let taken = taken
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect();
            let example = example(blocks(&[block])[0], &blocks(inside), &taken);
            assert_eq!(
                example.map(|a| a.to_string()).as_deref(),
                found,
                "{block} {inside:?}"
            );
        }
    }
}

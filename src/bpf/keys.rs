//! Addresses and prefixes as the maps' keys, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::config::Map;
use super::types::{ip6_key, net4_key, net6_key, source4_key, source6_key};
use crate::model::Cidr;

pub(super) fn v4_be(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

pub(super) fn v4_from(be: u32) -> Ipv4Addr {
    be.to_ne_bytes().into()
}

pub(super) fn v6_be(address: Ipv6Addr) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(address.octets().as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

pub(super) fn v6_from(be: [u32; 4]) -> Ipv6Addr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(be) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    octets.into()
}

/// Key of an exact address, and its map.
pub(super) fn address(address: IpAddr) -> (Map, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (Map::Ip4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (Map::Ip6, v6.octets().to_vec()),
    }
}

pub(super) fn address_from6(key: &ip6_key) -> IpAddr {
    v6_from(key.addr_be).into()
}

/// Key of a prefix, and its map.
pub(super) fn network(cidr: Cidr) -> (Map, Vec<u8>) {
    let prefix = u32::from(cidr.net().prefix_len());
    match cidr.net().addr() {
        IpAddr::V4(v4) => (Map::Net4, [&prefix.to_ne_bytes()[..], &v4.octets()].concat()),
        IpAddr::V6(v6) => (Map::Net6, [&prefix.to_ne_bytes()[..], &v6.octets()].concat()),
    }
}

pub(super) fn network_from4(key: &net4_key) -> Option<Cidr> {
    Cidr::new(v4_from(key.addr_be).into(), u8::try_from(key.prefix).ok()?)
}

/// An IPv4-mapped prefix would read as IPv4, which is not what the map holds.
pub(super) fn network_from6(key: &net6_key) -> Option<Cidr> {
    Cidr::new(v6_from(key.addr_be).into(), u8::try_from(key.prefix).ok()?)
        .filter(|cidr| cidr.net().addr().is_ipv6())
}

/// Key of what a slot may send from, and its map. The slot is the prefix's first 32 bits.
pub(super) fn source(slot: u32, cidr: Cidr) -> (Map, Vec<u8>) {
    let (map, key) = network(cidr);
    let prefix = 32 + u32::from(cidr.net().prefix_len());
    let map = match map {
        Map::Net4 => Map::Source4,
        _ => Map::Source6,
    };
    (
        map,
        [&prefix.to_ne_bytes()[..], &slot.to_ne_bytes(), &key[4..]].concat(),
    )
}

pub(super) fn source_from4(key: &source4_key) -> Option<(u32, Cidr)> {
    let net = net4_key {
        prefix: key.prefix.checked_sub(32)?,
        addr_be: key.addr_be,
    };
    Some((key.slot, network_from4(&net)?))
}

pub(super) fn source_from6(key: &source6_key) -> Option<(u32, Cidr)> {
    let net = net6_key {
        prefix: key.prefix.checked_sub(32)?,
        addr_be: key.addr_be,
    };
    Some((key.slot, network_from6(&net)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::plain::Plain;

    #[test]
    fn keys_read_back_as_what_they_were_made_of() {
        for text in [
            "10.1.0.0/16",
            "0.0.0.0/0",
            "10.0.0.7",
            "fd00::/8",
            "::/0",
            "fd00::7",
        ] {
            let cidr: Cidr = text.parse().unwrap();
            let read = match network(cidr) {
                (Map::Net4, key) => network_from4(&net4_key::read(&key).unwrap()),
                (_, key) => network_from6(&net6_key::read(&key).unwrap()),
            };
            assert_eq!(read, Some(cidr));
            let read = match source(3, cidr) {
                (Map::Source4, key) => source_from4(&source4_key::read(&key).unwrap()),
                (_, key) => source_from6(&source6_key::read(&key).unwrap()),
            };
            assert_eq!(read, Some((3, cidr)));
        }
        let v6: Ipv6Addr = "fd00::1:2".parse().unwrap();
        assert_eq!(v6_from(v6_be(v6)), v6);
        assert_eq!(v4_be(Ipv4Addr::new(10, 0, 0, 1)).to_ne_bytes(), [10, 0, 0, 1]);
    }
}

//! Address blocks, read as the Kubernetes API server reads them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A block with its host bits cleared. A single address prints bare (`10.0.0.7`), as PolicyEndpoints write pods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNet);

impl Cidr {
    /// `prefix` in bits: at most 32 or 128. Host bits are cleared; an IPv4-mapped block becomes IPv4.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let (address, prefix) = match address {
            IpAddr::V6(v6) if prefix >= 96 && v6.to_ipv4_mapped().is_some() => {
                (IpAddr::V4(v6.to_ipv4_mapped()?), prefix - 96)
            }
            other => (other, prefix),
        };
        IpNet::new(address, prefix).ok().map(|net| Self(net.trunc()))
    }

    /// One address: /32 or /128.
    pub fn single(address: IpAddr) -> Self {
        Self(IpNet::from(canonical(address)))
    }

    /// `0.0.0.0/0` and `::/0`.
    pub fn everything() -> [Self; 2] {
        [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ]
        .map(|a| Self(IpNet::new_assert(a, 0)))
    }

    pub fn net(self) -> IpNet {
        self.0
    }

    pub fn is_single(self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// Never true across families.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether every address of `other` is in this block.
    pub fn covers(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }
}

/// An IPv4-mapped IPv6 address is the IPv4 address that it maps.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Reads one address as the API server does: decimal leading zeros in IPv4 are allowed (as for objects stored by
/// old releases), IPv4-mapped IPv6 is IPv4.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    parse_raw(text).map(canonical)
}

fn parse_raw(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|e| {
                if part.bytes().all(|b| b == b'0') {
                    Ok(0)
                } else {
                    Err(e)
                }
            })
            .ok()?;
    }
    parts.next().is_none().then(|| IpAddr::from(octets))
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is neither an address nor an address block");
        match text.split_once('/') {
            None => parse_address(text).map(Self::single).ok_or_else(bad),
            Some((address, prefix)) => {
                if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(bad());
                }
                let address = parse_raw(address).ok_or_else(bad)?;
                let prefix = prefix.parse::<u8>().map_err(|_| bad())?;
                Self::new(address, prefix).ok_or_else(bad)
            }
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Cidr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cidr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "minLength": 2, "maxLength": 49, "pattern": "^[0-9a-fA-F:.]+(/[0-9]+)?$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s20_blocks_are_read_as_the_api_server_reads_them() {
        for (text, shown) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("010.001.002.003/32", "10.1.2.3"),
            ("10.00.000.0/16", "10.0.0.0/16"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:DB8::1/32", "2001:db8::/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("fd00::7/128", "fd00::7"),
        ] {
            assert_eq!(
                text.parse::<Cidr>().map(|c| c.to_string()),
                Ok(shown.to_string()),
                "{text}"
            );
        }
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.256/8",
            "x",
            "fd00::/129",
            "10.0.0.0/+8",
            "1.2.3.4.5",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn s21_families_never_match_each_other() {
        let [v4, v6] = Cidr::everything();
        let (a4, a6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert!(v4.contains(a4) && !v4.contains(a6));
        assert!(v6.contains(a6) && !v6.contains(a4));
    }
}

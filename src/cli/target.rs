//! What a question names: a pod or an address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::model::{Cidr, ObjectId, parse_address};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Pod(ObjectId),
    Address(IpAddr),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = parse_address(text) {
            return Ok(Self::Address(address));
        }
        match text.split_once('/') {
            Some(_) if text.parse::<Cidr>().is_ok() => {
                Err("an address block: name one address of it, without the prefix length".to_string())
            }
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod(ObjectId::new(namespace, name)))
            }
            _ => Err("neither NAMESPACE/POD nor an address".to_string()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(id) => write!(f, "{id}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_addresses_are_told_apart() {
        for (text, read) in [
            ("shop/web-0", Target::Pod(ObjectId::new("shop", "web-0"))),
            ("a.b/c.d", Target::Pod(ObjectId::new("a.b", "c.d"))),
            ("10.0.0.7", Target::Address("10.0.0.7".parse().unwrap())),
            ("::ffff:10.0.0.7", Target::Address("10.0.0.7".parse().unwrap())),
            ("fd00::7", Target::Address("fd00::7".parse().unwrap())),
        ] {
            assert_eq!(text.parse(), Ok(read), "{text}");
        }
        for (text, reason) in [
            ("10.0.0.0/8", "block"),
            ("fd00::/64", "block"),
            ("web", "neither"),
            ("/web", "neither"),
            ("shop/", "neither"),
            ("a/b/c", "neither"),
            ("10.0.0.256", "neither"),
        ] {
            let error = text.parse::<Target>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}

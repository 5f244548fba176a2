//! How names, directions, protocols and flags are spelled in answers, and read back.

use std::borrow::Cow;

use crate::model::{Direction, ObjectId, Protocol, RuleId};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// From the least significant bit on.
const TCP_FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

pub(super) const ICMP: &str = "ICMP";
pub(super) const ICMPV6: &str = "ICMPv6";

/// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, another protocol's number, or an ethertype.
pub(super) fn protocol(ethertype: u16, number: u8) -> Cow<'static, str> {
    if ethertype != ETHERTYPE_IPV4 && ethertype != ETHERTYPE_IPV6 {
        return format!("{ethertype:#06x}").into();
    }
    protocol_number(number)
}

/// Of an IP packet.
pub(super) fn protocol_number(number: u8) -> Cow<'static, str> {
    match number {
        1 => ICMP.into(),
        58 => ICMPV6.into(),
        _ => match Protocol::ALL.into_iter().find(|known| known.number() == number) {
            Some(known) => known.to_string().into(),
            None => number.to_string().into(),
        },
    }
}

/// As in `FIN,ACK`; `-` for none.
pub(super) fn tcp_flags(bits: u8) -> String {
    let set: Vec<&str> = (0..)
        .zip(TCP_FLAGS)
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, name)| name)
        .collect();
    if set.is_empty() { "-".into() } else { set.join(",") }
}

/// `namespace/name`.
pub(super) fn object(text: &str) -> Option<ObjectId> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Some(ObjectId::new(namespace, name))
        }
        _ => None,
    }
}

pub(super) fn listed(ids: &[ObjectId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(", ")
}

/// As in `spec.ingress[0]`.
pub(super) fn place(rule: &RuleId) -> String {
    match rule.index {
        Some(index) => format!("spec.{}[{index}]", rule.direction),
        None => format!("spec.{}", rule.direction),
    }
}

pub(super) fn direction(text: &str) -> Option<Direction> {
    Direction::ALL.into_iter().find(|known| known.field() == text)
}

/// A direction as `ingress` or `egress`.
pub(super) mod lowercase {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Direction;

    pub fn serialize<S: Serializer>(direction: &Direction, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(direction.field())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Direction, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::direction(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is neither ingress nor egress")))
    }
}

/// An object as `namespace/name`.
pub(super) mod id {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::ObjectId;

    pub fn serialize<S: Serializer>(id: &ObjectId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectId, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::object(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no namespace/name")))
    }
}

/// An object as `namespace/name`, or nothing.
pub(super) mod name {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::ObjectId;

    pub fn serialize<S: Serializer>(id: &Option<ObjectId>, serializer: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => serializer.collect_str(id),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ObjectId>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let id = super::object(&text);
        id.map(Some)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no namespace/name")))
    }
}

/// Objects as `namespace/name` each.
pub(super) mod names {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::ObjectId;

    pub fn serialize<S: Serializer>(ids: &[ObjectId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ObjectId>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let id = |text: &String| {
            super::object(text).ok_or_else(|| D::Error::custom(format!("{text:?} is no namespace/name")))
        };
        texts.iter().map(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_and_flags_have_the_names_that_people_use() {
        assert_eq!(protocol(0x0800, 6), "TCP");
        assert_eq!(protocol(0x86dd, 58), "ICMPv6");
        assert_eq!(protocol(0x0800, 47), "47");
        assert_eq!(protocol(0x0806, 0), "0x0806");
        assert_eq!(tcp_flags(0x02), "SYN");
        assert_eq!(tcp_flags(0x11), "FIN,ACK");
        assert_eq!(tcp_flags(0), "-");
    }
}

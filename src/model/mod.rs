//! Words that every part shares: directions, protocols, addresses, and the trimmed Kubernetes objects.
//!
//! Everything here is parsed: no consumer interprets a string again.

mod cidr;
mod object;
mod selector;

use std::fmt;

pub use cidr::{Cidr, parse_address};
pub use object::*;
pub use selector::{Labels, Operator, Requirement, Selector};
use serde::{Deserialize, Serialize};

/// Direction of a flow as its pod sees it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The field of a NetworkPolicy's spec that holds this direction's rules.
    pub fn field(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The field of a rule that holds its peers.
    pub fn peers_field(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field())
    }
}

/// A protocol that a NetworkPolicy port can name.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    /// Exactly as the API spells it: `TCP`, `UDP`, `SCTP`.
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|p| p.to_string() == s)
            .ok_or_else(|| format!("protocol {s:?} is none of TCP, UDP, SCTP"))
    }
}

/// One rule of one policy: `policy` `spec.<direction>[index]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RuleId {
    pub policy: ObjectId,
    pub direction: Direction,
    /// Position in the policy's `ingress` or `egress` list; `None` where a publisher did not say.
    pub index: Option<u32>,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{} spec.{}[{index}]", self.policy, self.direction),
            None => write!(f, "{} spec.{}", self.policy, self.direction),
        }
    }
}

/// Something in an input that cannot be realised as written. What it concerns stays denied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// Kind and name of the object, or the file, that it is about.
    pub object: String,
    /// Path of the field, as in `spec.ingress[0].from[1].ipBlock.cidr`; empty for the whole object.
    pub field: String,
    /// The offending value, shortened and escaped.
    pub value: String,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        if !self.value.is_empty() {
            write!(f, " = {}", self.value)?;
        }
        write!(f, ": {}; {}", self.message, self.remedy)
    }
}

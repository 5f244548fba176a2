//! What is told of one packet that the programs reported, as JSON and as a line.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::spelling::{self, lowercase, name, names};
use crate::model::{Direction, ObjectId};

/// One line of the answer to `GET /v1/flows`.
#[expect(clippy::large_enum_variant, reason = "nearly all are flows")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Record {
    Flow(Flow),
    Lost(Lost),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allowed,
    Denied,
    /// Allowed, only because the policies that would deny it are in audit.
    Audit,
}

impl Verdict {
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Denied, Self::Audit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Audit => "audit",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A first packet, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// When the program judged it.
    pub time: Timestamp,
    /// The node that judged it.
    pub node: Arc<str>,
    pub verdict: Verdict,
    /// As the pod that is judged sees it.
    #[serde(with = "lowercase")]
    pub direction: Direction,
    /// `rule`, `isolation`, or one of the reasons that the metrics have.
    pub reason: Cow<'static, str>,
    /// The pod that is judged: at `destination` for ingress, at `source` for egress. `None`: the interface is nobody's (any more).
    #[serde(with = "name", default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectId>,
    /// The pod's interface on the host.
    pub ifindex: u32,
    /// The policy that allows; or all that isolate, where none allows; or none.
    #[serde(with = "names", default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<ObjectId>,
    /// The rule that allows, as in `spec.ingress[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `None` where the frame is not IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<End>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<End>,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, another IP protocol's number, or an ethertype such as `0x0806`.
    pub protocol: Cow<'static, str>,
    /// As in `SYN` or `FIN,ACK`; of TCP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// Of ICMP and ICMPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Bytes of the frame.
    pub length: u32,
}

/// One end of a packet's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub address: IpAddr,
    /// `None` where the protocol has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whose address that was, where the node knows it.
    #[serde(with = "name", default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectId>,
    /// Whose ClusterIP it is, where the node knows it.
    #[serde(with = "name", default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectId>,
}

impl End {
    /// Without names, as in `10.0.0.1:80` or `[fd00::1]:80`.
    pub fn address_and_port(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }

    /// By name where there is one, as in `shop/web-0:80`.
    pub fn name_and_port(&self) -> String {
        let Some(name) = self.pod.as_ref().or(self.service.as_ref()) else {
            return self.address_and_port();
        };
        match self.port {
            Some(port) => format!("{name}:{port}"),
            None => name.to_string(),
        }
    }
}

impl Flow {
    /// Why it has its verdict, as in `shop/web spec.ingress[0]`, `isolated by shop/db, shop/default-deny`, `spoofed`, or `in audit:
    /// shop/db`.
    pub fn because(&self) -> String {
        let policies = || spelling::listed(&self.policies);
        if self.verdict == Verdict::Audit {
            return match &*self.reason {
                ISOLATION => format!("in audit: {}", policies()),
                reason => format!("in audit: {}; {reason}", policies()),
            };
        }
        match (&*self.reason, &self.rule) {
            (_, Some(rule)) => format!("{} {rule}", policies()),
            (ISOLATION, None) if !self.policies.is_empty() => format!("isolated by {}", policies()),
            (reason, None) => reason.to_string(),
        }
    }
}

/// Decided by a rule of a policy.
pub(super) const RULE: &str = "rule";
/// Decided because policies isolate the pod and none allows.
pub(super) const ISOLATION: &str = "isolation";

/// Packets that were reported and are not told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// When it was noticed.
    pub time: Timestamp,
    pub node: Arc<str>,
    pub lost: u64,
    pub by: Loser,
}

/// Who could not keep up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loser {
    /// The programs: more packets within a second than they may report, or the ring was full.
    Kernel,
    /// The agent was busy with changes of policies.
    Agent,
    /// This reader.
    Reader,
}

impl fmt::Display for Loser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "in the kernel, which reports so many a second and CPU (--events-per-second)",
            Self::Agent => "as the agent was busy",
            Self::Reader => "as this reader was slow",
        })
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lost {} {}", self.lost, self.by)
    }
}

impl Record {
    pub fn time(&self) -> Timestamp {
        match self {
            Self::Flow(flow) => flow.time,
            Self::Lost(lost) => lost.time,
        }
    }

    pub fn node(&self) -> &Arc<str> {
        match self {
            Self::Flow(flow) => &flow.node,
            Self::Lost(lost) => &lost.node,
        }
    }
}

//! What would have to be otherwise for a rule to allow a packet, as data and in words.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::cli::{Ports, Traffic, as_text};
use crate::model::{Cidr, ObjectId, Protocol};

/// The rule that needs the fewest changes, and those: with all of them made, it allows the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// `namespace/name`.
    pub policy: String,
    /// Path in the policy, as in `spec.ingress[0]`.
    pub rule: String,
    pub missing: Vec<Missing>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "missing", rename_all = "camelCase")]
pub enum Missing {
    /// Another destination port, one of these.
    Port {
        #[serde(serialize_with = "as_text")]
        has: Traffic,
        wanted: Ports,
    },
    /// Behind the Service's port, another port of its backends, one of these.
    TargetPort {
        /// `namespace/name`.
        service: String,
        wanted: Ports,
    },
    /// A name for the destination pod's port.
    ContainerPort {
        #[serde(serialize_with = "as_text")]
        pod: ObjectId,
        name: Arc<str>,
        protocol: Protocol,
        number: u16,
    },
    /// There would have to be a pod at the other end.
    Pod { address: IpAddr },
    /// The other end would have to have another address: one of the block.
    Address {
        address: IpAddr,
        #[serde(serialize_with = "in_full")]
        block: Cidr,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        except: Vec<Cidr>,
        /// One that would do.
        such: IpAddr,
    },
    /// A label of the pod at the other end, or of its namespace.
    Label {
        of: Whose,
        key: Arc<str>,
        /// Its value now.
        #[serde(skip_serializing_if = "Option::is_none")]
        has: Option<Arc<str>>,
        /// A value that would do; absent: the label must go.
        #[serde(skip_serializing_if = "Option::is_none")]
        set: Option<Arc<str>>,
        /// Others that would, too.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        or: Vec<Arc<str>>,
    },
    /// The pod at the other end would have to be in one of these namespaces.
    Namespace { of: Whose, wanted: Vec<Arc<str>> },
}

/// What a label is on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    Pod(ObjectId),
    Namespace(Arc<str>),
    /// The pod that would have to be there.
    PodAt(IpAddr),
}

impl Missing {
    /// Of two ways with equally many changes, the one that is easier to make comes first.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Port { .. } => 0,
            Self::Label {
                of: Whose::Namespace(_),
                ..
            } => 2,
            Self::Label { .. } => 1,
            Self::TargetPort { .. } | Self::ContainerPort { .. } => 3,
            Self::Namespace { .. } => 4,
            Self::Address { .. } => 5,
            Self::Pod { .. } => 6,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { has, wanted } => write!(f, "the port were {wanted}, not {has}"),
            Self::TargetPort { service, wanted } => {
                write!(f, "the backends of Service {service} served it at {wanted}")
            }
            Self::ContainerPort {
                pod,
                name,
                protocol,
                number,
            } => write!(
                f,
                "pod {pod} had a container port {name} with number {number}/{protocol}"
            ),
            Self::Label {
                of,
                key,
                has,
                set,
                or,
            } => {
                match set {
                    Some(value) => write!(f, "{of} had label {key}={value}")?,
                    None => write!(f, "{of} had no label {key}")?,
                }
                if !or.is_empty() {
                    write!(f, " (or {})", or.join(", "))?;
                }
                match has {
                    Some(has) => write!(f, ", not {key}={has}"),
                    None => Ok(()),
                }
            }
            Self::Namespace { of, wanted } => match &wanted[..] {
                [namespace] => write!(f, "{of} were in namespace {namespace}"),
                namespaces => write!(f, "{of} were in one of the namespaces {}", namespaces.join(", ")),
            },
            Self::Pod { address } => write!(f, "{address} were a pod's address"),
            Self::Address {
                address,
                block,
                except,
                such,
            } => {
                let net = block.net();
                match except.iter().find(|except| except.contains(*address)) {
                    Some(except) => write!(f, "{address} were not excepted from {net} by {}", except.net()),
                    None => write!(f, "{address} were in {net}, as {such} is"),
                }
            }
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(id) => write!(f, "pod {id}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::PodAt(address) => write!(f, "the pod at {address}"),
        }
    }
}

impl Serialize for Whose {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// With its prefix length, be it a single address.
fn in_full<S: Serializer>(block: &Cidr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&block.net())
}

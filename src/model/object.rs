//! The Kubernetes objects that policies are made of, trimmed to the fields that are read.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Cidr, Labels, Protocol, Selector};

/// Namespace and name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectId {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectId {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub name: Arc<str>,
    /// Holds `kubernetes.io/metadata.name`, whether or not the object did.
    pub labels: Arc<Labels>,
    /// `palisade.dev/enforcement`: of its policies that do not say.
    pub enforcement: Enforcement,
}

/// Whether what a policy does not allow is dropped on its account.
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
pub enum Enforcement {
    #[default]
    Enforce,
    /// It passes, and is counted and reported.
    Audit,
}

impl Enforcement {
    pub fn is_enforce(&self) -> bool {
        *self == Self::Enforce
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub id: ObjectId,
    pub uid: Arc<str>,
    pub labels: Arc<Labels>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `status.hostIP`.
    pub host_ip: Option<IpAddr>,
    /// `status.podIPs`, at most one of each family unless read from a file.
    pub addresses: Vec<IpAddr>,
    /// Container ports of containers and of init containers that keep running (sidecars).
    pub ports: Arc<[ContainerPort]>,
    /// `spec.hostNetwork`: neither subject nor peer.
    pub host_network: bool,
    /// Phase Succeeded or Failed: neither subject nor peer, its address is released.
    pub finished: bool,
    /// `metadata.creationTimestamp` in seconds since the epoch; the newest pod owns an address claimed twice.
    pub created: Option<i64>,
    /// `palisade.dev/allowed-source-prefixes`: what it may send from besides its own addresses.
    pub source_prefixes: Vec<Cidr>,
    /// `palisade.dev/log-allowed`: packets that it is allowed are reported too, the first of each flow.
    pub log_allowed: bool,
}

impl Pod {
    /// Whether policies select it and peers match it.
    pub fn is_live(&self) -> bool {
        !self.host_network && !self.finished
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    pub name: Option<Arc<str>>,
    pub protocol: Protocol,
    pub number: u16,
}

/// A networking.k8s.io/v1 NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub id: ObjectId,
    pub uid: Arc<str>,
    pub pod_selector: Selector,
    /// `None`: this direction is not in `policyTypes`, its pods stay open in it.
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
    /// `palisade.dev/enforcement`; `None`: as its namespace says.
    pub enforcement: Option<Enforcement>,
}

impl Policy {
    pub fn rules(&self, direction: super::Direction) -> Option<&[Rule]> {
        match direction {
            super::Direction::Ingress => self.ingress.as_deref(),
            super::Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// One element of `ingress` or `egress`. A peer or port that could not be read is absent from its list, so it
/// matches nothing; a list that loses all its members stays `Some` and empty, and so the rule matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Position in the policy's list.
    pub index: u32,
    /// `None`: any address (the list was absent or empty).
    pub peers: Option<Vec<Peer>>,
    /// `None`: every port of every protocol (the list was absent or empty).
    pub ports: Option<Vec<PortMatch>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    Pods {
        /// `None`: the policy's own namespace.
        namespaces: Option<Selector>,
        /// `None`: every pod there.
        pods: Option<Selector>,
    },
    Block {
        cidr: Cidr,
        except: Vec<Cidr>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Every port of one protocol.
    Every(Protocol),
    /// `first..=last`, 1 to 65535.
    Range {
        protocol: Protocol,
        first: u16,
        last: u16,
    },
    Named {
        protocol: Protocol,
        name: Arc<str>,
    },
}

/// A Service with at least one ClusterIP. Headless ones and ExternalNames are not carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub id: ObjectId,
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where the Service has one unnamed port; matches the EndpointSlice port of the same name.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub id: ObjectId,
    /// Label `kubernetes.io/service-name`, in the slice's own namespace.
    pub service: Arc<str>,
    /// Addresses of endpoints that are ready (`conditions.ready` is not false).
    pub ready: Vec<IpAddr>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// `None`: every port.
    pub port: Option<u16>,
}

/// All that `resolve` reads, at one moment. Order carries no meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub namespaces: Vec<Namespace>,
    pub pods: Vec<Pod>,
    pub policies: Vec<Policy>,
    pub services: Vec<Service>,
    pub endpoint_slices: Vec<EndpointSlice>,
}

/// One object as it is now, or gone. `resolve`'s index takes these one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Namespace(Namespace),
    NamespaceGone(Arc<str>),
    Pod(Pod),
    /// By UID: a late delete of an old pod does not undo its successor of the same name.
    PodGone {
        id: ObjectId,
        uid: Arc<str>,
    },
    Policy(Policy),
    PolicyGone {
        id: ObjectId,
        uid: Arc<str>,
    },
    Service(Service),
    ServiceGone(ObjectId),
    EndpointSlice(EndpointSlice),
    EndpointSliceGone(ObjectId),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(object) => write!(f, "Namespace {}", object.name),
            Self::NamespaceGone(name) => write!(f, "Namespace {name} gone"),
            Self::Pod(object) => write!(f, "Pod {}", object.id),
            Self::PodGone { id, .. } => write!(f, "Pod {id} gone"),
            Self::Policy(object) => write!(f, "NetworkPolicy {}", object.id),
            Self::PolicyGone { id, .. } => write!(f, "NetworkPolicy {id} gone"),
            Self::Service(object) => write!(f, "Service {}", object.id),
            Self::ServiceGone(id) => write!(f, "Service {id} gone"),
            Self::EndpointSlice(object) => write!(f, "EndpointSlice {}", object.id),
            Self::EndpointSliceGone(id) => write!(f, "EndpointSlice {id} gone"),
        }
    }
}

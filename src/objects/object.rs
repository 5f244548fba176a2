//! What the objects have in common: which kinds there are, how they are told apart, and which reader reads what.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::fields::{Fields, Path, Reader};
use super::{enforcement, pod, policy, selector, service};
use crate::model::{
    Change, Cidr, EndpointSlice, Enforcement, Labels, Namespace, ObjectId, Pod, Policy, Service,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Namespace,
    Service,
    EndpointSlice,
    Pod,
    Policy,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Policy,
    ];

    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Policy => "NetworkPolicy",
        }
    }

    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Service | Self::Pod => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Policy => "networking.k8s.io/v1",
        }
    }
}

/// What an object is, whatever file it is in. A Namespace has the empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    pub id: ObjectId,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Kind::Namespace => write!(f, "Namespace {}", self.id.name),
            kind => write!(f, "{} {}", kind.name(), self.id),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Namespace(Namespace),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Pod(Pod),
    Policy(Policy),
}

impl Object {
    /// Of kinds whose successor under the same name is another object.
    pub fn uid(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pod(pod) => Some(&pod.uid),
            Self::Policy(policy) => Some(&policy.uid),
            Self::Namespace(_) | Self::Service(_) | Self::EndpointSlice(_) => None,
        }
    }

    pub fn change(&self) -> Change {
        match self.clone() {
            Self::Namespace(namespace) => Change::Namespace(namespace),
            Self::Pod(pod) => Change::Pod(pod),
            Self::Policy(policy) => Change::Policy(policy),
            Self::Service(service) => Change::Service(service),
            Self::EndpointSlice(slice) => Change::EndpointSlice(slice),
        }
    }

    pub fn deletion(&self) -> Change {
        match self.clone() {
            Self::Namespace(namespace) => Change::NamespaceGone(namespace.name),
            Self::Pod(pod) => Change::PodGone {
                id: pod.id,
                uid: pod.uid,
            },
            Self::Policy(policy) => Change::PolicyGone {
                id: policy.id,
                uid: policy.uid,
            },
            Self::Service(service) => Change::ServiceGone(service.id),
            Self::EndpointSlice(slice) => Change::EndpointSliceGone(slice.id),
        }
    }
}

/// Identity and metadata of one object.
pub struct Identity {
    pub id: ObjectId,
    pub uid: Arc<str>,
    pub labels: Labels,
    pub created: Option<i64>,
    /// Of a pod.
    pub source_prefixes: Vec<Cidr>,
    /// Of a pod.
    pub log_allowed: bool,
    /// Of a policy or a namespace.
    pub enforcement: Option<Enforcement>,
}

impl Identity {
    /// `metadata` of an object of this kind and name; labels and annotations that cannot be read are reported.
    pub fn read(kind: Kind, id: ObjectId, uid: Arc<str>, metadata: &Fields, reader: &mut Reader) -> Self {
        let at = Path::Root.key("metadata");
        let annotations = at.key("annotations");
        Self {
            id,
            uid,
            labels: selector::labels(&at.key("labels"), metadata.get("labels"), reader),
            created: created(metadata),
            source_prefixes: match kind {
                Kind::Pod => pod::source_prefixes(&annotations, metadata, reader),
                _ => Vec::new(),
            },
            log_allowed: kind == Kind::Pod && pod::log_allowed(&annotations, metadata, reader),
            enforcement: match kind {
                Kind::Policy | Kind::Namespace => enforcement::read(&annotations, metadata, reader),
                _ => None,
            },
        }
    }
}

/// The object, `None` where resolving does not read it (a headless Service); and, of a policy, whether it is readable
/// whom it isolates and in which direction. What else is wrong is in the reader's problems.
pub fn read(kind: Kind, identity: Identity, fields: &Fields, reader: &mut Reader) -> (Option<Object>, bool) {
    let object = match kind {
        Kind::Policy => {
            let (policy, certain) = policy::read(identity, fields, reader);
            return (Some(Object::Policy(policy)), certain);
        }
        Kind::Namespace => Some(Object::Namespace(pod::read_namespace(&identity, fields, reader))),
        Kind::Service => service::read_service(&identity, fields, reader).map(Object::Service),
        Kind::EndpointSlice => service::read_slice(&identity, fields, reader).map(Object::EndpointSlice),
        Kind::Pod => Some(Object::Pod(pod::read_pod(&identity, fields, reader))),
    };
    (object, true)
}

/// Seconds since the epoch.
pub fn created(metadata: &Fields) -> Option<i64> {
    let Time(time) = serde_json::from_value(metadata.get("creationTimestamp")?.clone()).ok()?;
    Some(time.as_second())
}

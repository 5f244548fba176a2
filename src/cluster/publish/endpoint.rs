//! A PolicyEndpoint as the API server has it, read leniently: what of it matters to its publisher.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use crate::api::{PolicyEndpoint, PolicyEndpointSpec, PolicyEndpointStatus};
use crate::cluster::FIELD_MANAGER;
use crate::cluster::tree::Tree;
use crate::model::ObjectId;

/// The type of the condition that says whether all of a policy can be realised as written.
pub const CONDITION: &str = "Resolved";

/// What the condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub resolved: bool,
    pub message: String,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub id: ObjectId,
    pub uid: String,
    pub version: String,
    /// UID of the NetworkPolicy that owns it.
    pub policy: Option<Arc<str>>,
    /// Whether Palisade has written it.
    pub ours: bool,
    pub told: Option<Told>,
    owners: Vec<OwnerReference>,
    /// `None`: it is none that we could have written.
    spec: Option<PolicyEndpointSpec>,
}

impl Endpoint {
    /// `None`: it has no name.
    pub fn read<K>(tree: Tree<K>) -> Option<Self> {
        let Tree { meta, mut fields, .. } = tree;
        let id = ObjectId::new(meta.namespace.as_deref()?, meta.name.as_deref()?);
        let metadata = fields.get("metadata");
        let field = |name| metadata.and_then(|metadata| metadata.get(name)).cloned();
        let owners: Vec<OwnerReference> = field("ownerReferences")
            .and_then(|owners| serde_json::from_value(owners).ok())
            .unwrap_or_default();
        let managers = field("managedFields").unwrap_or_default();
        let ours = managers
            .as_array()
            .is_some_and(|all| all.iter().any(|entry| entry["manager"] == FIELD_MANAGER));
        let spec = fields.get_mut("spec").map(Value::take);
        let status = fields.get_mut("status").map(Value::take);
        let policy = owners.iter().find(|owner| owner.kind == "NetworkPolicy");
        Some(Self {
            id,
            uid: meta.uid.unwrap_or_default(),
            version: meta.resource_version.unwrap_or_default(),
            policy: policy.map(|owner| owner.uid.as_str().into()),
            ours,
            told: status.and_then(told),
            owners,
            spec: spec.and_then(|spec| serde_json::from_value(spec).ok()),
        })
    }

    /// Whether it says what `wanted` says.
    pub fn is(&self, wanted: &PolicyEndpoint) -> bool {
        let owned =
            (wanted.metadata.owner_references.iter().flatten()).all(|owner| self.owners.contains(owner));
        owned && self.spec.as_ref() == Some(&wanted.spec)
    }
}

fn told(status: Value) -> Option<Told> {
    let PolicyEndpointStatus { conditions } = serde_json::from_value(status).ok()?;
    let condition = conditions.into_iter().find(|c| c.type_ == CONDITION)?;
    Some(Told {
        resolved: condition.status == "True",
        message: condition.message,
    })
}

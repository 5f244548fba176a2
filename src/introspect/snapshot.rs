//! What the loop of a node publishes after each change.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile::Endpoints;
use crate::model::ObjectId;

/// What is in force on this node.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Of the policies that may concern this node, by policy UID.
    pub endpoints: Arc<Endpoints>,
}

impl Snapshot {
    /// The policies that may concern this node.
    pub(super) fn policies(&self) -> BTreeSet<ObjectId> {
        let slices = self.endpoints.values().filter_map(|slices| slices.first());
        let id = |slice: &Arc<crate::api::PolicyEndpoint>| ObjectId {
            namespace: slice.spec.policy_ref.namespace.clone(),
            name: slice.spec.policy_ref.name.clone(),
        };
        slices.map(id).collect()
    }
}

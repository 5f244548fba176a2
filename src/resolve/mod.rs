//! Snapshot → Resolution: which addresses and ports each policy allows, as PolicyEndpoints.
//!
//! [`resolve`] from scratch is the definition. What runs is the [`Index`], which takes one
//! [`Change`](crate::model::Change) at a time; a property test holds the two equal after any sequence of
//! changes.
//!
//! Whatever a policy comes to is spread over its slices by content hash: entries, `podSelectorEndpoints` and
//! `selfServices` alike, each in exactly one slice; selector and isolation are in every slice.
//!
//! An egress rule is judged rule by rule when it comes to Services: a ClusterIP's port is added where *one*
//! rule allows all its ready backends. Where the rule's own blocks and numbers cover the ClusterIP already,
//! nothing is added. Backends without a port number stand for every port.

mod content_hash;
mod definition;
mod groups;
mod index;
mod inventory;
mod label_index;
mod policy;
mod port;
mod report;
mod rules;
mod services;
mod slices;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use definition::{resolve, resolve_sliced};
pub use index::Index;

use crate::api::PolicyEndpoint;
use crate::model::Problem;

/// Entries that a slice holds at most, unless told otherwise: an object of some tens of kilobytes.
pub const SLICE_ENTRIES: usize = 200;

/// What policies come to. Ordered and without clock or chance: equal snapshots give equal resolutions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolution {
    /// By policy UID, the slices in order. A policy always has at least one: it carries the isolation.
    pub endpoints: BTreeMap<Arc<str>, Vec<Arc<PolicyEndpoint>>>,
    /// Sorted, without duplicates.
    pub problems: Vec<Problem>,
}

//! The API server's side of Palisade, and the only room with a kube client.
//!
//! In: NetworkPolicies, Pods, Namespaces, Services and EndpointSlices, watched. Out: PolicyEndpoints, applied. It is done by
//! the one instance that holds the Lease; see [`controller`].

pub mod controller;

/// Who writes, as the API server's field ownership names it.
pub const FIELD_MANAGER: &str = "palisade";

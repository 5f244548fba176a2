//! The API server's side of Palisade, and the only room with a kube client.
//!
//! In: NetworkPolicies, Pods, Namespaces, Services and EndpointSlices, watched. Out: PolicyEndpoints, applied. It is done by
//! the one instance that holds the Lease; see [`controller`]. And on each node, for its agent: its own pods and the
//! PolicyEndpoints that concern them; see [`local`].

pub mod connection;
pub mod controller;
pub mod local;

/// Who writes, as the API server's field ownership names it.
pub const FIELD_MANAGER: &str = "palisade";

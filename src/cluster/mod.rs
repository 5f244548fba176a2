//! The API server's side of Palisade, and the only room with a kube client.
//!
//! In: NetworkPolicies, Pods, Namespaces, Services and EndpointSlices, watched. Out: PolicyEndpoints, applied. That is done by
//! the one instance that holds the Lease; see [`controller`]. It goes through a watch of trees ([`tree`], [`watch`]), a ledger a
//! kind that turns them into changes ([`ledger`]), the index of [`resolve`](crate::resolve), and a plan of what to write
//! (`publish`). An answer that is given once begins with one list of all ([`listing`]). And on each node, for its agent: its own pods and the PolicyEndpoints that concern them; see [`local`].

mod backoff;
pub mod connection;
pub mod controller;
pub mod crds;
#[cfg(test)]
mod fake;
mod leader;
pub mod ledger;
pub mod listing;
pub mod local;
mod metrics;
mod publish;
mod refusal;
mod row;
pub mod tree;
pub mod watch;

pub use metrics::Metrics;

/// Who writes, as the API server's field ownership names it.
pub const FIELD_MANAGER: &str = "palisade";

//! The chained CNI plugin: a pod's interface is secured before its first process runs.
//!
//! The container runtime calls the node's CNI plugins in the order of a file, the conflist, and Palisade's own last
//! ([`plugin`]): it asks the agent over a unix socket ([`protocol`]) to attach to the pod's interface, and passes the result of
//! the plugins before it through. [`install`] puts the plugin and its entry in the conflist there, and keeps them there.

pub mod protocol;

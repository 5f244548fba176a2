//! The API server: what is watched there. The only room with a kube client.

pub mod connection;
pub mod local;

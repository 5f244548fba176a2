//! Palisade: Kubernetes NetworkPolicy, enforced with eBPF.
//!
//! Data goes one way: objects → [`resolve`] → PolicyEndpoints → [`compile`] → Image → [`bpf`] → verdicts.
//! `model`, `api`, `resolve` and `compile` are pure: no IO, clock, async, logging, kube client or libbpf.

pub mod api;
pub mod app;
pub mod args;
pub mod bpf;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod compile;
pub mod files;
pub mod introspect;
pub mod model;
pub mod node;
pub mod objects;
pub mod observe;
pub mod resolve;
pub mod socket;

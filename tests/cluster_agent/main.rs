//! `palisade run` on a node of a cluster: a real API server, pods behind veths, real packets. The test writes what kubelet
//! and a controller would.

#[path = "../api_server/mod.rs"]
mod api_server;
// Of what is shared, each takes what it needs.
#[allow(dead_code)]
#[path = "../live/instance.rs"]
mod instance;
#[path = "../netns/mod.rs"]
mod netns;
#[allow(dead_code)]
#[path = "../live/probes.rs"]
mod probes;

mod server;
mod site;

mod asked;
mod faults;
mod latency;
mod led;
mod plugin;
mod policies;
mod starts;

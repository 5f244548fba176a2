//! The real binary on real packets: `palisade run` in a host's network namespace, pods behind veths, both layouts, both
//! families, both kinds of attachment. Nothing is waited for by the clock: the log, the metrics and the packets tell.

#[path = "../netns/mod.rs"]
mod netns;

mod folder;
mod instance;
mod objects;
mod probes;
mod site;

mod audit;
mod capacity;
mod edits;
mod flows;
mod lifetimes;
mod node;
mod operator;
mod packets;
mod refusals;
mod restarts;
mod services;
mod veths;

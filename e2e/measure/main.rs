//! Palisade on a real cluster, measured and judged.
//!
//! Runs as root on the machine whose kernel runs the nodes, in a network namespace from which the API server and the
//! nodes are reachable, one test at a time (`--test-threads=1 --nocapture`). Each test prints a table, writes
//! `target/e2e.NAME.json` and fails where a figure is beyond its limit. README.md in this folder names what the
//! environment sets.

mod agents;
mod asked_for;
mod churn;
mod cluster;
mod endpoints;
mod failover;
mod fake_pods;
mod faults;
mod first_packet;
mod latency;
mod memory;
mod netns;
mod paused;
mod report;
mod traffic;
mod watchers;
mod writes;

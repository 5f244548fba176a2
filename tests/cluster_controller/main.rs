//! The controller on a real API server: what it publishes, who publishes, and what nobody may take away.

#[path = "../api_server/mod.rs"]
mod api_server;
mod cluster;
mod election;
mod faults;
mod instance;
mod publishing;
mod traffic;

//! What is seen from outside: /metrics, /healthz, /readyz.
//!
//! In: numbers that the agent counts ([`Metrics`]), a reader of the kernel's counters ([`Counters`]), and what is not ready
//! yet ([`Readiness`]). Out: an HTTP server ([`build`]). A scrape only reads: it takes no lock under which anything is
//! computed or written, so no policy change waits for it.

mod counters;
mod exposition;
mod kernel;
mod latency;
mod metrics;
mod process;
mod ready;
pub mod reference;
mod server;
mod traffic;

pub use counters::{CounterSample, Counters, Flows, MapFill, Outcome, Rule};
pub use exposition::Format;
pub use metrics::{CniAnswer, Metrics, PREFIX};
pub use ready::{Readiness, Unready};
pub use server::{Config, Server, build};
pub use traffic::{Detail, OVERFLOW};

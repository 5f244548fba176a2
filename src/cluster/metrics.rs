//! What the cluster's side counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// 1 while this instance leads.
    pub leader: Gauge,
    /// Calls to the Lease that failed or took too long.
    pub lease_errors: Counter,
    /// Lists and watches that failed; what is known stays, and they are tried again.
    pub watch_errors: Counter,
    /// PolicyEndpoints written.
    pub endpoints_written: Counter,
    /// Bytes of the PolicyEndpoints written.
    pub endpoint_bytes_written: Counter,
    /// PolicyEndpoints deleted because they were stale.
    pub endpoints_deleted: Counter,
    /// Writes and deletions that failed; they are tried again.
    pub publish_errors: Counter,
    /// Objects that cannot be read in full; 0 where this instance does not lead.
    pub objects_with_problems: Gauge,
    /// Policies that have a part which cannot be realised as written; 0 where this instance does not lead.
    pub policies_with_problems: Gauge,
}

impl Metrics {
    /// Adds to what a scrape shows what every instance in a cluster counts.
    pub fn register_watching(&self, registry: &mut Registry) {
        registry.register(
            "watch_errors",
            "Lists and watches that failed; what is known stays, and they are tried again",
            self.watch_errors.clone(),
        );
    }

    /// Adds what those count that may lead. Of instances that never do, a 0 would look like a leader that is missing.
    pub fn register_leading(&self, registry: &mut Registry) {
        let Self {
            leader,
            lease_errors,
            watch_errors: _,
            endpoints_written,
            endpoint_bytes_written,
            endpoints_deleted,
            publish_errors,
            objects_with_problems,
            policies_with_problems,
        } = self;
        registry.register(
            "leader",
            "1 while this instance holds the Lease: it resolves policies and publishes PolicyEndpoints",
            leader.clone(),
        );
        registry.register(
            "lease_errors",
            "Calls to the Lease that failed or took too long",
            lease_errors.clone(),
        );
        registry.register(
            "endpoints_written",
            "PolicyEndpoints written",
            endpoints_written.clone(),
        );
        registry.register_with_unit(
            "endpoint_written",
            "Bytes of the PolicyEndpoints written, as JSON",
            Unit::Bytes,
            endpoint_bytes_written.clone(),
        );
        registry.register(
            "endpoints_deleted",
            "PolicyEndpoints deleted because they were stale",
            endpoints_deleted.clone(),
        );
        registry.register(
            "publish_errors",
            "Writes and deletions of PolicyEndpoints that failed; they are tried again",
            publish_errors.clone(),
        );
        registry.register(
            "objects_with_problems",
            "Objects of the API server that cannot be read in full; 0 where this instance does not lead",
            objects_with_problems.clone(),
        );
        registry.register(
            "policies_with_problems",
            "Policies that have a part which cannot be realised as written; 0 where this instance does not lead",
            policies_with_problems.clone(),
        );
    }
}

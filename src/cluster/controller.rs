//! Resolves policies into PolicyEndpoints, while this instance leads.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::leader::{self, Election, Term};
use super::metrics::Metrics;
use super::row;

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
    /// Entries that one PolicyEndpoint holds at most; at least 1.
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
    ensure!(
        !config.identity.is_empty(),
        "an instance without a name cannot hold the Lease; name the pod"
    );
    let lease = leader::Config {
        identity: config.identity.clone(),
        namespace: config.namespace.clone(),
        lease: config.lease.clone(),
        ttl: config.lease_ttl,
    };
    let mut election = Election::new(client.clone(), lease, metrics.clone())?;
    let term = election.term();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = election.run() => {}
        () = work(client, &config, term, &metrics) => {}
    }
    // The work is dropped by now, so that whoever follows meets no writes of ours.
    election.release().await;
    Ok(())
}

async fn work(client: Client, config: &Config, term: Term, metrics: &Metrics) {
    loop {
        term.begun().await;
        tokio::select! {
            () = term.over() => info!("what is published stays; another instance goes on"),
            () = row::lead(client.clone(), config, term.clone(), metrics.clone()) => {}
        }
        metrics.policies_with_problems.set(0);
        metrics.objects_with_problems.set(0);
    }
}

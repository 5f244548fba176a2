//! Counts the flows that conntrack holds, at a pace that costs next to nothing: no scrape waits for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::node::Scrape;

/// How long it rests between two counts at least; and how many times as long as a count took, so that it takes half a percent of
/// a processor at most.
const PACE: Duration = Duration::from_secs(15);
const REST: u32 = 200;

/// Counts until `shutdown`.
///
/// # Errors
/// A count has panicked.
pub async fn count(scrape: Arc<Scrape>, shutdown: CancellationToken) -> Result<()> {
    loop {
        let begun = Instant::now();
        let scrape = scrape.clone();
        let counted = spawn_blocking(move || scrape.count_flows()).await;
        if let Err(error) = counted.context("counting flows has failed")? {
            warn!(error = %format!("{error:#}"), "cannot count the flows that conntrack holds");
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(PACE.max(begun.elapsed() * REST)) => {}
        }
    }
}

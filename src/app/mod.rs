//! The composition root: makes the parts, wires them, supervises them. What a command does beyond that is elsewhere.

mod flows;
mod standalone;

use std::future::Future;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::standalone::Standalone;
use crate::args;
use crate::bpf::{self, Cleaned, Kernel};
use crate::files::Folder;
use crate::node::{Agent, Links};
use crate::observe::{self, Metrics, Readiness};

/// `palisade run`: enforces a folder until a signal, or until a part fails. Enforcement stays in place.
///
/// # Errors
/// What the machine lacks, with the remedy, or which part failed.
pub fn run(run: args::Run) -> Result<()> {
    // One: each thread keeps memory of its own that it has freed, and what blocks is done on threads apart.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(supervise(run))
}

/// `palisade clean`: removes all that `run` left in the kernel.
///
/// # Errors
/// An instance is running, or something could not be removed.
pub fn clean(clean: &args::Clean, out: &mut dyn Write) -> Result<()> {
    let Cleaned {
        links,
        filters,
        pins,
        foreign,
    } = bpf::clean(&clean.pin_path)?;
    writeln!(
        out,
        "removed {links} links, {filters} filters, {pins} pinned maps and programs"
    )?;
    for path in foreign {
        writeln!(out, "left {}: not Palisade's", path.display())?;
    }
    Ok(())
}

async fn supervise(run: args::Run) -> Result<()> {
    let args::Run {
        from,
        kernel: config,
        listen,
        log_format: _, // main has set logging up
    } = run;
    let shutdown = CancellationToken::new();
    // First of all: a signal during the start must not be lost.
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let folder = Folder::open(&from)?;
    let kernel = Kernel::open(&config)?;
    announce(&kernel);
    let (links, driver) = Links::open()?;
    let metrics = Metrics::default();
    let readiness = Readiness::default();
    let ready = readiness.wait_for("the folder's policies in force");
    let (deliver, events) = mpsc::channel(standalone::EVENTS);
    let reader = kernel.events(move |event| deliver.try_send(event).is_ok())?;
    let agent = Agent::new(kernel, links, metrics.clone());
    let server = observe::build(observe::Config {
        listen,
        metrics: metrics.clone(),
        counters: Some(agent.counters()),
        readiness,
        shutdown: shutdown.clone(),
    })
    .await?;
    let standalone = Standalone {
        from,
        folder,
        agent,
        events,
        reader,
        metrics,
        ready: Some(ready),
    };
    let mut parts = JoinSet::new();
    supervised(&mut parts, "netlink", driver);
    supervised(&mut parts, "HTTP server", server.wait());
    supervised(
        &mut parts,
        "signals",
        until_signal(terminate, interrupt, shutdown.clone()),
    );
    supervised(&mut parts, "agent", standalone.run(shutdown.clone()));
    let result = until_the_first_fails(&mut parts, &shutdown).await;
    stopped(&config.pin_path);
    result
}

fn announce(kernel: &Kernel) {
    let opened = kernel.opened();
    for notice in &opened.notices {
        warn!("{notice}");
    }
    info!(
        attach = if kernel.uses_tcx() { "tcx" } else { "clsact" },
        adopted = opened.adopted,
        pods = kernel.image().pods.len(),
        "the kernel side is open"
    );
}

fn stopped(pin_path: &Path) {
    info!(
        "stopped; the kernel goes on enforcing what is in force, pinned under {0} (palisade clean --pin-path {0} removes it)",
        pin_path.display()
    );
}

fn supervised(
    parts: &mut JoinSet<Result<()>>,
    name: &'static str,
    part: impl Future<Output = Result<()>> + Send + 'static,
) {
    parts.spawn(async move { part.await.with_context(|| format!("{name} failed")) });
}

async fn until_signal(
    mut terminate: tokio::signal::unix::Signal,
    mut interrupt: tokio::signal::unix::Signal,
    shutdown: CancellationToken,
) -> Result<()> {
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM"),
        _ = interrupt.recv() => info!("SIGINT"),
        () = shutdown.cancelled() => {}
    }
    shutdown.cancel();
    Ok(())
}

/// The first part to end ends them all; the first error is the result.
async fn until_the_first_fails(parts: &mut JoinSet<Result<()>>, shutdown: &CancellationToken) -> Result<()> {
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        shutdown.cancel();
        let ended = ended.unwrap_or_else(|error| Err(anyhow!("a part panicked: {error}")));
        if result.is_ok() {
            result = ended;
        }
    }
    result
}

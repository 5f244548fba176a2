//! SIGINT, SIGTERM and SIGHUP: noted, so that each step ends early and all that was made is dropped in order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

static CAME: AtomicBool = AtomicBool::new(false);

/// Signals are noted while it lives.
pub struct Interrupt {
    end: CancellationToken,
    listener: Option<JoinHandle<()>>,
}

impl Interrupt {
    pub fn listen() -> Result<Self> {
        let end = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot listen for signals")?;
        let entered = runtime.enter();
        let mut signals = Vec::new();
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            signals.push(signal(kind).context("cannot listen for signals")?);
        }
        drop(entered);
        let ended = end.clone();
        let listener = std::thread::spawn(move || {
            runtime.block_on(async {
                let any =
                    futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv())));
                tokio::select! {
                    _ = any => CAME.store(true, Ordering::Relaxed),
                    () = ended.cancelled() => return,
                }
                // The handlers stay in place: another Ctrl-C must not cut the removal short.
                ended.cancelled().await;
            });
        });
        // What is cut off by a signal may panic; that is then no news.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !came() {
                hook(panic);
            }
        }));
        Ok(Self {
            end,
            listener: Some(listener),
        })
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

pub fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

/// # Errors
/// A signal has come.
pub fn check() -> Result<()> {
    if came() {
        bail!("interrupted");
    }
    Ok(())
}

/// The namespaces' code panics where something fails, since tests are its other users; here that is an error like others.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T> {
    check()?;
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        anyhow!(text.unwrap_or_else(|| "the demo's network could not be made".into()))
    })
}

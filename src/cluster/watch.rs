//! One kind of objects, watched for as long as it takes: events in, without an end and without errors.
//!
//! Whatever goes wrong is counted, told once as it begins, again when the API server answers something else, and once as it ends,
//! and tried again at growing distances. A list that
//! makes no progress is given up, and so is a watch on which nothing arrives; a version that the server no longer has makes for
//! a new list.

use std::time::Duration;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use kube::Api;
use kube::runtime::watcher::{self, Error, Event, watcher};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::backoff::Backoff;
use super::metrics::Metrics;
use super::refusal::{BUSY, is_busy, watch_said, watch_status};
use super::tree::{Tree, Watched};

/// After this long the server ends a watch, and it is taken up again where it was; so long a dead connection may stay unnoticed.
const WATCH: u32 = 60;
/// How long one page of a list may take.
const PAGE: Duration = Duration::from_secs(30);
/// The longest is how late a change may be noticed after the server is back.
const RETRIES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8));
/// Without another error for so long a watch that had failed works again, also where nothing happens in it: longer than a request
/// may wait in the server's queues (15 s) before it is turned away.
pub const SOUND: Duration = Duration::from_secs(20);

/// Events of all objects that `api` and the selector of `config` cover. Never ends.
pub fn watch<K: Watched>(
    api: Api<Tree<K>>,
    config: watcher::Config,
    metrics: Metrics,
) -> impl Stream<Item = Event<Tree<K>>> + Send {
    Watch::new(api, config, metrics).into_stream()
}

struct Watch<K: Watched> {
    api: Api<Tree<K>>,
    config: watcher::Config,
    inner: BoxStream<'static, watcher::Result<Event<Tree<K>>>>,
    metrics: Metrics,
    /// Until a list is complete, silence is not normal.
    listing: bool,
    retries: Backoff,
    /// The status of what was told last; `None` in it: no answer.
    told: Option<Option<u16>>,
    page: Duration,
    sound: Duration,
}

impl<K: Watched> Watch<K> {
    fn new(api: Api<Tree<K>>, config: watcher::Config, metrics: Metrics) -> Self {
        let config = config.timeout(WATCH);
        Self {
            inner: watcher(api.clone(), config.clone()).boxed(),
            api,
            config,
            metrics,
            listing: true,
            retries: RETRIES,
            told: None,
            page: PAGE,
            sound: SOUND,
        }
    }

    fn into_stream(self) -> impl Stream<Item = Event<Tree<K>>> + Send {
        stream::unfold(self, |mut watch| async move {
            let event = watch.next().await;
            Some((event, watch))
        })
    }

    async fn next(&mut self) -> Event<Tree<K>> {
        loop {
            let next = if self.listing {
                timeout(self.page, self.inner.next()).await
            } else if self.told.is_some() {
                let Ok(next) = timeout(self.sound, self.inner.next()).await else {
                    self.healed();
                    continue;
                };
                Ok(next)
            } else {
                Ok(self.inner.next().await)
            };
            let (mut least, mut status) = (Duration::ZERO, None);
            let error = match next {
                Ok(Some(Ok(event))) => {
                    match &event {
                        Event::Init => self.listing = true,
                        Event::InitDone => self.listing = false,
                        Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
                    }
                    if !matches!(event, Event::Init) {
                        self.healed();
                    }
                    return event;
                }
                Ok(Some(Err(error))) => {
                    if wants_a_list(&error) {
                        self.restart();
                    }
                    status = watch_status(&error).map(|status| status.code);
                    if is_busy(watch_status(&error)) {
                        least = BUSY;
                    }
                    watch_said(&error)
                }
                Ok(None) => {
                    self.restart();
                    "the watch ended".to_string()
                }
                Err(_) => {
                    self.restart();
                    format!("no answer to a list within {:?}", self.page)
                }
            };
            self.metrics.watch_errors.inc();
            if self.told.replace(status) != Some(status) {
                warn!(
                    kind = %K::kind(&()),
                    error,
                    "cannot watch; what is known stays, and it is tried again"
                );
            }
            sleep(self.retries.next().max(least)).await;
        }
    }

    fn healed(&mut self) {
        self.retries = RETRIES;
        if self.told.take().is_some() {
            info!(kind = %K::kind(&()), "watched again");
        }
    }

    fn restart(&mut self) {
        self.inner = watcher(self.api.clone(), self.config.clone()).boxed();
        self.listing = true;
    }
}

/// Whether a watch cannot go on from where it was: the server no longer has that version, which the watcher notices by itself
/// where it is told as an event, but not where it is the answer to the request; or the answer was none of the API's, and may have
/// been an event. Such an answer (404 and 429 are, where the server has no such path or no time) the list gets too, and it
/// knows it for what it is.
pub fn wants_a_list(error: &Error) -> bool {
    match error {
        Error::WatchStartFailed(error) | Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => status.code == 410,
            kube::Error::SerdeError(_) => true,
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests;

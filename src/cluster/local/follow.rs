//! One watch as an endless stream of events: lists, watches, waits and begins anew after each failure.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::{sleep, timeout};

use super::raw::Raw;
use crate::cluster::backoff::Backoff;
use crate::cluster::refusal::{BUSY, is_busy, status_said, watch_status};
use crate::cluster::watch::{SOUND, wants_a_list};

/// After failures in a row. Healing must not take much longer than the fault; a request each ten seconds a watch is no burden.
pub const RETRIES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
/// How long the next piece of a list may take.
pub const LIST_PATIENCE: Duration = Duration::from_secs(30);
/// How long the server keeps a watch open, in seconds: the shortest and the longest, so that not all end at once. The
/// client refuses 295 and more.
const WATCH_SECONDS: (u32, u32) = (220, 290);

/// Why a watch does not work at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    pub remedy: &'static str,
}

struct Follow {
    api: Api<Raw>,
    config: watcher::Config,
    events: BoxStream<'static, watcher::Result<Event<Raw>>>,
    listing: bool,
    retries: Backoff,
    wait: Option<Duration>,
    /// It has failed, and nothing has come since.
    failed: bool,
}

/// All that `api` and the selector of `config` cover. Never ends. `None`: what had failed works again, and there is no news.
pub fn follow(
    api: Api<Raw>,
    config: watcher::Config,
) -> impl futures::Stream<Item = Result<Option<Event<Raw>>, Failure>> + Send + use<> {
    let (shortest, longest) = WATCH_SECONDS;
    let config = config.timeout(shortest + (chance() % u64::from(longest - shortest)) as u32);
    let follow = Follow {
        events: watcher(api.clone(), config.clone()).boxed(),
        api,
        config,
        listing: true,
        retries: RETRIES,
        wait: None,
        failed: false,
    };
    unfold(follow, |mut follow| async move {
        let item = follow.next().await;
        Some((item, follow))
    })
}

impl Follow {
    async fn next(&mut self) -> Result<Option<Event<Raw>>, Failure> {
        if let Some(wait) = self.wait {
            sleep(wait).await;
            self.wait = None;
        }
        let next = if self.listing {
            match timeout(LIST_PATIENCE, self.events.next()).await {
                Ok(next) => next,
                Err(_) => {
                    self.anew();
                    return Err(self.failed(late()));
                }
            }
        } else if self.failed {
            let Ok(next) = timeout(SOUND, self.events.next()).await else {
                self.worked();
                return Ok(None);
            };
            next
        } else {
            self.events.next().await
        };
        match next {
            Some(Ok(event)) => {
                match &event {
                    Event::Init => self.listing = true,
                    Event::InitDone => self.listing = false,
                    Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
                }
                // A list begins whether or not the server answers.
                if !matches!(event, Event::Init) {
                    self.worked();
                }
                Ok(Some(event))
            }
            Some(Err(error)) => {
                if wants_a_list(&error) {
                    self.anew();
                }
                let failure = self.failed(failure(&error));
                if is_busy(watch_status(&error)) {
                    self.wait = self.wait.max(Some(BUSY));
                }
                Err(failure)
            }
            None => {
                self.anew();
                Err(self.failed(Failure {
                    message: "the watch has ended".into(),
                    remedy: "it begins anew",
                }))
            }
        }
    }

    fn anew(&mut self) {
        self.events = watcher(self.api.clone(), self.config.clone()).boxed();
        self.listing = true;
    }

    fn worked(&mut self) {
        self.retries = RETRIES;
        self.failed = false;
    }

    fn failed(&mut self, failure: Failure) -> Failure {
        self.failed = true;
        self.wait = Some(spread(self.retries.next()));
        failure
    }
}

/// Between half of it and all of it: nodes that lost the server together do not come back together.
pub fn spread(wait: Duration) -> Duration {
    let half = wait / 2;
    half + half.mul_f64((chance() % 1000) as f64 / 1000.0)
}

/// A number that differs from watch to watch and from node to node.
fn chance() -> u64 {
    RandomState::new().hash_one(0)
}

/// A list of which nothing came within [`LIST_PATIENCE`].
pub fn late() -> Failure {
    Failure {
        message: format!(
            "the list does not come: nothing for {} s",
            LIST_PATIENCE.as_secs()
        ),
        remedy: "see whether the API server answers; it is tried again until it does",
    }
}

pub fn failure(error: &watcher::Error) -> Failure {
    let status = watch_status(error);
    let remedy = match status.map(|status| status.code) {
        Some(401) => "give it a valid token: the ServiceAccount palisade of the namespace kube-system",
        Some(403) => "let the ServiceAccount list and watch it: apply the ClusterRole of manifests/",
        Some(404) => "install the resource: apply manifests/crds.yaml",
        Some(410) => "nothing; everything is listed anew",
        Some(429) => "nothing; the API server is busy, and it is tried again",
        _ => "see whether the API server answers; it is tried again until it does",
    };
    Failure {
        message: status.map_or_else(|| chain(error), status_said),
        remedy,
    }
}

/// The error and its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += ": ";
            text += &more;
        }
        cause = error.source();
    }
    text
}

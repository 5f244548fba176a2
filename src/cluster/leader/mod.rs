//! Which instance resolves: whoever holds the Lease, and only until the [`Term`] ends that it bought.
//!
//! Making the Lease, renewing it and giving it back are kube-leader-election's. Its way of taking a Lease over compares another
//! machine's wall clock with ours and overwrites whatever is there by then, and it gives up on null fields; so taking over is
//! done here, bound to the version that was seen (of two that try, one wins), and after a wait that only our own clock measures.
//!
//! The term is reckoned from *before* a request to `ttl` minus a margin: nobody else takes the Lease before `ttl` has passed since
//! the server wrote it, so what begins within the term, and takes no longer than the margin, ends before another's begins.

mod lease;
pub mod term;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use kube_leader_election::{LeaseLock, LeaseLockParams};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use self::lease::{Lease, Observation, Step, step};
pub use self::term::Term;
use super::FIELD_MANAGER;
use super::metrics::Metrics;
use super::refusal::said;
use super::tree::Tree;
use super::watch::watch;

/// Where the Lease is, and who we are.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of no other process at the same time.
    pub identity: String,
    pub namespace: String,
    pub lease: String,
    /// Whole seconds, at least 3.
    pub ttl: Duration,
}

impl Config {
    /// Of what a term is shorter than the Lease.
    pub fn margin(&self) -> Duration {
        self.ttl / 5
    }

    fn renewal(&self) -> Duration {
        self.ttl / 3
    }

    /// Of one step with all its calls.
    fn patience(&self) -> Duration {
        self.ttl / 4
    }

    /// So that not all that wait for a Lease ask for it at once. Up to 1 s, and the same each time.
    fn jitter(&self) -> Duration {
        let hash =
            (self.identity.bytes()).fold(7_u64, |hash, b| hash.wrapping_mul(31).wrapping_add(u64::from(b)));
        Duration::from_millis(hash % 1000).min(self.ttl / 10)
    }
}

/// Takes part in the election.
pub struct Election {
    config: Config,
    lock: LeaseLock,
    api: Api<Tree<v1::Lease>>,
    client: Client,
    metrics: Metrics,
    term: Term,
    seen: Option<Observation>,
    /// Whether the last step failed, so that a failure that lasts is told once.
    failing: bool,
}

impl Election {
    /// # Errors
    /// The Lease cannot last `ttl`.
    pub fn new(client: Client, config: Config, metrics: Metrics) -> Result<Self> {
        ensure!(
            config.ttl.subsec_nanos() == 0 && config.ttl >= Duration::from_secs(3),
            "a Lease cannot last {:?}; name whole seconds, at least 3",
            config.ttl
        );
        let lock = LeaseLock::new(
            client.clone(),
            &config.namespace,
            LeaseLockParams {
                lease_name: config.lease.clone(),
                holder_id: config.identity.clone(),
                lease_ttl: config.ttl,
            },
        );
        Ok(Self {
            lock,
            api: Api::namespaced(client.clone(), &config.namespace),
            client,
            config,
            metrics,
            term: Term::default(),
            seen: None,
            failing: false,
        })
    }

    /// Ours: it begins when the Lease is won, and ends when it is not renewed in time.
    pub fn term(&self) -> Term {
        self.term.clone()
    }

    /// Takes part for ever. Safe to cancel at any time; [`release`](Self::release) then gives the Lease back.
    pub async fn run(&mut self) {
        let mut leading = false;
        let mut changes = self.changes();
        loop {
            let wait = self.attempt().await;
            let holds = self.term.holds();
            if holds != leading {
                self.metrics.leader.set(i64::from(holds));
                let identity = &self.config.identity;
                if holds {
                    info!(identity, "leading");
                } else {
                    warn!(identity, "no longer leading");
                    changes = self.changes();
                }
                leading = holds;
            }
            if leading {
                sleep(wait).await;
            } else {
                self.until_it_may_be_free(&mut changes, wait).await;
            }
        }
    }

    /// Gives the Lease back, so that another need not wait for it to run out. To be called when nothing is written any more.
    pub async fn release(&mut self) {
        let rest = self.term.remaining();
        self.term.end();
        self.metrics.leader.set(0);
        // Where the term is about to end the Lease may soon be another's: then it is left to run out.
        let Some(patience) = rest.map(|rest| rest.min(self.config.patience())) else {
            return;
        };
        match timeout(patience, self.lock.step_down()).await {
            Ok(Ok(())) => info!("the Lease is given back"),
            Ok(Err(error)) => warn!(%error, "cannot give the Lease back; it runs out by itself"),
            Err(_) => warn!("no answer when the Lease was given back; it runs out by itself"),
        }
    }

    /// One step; how long until the next.
    async fn attempt(&mut self) -> Duration {
        let start = term::now();
        let patience = match self.term.remaining() {
            Some(rest) => rest.min(self.config.patience()),
            None => self.config.patience(),
        };
        let outcome = match timeout(patience, self.take_a_step(start)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("no answer within {patience:?}")),
        };
        match outcome {
            Ok(wait) => {
                self.failing = false;
                wait
            }
            Err(error) => {
                self.metrics.lease_errors.inc();
                let lease = format!("{}/{}", self.config.namespace, self.config.lease);
                if self.failing {
                    debug!(lease, "cannot reach the Lease: {error:#}");
                } else {
                    warn!(lease, "cannot reach the Lease, and will try again: {error:#}");
                }
                self.failing = true;
                match self.term.remaining() {
                    Some(rest) => rest.min(self.config.ttl / 15),
                    None => self.config.renewal() + self.config.jitter(),
                }
            }
        }
    }

    async fn take_a_step(&mut self, start: Duration) -> Result<Duration> {
        let tree = self.api.get_opt(&self.config.lease).await;
        let tree = tree.map_err(|error| anyhow!(said(&error)))?;
        let lease = tree.as_ref().map(Lease::read);
        let (now, ttl) = (term::now(), self.config.ttl);
        // Not beyond the term: the lock renews whatever is there.
        let holds = self.term.holds();
        let identity = &self.config.identity;
        let held = match step(lease.as_ref(), identity, holds, &mut self.seen, now, ttl) {
            Step::Wait(rest) => {
                self.term.end();
                return Ok(rest + self.config.jitter());
            }
            Step::Create | Step::Renew => {
                let result = self.lock.try_acquire_or_renew().await?;
                let holder = result
                    .lease()
                    .and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
                holder.as_ref() == Some(identity)
            }
            Step::Claim => {
                let lease = lease.context("there is none to claim")?;
                self.claim(&lease).await?
            }
        };
        if held {
            self.term.renew(start + ttl - self.config.margin());
            return Ok(self.config.renewal());
        }
        self.term.end();
        Ok(Duration::ZERO)
    }

    /// Writes all that a Lease has, over the version that was seen. Whether it names us then.
    async fn claim(&self, lease: &Lease) -> Result<bool> {
        let now = k8s_openapi::jiff::Timestamp::now();
        let now = format!("{now:.6}");
        let patch = json!({
            "metadata": { "resourceVersion": lease.version },
            "spec": {
                "holderIdentity": self.config.identity,
                "leaseDurationSeconds": self.config.ttl.as_secs(),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": lease.transitions.saturating_add(1).min(i32::MAX as u64),
            }
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        match self
            .api
            .patch(&self.config.lease, &params, &Patch::Merge(patch))
            .await
        {
            Ok(tree) => Ok(Lease::read(&tree).holder.as_deref() == Some(&self.config.identity)),
            // Somebody was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(anyhow!(said(&error))),
        }
    }

    /// The Lease's changes: they tell that it was renewed, or given back. Without them it is looked at when it runs out.
    fn changes(&self) -> BoxStream<'static, Event<Tree<v1::Lease>>> {
        let api = Api::namespaced(self.client.clone(), &self.config.namespace);
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.config.lease));
        watch(api, only, self.metrics.clone()).boxed()
    }

    async fn until_it_may_be_free(
        &mut self,
        changes: &mut BoxStream<'static, Event<Tree<v1::Lease>>>,
        wait: Duration,
    ) {
        let mut deadline = tokio::time::Instant::now() + wait;
        loop {
            let event = tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                Some(event) = changes.next() => event,
            };
            let lease = match event {
                Event::Apply(tree) | Event::InitApply(tree) => Some(Lease::read(&tree)),
                Event::Delete(_) => None,
                Event::Init | Event::InitDone => continue,
            };
            let (now, ttl) = (term::now(), self.config.ttl);
            match step(
                lease.as_ref(),
                &self.config.identity,
                false,
                &mut self.seen,
                now,
                ttl,
            ) {
                Step::Wait(rest) => {
                    deadline = tokio::time::Instant::now() + rest + self.config.jitter();
                }
                Step::Create | Step::Renew | Step::Claim => {
                    sleep(self.config.jitter() / 4).await;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The API server as the source of what is wanted on this node.

use std::sync::Arc;

use anyhow::Result;

use super::node::{Source, Taken};
use super::standalone::place;
use crate::cluster;
use crate::cluster::local::{Local, Update};
use crate::introspect::{Known, Watches};
use crate::node::Wanted;
use crate::observe::Metrics;

/// What one node watches, as the source of what is wanted on it.
pub struct ApiServer {
    local: Local,
    metrics: Metrics,
    cluster: cluster::Metrics,
    errors: u64,
}

impl ApiServer {
    pub fn new(local: Local, metrics: Metrics, cluster: cluster::Metrics) -> Self {
        Self {
            local,
            metrics,
            cluster,
            errors: 0,
        }
    }

    fn count(&mut self) {
        let health = self.local.health();
        self.cluster.watch_errors.inc_by(health.errors - self.errors);
        self.errors = health.errors;
        self.metrics.watches.set(health.watches as i64);
        self.metrics.watches_failing.set(health.failing as i64);
    }
}

impl Source for ApiServer {
    async fn changed(&mut self) -> Result<()> {
        self.local.changed().await;
        Ok(())
    }

    fn take(&mut self, wanted: &mut Wanted) -> Taken {
        let mut update = self.local.take();
        self.count();
        let mut taken = Taken {
            news: !update.is_empty(),
            problems: vec![("cluster", self.local.problems())],
            incomplete: !self.local.is_synced(),
            ..Taken::default()
        };
        taken.known = known(&mut update);
        taken.pods = put(wanted, &update);
        taken.objects = update.objects;
        taken
    }

    fn tick(&mut self) {
        self.count();
        if self.local.is_synced() && self.local.health().failing == 0 {
            self.metrics.synced_now();
        }
    }

    fn watches(&self) -> Option<Watches> {
        let health = self.local.health();
        Some(Watches {
            watches: health.watches,
            failing: health.failing,
            errors: health.errors,
        })
    }

    fn uid_of(&self, uid: &str) -> Option<Arc<str>> {
        self.local.uid_of(uid).cloned()
    }
}

/// Whose addresses an update tells of: the node's pods, and those that the policies of their namespaces select.
fn known(update: &mut Update) -> Vec<Known> {
    let pods = update.pods.iter().map(|(uid, pod)| match pod {
        Some(pod) => Known::Pod(pod.clone()),
        None => Known::PodGone(uid.clone()),
    });
    let names = std::mem::take(&mut update.names).into_iter();
    pods.chain(names.map(|(object, pods)| Known::Selected(object, pods)))
        .collect()
}

/// Whether pods are to be found anew.
fn put(wanted: &mut Wanted, update: &Update) -> bool {
    let mut moved = false;
    for (uid, pod) in &update.pods {
        let before = match pod {
            Some(pod) => wanted.pods.insert(uid.clone(), pod.clone()),
            None => wanted.pods.remove(uid),
        };
        moved |= before.as_ref().map(place) != pod.as_ref().map(place);
    }
    for (policy, endpoints) in &update.endpoints {
        match endpoints {
            Some(endpoints) => wanted.endpoints.insert(policy.clone(), endpoints.clone()),
            None => wanted.endpoints.remove(policy),
        };
    }
    moved
}

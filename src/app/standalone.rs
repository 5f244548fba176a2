//! The embedded default: a watched folder → index → what is wanted, without an API server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

use super::node::{Source, Taken};
use crate::files::Folder;
use crate::introspect::Known;
use crate::model::{Change, Pod};
use crate::node::Wanted;
use crate::observe::Metrics;
use crate::resolve::Index;

/// A folder as the source of what is wanted.
pub struct Standalone {
    from: PathBuf,
    folder: Folder,
    index: Index,
    metrics: Metrics,
    /// Before the first look nothing has to change for there to be something.
    looked: bool,
}

impl Standalone {
    pub fn new(from: PathBuf, folder: Folder, metrics: Metrics) -> Self {
        Self {
            from,
            folder,
            index: Index::new(),
            metrics,
            looked: false,
        }
    }
}

impl Source for Standalone {
    async fn changed(&mut self) -> Result<()> {
        if !self.looked {
            return Ok(());
        }
        let changed = self.folder.changed().await;
        changed.with_context(|| format!("cannot watch {}", self.from.display()))
    }

    fn take(&mut self, wanted: &mut Wanted) -> Taken {
        self.looked = true;
        let refresh = self.folder.refresh();
        self.metrics.set_skipped(refresh.skipped.clone());
        let mut taken = Taken {
            objects: refresh.changes.iter().map(ToString::to_string).collect(),
            news: !refresh.changes.is_empty(),
            problems: vec![("files", refresh.problems.clone())],
            ..Taken::default()
        };
        if taken.news {
            taken.known = refresh.changes.iter().filter_map(known).collect();
            taken.pods = take(&mut self.index, wanted, refresh.changes);
            taken.problems.push(("resolve", self.index.problems()));
        }
        taken
    }

    fn uid_of(&self, _: &str) -> Option<Arc<str>> {
        None
    }
}

/// One step of the folder into the index, and what it touched out of it. Whether pods are to be found anew.
fn take(index: &mut Index, wanted: &mut Wanted, changes: Vec<Change>) -> bool {
    let (mut touched, mut moved) = (BTreeSet::new(), false);
    for change in changes {
        match &change {
            Change::Pod(pod) => {
                let before = wanted.pods.insert(pod.uid.clone(), pod.clone());
                moved |= before.as_ref().map(place) != Some(place(pod));
            }
            Change::PodGone { uid, .. } => moved |= wanted.pods.remove(uid).is_some(),
            _ => {}
        }
        touched.extend(index.apply(change));
    }
    for uid in touched {
        match index.endpoints(&uid) {
            Some(endpoints) => wanted.endpoints.insert(uid, endpoints),
            None => wanted.endpoints.remove(&uid),
        };
    }
    moved
}

/// Whose addresses a change tells of. Policies tell of none that the pods do not.
fn known(change: &Change) -> Option<Known> {
    Some(match change {
        Change::Pod(pod) => Known::Pod(pod.clone()),
        Change::PodGone { uid, .. } => Known::PodGone(uid.clone()),
        Change::Service(service) => Known::Service(service.id.clone(), service.cluster_ips.clone()),
        Change::ServiceGone(id) => Known::ServiceGone(id.clone()),
        _ => return None,
    })
}

/// What decides where a pod is.
pub fn place(pod: &Pod) -> (bool, &[std::net::IpAddr]) {
    (pod.is_live(), &pod.addresses)
}

//! The edit of which a difference is asked: policies that replace others, come anew, or go.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::args::Edit;
use crate::cli::cluster::Cluster;
use crate::cli::{escape, warn};
use crate::files;
use crate::model::{ObjectId, Policy, Snapshot};

pub(super) struct Edited {
    pub snapshot: Snapshot,
    /// What of the folder does not count.
    pub notes: Vec<String>,
}

/// Fails where the folder cannot be read as it is written, and where there is nothing to delete.
pub(super) fn apply(base: &Cluster, edit: &Edit) -> Result<Edited> {
    let Edit {
        with,
        replace,
        delete,
    } = edit;
    let mut notes = Vec::new();
    let mut edited: BTreeMap<ObjectId, Policy> = BTreeMap::new();
    if let Some(folder) = with {
        let loaded = files::load(folder)?;
        if !loaded.problems.is_empty() {
            warn(&loaded.problems)?;
            bail!(
                "{} cannot be read as it is written, so that nobody can say what it would change; correct it, or see palisade check \
                 --from {}",
                escape(&folder.display().to_string()),
                escape(&folder.display().to_string())
            );
        }
        let others = others(&loaded);
        edited = (loaded.snapshot.policies.into_iter())
            .map(|policy| (policy.id.clone(), policy))
            .collect();
        if edited.is_empty() && !replace {
            bail!(
                "there is no NetworkPolicy in {}; name the folder of the edited ones, or say --replace if they are all to go",
                escape(&folder.display().to_string())
            );
        }
        if others > 0 {
            notes.push(format!(
                "of {} only the NetworkPolicies count, not the {others} other objects: all else stays as it is",
                folder.display()
            ));
        }
    }
    for id in delete {
        if edited.contains_key(id) {
            bail!(
                "{} is to be deleted, and is in the folder too",
                escape(&id.to_string())
            );
        }
        base.known_policy(id)?;
    }
    let mut snapshot = base.snapshot.clone();
    snapshot
        .policies
        .retain(|policy| !delete.contains(&policy.id) && (edited.contains_key(&policy.id) || !*replace));
    for policy in &mut snapshot.policies {
        if let Some(new) = edited.remove(&policy.id) {
            // An edit in place: the object stays the same one.
            let uid = policy.uid.clone();
            *policy = Policy { uid, ..new };
        }
    }
    snapshot.policies.extend(edited.into_values());
    Ok(Edited { snapshot, notes })
}

/// Objects that are no NetworkPolicies. A namespace that only policies name is none.
fn others(loaded: &files::Loaded) -> u64 {
    let Snapshot {
        namespaces: _,
        pods,
        policies: _,
        services,
        endpoint_slices,
    } = &loaded.snapshot;
    (pods.len() + services.len() + endpoint_slices.len()) as u64
}

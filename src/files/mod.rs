//! The embedded source: a folder of YAML → [`Snapshot`](crate::model::Snapshot), watched.
//!
//! Read are Namespaces, Pods, NetworkPolicies, Services and EndpointSlices, from files `*.yaml`, `*.yml` and `*.json`
//! of the folder and of the folders in it; any number of documents and lists in a file. Hidden files and those that
//! editors leave for a moment are not read; objects of other kinds are skipped and counted. There is no API server, so
//! its defaults are applied and its checks are made here. A namespace that pods or policies are in exists, declared or
//! not, with `kubernetes.io/metadata.name` as its label.
//!
//! Nothing in a file makes a policy wider than it was written or than it was before:
//! - **A rule, peer or port that cannot be read matches nothing**; the readable rest of its policy applies. A field
//!   of an unknown name makes what holds it unreadable, since what it was meant to narrow is not known.
//! - **A policy of which it cannot be read whom, or in which direction, it isolates** stays as it was; without an
//!   earlier version it isolates all that it may have meant, and allows nothing.
//! - **An object of another kind with a problem** stays as it was; without an earlier version, its readable rest counts.
//! - **A document that cannot be parsed, an object without a name, a file that cannot be read or has become empty**
//!   could be anything that the file held before, so all of that stays which the rest of the file does not declare.
//!   Without an earlier version, a broken document that begins as a NetworkPolicy denies all in its namespace.
//! - **A folder that vanishes, or comes back empty**, changes nothing until there are files again.
//! - **A policy declared more than once** allows only what all its versions allow; of another object the version that
//!   was there first counts, or at the start that of the first file.
//!
//! Each of these is a [`Problem`] that names file, document, object, field and value, with all that could upset a
//! terminal escaped.

mod document;
mod file;
mod folder;
mod object;
mod salvage;
mod state;
mod walk;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;

pub use folder::{Folder, Refresh};

use crate::model::{Problem, Snapshot};
use crate::objects::text;

/// A folder, read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub snapshot: Snapshot,
    pub problems: Vec<Problem>,
    /// Objects that are not read, by kind.
    pub skipped: BTreeMap<String, u64>,
}

/// Reads a folder once.
///
/// Errors: the folder itself cannot be listed. All else is a [`Problem`].
pub fn load(folder: &Path) -> anyhow::Result<Loaded> {
    let (state, mut problems) = folder::read_once(folder)?;
    problems.extend(state.problems());
    Ok(Loaded {
        snapshot: state.snapshot(),
        problems,
        skipped: state.skipped().clone(),
    })
}

fn cannot_list(folder: &Path) -> String {
    format!(
        "cannot read the folder {}; name one that exists and may be listed",
        text::path(folder)
    )
}

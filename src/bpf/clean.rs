//! Everything of ours out of the kernel, also after a crash and of other ABI versions; nothing of anybody else's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::attach::{all_interfaces, detach_filter, detach_link};
use super::pins::{entries, links_under, lock, on_bpffs, versions_under};
use super::sys::Hook;
use super::{capability, load};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    pub links: u64,
    /// clsact filters, on interfaces of the caller's network namespace. Their qdiscs stay: others may use them.
    pub filters: u64,
    /// Pinned maps and programs.
    pub pins: u64,
    /// Files under the pin path that are not ours, and were left.
    pub foreign: Vec<PathBuf>,
}

/// Removes every link, filter, map and pin of the instance at `pin_path`; traffic passes unjudged from then on. There may
/// be nothing to remove.
///
/// # Errors
/// The instance is running, or the kernel refuses; calling again goes on where it stopped.
pub fn clean(pin_path: &Path) -> Result<Cleaned> {
    capability::check()?;
    load::silence();
    let mut cleaned = Cleaned::default();
    // First of all: where it is running, nothing must be touched.
    let lock = (on_bpffs(pin_path) && pin_path.is_dir())
        .then(|| lock(pin_path))
        .transpose()?;
    for ifindex in all_interfaces()? {
        for hook in [Hook::Ingress, Hook::Egress] {
            cleaned.filters += u64::from(detach_filter(ifindex, hook)?);
        }
    }
    if lock.is_none() {
        return Ok(cleaned);
    }
    let links = pin_path.join("links");
    for (_, _, path) in links_under(&links)? {
        detach_link(&path)?;
        cleaned.links += 1;
    }
    remove_folder(&links, &mut cleaned)?;
    for version in versions_under(pin_path)? {
        remove_version(&version, &mut cleaned)?;
    }
    remove_folder(pin_path, &mut cleaned)?;
    Ok(cleaned)
}

/// Unpins the maps and programs of one ABI version.
pub(super) fn remove_version(version: &Path, cleaned: &mut Cleaned) -> Result<()> {
    for folder in ["maps", "programs"] {
        let folder = version.join(folder);
        for path in entries(&folder)? {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            cleaned.pins += 1;
        }
        remove_folder(&folder, cleaned)?;
    }
    remove_folder(version, cleaned)
}

/// Removes a folder of ours; what strangers put there stays, and the folder with it.
fn remove_folder(folder: &Path, cleaned: &mut Cleaned) -> Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            cleaned.foreign.extend(entries(folder)?);
            Ok(())
        }
        other => other.with_context(|| format!("cannot remove {}", folder.display())),
    }
}

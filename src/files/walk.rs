//! A folder and all below it → which files are to be read.
//!
//! Files are those that `kubectl apply -R` would take; hidden ones are not. Links are followed, a folder is listed once
//! however many ways lead to it, and none that the folder itself is in.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::{self, Stamp};

#[derive(Default)]
pub struct Listing {
    /// By path below the folder; without a stamp where it could not be looked at.
    pub files: BTreeMap<PathBuf, Option<Stamp>>,
    /// Folders that could not be listed; what was in them before is in doubt.
    pub unlisted: BTreeMap<PathBuf, io::Error>,
    /// Device and inode of the folder itself.
    pub identity: (u64, u64),
}

/// Lists `root`. `enter` is called with each folder (its path below the root) before its names are read, so that a
/// watch set there misses nothing.
///
/// Errors: the root itself cannot be listed.
pub fn list(root: &Path, mut enter: impl FnMut(&Path)) -> io::Result<Listing> {
    let identity = self::identity(root)?;
    let mut listing = Listing {
        identity,
        ..Listing::default()
    };
    let mut seen = BTreeSet::from([identity]);
    let full = root.canonicalize()?;
    seen.extend(full.ancestors().filter_map(|above| self::identity(above).ok()));
    let mut waiting = vec![PathBuf::new()];
    while let Some(folder) = waiting.pop() {
        enter(&folder);
        match names(&root.join(&folder)) {
            Ok(names) => {
                let mut below = Vec::new();
                for name in names {
                    look(root, folder.join(name), &mut listing, &mut below, &mut seen);
                }
                below.reverse();
                waiting.extend(below);
            }
            Err(error) if folder.as_os_str().is_empty() => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                listing.unlisted.insert(folder, error);
            }
        }
    }
    Ok(listing)
}

fn look(
    root: &Path,
    path: PathBuf,
    listing: &mut Listing,
    below: &mut Vec<PathBuf>,
    seen: &mut BTreeSet<(u64, u64)>,
) {
    let full = root.join(&path);
    if full.symlink_metadata().is_err() {
        return;
    }
    match full.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let first = seen.insert((metadata.dev(), metadata.ino()));
            below.extend(first.then_some(path));
        }
        looked if file::is_read(&path) => {
            listing.files.insert(path, looked.ok().as_ref().map(Stamp::from));
        }
        _ => {}
    }
}

/// Names in a folder that are not hidden, sorted.
fn names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in folder.read_dir()? {
        let name = entry?.file_name();
        if !file::is_hidden(Path::new(&name)) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let metadata = folder.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

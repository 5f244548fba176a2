//! A folder that is watched: what its files hold is in force, edit by edit.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::file::{self, Stamp};
use super::state::State;
use super::walk::{self, Listing};
use super::watch::{Pending, Watch};
use crate::model::{Change, Problem, Snapshot};
use crate::objects::text;

/// A watched folder. Nothing is read before the first [`Self::refresh`].
pub struct Folder {
    /// As it was given, for messages.
    given: PathBuf,
    root: PathBuf,
    watch: Watch,
    pending: Pending,
    files: BTreeMap<PathBuf, Known>,
    state: State,
    /// Of the folder and those below it.
    problems: Vec<Problem>,
    /// Device and inode of the folder when it was last listed.
    identity: Option<(u64, u64)>,
}

struct Known {
    stamp: Option<Stamp>,
    linked: bool,
}

/// What a refresh found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refresh {
    /// One step: to be applied as a whole before anything is published. Deletions come first.
    pub changes: Vec<Change>,
    /// All that there are now, not only new ones.
    pub problems: Vec<Problem>,
    /// Objects now in the files that are not read, by kind.
    pub skipped: BTreeMap<String, u64>,
    pub files_read: usize,
}

impl Folder {
    /// Begins to watch `path`.
    ///
    /// Errors: the folder cannot be listed, or the system has no inotify instance left.
    pub fn open(path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let given = path.as_ref().to_path_buf();
        std::fs::read_dir(&given).with_context(|| super::cannot_list(&given))?;
        let root = std::path::absolute(&given).with_context(|| super::cannot_list(&given))?;
        let watch = Watch::new(&root).with_context(|| {
            format!(
                "cannot watch {}: no inotify instance; raise fs.inotify.max_user_instances",
                text::path(&given)
            )
        })?;
        Ok(Self {
            given,
            root,
            watch,
            pending: Pending {
                listing: true,
                ..Pending::default()
            },
            files: BTreeMap::new(),
            state: State::default(),
            problems: Vec::new(),
            identity: None,
        })
    }

    /// Waits until there may be something for [`Self::refresh`] to find; at once if there is. It can be dropped while
    /// it waits, without loss.
    ///
    /// Errors: the system gives no more events; there is no way to go on.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            self.watch.drain(&mut self.pending)?;
            if !self.pending.is_empty() {
                return Ok(());
            }
            self.watch.wait(&mut self.pending).await?;
        }
    }

    /// Reads what changed. Does not wait for anything.
    pub fn refresh(&mut self) -> Refresh {
        if self.watch.drain(&mut self.pending).is_err() {
            self.pending.listing = true;
        }
        let pending = std::mem::take(&mut self.pending);
        let mut read = BTreeSet::new();
        if pending.listing || self.identity.is_none() {
            read = self.list(pending.every_file);
        }
        let mut files = pending.files;
        if pending.links {
            files.extend(self.moved_links());
        }
        let unread = |path: &PathBuf| self.files.get(path).is_some_and(|known| known.stamp.is_none());
        files.extend(pending.permissions.into_iter().filter(unread));
        // A folder that is not there has no files to tell of, and what they held stays.
        if self.identity.is_some() {
            for path in files {
                if !read.contains(&path) && self.reread(&path) {
                    read.insert(path);
                }
            }
        }
        Refresh {
            changes: self.state.settle(),
            problems: self.problems(),
            skipped: self.state.skipped().clone(),
            files_read: read.len(),
        }
    }

    /// All that is in force since the last refresh.
    pub fn snapshot(&self) -> Snapshot {
        self.state.snapshot()
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problems.clone();
        problems.extend(self.state.problems());
        problems
    }

    /// Lists the folder anew and reads the files that are new or changed, or every one; returns which.
    fn list(&mut self, every_file: bool) -> BTreeSet<PathBuf> {
        self.problems.clear();
        self.watch.begin();
        let mut unwatched = Vec::new();
        let mut continued = BTreeSet::new();
        let watch = &mut self.watch;
        let listing = walk::list(&self.root, |folder| match watch.enter(folder) {
            Ok(true) => drop(continued.insert(folder.to_path_buf())),
            Ok(false) => {}
            Err(error) => unwatched.push((folder.to_path_buf(), error)),
        });
        self.watch.end();
        for link in self
            .files
            .iter()
            .filter(|(_, known)| known.linked)
            .map(|(link, _)| link)
        {
            self.watch.follow(link);
        }
        let given = text::path(&self.given);
        let vanished = |reason: String| {
            let message = format!("the folder {reason}; everything stays as it was");
            file::problem(given.as_str(), message, "bring it back with its files")
        };
        let listing = match listing {
            Err(error) => {
                self.problems
                    .push(vanished(format!("cannot be listed: {}", file::reason(&error))));
                self.identity = None;
                return BTreeSet::new();
            }
            // Unmounted, or removed and about to be filled again.
            Ok(listing)
                if Some(listing.identity) != self.identity
                    && listing.files.is_empty()
                    && !self.files.is_empty() =>
            {
                self.problems
                    .push(vanished("is another one, and empty".to_string()));
                self.identity = None;
                return BTreeSet::new();
            }
            Ok(listing) => listing,
        };
        for (folder, error) in unwatched {
            if error.kind() != io::ErrorKind::NotFound && !listing.unlisted.contains_key(&folder) {
                self.problems.push(self.folder_problem(
                    &folder,
                    format!(
                        "cannot be watched: {}; edits in it are not seen",
                        file::reason(&error)
                    ),
                    "raise fs.inotify.max_user_watches, and start again",
                ));
            }
        }
        if every_file {
            continued.clear();
        }
        self.take_listing(&listing, &continued, every_file)
    }

    fn take_listing(
        &mut self,
        listing: &Listing,
        continued: &BTreeSet<PathBuf>,
        every_file: bool,
    ) -> BTreeSet<PathBuf> {
        self.identity = Some(listing.identity);
        for (folder, error) in &listing.unlisted {
            let problem = self.folder_problem(
                folder,
                format!(
                    "cannot be listed: {}; what it held stays as it was",
                    file::reason(error)
                ),
                "let the user that runs Palisade list it",
            );
            self.problems.push(problem);
        }
        let hidden = |path: &Path| listing.unlisted.keys().any(|folder| path.starts_with(folder));
        let gone: Vec<_> = self
            .files
            .keys()
            .filter(|path| !listing.files.contains_key(*path) && !hidden(path))
            .cloned()
            .collect();
        for path in gone {
            self.forget(&path);
        }
        let mut read = BTreeSet::new();
        for (path, stamp) in &listing.files {
            let linked = self.files.get(path).is_some_and(|known| known.linked);
            if !linked && path.parent().is_some_and(|folder| continued.contains(folder)) {
                // An event has told of it, or will when it is complete.
                continue;
            }
            let same = stamp.is_some() && self.files.get(path).is_some_and(|known| known.stamp == *stamp);
            if (every_file || !same) && self.reread(path) {
                read.insert(path.clone());
            }
        }
        read
    }

    fn folder_problem(&self, folder: &Path, message: String, remedy: &str) -> Problem {
        file::problem(text::path(&self.given.join(folder)), message, remedy)
    }

    /// Files behind links that are other files now.
    fn moved_links(&self) -> Vec<PathBuf> {
        let linked = self.files.iter().filter(|(_, known)| known.linked);
        let moved = linked.filter(|(path, known)| {
            let now = self.root.join(path).metadata().ok().as_ref().map(Stamp::from);
            now != known.stamp
        });
        moved.map(|(path, _)| path.clone()).collect()
    }

    /// Whether it was there to be read.
    fn reread(&mut self, path: &Path) -> bool {
        let full = self.root.join(path);
        let Ok(own) = full.symlink_metadata() else {
            self.forget(path);
            return false;
        };
        if full.is_dir() {
            self.forget(path);
            self.pending.listing = true;
            return false;
        }
        let linked = own.is_symlink() || full.parent().is_some_and(|folder| !self.is_plain(folder));
        let (stamp, contents) = file::read(&full, path);
        self.state.put(&Arc::from(path), contents);
        self.files.insert(path.to_path_buf(), Known { stamp, linked });
        if linked {
            self.watch.follow(path);
        }
        true
    }

    /// Whether no folder on the way from the root is a link.
    fn is_plain(&self, folder: &Path) -> bool {
        let mut below = folder.ancestors().take_while(|above| *above != self.root);
        below.all(|above| above.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()))
    }

    fn forget(&mut self, path: &Path) {
        self.files.remove(path);
        self.state.remove(path);
    }
}

/// The state of a folder that is read once.
pub fn read_once(folder: &Path) -> anyhow::Result<(State, Vec<Problem>)> {
    let listing = walk::list(folder, |_| {}).with_context(|| super::cannot_list(folder))?;
    let mut state = State::default();
    for path in listing.files.keys() {
        let (_, contents) = file::read(&folder.join(path), path);
        state.put(&Arc::from(path.as_path()), contents);
    }
    let unlisted = listing.unlisted.iter().map(|(below, error)| {
        let message = format!("cannot be listed: {}", file::reason(error));
        let remedy = "let the user that runs Palisade list it";
        file::problem(text::path(&folder.join(below)), message, remedy)
    });
    let problems = unlisted.collect();
    state.settle();
    Ok((state, problems))
}

//! inotify events → which files may have changed.
//!
//! A file counts when it is complete: closed after writing, or moved into place; never while it is being written.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};

use super::file;

/// What events have said since the last time it was taken. Paths are those below the folder.
#[derive(Debug, Default)]
pub struct Pending {
    /// List the folder anew.
    pub listing: bool,
    /// Events were lost: read every file anew.
    pub every_file: bool,
    pub files: BTreeSet<PathBuf>,
    /// Their permissions changed; nothing is known of their contents.
    pub permissions: BTreeSet<PathBuf>,
    /// A link changed that may be on the way to files.
    pub links: bool,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        !self.listing
            && !self.every_file
            && !self.links
            && self.files.is_empty()
            && self.permissions.is_empty()
    }
}

/// Why a folder is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// The watched folder, or one below it.
    Within(PathBuf),
    /// One above it: this name leads to it.
    Above(OsString),
    /// The file of this name is what a link points to.
    Target { name: OsString, link: PathBuf },
}

pub struct Watch {
    events: Option<Events>,
    watches: Watches,
    root: PathBuf,
    roles: HashMap<WatchDescriptor, Vec<Role>>,
    /// Set while the folders are listed anew.
    renewed: HashMap<WatchDescriptor, Vec<Role>>,
}

/// The same inotify instance, in either form.
enum Events {
    /// To be read without a runtime.
    Ready(Inotify),
    /// To be waited for. Holds no events while nobody polls it.
    Awaited(EventStream<Box<[u8]>>),
}

const BUFFER: usize = 64 << 10;

impl Watch {
    /// `root` is absolute.
    pub fn new(root: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        Ok(Self {
            watches: inotify.watches(),
            events: Some(Events::Ready(inotify)),
            root: root.to_path_buf(),
            roles: HashMap::new(),
            renewed: HashMap::new(),
        })
    }

    /// Before the folders are listed anew: watches all above the root, so that it is seen to come and go.
    pub fn begin(&mut self) {
        self.renewed.clear();
        let root = self.root.clone();
        for (above, name) in root
            .ancestors()
            .skip(1)
            .zip(root.ancestors().filter_map(Path::file_name))
        {
            let mask = WatchMask::CREATE
                | WatchMask::MOVED_TO
                | WatchMask::MOVED_FROM
                | WatchMask::DELETE
                | WatchMask::DELETE_SELF
                | WatchMask::MOVE_SELF;
            // One that is not there, or not to be read, is made good by those above it.
            let _ = self.add(above, mask, Role::Above(name.to_os_string()));
        }
    }

    /// Watches the folder `below` the root, and keeps watching it after [`Self::end`]. Whether it was watched before, so
    /// that no event in it was missed.
    pub fn enter(&mut self, below: &Path) -> io::Result<bool> {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let role = Role::Within(below.to_path_buf());
        let watch = self.add(&self.root.join(below), mask, role.clone())?;
        Ok(self.roles.get(&watch).is_some_and(|roles| roles.contains(&role)))
    }

    /// After the folders were listed: forgets those that were not entered.
    pub fn end(&mut self) {
        let before = std::mem::replace(&mut self.roles, std::mem::take(&mut self.renewed));
        for (watch, _) in before {
            if !self.roles.contains_key(&watch) {
                // Fails where the folder is gone, and its watch with it.
                let _ = self.watches.remove(watch);
            }
        }
    }

    /// Watches what the file `link` points to, in whatever folder that is.
    pub fn follow(&mut self, link: &Path) {
        let Ok(target) = self.root.join(link).canonicalize() else {
            return;
        };
        let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
            return;
        };
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
        let role = Role::Target {
            name: name.to_os_string(),
            link: link.to_path_buf(),
        };
        if let Ok(watch) = self.watches.add(folder, mask | WatchMask::MASK_ADD) {
            let roles = self.roles.entry(watch).or_default();
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
    }

    fn add(&mut self, folder: &Path, mask: WatchMask, role: Role) -> io::Result<WatchDescriptor> {
        let watch = self
            .watches
            .add(folder, mask | WatchMask::MASK_ADD | WatchMask::ONLYDIR)?;
        self.renewed.entry(watch.clone()).or_default().push(role);
        Ok(watch)
    }

    /// Takes the events that are there; does not wait.
    pub fn drain(&mut self, pending: &mut Pending) -> io::Result<()> {
        let mut inotify = match self.events.take() {
            Some(Events::Ready(inotify)) => inotify,
            Some(Events::Awaited(stream)) => stream.into_inotify(),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        let mut buffer = vec![0; BUFFER];
        let outcome = loop {
            match inotify.read_events(&mut buffer) {
                Ok(events) => events
                    .map(|event| event.to_owned())
                    .for_each(|event| self.note(&event, pending)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.events = Some(Events::Ready(inotify));
        outcome
    }

    /// Waits for at least one event, and takes all that are there. It can be dropped while it waits.
    pub async fn wait(&mut self, pending: &mut Pending) -> io::Result<()> {
        let stream = match self.events.take() {
            Some(Events::Ready(inotify)) => inotify.into_event_stream(vec![0; BUFFER].into())?,
            Some(Events::Awaited(stream)) => stream,
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        let Events::Awaited(stream) = self.events.insert(Events::Awaited(stream)) else {
            return Ok(());
        };
        let mut next = stream.next().await;
        let mut events = Vec::new();
        // All that the stream has read is taken out of it before this can be dropped.
        while let Some(event) = next {
            events.push(event?);
            next = stream.next().now_or_never().flatten();
        }
        for event in events {
            self.note(&event, pending);
        }
        Ok(())
    }

    fn note(&mut self, event: &EventOwned, pending: &mut Pending) {
        let (mask, name) = (event.mask, event.name.as_deref());
        if mask.contains(EventMask::Q_OVERFLOW) {
            pending.listing = true;
            pending.every_file = true;
            return;
        }
        let roles = if mask.contains(EventMask::IGNORED) {
            self.roles.remove(&event.wd)
        } else {
            self.roles.get(&event.wd).cloned()
        };
        let itself = EventMask::IGNORED | EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT;
        for role in roles.unwrap_or_default() {
            match (role, name) {
                (Role::Within(_) | Role::Above(_), _) if mask.intersects(itself) => pending.listing = true,
                (Role::Above(leads), Some(name)) if leads == name => pending.listing = true,
                (Role::Within(folder), Some(name)) => self.note_within(&folder, mask, name, pending),
                (Role::Target { name: target, link }, Some(name)) if target == name => {
                    let complete = EventMask::CLOSE_WRITE
                        | EventMask::MOVED_TO
                        | EventMask::MOVED_FROM
                        | EventMask::DELETE;
                    if mask.intersects(complete) {
                        pending.files.insert(link);
                    }
                }
                _ => {}
            }
        }
    }

    fn note_within(&self, folder: &Path, mask: EventMask, name: &OsStr, pending: &mut Pending) {
        let path = folder.join(name);
        if file::is_hidden(&path) {
            // Mounted ConfigMaps change by a link of such a name.
            let moved = EventMask::CREATE | EventMask::MOVED_TO | EventMask::MOVED_FROM | EventMask::DELETE;
            pending.links |= name.as_encoded_bytes().starts_with(b"..") && mask.intersects(moved);
            return;
        }
        if mask.contains(EventMask::ISDIR) {
            pending.listing = true;
            return;
        }
        if mask.contains(EventMask::CREATE) {
            // A new file is complete when it is closed, unless it is there by a link of either kind.
            match self.root.join(&path).symlink_metadata() {
                Ok(made) if made.is_symlink() && !file::is_read(&path) => pending.listing = true,
                Ok(made) if made.is_symlink() || made.nlink() > 1 => drop(pending.files.insert(path)),
                _ => {}
            }
        } else if mask.contains(EventMask::ATTRIB) {
            pending.permissions.insert(path);
        } else if file::is_read(&path) {
            pending.files.insert(path);
        } else if !mask.contains(EventMask::CLOSE_WRITE) {
            // Maybe a link to a folder, come or gone.
            let led = |role: &Role| matches!(role, Role::Within(known) if *known == path);
            let gone = mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM);
            let is_link = || {
                self.root
                    .join(&path)
                    .symlink_metadata()
                    .is_ok_and(|m| m.is_symlink())
            };
            pending.listing |= if gone {
                self.roles.values().flatten().any(led)
            } else {
                is_link()
            };
        }
    }
}

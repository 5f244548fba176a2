//! Puts the plugin and its entry in the CNI configuration on the node, keeps them there, and takes them away.
//!
//! In: two folders of the node, watched. Out: the binary in one; in the other the entry, last in the list that counts
//! ([`folder`] says which that is); and what stands in the way, as problems. The binary goes first: an entry without a binary
//! would keep every pod from starting.

mod binary;
mod conflist;
mod folder;
mod replace;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{FutureExt, StreamExt};
use inotify::{EventStream, Inotify, WatchMask};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::binary::Binary;
use super::Mode;
use crate::model::Problem;

/// After this the folders are looked at without an event.
const RECHECK: Duration = Duration::from_secs(30);
/// The same where something stands in the way: not all that does is in the folders.
const RETRY: Duration = Duration::from_secs(5);
/// Between two changes: the first, and the longest. It doubles while changes follow one another, so that two programs that
/// undo each other's work do not fill the node's time and disk.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// Without a change for so long, the pause is the first again.
const CALM: Duration = Duration::from_secs(10);
const BUFFER: usize = 16 << 10;

/// What to install, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub conf_dir: PathBuf,
    pub bin_dir: PathBuf,
    pub mode: Mode,
    /// Where the plugin finds the agent.
    pub socket: PathBuf,
}

/// What [`remove`] took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Configuration files that were changed or removed, the binary, the socket.
    pub files: Vec<PathBuf>,
    /// What is still there, and why.
    pub problems: Vec<Problem>,
}

/// Keeps plugin and entry in place until `shutdown`; both stay then. `problems` always holds what stands in the way now.
///
/// # Errors
/// The kernel gives no inotify instance. All else is a problem, and tried again.
pub async fn run(
    config: Config,
    problems: watch::Sender<Vec<Problem>>,
    shutdown: CancellationToken,
) -> Result<()> {
    let mut installer = Installer::new(config);
    let mut watch = Watch::new()?;
    let (mut pause, mut last_change) = (PAUSE.0, None::<Instant>);
    loop {
        watch.follow([&installer.config.conf_dir, &installer.config.bin_dir]);
        let look = spawn_blocking(move || {
            let look = installer.look();
            (installer, look)
        });
        let (back, look) = look.await.context("the CNI installer has panicked")?;
        installer = back;
        let next = Instant::now() + if look.problems.is_empty() { RECHECK } else { RETRY };
        problems.send_if_modified(|known| {
            let news = *known != look.problems;
            *known = look.problems;
            news
        });
        if look.changed || look.again {
            pause = match last_change {
                Some(before) if before.elapsed() < CALM => (pause * 2).min(PAUSE.1),
                _ => PAUSE.0,
            };
            last_change = Some(Instant::now());
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
        if look.again {
            continue;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep_until(next) => {}
            event = watch.event() => event.context("cannot watch the CNI folders")?,
        }
    }
}

/// Takes entry, binary and socket away, in this order.
pub fn remove(config: &Config) -> Removed {
    let mut removed = Removed::default();
    let done = folder::remove(&config.conf_dir);
    removed.files = done.changed;
    removed.problems = done.problems;
    let binary = Binary::new(&config.bin_dir);
    if done.again || !removed.problems.is_empty() {
        removed.problems.push(Problem {
            object: format!("CNI plugin {}", binary.path().display()),
            field: String::new(),
            value: String::new(),
            message: "it stays, as the CNI configuration may still name it".into(),
            remedy: "run it again once the configuration can be written".into(),
        });
        return removed;
    }
    removed.note(binary.path(), binary.remove());
    for folder in [&config.conf_dir, &config.bin_dir] {
        let swept = match replace::remove_leftovers(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(false),
        };
        removed.note(folder, swept);
    }
    let socket = fs::remove_file(&config.socket).map(|()| true);
    removed.note(
        &config.socket,
        socket.or_else(|error| {
            if error.kind() == ErrorKind::NotFound {
                Ok(false)
            } else {
                Err(error)
            }
        }),
    );
    removed
}

impl Removed {
    fn note(&mut self, path: &Path, outcome: io::Result<bool>) {
        match outcome {
            Ok(true) => self.files.push(path.to_path_buf()),
            Ok(false) => {}
            Err(error) => self.problems.push(Problem {
                object: path.display().to_string(),
                field: String::new(),
                value: String::new(),
                message: format!("it cannot be removed: {error}"),
                remedy: folder::write_remedy(&error).into(),
            }),
        }
    }
}

/// What a look at the folders came to.
struct Look {
    problems: Vec<Problem>,
    changed: bool,
    again: bool,
}

struct Installer {
    config: Config,
    entry: Value,
    binary: Binary,
    tidied: bool,
}

impl Installer {
    fn new(config: Config) -> Self {
        Self {
            entry: conflist::entry(config.mode, &config.socket),
            binary: Binary::new(&config.bin_dir),
            config,
            tidied: false,
        }
    }

    fn look(&mut self) -> Look {
        if !self.tidied {
            for folder in [&self.config.conf_dir, &self.config.bin_dir] {
                if let Err(error) = replace::remove_leftovers(folder) {
                    debug!(%error, "cannot look for leftovers in {}", folder.display());
                }
            }
            self.tidied = true;
        }
        let mut look = Look {
            problems: Vec::new(),
            changed: false,
            again: false,
        };
        match self.binary.put() {
            Ok(false) => {}
            Ok(true) => {
                look.changed = true;
                info!("installed {}", self.binary.path().display());
            }
            Err(problem) => look.problems.push(problem),
        }
        if self.binary.is_there() {
            let done = folder::put(&self.config.conf_dir, &self.entry);
            for path in &done.changed {
                info!(
                    "the CNI configuration has Palisade's entry: wrote {}",
                    path.display()
                );
            }
            look.changed |= !done.changed.is_empty();
            look.again = done.again;
            look.problems.extend(done.problems);
        }
        look
    }
}

/// Events in folders, also such as come to be later.
struct Watch {
    watches: inotify::Watches,
    events: EventStream<Vec<u8>>,
}

impl Watch {
    fn new() -> Result<Self> {
        let inotify =
            Inotify::init().context("cannot open an inotify instance (fs.inotify.max_user_instances)")?;
        Ok(Self {
            watches: inotify.watches(),
            events: inotify.into_event_stream(vec![0; BUFFER])?,
        })
    }

    /// One that is not there is reported by who looks into it, and followed the next time.
    fn follow(&mut self, folders: [&PathBuf; 2]) {
        // Not of files that are begun: they are half of something until they are closed.
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        for folder in folders {
            if let Err(error) = self.watches.add(folder, mask) {
                debug!(%error, "cannot watch {}", folder.display());
            }
        }
    }

    /// Resolves after one or more.
    async fn event(&mut self) -> io::Result<()> {
        let ended = || io::Error::from(ErrorKind::BrokenPipe);
        self.events.next().await.ok_or_else(ended)??;
        while let Some(event) = self.events.next().now_or_never() {
            event.ok_or_else(ended)??;
        }
        Ok(())
    }
}

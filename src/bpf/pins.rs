//! Where things are pinned: `PIN/v<ABI>/maps/NAME`, `PIN/v<ABI>/programs/NAME` and, whatever the ABI, `PIN/links/IFINDEX-HOOK`.
//!
//! Links outlive an ABI: a new version fills maps of its own and then moves each link to its programs, in place.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, statfs};
use rustix::mount::{MountFlags, mount};

use super::config::Map;
use super::sys::{self, Hook};

/// statfs(2) type of a bpffs.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const BPFFS: &str = "/sys/fs/bpf";
/// Ends the name of what is about to replace its namesake; a crash may leave one.
const ASIDE: &str = "-new";
/// A predecessor may be ending just now.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// The folders of one instance, and the lock that says it is in use.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    abi_version: u32,
    /// Held for life: two writers would each believe a mirror of their own.
    _lock: OwnedFd,
}

impl Pins {
    /// Makes the folders, on a bpffs that is mounted if it must be.
    ///
    /// # Errors
    /// `root` is not in a bpffs and none can be mounted for it, or another process has it open.
    pub fn create(root: &Path, abi_version: u32) -> Result<Self> {
        if root.starts_with(BPFFS) && root.to_string_lossy().contains('.') {
            bail!(
                "pin path {}: a bpffs takes no dots in names; choose another --pin-path",
                root.display()
            );
        }
        ensure_bpffs(root)?;
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        let lock = lock(root)?;
        let pins = Self {
            root: root.to_owned(),
            abi_version,
            _lock: lock,
        };
        for folder in [pins.maps(), pins.programs(), pins.links()] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(pins)
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{}", self.abi_version))
    }

    /// A map of another ABI version.
    pub fn map_of(version: &Path, map: Map) -> PathBuf {
        version.join("maps").join(map.name())
    }

    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    pub fn programs(&self) -> PathBuf {
        self.version().join("programs")
    }

    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub fn map(&self, map: Map) -> PathBuf {
        self.maps().join(map.name())
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    pub fn link(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.links().join(format!("{ifindex}-{}", hook_name(hook)))
    }

    /// Every pinned link by what its name says. Files of other names are not ours.
    pub fn pinned_links(&self) -> Result<Vec<(u32, Hook, PathBuf)>> {
        links_under(&self.links())
    }

    /// Folders of other ABI versions.
    pub fn other_versions(&self) -> Result<Vec<PathBuf>> {
        Ok(versions_under(&self.root)?
            .into_iter()
            .filter(|path| *path != self.version())
            .collect())
    }
}

pub(super) fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
    }
}

/// Links under a folder that may be absent.
pub(super) fn links_under(folder: &Path) -> Result<Vec<(u32, Hook, PathBuf)>> {
    let mut found: Vec<_> = entries(folder)?
        .into_iter()
        .filter_map(|path| {
            let (ifindex, hook) = path.file_name()?.to_str()?.split_once('-')?;
            let hook = [Hook::Ingress, Hook::Egress]
                .into_iter()
                .find(|h| hook_name(*h) == hook)?;
            Some((ifindex.parse().ok()?, hook, path))
        })
        .collect();
    found.sort_by_key(|(ifindex, hook, _)| (*ifindex, hook_name(*hook)));
    Ok(found)
}

/// `v1`, `v2`, … under a pin path.
pub(super) fn versions_under(root: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(root)?
        .into_iter()
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str()?.strip_prefix('v')?.parse::<u32>().ok())
                .is_some()
        })
        .collect())
}

/// What a folder holds, in order; nothing where there is no such folder.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other,
    };
    let mut paths = listing
        .and_then(|entries| {
            entries
                .map(|e| e.map(|e| e.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .with_context(|| format!("cannot list {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

/// Pins in the place of what is pinned there; at any moment one of the two is.
pub(super) fn replace_pin(fd: impl AsFd, path: &Path) -> Result<()> {
    // A bpffs takes no dots in names.
    let mut aside = path.as_os_str().to_owned();
    aside.push(ASIDE);
    let aside = PathBuf::from(aside);
    let replaced = (|| {
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        sys::pin(fd.as_fd(), &aside)?;
        fs::rename(&aside, path)
    })();
    replaced.with_context(|| format!("cannot pin {}", path.display()))
}

/// Takes the lock of a pin path that exists.
pub(super) fn lock(root: &Path) -> Result<OwnedFd> {
    let folder = open(
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("cannot open {}", root.display()))?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(LOCK_WAIT / 50)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => bail!(
                "{} is in use by another palisade process; stop it, or give this one another --pin-path",
                root.display()
            ),
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", root.display())),
        }
    }
}

fn ensure_bpffs(root: &Path) -> Result<()> {
    if on_bpffs(root) {
        return Ok(());
    }
    if !root.starts_with(BPFFS) {
        bail!(
            "{} is not in a bpffs; choose a --pin-path under {BPFFS}, or mount one: mount -t bpf bpf {}",
            root.display(),
            root.display()
        );
    }
    let remedy = "mount it on the host (mount -t bpf bpf /sys/fs/bpf) and, in a pod, mount that path with HostToContainer propagation";
    // Another process may be mounting it too: a second mount would hide the first one's pins.
    let parent = open(
        "/sys/fs",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("no /sys/fs to mount a bpffs in; {remedy}"))?;
    flock(&parent, FlockOperation::LockExclusive).context("cannot lock /sys/fs")?;
    if on_bpffs(root) {
        return Ok(());
    }
    mount(
        "bpf",
        BPFFS,
        "bpf",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .with_context(|| format!("no bpffs at {BPFFS}, and it cannot be mounted; {remedy}"))
}

/// Whether the nearest folder that exists is on a bpffs.
pub(super) fn on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find_map(|ancestor| statfs(ancestor).ok())
        .is_some_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == BPF_FS_MAGIC))
}

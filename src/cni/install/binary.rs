//! The running binary as a CNI plugin in the node's folder of plugins.

use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::folder::write_remedy;
use super::replace;
use crate::cni::TYPE;
use crate::model::Problem;

/// This process's own, also where the file has been replaced since.
const RUNNING: &str = "/proc/self/exe";
const MODE: u32 = 0o755;

/// Keeps the binary in a folder.
#[derive(Debug)]
pub struct Binary {
    path: PathBuf,
    /// What the file looked like when it was last found to be the right one.
    seen: Option<Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    mode: u32,
}

impl From<Metadata> for Seen {
    fn from(found: Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            mode: found.mode(),
        }
    }
}

impl Binary {
    pub fn new(folder: &Path) -> Self {
        Self {
            path: folder.join(TYPE),
            seen: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it there, whole or not at all. Whether it had to.
    ///
    /// # Errors
    /// It cannot be written; what is there stays.
    pub fn put(&mut self) -> Result<bool, Problem> {
        self.put_from(Path::new(RUNNING)).map_err(|error| Problem {
            object: format!("CNI plugin {}", self.path.display()),
            field: String::new(),
            value: String::new(),
            message: format!("it cannot be installed: {error}"),
            remedy: match error.kind() {
                io::ErrorKind::NotFound => {
                    "check --cni-bin-dir, and that the folder is mounted into the palisade pod"
                }
                _ => write_remedy(&error),
            }
            .into(),
        })
    }

    fn put_from(&mut self, source: &Path) -> io::Result<bool> {
        let now = || self.path.symlink_metadata().ok().map(Seen::from);
        if self.seen.is_some() && self.seen == now() {
            return Ok(false);
        }
        let there = now().is_some_and(|seen| seen.mode & 0o777 == MODE) && same(source, &self.path)?;
        if !there {
            replace::put(&self.path, &mut File::open(source)?, MODE)?;
        }
        self.seen = self.path.symlink_metadata().ok().map(Seen::from);
        Ok(!there)
    }

    /// Whether some version of it is there.
    pub fn is_there(&self) -> bool {
        self.path
            .metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    }

    /// Removes it. Whether it was there.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self) -> io::Result<bool> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether both hold the same bytes.
fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    let (mut left, mut right) = ([0; 1 << 13], [0; 1 << 13]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        match other.read_exact(&mut right[..read]) {
            Ok(()) if left[..read] == right[..read] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

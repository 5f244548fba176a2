//! A file under its name is the old one or the new one, whole, at any time; also when the disk is full or the power goes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Names of files that are not in place yet begin and end so; no runtime reads them.
const BEGIN: &str = ".palisade-";
const END: &str = ".tmp";
/// How often somebody else may be quicker.
const ATTEMPTS: usize = 8;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The file is no longer what it was read as: it is as somebody else has written it since.
    Changed,
}

/// A file that is not in place yet; removed if it never is.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn new(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!("{BEGIN}{}{END}", std::process::id()));
        // Of a process with the same id, as each container's first one has it.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self { path, file })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone where it has been renamed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes `path`, which is not there.
///
/// # Errors
/// The folder cannot be written to, or the disk is full; nothing is at `path` then.
pub fn create(path: &Path, contents: &[u8]) -> io::Result<Outcome> {
    let folder = folder(path)?;
    let new = prepared(folder, &mut &*contents, 0o644, None)?;
    match renameat_with(CWD, &new.path, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(Outcome::Changed),
        // A file system that knows no such rename.
        Err(Errno::INVAL | Errno::NOSYS) if !path.try_exists()? => fs::rename(&new.path, path)?,
        Err(error) => return Err(error.into()),
    }
    File::open(folder)?.sync_all()?;
    Ok(Outcome::Done)
}

/// Puts `contents` in the place of `path`, which was read as `expected`, with its mode and owner.
///
/// # Errors
/// The folder cannot be written to, or the disk is full; `path` is as before then.
pub fn change(path: &Path, expected: &[u8], contents: &[u8]) -> io::Result<Outcome> {
    // A link stays, and what it points to is changed.
    let path = match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Outcome::Changed),
        path => path?,
    };
    let folder = folder(&path)?;
    let before = path.metadata()?;
    let owner = (before.uid(), before.gid());
    let new = prepared(folder, &mut &*contents, before.mode() & 0o7777, Some(owner))?;
    let outcome = exchange(&path, &new.path, expected, contents)?;
    File::open(folder)?.sync_all()?;
    Ok(outcome)
}

/// Swaps the two files, so that what was in place can be looked at: if somebody has written to it since it was read, it goes back.
fn exchange(path: &Path, new: &Path, expected: &[u8], contents: &[u8]) -> io::Result<Outcome> {
    let (mut into_place, mut comes_out, mut outcome) = (contents.to_vec(), expected.to_vec(), Outcome::Done);
    for _ in 0..ATTEMPTS {
        match renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS) => {
                if fs::read(path)? != expected {
                    return Ok(Outcome::Changed);
                }
                fs::rename(new, path)?;
                return Ok(Outcome::Done);
            }
            Err(Errno::NOENT) => return Ok(Outcome::Changed),
            Err(error) => return Err(error.into()),
        }
        let came_out = fs::read(new)?;
        if came_out == comes_out {
            return Ok(outcome);
        }
        comes_out = std::mem::replace(&mut into_place, came_out);
        outcome = Outcome::Changed;
    }
    Err(io::Error::new(
        ErrorKind::ResourceBusy,
        "something else keeps writing to it",
    ))
}

/// Puts what `source` holds in the place of whatever is at `path`.
///
/// # Errors
/// As [`change`].
pub fn put(path: &Path, source: &mut dyn Read, mode: u32) -> io::Result<()> {
    let folder = folder(path)?;
    let new = prepared(folder, source, mode, None)?;
    fs::rename(&new.path, path)?;
    File::open(folder)?.sync_all()
}

/// Removes what killed processes have left.
pub fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(BEGIN) && name.ends_with(END) {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

fn folder(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| ErrorKind::InvalidInput.into())
}

fn prepared(
    folder: &Path,
    source: &mut dyn Read,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> io::Result<Temporary> {
    let mut new = Temporary::new(folder)?;
    io::copy(source, &mut new.file)?;
    if let Some((user, group)) = owner {
        fchown(&new.file, Some(user), Some(group))?;
    }
    new.file.set_permissions(Permissions::from_mode(mode))?;
    new.file.flush()?;
    new.file.sync_all()?;
    Ok(new)
}

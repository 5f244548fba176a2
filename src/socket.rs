//! Unix sockets for root alone: how one comes into place, and who is let in. In: a path. Out: a listener, or why there is none.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::net::{UnixListener, UnixStream};

/// Listens at `path`, in place of whoever did before; its folder is made, and open to root only. The socket comes into place by
/// a rename, so that there is one at any time.
///
/// # Errors
/// The folder cannot be made, or `path` is something else than a socket.
///
/// # Panics
/// Outside of a tokio runtime with IO.
pub fn listen(path: &Path) -> Result<UnixListener> {
    place(path).with_context(|| format!("cannot listen at {}", path.display()))
}

fn place(path: &Path) -> Result<UnixListener> {
    let folder = path.parent().context("it has no folder")?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => fs::create_dir_all(folder)?,
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    match path.symlink_metadata() {
        Ok(found) if !found.file_type().is_socket() => bail!("it is there, and no socket; remove it"),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut new = path.as_os_str().to_os_string();
    new.push(".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Why this peer is not let in; `None`: it is root. Of a process of another pid namespace, as those of the node are for an agent in
/// a pod, the kernel tells no pid.
pub fn refusal(stream: &UnixStream) -> Option<String> {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 => None,
        Ok(peer) => Some(format!("not root, but uid {}", peer.uid())),
        Err(error) => Some(format!("it cannot be told who it is: {error}")),
    }
}

//! The file of the Unix socket.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::ErrorKind,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tokio::net::UnixListener;

/// The file of a bound Unix socket, which is removed on drop.
pub(super) struct Socket {
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds a Unix socket that every user may connect to, as users see only their own connections. Replaces the file of
    /// an agent that has died.
    pub(super) fn bind(path: &Path) -> Result<(UnixListener, Self)> {
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .with_context(|| {
                    format!(
                        "cannot create {}: run as root, or correct `socket`",
                        directory.display()
                    )
                })?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).with_context(|| {
            format!(
                "cannot listen at {}: run as root, or set `socket` to another path",
                path.display()
            )
        })?;
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        let inode = fs::symlink_metadata(path)?.ino();
        let socket = Self {
            path: path.to_owned(),
            inode,
        };
        Ok((listener, socket))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // By now, the file may be that of another agent.
        if fs::symlink_metadata(&self.path).is_ok_and(|now| now.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of an agent that has died, if it is there.
///
/// # Errors
///
/// When a process answers at the socket, or the file is not a socket.
pub fn remove_stale(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "{} is there and not a socket: remove it, or set `socket` to another path",
            path.display()
        );
    }
    if UnixStream::connect(path).is_ok() {
        bail!(
            "another process answers at {}: stop it first, or set `socket` to another path",
            path.display()
        );
    }
    fs::remove_file(path).with_context(|| format!("cannot remove the stale {}", path.display()))
}

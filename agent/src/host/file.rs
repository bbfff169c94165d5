//! Files that others read while they change, or that must survive a crash.

use std::{
    fs::{self, File, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};

/// Replaces the content of the file at `path` by `bytes`. A reader sees either the old or the new content, never
/// a part, and so does the host after a crash.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let new = path.with_added_extension("new");
    let written = (|| {
        let mut file = File::create(&new)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_parent(path)
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Removes the file at `path`, and says whether there was one.
pub fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Writes the directory of `path` to the disk: files in it that were renamed or removed stay so after a crash.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

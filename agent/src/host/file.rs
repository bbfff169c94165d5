//! Files that others read, or that must survive a crash.

use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result};

/// Makes `bytes` the content of the file at `path`, so that readers, and a crash, find either the old or the
/// new one whole.
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

/// Has the disk know of renamed and removed files beside `path`.
pub fn sync_parent(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

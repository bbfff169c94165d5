//! What later versions in the cache have replaced.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// Removes the files and directories of the cache of whose names `is_former` says so, with a line about each. A machine that
/// runs on a disk which is removed keeps it until it ends.
pub(crate) fn remove(cache: &Path, is_former: impl Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(&is_former) {
            continue;
        }
        let path = entry.path();
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
        println!(
            "kernels: removed {}, which is no longer used",
            path.display()
        );
    }
    Ok(())
}

//! Disks for virtual machines: a directory as a file with an ext4 file system. No root is needed, and nothing is mounted.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use anyhow::Result;

use crate::process::output;

/// Makes `image` of what is in `directory`, with `free` bytes of room. It takes no more room here than what is in it.
pub(crate) fn make(directory: &Path, image: &Path, free: u64) -> Result<()> {
    // Inodes and small files take their share.
    let size = size(directory)? * 5 / 4 + free + (16 << 20);
    output(&mut mke2fs(image, size).arg("-d").arg(directory))?;
    Ok(())
}

fn mke2fs(image: &Path, size: u64) -> Command {
    let mut command = Command::new("/sbin/mke2fs");
    // A journal protects what is thrown away.
    command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0"]);
    command.arg(image).arg(format!("{}k", size / 1024));
    command
}

/// The bytes that a directory and all below it take.
fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.path().symlink_metadata()?;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += size(&entry.path())?;
        }
    }
    Ok(bytes)
}

//! Disks for virtual machines: a directory as a file with an ext4 file system. Nothing is mounted.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    process::Command,
};

use anyhow::Result;

use crate::process::output;

/// Length of a sector.
const SECTOR: u64 = 512;
/// Where the first partition of a disk begins, in sectors: 1 MiB, as [`PARTITION_OFFSET`] says.
const PARTITION: u32 = 2048;
/// The same in bytes, as an extended option of mke2fs.
pub(crate) const PARTITION_OFFSET: &str = "offset=1048576";

/// Makes a disk of what is in `directory`, with `free` bytes of room, which take none on this host. It is found by its
/// label.
pub(crate) fn make(directory: &Path, image: &Path, label: &str, free: u64) -> Result<()> {
    // Inodes and small files take their share.
    let size = size(directory)? * 5 / 4 + free + (16 << 20);
    let mut command = Command::new("/sbin/mke2fs");
    // A journal would protect what is thrown away.
    command.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0"]);
    command.args(["-L", label, "-d"]).arg(directory);
    output(command.arg(image).arg(format!("{}k", size / 1024)))?;
    Ok(())
}

/// Writes the table of a disk whose only partition begins at [`PARTITION_OFFSET`] and takes the rest. The kernel finds it
/// as `PARTUUID=`, `signature` in hexadecimal, and `-01`.
///
/// The layout is the classic master boot record: at 440 the disk's signature, at 446 the first of four entries of 16
/// bytes (at 4 its type, at 8 its first sector, at 12 the number of its sectors), at 510 the magic; all little-endian.
pub(crate) fn partition(image: &Path, signature: u32) -> Result<()> {
    const LINUX: u8 = 0x83;
    let file = File::options().write(true).open(image)?;
    let sectors = u32::try_from(file.metadata()?.len() / SECTOR)?;
    let mut table = [0; 72];
    table[..4].copy_from_slice(&signature.to_le_bytes());
    table[10] = LINUX;
    table[14..18].copy_from_slice(&PARTITION.to_le_bytes());
    table[18..22].copy_from_slice(&(sectors - PARTITION).to_le_bytes());
    table[70..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&table, 440)?;
    Ok(())
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

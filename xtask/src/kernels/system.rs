//! The system that all virtual machines run: Debian of the host's release, with the programs that the scenarios need.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{
    archive::Archive,
    former,
    image::{self, PARTITION_OFFSET},
};
use crate::{
    process::{as_root, run},
    toolchain, tools,
};

/// By what the kernel finds the disk with the system. It has no fixed name: kernels look for disks in parallel.
pub(crate) const SIGNATURE: u32 = 0x7470_6565;

/// Makes a disk `$1` of Debian `$2` from the mirror `$3` with the packages `$4`, whose file system lies where `$5` says.
/// debootstrap starts no daemons, and what apt would need to install more goes.
const MAKE: &str = r#"
set -e
tree=$(mktemp -d "${1%/*}/tree.XXXXXX")
trap 'rm -rf --one-file-system "$tree"' EXIT
log=$1.log
debootstrap --variant=minbase --include="$4" "$2" "$tree" "$3" > "$log" 2>&1 || { tail "$log"; exit 1; }
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/doc "$tree"/usr/share/man \
    "$tree"/usr/share/locale
truncate -s 4097M "$1"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$tree" -E "$5" "$1" 4G
chown --reference="${1%/*}" "$1"
"#;

/// Finds the system's disk in the cache or makes it there, with a line about it.
pub(crate) fn install(archive: &Archive) -> Result<PathBuf> {
    let packages = packages();
    // How it is made is in its name, so that another list of packages makes another disk.
    let digest = Sha256::digest([MAKE, &packages].concat());
    let key: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let cache = toolchain::cache()?;
    let disk = cache.join(format!("guest-{}-{key}.img", archive.suite));
    if disk.is_file() {
        println!("kernels: guest: found {}", disk.display());
        return Ok(disk);
    }
    println!(
        "kernels: guest: making a disk of Debian {} with debootstrap; this takes some minutes",
        archive.suite
    );
    let work = tempfile::tempdir_in(&cache)?;
    let new = work.path().join("new.img");
    run(as_root(Path::new("sh"), &[])?
        .args(["-c", MAKE, "sh"])
        .arg(&new)
        .args([&archive.suite, &archive.mirror, &packages])
        .arg(PARTITION_OFFSET))
    .context("cannot make the guest's disk")?;
    image::partition(&new, SIGNATURE)?;
    fs::rename(&new, &disk).with_context(|| format!("cannot create {}", disk.display()))?;
    println!("kernels: guest: made {}", disk.display());
    let (all, this) = (format!("guest-{}-", archive.suite), format!("-{key}."));
    former::remove(&cache, |name| {
        name.starts_with(&all) && !name.contains(&this)
    })?;
    Ok(disk)
}

/// What is installed beside Debian's essential packages: modprobe, and what the scenarios need.
fn packages() -> String {
    let mut packages = vec!["kmod", "procps"];
    packages.extend(tools::in_guests());
    packages.join(",")
}

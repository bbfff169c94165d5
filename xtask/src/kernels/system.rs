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

/// The same for the architecture `$6`, whose programs do not run on this host: what the packages would do when they are
/// configured is left out, but for users, groups and the names of alternatives.
const MAKE_FOREIGN: &str = r#"
set -e
tree=$(mktemp -d "${1%/*}/tree.XXXXXX")
trap 'rm -rf --one-file-system "$tree"' EXIT
log=$1.log
debootstrap --foreign --arch="$6" --variant=minbase --include="$4" "$2" "$tree" "$3" > "$log" 2>&1 || { tail "$log"; exit 1; }
for deb in "$tree"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -C "$tree" -x --keep-directory-symlink
done
# debootstrap links these to the host's, for its second stage.
for directory in dev proc sys; do
    [ ! -L "$tree/$directory" ] || { rm "$tree/$directory"; mkdir "$tree/$directory"; }
done
for kind in passwd group; do
    cp "$tree/usr/share/base-passwd/$kind.master" "$tree/etc/$kind"
done
for name in iptables ip6tables iptables-restore ip6tables-restore iptables-save ip6tables-save; do
    ln -s xtables-nft-multi "$tree/usr/sbin/$name"
done
ln -sf mawk "$tree/usr/bin/awk"
rm -rf "$tree"/debootstrap "$tree"/var/cache/apt/* "$tree"/usr/share/doc "$tree"/usr/share/man "$tree"/usr/share/locale
truncate -s 4097M "$1"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$tree" -E "$5" "$1" 4G
chown --reference="${1%/*}" "$1"
"#;

/// Finds the system's disk in the cache or makes it there, with a line about it.
pub(crate) fn install(archive: &Archive) -> Result<PathBuf> {
    let packages = packages();
    // How it is made is in its name, so that another list of packages makes another disk.
    let make = if archive.architecture.is_own() {
        MAKE
    } else {
        MAKE_FOREIGN
    };
    let digest = Sha256::digest([make, &packages].concat());
    let key: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let cache = toolchain::cache()?;
    let all = match archive.architecture {
        own if own.is_own() => format!("guest-{}-", archive.suite),
        other => format!("guest-{}-{}-", other.name(), archive.suite),
    };
    let disk = cache.join(format!("{all}{key}.img"));
    if disk.is_file() {
        println!("kernels: guest: found {}", disk.display());
        return Ok(disk);
    }
    println!(
        "kernels: guest: making a disk of Debian {} for {} with debootstrap; this takes some minutes",
        archive.suite,
        archive.architecture.name()
    );
    let work = tempfile::tempdir_in(&cache)?;
    let new = work.path().join("new.img");
    run(as_root(Path::new("sh"), &[])?
        .args(["-c", make, "sh"])
        .arg(&new)
        .args([&archive.suite, &archive.mirror, &packages])
        .args([PARTITION_OFFSET, archive.architecture.name()]))
    .context("cannot make the guest's disk")?;
    image::partition(&new, SIGNATURE)?;
    fs::rename(&new, &disk).with_context(|| format!("cannot create {}", disk.display()))?;
    println!("kernels: guest: made {}", disk.display());
    former::remove(&cache, |name| {
        name.strip_prefix(&all)
            .is_some_and(|disk| !disk.starts_with(&key))
    })?;
    Ok(disk)
}

/// What is installed beside Debian's essential packages: modprobe, and what the scenarios need.
fn packages() -> String {
    let mut packages = vec!["kmod", "procps"];
    packages.extend(tools::in_guests());
    packages.join(",")
}

//! The directories of the runtimes' bundles, and whether they have changed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The resolution of file systems' times, and more: a directory that changed so recently may change again without a
/// new time.
const STEP: Duration = Duration::from_millis(50);

/// The directories with a directory for each container, as they were when last listed.
#[derive(Debug, Default)]
pub(super) struct Listing(Vec<Stamp>);

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    directory: PathBuf,
    modified: Option<SystemTime>,
    /// Path of the bundle's configuration in a container's directory.
    config: &'static str,
}

impl Listing {
    /// The id of each container with the path of its `config.json`; `None` when no container has come or gone.
    pub(super) fn changed(&mut self, directories: &[PathBuf]) -> Option<Vec<(String, PathBuf)>> {
        let now = SystemTime::now();
        let mut stamps = parents(directories);
        if stamps == self.0 {
            return None;
        }
        let found = stamps.iter().flat_map(|stamp| {
            entries(&stamp.directory).filter_map(|path| {
                let id = path.file_name()?.to_str()?.to_owned();
                Some((id, path.join(stamp.config)))
            })
        });
        let found = found.collect();
        for stamp in &mut stamps {
            let is_settled = |time: &SystemTime| now.duration_since(*time).is_ok_and(|d| d > STEP);
            stamp.modified = stamp.modified.filter(is_settled);
        }
        self.0 = stamps;
        Some(found)
    }

    /// Makes the next call of [`Listing::changed`] list everything.
    pub(super) fn look_again(&mut self) {
        self.0.clear();
    }
}

/// The directories of bundles: one for each of containerd's own namespaces, and that of CRI-O and Podman.
fn parents(directories: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |directory: PathBuf, config| {
        let modified = fs::metadata(&directory).ok()?.modified().ok();
        Some(Stamp {
            directory,
            modified,
            config,
        })
    };
    let of = |directory: &PathBuf| {
        let mut found: Vec<_> = entries(&directory.join("io.containerd.runtime.v2.task"))
            .filter_map(|namespace| stamp(namespace, "config.json"))
            .collect();
        let storage = directory.join("overlay-containers");
        found.extend(stamp(storage, "userdata/config.json"));
        found
    };
    directories.iter().flat_map(of).collect()
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

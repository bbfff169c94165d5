//! Where runtimes have their bundles, and when to look at them again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// File systems tell times in steps; a directory that changed within this may change again at the same time.
const STEP: Duration = Duration::from_millis(50);

/// The directories that have a directory for each container, as they were.
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
    /// The id of each container with its `config.json`; `None` when nothing has come or gone.
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

    /// Has everything taken for changed the next time.
    pub(super) fn look_again(&mut self) {
        self.0.clear();
    }
}

/// containerd's, one for each of its own namespaces, and that of CRI-O and Podman.
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

//! Puts the plugin on a node and takes it away: its binary, and its entry in the node's network.

mod chain;

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde_json::{Value, json};
use tracing::warn;

use self::chain::{Network, is_truepeer};
use crate::host::file;

/// The plugin's type, and so its file's name.
const PLUGIN: &str = "truepeer";
/// The extensions of a single plugin and of a list of them, as libcni reads them.
const SINGLE: [&str; 2] = ["conf", "json"];
const LIST: &str = "conflist";
/// Added to the name of a file that was a network before truepeer was chained; libcni does not read it.
const BEFORE: &str = "truepeer";
/// How long others may take to write a network, in milliseconds.
const SETTLE: u16 = 1000;

/// The directories of a node in which a container runtime looks.
#[derive(Clone, Debug)]
pub struct Node {
    /// For plugins.
    pub bin: PathBuf,
    /// For networks.
    pub conf: PathBuf,
}

impl Node {
    /// Installs the plugin and chains it into the node's network, the first of its directory, as `entry`.
    /// Returns what it did, a line each; nothing if all is in place.
    ///
    /// # Errors
    ///
    /// When a directory is missing or cannot be written. A node without a network is no error: it gets the
    /// binary.
    pub fn install(&self, entry: &Value) -> Result<Vec<String>> {
        let mut done = Vec::from_iter(self.install_binary()?);
        let mut networks = self.networks()?.into_iter();
        let Some(mut network) = networks.next() else {
            let conf = self.conf.display();
            warn!("no network in {conf} yet: pods start without truepeer");
            return Ok(done);
        };
        if network.plugins().contains(entry) {
            return Ok(done);
        }
        if network.has_plugin() {
            // Another entry.
            network = network.unchain()?;
        }
        network.chain(entry)?;
        let (list, name) = (network.list_path(), network.name());
        done.push(format!("chained into {} (network {name})", list.display()));
        Ok(done)
    }

    /// Removes the plugin from every network, then its binary. Returns what it did, a line each.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or changed.
    pub fn uninstall(&self) -> Result<Vec<String>> {
        let mut done = Vec::new();
        for network in self.networks()? {
            if network.has_plugin() {
                network.unchain()?;
                let path = network.path.display();
                done.push(format!("removed from {path} (network {})", network.name()));
            }
        }
        // Of networks that somebody else has replaced since.
        for before in self.files()? {
            if before.extension().is_some_and(|end| end == BEFORE) {
                remove(&before)?;
            }
        }
        let binary = self.bin.join(PLUGIN);
        if remove(&binary)? {
            done.push(format!("removed {}", binary.display()));
        }
        Ok(done)
    }

    /// Calls `act`, and again whenever a network has changed, until SIGTERM. An error is told, and tried again
    /// with the next change.
    ///
    /// # Errors
    ///
    /// When the directory cannot be watched.
    pub fn watch(&self, act: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let context = || format!("cannot watch {}", self.conf.display());
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.thread_block().with_context(context)?;
        let terminated =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).with_context(context)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).with_context(context)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        inotify
            .add_watch(&self.conf, changes)
            .with_context(context)?;
        loop {
            if let Err(error) = act(self) {
                warn!("{error:#}");
            }
            let mut ready = [
                PollFd::new(terminated.as_fd(), PollFlags::POLLIN),
                PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut ready, PollTimeout::NONE).with_context(context)?;
            // The others may not have finished what they are writing.
            if poll(&mut ready[..1], SETTLE).with_context(context)? > 0 {
                return Ok(());
            }
            inotify.read_events().with_context(context)?;
        }
    }

    /// Copies this process's own binary, unless it is there.
    fn install_binary(&self) -> Result<Option<String>> {
        let own = fs::read("/proc/self/exe").context("cannot read this binary")?;
        let path = self.bin.join(PLUGIN);
        if fs::read(&path).is_ok_and(|there| there == own) {
            return Ok(None);
        }
        file::replace(&path, &own, 0o755)?;
        Ok(Some(format!("installed {}", path.display())))
    }

    /// The directory's networks in the order in which runtimes read them. Those that cannot be understood are
    /// left out, as runtimes do.
    fn networks(&self) -> Result<Vec<Network>> {
        let mut networks = Vec::new();
        for path in self.files()? {
            let extension = path.extension().unwrap_or_default();
            if extension != LIST && SINGLE.iter().all(|single| extension != *single) {
                continue;
            }
            match Network::read(&path) {
                Ok(network) => networks.push(network),
                Err(error) => warn!("{} is left out: {error:#}", path.display()),
            }
        }
        Ok(networks)
    }

    /// All files of the networks' directory, sorted by name.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let context = || format!("cannot read {}", self.conf.display());
        let mut paths: Vec<_> = fs::read_dir(&self.conf)
            .with_context(context)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .with_context(context)?;
        paths.sort();
        Ok(paths)
    }
}

/// What a network's list is to say of truepeer: what the file says, or what does for most.
///
/// # Errors
///
/// When the file cannot be read, or is no entry of truepeer.
pub fn entry(path: Option<&Path>) -> Result<Value> {
    let Some(path) = path else {
        return Ok(json!({
            "type": PLUGIN,
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
        }));
    };
    let shown = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let entry = serde_json::from_slice(&bytes).with_context(|| format!("{shown} is not JSON"))?;
    if !is_truepeer(&entry) {
        bail!("{shown} is not an entry of truepeer: it needs \"type\": \"{PLUGIN}\"");
    }
    Ok(entry)
}

/// Removes what the plugin knows of pods.
///
/// # Errors
///
/// When the directory cannot be removed.
pub fn forget(pods: &Path) -> Result<()> {
    match fs::remove_dir_all(pods) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", pods.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a file; tells whether it was there.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path).and_then(|()| file::sync_parent(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests;

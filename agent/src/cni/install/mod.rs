//! Installs the plugin on a node and removes it: its binary, and its entry in the node's network.

mod conflist;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde_json::{Value, json};
use tracing::{info, warn};

use self::{
    conflist::{BEFORE, Conflist, LIST, PLUGIN, SINGLE, is_truepeer, remove},
    turn::Turn,
};
use crate::host::file;

/// How long others may take to write a network configuration, in milliseconds.
const SETTLE: u16 = 1000;

/// The directories of a node that a container runtime reads.
#[derive(Clone, Debug)]
pub struct Node {
    /// The directory of plugins.
    pub bin: PathBuf,
    /// The directory of network configurations.
    pub conf: PathBuf,
}

impl Node {
    /// Installs the plugin, and appends `entry` to the node's network, the first of its directory. Returns a line for
    /// each thing that it did, so none if all was in place. A node without a network gets the binary only.
    ///
    /// # Errors
    ///
    /// When a directory is missing or cannot be written.
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
            // The list has another entry of truepeer.
            network = network.unchain()?;
        }
        network.chain(entry)?;
        let (list, name) = (network.list_path(), network.name());
        done.push(format!("chained into {} (network {name})", list.display()));
        Ok(done)
    }

    /// Removes the plugin from every network, then its binary. Returns a line for each thing that it did.
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
        // These belong to networks that somebody else has replaced since.
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

    /// Calls `act` now and whenever a network or a plugin has changed, until SIGTERM. After an error it warns, and tries again
    /// with the next change. While a later watcher of the same node is there, it stands by, lest two versions undo each
    /// other's work. Returns whether it was the latest in the end.
    ///
    /// # Errors
    ///
    /// When a directory cannot be watched.
    pub fn watch(&self, act: impl Fn(&Self) -> Result<()>) -> Result<bool> {
        let context = || format!("cannot watch {}", self.conf.display());
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.thread_block().with_context(context)?;
        let terminated =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC).with_context(context)?;
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).with_context(context)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        for directory in [&self.conf, &self.bin] {
            inotify
                .add_watch(directory, changes)
                .with_context(|| format!("cannot watch {}", directory.display()))?;
        }
        let turn = Turn::take(&self.conf);
        let turn = turn.inspect_err(|error| warn!("{error:#}: another watcher is not seen"));
        let turn = turn.ok();
        let is_latest = || turn.as_ref().is_none_or(Turn::is_latest);
        let mut acts = true;
        loop {
            if is_latest() != acts {
                acts = !acts;
                info!(
                    "{}",
                    match acts {
                        true => "the later watcher has ended: this one goes on",
                        false => "a later watcher is there: this one stands by",
                    }
                );
            }
            if acts && let Err(error) = act(self) {
                warn!("{error:#}");
            }
            let mut ready = [
                PollFd::new(terminated.as_fd(), PollFlags::POLLIN),
                PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            ];
            if acts {
                poll(&mut ready, PollTimeout::NONE).with_context(context)?;
            }
            // Give others time to finish what they are writing. Nothing tells of the end of a later watcher.
            if poll(&mut ready[..1], SETTLE).with_context(context)? > 0 {
                return Ok(is_latest());
            }
            match inotify.read_events() {
                Ok(_) | Err(Errno::EAGAIN) => {}
                Err(error) => return Err(error).with_context(context),
            }
        }
    }

    /// Copies the binary of this process, unless it is there already.
    fn install_binary(&self) -> Result<Option<String>> {
        let own = fs::read("/proc/self/exe").context("cannot read this binary")?;
        let path = self.bin.join(PLUGIN);
        if fs::read(&path).is_ok_and(|there| there == own) {
            return Ok(None);
        }
        file::replace(&path, &own, 0o755)?;
        Ok(Some(format!("installed {}", path.display())))
    }

    /// The networks in the order in which runtimes read them. Skips those that cannot be parsed, as runtimes do.
    fn networks(&self) -> Result<Vec<Conflist>> {
        let mut networks = Vec::new();
        for path in self.files()? {
            let extension = path.extension().unwrap_or_default();
            if extension != LIST && SINGLE.iter().all(|single| extension != *single) {
                continue;
            }
            match Conflist::read(&path) {
                Ok(network) => networks.push(network),
                Err(error) => warn!("{} is left out: {error:#}", path.display()),
            }
        }
        Ok(networks)
    }

    /// All files of the directory of networks, sorted by name.
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

/// Truepeer's entry for a network's list: that of the file or, without one, an entry that suits most.
///
/// # Errors
///
/// When the file cannot be read, or is not an entry of truepeer.
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

/// Removes the directory of attachments' files.
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

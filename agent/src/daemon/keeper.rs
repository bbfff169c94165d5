//! Takes up pods, and lets them go.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Result, anyhow};
use tracing::{info, warn};

use super::{served::Missing, supervisor::Supervisor};
use crate::{
    config::Config,
    connections::names::Names,
    workloads::pods::{self, Action, Directory, Id, PodError, Pods},
};

/// The pods of this host, and the files that say so.
pub(super) struct Keeper {
    directory: Directory,
    /// When the directory had changed as it was last looked at.
    seen: Option<SystemTime>,
    pods: Pods,
    names: Names,
}

impl Keeper {
    /// Makes known what the files say, for the supervisor to put in place. Files of namespaces that are gone, by a
    /// reboot say, are removed.
    pub(super) fn load(
        directory: &Path,
        pods: Pods,
        names: Names,
        supervisor: &mut Supervisor,
    ) -> Result<Self> {
        let mut keeper = Self {
            directory: Directory::new(directory),
            seen: None,
            pods,
            names,
        };
        keeper.seen = keeper.directory.changed();
        for id in keeper.directory.ids()? {
            if let Err(refusal) = keeper.remember(supervisor, &id) {
                warn!("{refusal}");
            }
        }
        Ok(keeper)
    }

    /// Does what the plugin asks for.
    pub(super) fn act(
        &mut self,
        supervisor: &mut Supervisor,
        id: &Id,
        action: Action,
    ) -> Result<(), PodError> {
        match action {
            Action::TakeUp => self.take_up(supervisor, id, Missing::Fails),
            Action::LetGo => self.let_go(supervisor, id).map_err(PodError::Failed),
            Action::Check => self.check(supervisor, id),
        }
    }

    /// Tells the names of what pods ask for, as after a change of the configuration.
    pub(super) fn tell_names(&self) {
        for attachment in self.pods.all() {
            let told = pods::rules([&*attachment])
                .map_err(Into::into)
                .and_then(|rules| self.names.add(&rules.steer));
            if let Err(error) = told {
                warn!("{attachment}: {error:#}");
            }
        }
    }

    /// Follows the files, which the plugin writes and removes while no agent answers, and the namespaces.
    pub(super) fn look(&mut self, supervisor: &mut Supervisor) -> Result<()> {
        self.drop_gone(supervisor)?;
        let changed = self.directory.changed();
        if changed == self.seen {
            return Ok(());
        }
        self.seen = changed;
        let ids = self.directory.ids()?;
        for attachment in self.pods.all() {
            if !ids.contains(&attachment.id) {
                self.let_go(supervisor, &attachment.id)?;
            }
        }
        for id in &ids {
            if self.pods.get(id).is_none()
                && let Err(refusal) = self.take_up(supervisor, id, Missing::Waits)
            {
                warn!("{refusal}");
            }
        }
        Ok(())
    }

    fn drop_gone(&mut self, supervisor: &mut Supervisor) -> Result<()> {
        for attachment in self.pods.all() {
            let now = std::fs::metadata(&attachment.netns).ok().map(|m| m.ino());
            if now != Some(attachment.netns_inode) {
                info!("{attachment} has gone with its network namespace");
                self.directory.remove(&attachment.id)?;
                self.let_go(supervisor, &attachment.id)?;
            }
        }
        Ok(())
    }

    fn take_up(
        &mut self,
        supervisor: &mut Supervisor,
        id: &Id,
        missing: Missing,
    ) -> Result<(), PodError> {
        let path = self.remember(supervisor, id)?;
        supervisor.follow(&Some(path), missing).map_err(|error| {
            if missing == Missing::Fails
                && let Err(error) = self.let_go(supervisor, id)
            {
                warn!("{error:#}");
            }
            PodError::Failed(error)
        })
    }

    fn let_go(&mut self, supervisor: &mut Supervisor, id: &Id) -> Result<()> {
        let Some(attachment) = self.pods.remove(id) else {
            return Ok(());
        };
        let rest = self.pods.at(&attachment.netns);
        let rules = pods::rules(rest.iter().map(|a| &**a))?;
        supervisor.wanted.set_pod(&attachment.netns, rules);
        supervisor.follow(&Some(attachment.netns.clone()), Missing::Waits)
    }

    /// Takes what a file says for what pods ask for; the path of the network namespace, in which it is to be put in
    /// place. A file of a namespace that is gone is removed.
    fn remember(&mut self, supervisor: &mut Supervisor, id: &Id) -> Result<PathBuf, PodError> {
        let read = self.directory.read(id).map_err(PodError::Failed)?;
        let attachment = read.ok_or_else(|| {
            let reason = "there is no file: do agent and plugin have the same `pods`?";
            PodError::Unknown(anyhow!("{id}: {reason}"))
        })?;
        let Some(netns) = attachment.open_netns().map_err(PodError::Failed)? else {
            self.directory.remove(id).map_err(PodError::Failed)?;
            let path = attachment.netns.display();
            let reason = format!("its network namespace, {path}, is gone");
            return Err(PodError::Unfit(anyhow!("{attachment}: {reason}")));
        };
        let path = attachment.netns.clone();
        let mut there = self.pods.at(&path);
        there.retain(|other| other.id != *id);
        let rules = pods::rules(there.iter().map(|other| &**other).chain([&attachment]))
            .map_err(|error| PodError::Unfit(error.into()))?;
        if rules != Config::default() && supervisor.wanted.is_configured(&path) {
            return Err(PodError::Unfit(anyhow!(
                "{attachment}: the agent's own configuration names {}: take it out there",
                path.display()
            )));
        }
        self.names.add(&rules.steer).map_err(PodError::Unfit)?;
        if self.pods.get(id).is_some_and(|before| before.netns != path) {
            self.let_go(supervisor, id).map_err(PodError::Failed)?;
        }
        self.pods.insert(attachment, netns);
        supervisor.wanted.set_pod(&path, rules);
        Ok(path)
    }

    fn check(&self, supervisor: &Supervisor, id: &Id) -> Result<(), PodError> {
        let attachment = self.pods.get(id);
        let attachment =
            attachment.ok_or_else(|| PodError::Unknown(anyhow!("{id} is not known")))?;
        let file = self.directory.read(id).map_err(PodError::Failed)?;
        if file.is_none_or(|file| file != *attachment) {
            return Err(PodError::Amiss(anyhow!(
                "{attachment}: its file has changed"
            )));
        }
        supervisor
            .check(&Some(attachment.netns.clone()))
            .map_err(PodError::Amiss)
    }
}

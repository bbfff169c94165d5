//! The journal of what truepeer installs on this host. Each entry is on disk before its item is installed.

use std::{
    collections::{HashMap, hash_map},
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    item::Item,
    sweep::{joined, sweep_all},
    sysctl,
};
use crate::host::{
    file,
    netns::{Netns, boot_id},
};

/// Version of the file's format.
const VERSION: u32 = 1;

/// The record of every [`Item`] that is, or is about to be, installed.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Id of the boot, with which namespaces and everything in them end.
    boot: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    item: Item,
    /// Cookie of the namespace; by now, its path may lead to another one.
    namespace: u64,
    /// A sysctl's value before truepeer set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
}

impl Journal {
    /// Opens the journal at `path`, which need not exist. A file that cannot be parsed is set aside, and what it
    /// recorded is removed by its tag, except for sysctls, which keep their values.
    pub fn open(path: &Path) -> Result<Self> {
        let mut journal = Self {
            path: path.to_owned(),
            content: Content {
                version: VERSION,
                boot: boot_id()?,
                entries: Vec::new(),
            },
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(journal),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the journal {}", path.display()));
            }
        };
        match parse(&bytes) {
            Ok(content) if content.boot == journal.content.boot => journal.content = content,
            // Everything that it recorded ended with its boot.
            Ok(_) => {}
            Err(error) => journal.set_aside(&error)?,
        }
        Ok(journal)
    }

    /// Whether the journal has no entry.
    pub fn is_empty(&self) -> bool {
        self.content.entries.is_empty()
    }

    /// Makes `wanted` all that is installed in `netns`, to which its items belong: removes everything else that the
    /// journal has at the namespace's path, and installs what is missing. Leaves out IPv6 items where the namespace has
    /// no IPv6. After an error, the journal still has all that is installed.
    pub fn apply(&mut self, netns: &Netns, wanted: &[Item]) -> Result<()> {
        let ipv6 = wanted.is_empty() || sysctl::ipv6_enabled(netns)?;
        if !ipv6 {
            tracing::info!("IPv6 is disabled in {netns}: only IPv4 is routed there");
        }
        let wanted = || wanted.iter().filter(|item| ipv6 || !item.is_ipv6());
        let is_wanted = |entry: &Entry| wanted().any(|item| entry.is(item, netns));
        self.undo_if(Some(netns), |entry| {
            entry.item.netns() == netns.path() && !is_wanted(entry)
        })?;

        let recorded = self.content.entries.len();
        for item in wanted() {
            if !self
                .content
                .entries
                .iter()
                .any(|entry| entry.is(item, netns))
            {
                self.content.entries.push(Entry {
                    item: item.clone(),
                    namespace: netns.cookie(),
                    previous: item.previous(netns)?,
                });
            }
        }
        if self.content.entries.len() > recorded {
            self.save()?;
        }
        wanted().try_for_each(|item| item.install(netns))
    }

    /// Removes everything that is installed in namespaces whose path is none of `paths`.
    pub fn retain(&mut self, paths: &[Option<&Path>]) -> Result<()> {
        self.undo_if(None, |entry| !paths.contains(&entry.item.netns()))
    }

    /// Removes everything that is installed. Goes on after a failure, and keeps the entries that failed.
    pub fn undo_all(&mut self) -> Result<()> {
        self.undo_if(None, |_| true)
    }

    /// Undoes the entries that are `unwanted`, the last first, and keeps those that failed. `known` is a namespace that
    /// need not be looked up.
    fn undo_if(&mut self, known: Option<&Netns>, unwanted: impl Fn(&Entry) -> bool) -> Result<()> {
        let all = std::mem::take(&mut self.content.entries);
        let (entries, kept): (Vec<_>, _) = all.into_iter().partition(unwanted);
        self.content.entries = kept;
        if entries.is_empty() {
            return Ok(());
        }
        let mut namespaces: HashMap<_, _> = known
            .map(|netns| (netns.cookie(), Some(netns.clone())))
            .into_iter()
            .collect();
        let mut errors = Vec::new();
        let mut failed = Vec::new();
        for entry in entries.into_iter().rev() {
            if let Err(error) = entry.undo(&mut namespaces) {
                errors.push(format!("{error:#}"));
                failed.insert(0, entry);
            }
        }
        self.content.entries.splice(0..0, failed);
        self.save()?;
        joined(errors)
    }

    /// Writes the file.
    fn save(&self) -> Result<()> {
        let context = || format!("cannot write the journal {}", self.path.display());
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).with_context(context)?;
        if self.is_empty() {
            return file::remove(&self.path).map(drop).with_context(context);
        }
        file::replace(
            &self.path,
            &serde_json::to_vec_pretty(&self.content)?,
            0o644,
        )
    }

    /// Renames a file that cannot be parsed, and removes by their tag what it may have recorded.
    fn set_aside(&self, error: &serde_json::Error) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let aside = self.path.with_added_extension(format!("unreadable.{now}"));
        fs::rename(&self.path, &aside)
            .with_context(|| format!("cannot rename the journal {}", self.path.display()))?;
        let removed = sweep_all()?;
        tracing::warn!(
            "cannot understand the journal ({error}): removed {removed} rules and routes by their \
             tag instead. Sysctls keep their values; the previous ones are in {}",
            aside.display()
        );
        Ok(())
    }
}

impl Entry {
    fn is(&self, item: &Item, netns: &Netns) -> bool {
        self.item == *item && self.namespace == netns.cookie()
    }

    /// Removes the item. `namespaces` has those that were already looked up, by their cookies.
    fn undo(&self, namespaces: &mut HashMap<u64, Option<Netns>>) -> Result<()> {
        let netns = match namespaces.entry(self.namespace) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(new) => new.insert(self.find()?),
        };
        match netns {
            Some(netns) => self.item.remove(netns, self.previous.as_deref()),
            None => {
                tracing::info!("the {} went with its network namespace", self.item);
                Ok(())
            }
        }
    }

    /// The entry's namespace, even if it has another path by now; `None` if it is gone.
    fn find(&self) -> Result<Option<Netns>> {
        match Netns::open_or_current(self.item.netns()) {
            Ok(netns) if netns.cookie() == self.namespace => Ok(Some(netns)),
            _ => Ok(Netns::all()?
                .into_iter()
                .find(|netns| netns.cookie() == self.namespace)),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Content, serde_json::Error> {
    let content: Content = serde_json::from_slice(bytes)?;
    if content.version != VERSION {
        return Err(serde::de::Error::custom(format!(
            "version {}, this truepeer knows {VERSION}",
            content.version
        )));
    }
    Ok(content)
}

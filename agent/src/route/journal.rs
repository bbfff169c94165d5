//! What truepeer has installed on this host, on disk before it is done.

use std::{
    collections::{HashMap, hash_map},
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Item, one_error, sweep_all, sysctl};
use crate::{file, netns::Netns};

/// Version of the file's format.
const VERSION: u32 = 1;

/// The record of every [`Item`] that is installed, or about to be.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Namespaces and what is in them end with the boot.
    boot: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    item: Item,
    /// Cookie of the namespace: another one may have its path by now.
    namespace: u64,
    /// A sysctl's value before truepeer set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
}

impl Journal {
    /// Opens the journal at `path`, which need not exist. A file that cannot be understood is set
    /// aside, and what it recorded is removed by its tag; only sysctls then stay as they are.
    pub fn open(path: &Path) -> Result<Self> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
        let mut journal = Self {
            path: path.to_owned(),
            content: Content {
                version: VERSION,
                boot: boot.trim_end().to_owned(),
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
            // What it recorded ended with that boot.
            Ok(_) => {}
            Err(error) => journal.set_aside(&error)?,
        }
        Ok(journal)
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.content.entries.is_empty()
    }

    /// Makes `wanted` the whole of what is installed: removes everything else that the journal
    /// knows, and installs what isn't there. Without IPv6 in a namespace, its IPv6 items are left
    /// out. After an error the journal still knows all that is installed.
    pub fn apply(&mut self, wanted: &[Item]) -> Result<()> {
        let wanted = resolve(wanted)?;
        let (kept, unwanted) = self
            .content
            .entries
            .drain(..)
            .partition(|entry| wanted.iter().any(|(item, netns)| entry.is(item, netns)));
        self.content.entries = kept;
        self.undo(unwanted)?;

        let recorded = self.content.entries.len();
        for (item, netns) in &wanted {
            if !self
                .content
                .entries
                .iter()
                .any(|entry| entry.is(item, netns))
            {
                self.content.entries.push(Entry {
                    item: (*item).clone(),
                    namespace: netns.cookie(),
                    previous: item.previous(netns)?,
                });
            }
        }
        if self.content.entries.len() > recorded {
            self.save()?;
        }
        for (item, netns) in &wanted {
            item.install(netns)?;
        }
        Ok(())
    }

    /// Removes all that is installed. What fails doesn't stop the rest, and stays recorded.
    pub fn undo_all(&mut self) -> Result<()> {
        let all = std::mem::take(&mut self.content.entries);
        self.undo(all)
    }

    /// Removes `entries`, the last first; those that fail are recorded again.
    fn undo(&mut self, entries: Vec<Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut errors = Vec::new();
        let mut failed = Vec::new();
        for entry in entries.into_iter().rev() {
            if let Err(error) = entry.undo() {
                errors.push(format!("{error:#}"));
                failed.insert(0, entry);
            }
        }
        self.content.entries.splice(0..0, failed);
        self.save()?;
        one_error(errors)
    }

    /// Writes the file.
    fn save(&self) -> Result<()> {
        let context = || format!("cannot write the journal {}", self.path.display());
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).with_context(context)?;
        if self.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).with_context(context)
                }
                _ => Ok(()),
            };
        }
        file::replace(
            &self.path,
            &serde_json::to_vec_pretty(&self.content)?,
            0o644,
        )
    }

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

    fn undo(&self) -> Result<()> {
        match self.find()? {
            Some(netns) => self.item.remove(&netns, self.previous.as_deref()),
            None => {
                tracing::info!("the {} went with its network namespace", self.item);
                Ok(())
            }
        }
    }

    /// Its namespace, wherever it is by now.
    fn find(&self) -> Result<Option<Netns>> {
        match Netns::open_or_current(self.item.netns()) {
            Ok(netns) if netns.cookie() == self.namespace => Ok(Some(netns)),
            _ => Ok(Netns::all()?
                .into_iter()
                .find(|netns| netns.cookie() == self.namespace)),
        }
    }
}

/// Opens each item's namespace, and leaves out IPv6 where there is none.
fn resolve(wanted: &[Item]) -> Result<Vec<(&Item, Netns)>> {
    let mut known = HashMap::new();
    let mut resolved = Vec::new();
    for item in wanted {
        let (netns, ipv6) = match known.entry(item.netns()) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(new) => {
                let netns = Netns::open_or_current(item.netns())?;
                let ipv6 = sysctl::ipv6_enabled(&netns)?;
                if !ipv6 {
                    tracing::info!("IPv6 is disabled in {netns}: only IPv4 is routed there");
                }
                new.insert((netns, ipv6))
            }
        };
        if *ipv6 || !item.is_ipv6() {
            resolved.push((item, netns.clone()));
        }
    }
    Ok(resolved)
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

//! A network's list of plugins, with and without truepeer.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use super::{BEFORE, LIST, PLUGIN, SINGLE, remove};
use crate::host::file;

/// A network's configuration.
pub(super) struct Network {
    pub(super) path: PathBuf,
    /// As read.
    bytes: Vec<u8>,
    /// As a list of plugins, be it one or not.
    pub(super) list: Map<String, Value>,
}

impl Network {
    pub(super) fn read(path: &Path) -> Result<Self> {
        Self::parse(path, fs::read(path).context("cannot read it")?)
    }

    /// What a file at `path` with these bytes says.
    fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let mut list: Map<String, Value> =
            serde_json::from_slice(&bytes).context("it is not a JSON object")?;
        if path.extension().is_none_or(|end| end != LIST) {
            list = listed(list);
        }
        if list.get("plugins").and_then(Value::as_array).is_none() {
            bail!("it has no list of plugins");
        }
        Ok(Self {
            path: path.to_owned(),
            bytes,
            list,
        })
    }

    pub(super) fn name(&self) -> &str {
        let name = self.list.get("name").and_then(Value::as_str);
        name.unwrap_or("without a name")
    }

    pub(super) fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().map_or(&[], Vec::as_slice)
    }

    pub(super) fn has_plugin(&self) -> bool {
        self.plugins().iter().any(is_truepeer)
    }

    /// Where it is, or would be, as a list.
    pub(super) fn list_path(&self) -> PathBuf {
        self.path.with_extension(LIST)
    }

    /// Where it is kept while truepeer is in the list.
    fn before(&self) -> PathBuf {
        self.path.with_added_extension(BEFORE)
    }

    /// The list with these plugins instead of its own.
    fn with(&self, plugins: Vec<Value>) -> Map<String, Value> {
        let mut list = self.list.clone();
        list.insert("plugins".to_owned(), plugins.into());
        list
    }

    /// The list with `entry` at its end.
    pub(super) fn chained(&self, entry: &Value) -> Map<String, Value> {
        self.with([self.plugins(), std::slice::from_ref(entry)].concat())
    }

    /// Appends the plugin. At any time the first network of the directory is either the former or the new one.
    pub(super) fn chain(&self, entry: &Value) -> Result<()> {
        let list = self.list_path();
        let chained = self.chained(entry);
        if list == self.path {
            file::replace(&self.before(), &self.bytes, self.mode()?)?;
            return self.write(&list, &chained);
        }
        // `10-x.conf` comes before `10-x.conflist`, and so counts until it has another name.
        let is_half_done = |there: Network| there.list == chained;
        if list.exists() && !Network::read(&list).is_ok_and(is_half_done) {
            bail!(
                "{} and {} are both there: remove the one that is not in use",
                self.path.display(),
                list.display()
            );
        }
        self.write(&list, &chained)?;
        rename(&self.path, &self.before())
    }

    /// Removes the plugin: to the byte, if nobody else has changed the list since. Returns what is left.
    pub(super) fn unchain(&self) -> Result<Self> {
        let (entries, others): (Vec<_>, Vec<_>) =
            self.plugins().iter().cloned().partition(is_truepeer);
        let is_same = |former: &Self| former.chained(&entries[0]) == self.list;
        if let Some(former) = self.former().filter(is_same) {
            if former.before().exists() {
                rename(&former.before(), &former.path)?;
            }
            if former.path != self.path {
                remove(&self.path)?;
            }
            return Ok(former);
        }
        self.write(&self.path, &self.with(others))?;
        Self::read(&self.path)
    }

    /// What the network was before truepeer was chained. A single plugin that has not got its other name yet,
    /// or has got back its own, is that, too.
    fn former(&self) -> Option<Self> {
        let list = (self.list_path(), None);
        let singles = SINGLE.map(|end| self.path.with_extension(end));
        let singles = singles.map(|path| (path.clone(), Some(path)));
        [list]
            .into_iter()
            .chain(singles)
            .find_map(|(path, itself)| {
                let before = path.with_added_extension(BEFORE);
                let bytes = fs::read(before).or_else(|error| itself.map_or(Err(error), fs::read));
                Self::parse(&path, bytes.ok()?).ok()
            })
    }

    pub(super) fn mode(&self) -> Result<u32> {
        Ok(fs::metadata(&self.path)?.permissions().mode() & 0o7777)
    }

    pub(super) fn write(&self, path: &Path, list: &Map<String, Value>) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(list)?;
        text.push(b'\n');
        file::replace(path, &text, self.mode()?)
    }
}

/// Whether a list's entry is truepeer's.
pub(super) fn is_truepeer(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

/// A single plugin as a list of one, as libcni makes it.
fn listed(plugin: Map<String, Value>) -> Map<String, Value> {
    let shared = ["cniVersion", "name"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), plugin.get(key)?.clone())));
    let mut list: Map<_, _> = shared.collect();
    list.insert("plugins".to_owned(), json!([plugin]));
    list
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .and_then(|()| file::sync_parent(to))
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

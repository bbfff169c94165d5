//! A network configuration list, with and without truepeer.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::host::file;

/// The plugin's type, which is also the name of its file.
pub(super) const PLUGIN: &str = "truepeer";
/// The extensions of files with a single plugin, as libcni reads them.
pub(super) const SINGLE: [&str; 2] = ["conf", "json"];
/// The extension of files with a list of plugins.
pub(super) const LIST: &str = "conflist";
/// The extension that is added to the former file while truepeer is in the list; libcni does not read such files.
pub(super) const BEFORE: &str = "truepeer";

/// The configuration of a network.
pub(super) struct Conflist {
    pub(super) path: PathBuf,
    /// The file's content.
    bytes: Vec<u8>,
    /// The configuration as a list, even if the file has a single plugin.
    pub(super) list: Map<String, Value>,
}

impl Conflist {
    pub(super) fn read(path: &Path) -> Result<Self> {
        Self::parse(path, fs::read(path).context("cannot read it")?)
    }

    /// Parses the content of the file at `path`.
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

    /// Path of the file as a list.
    pub(super) fn list_path(&self) -> PathBuf {
        self.path.with_extension(LIST)
    }

    /// Path at which the former file is kept while truepeer is in the list.
    fn before(&self) -> PathBuf {
        self.path.with_added_extension(BEFORE)
    }

    /// The list with other plugins.
    fn with(&self, plugins: Vec<Value>) -> Map<String, Value> {
        let mut list = self.list.clone();
        list.insert("plugins".to_owned(), plugins.into());
        list
    }

    /// The list with `entry` at its end.
    pub(super) fn chained(&self, entry: &Value) -> Map<String, Value> {
        self.with([self.plugins(), std::slice::from_ref(entry)].concat())
    }

    /// Appends the plugin. At any time, the first network of the directory is either the former or the new one.
    pub(super) fn chain(&self, entry: &Value) -> Result<()> {
        let list = self.list_path();
        let chained = self.chained(entry);
        if list == self.path {
            file::replace(&self.before(), &self.bytes, self.mode()?)?;
            return self.write(&list, &chained);
        }
        // `10-x.conf` sorts before `10-x.conflist`, so it is the first until it is renamed.
        let is_half_done = |there: Conflist| there.list == chained;
        if list.exists() && !Conflist::read(&list).is_ok_and(is_half_done) {
            bail!(
                "{} and {} are both there: remove the one that is not in use",
                self.path.display(),
                list.display()
            );
        }
        self.write(&list, &chained)?;
        rename(&self.path, &self.before())
    }

    /// Removes the plugin and returns what is left: the former file, byte by byte, if nobody else has changed the list.
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

    /// The network before truepeer was chained. If that was interrupted, it may be a file with a single plugin that still
    /// has, or has again, its own name.
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

/// Whether an entry of a list is truepeer's.
pub(super) fn is_truepeer(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

/// The list that libcni makes of a single plugin.
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

/// Removes a file for good, and says whether there was one.
pub(super) fn remove(path: &Path) -> Result<bool> {
    let was_there = file::remove(path)?;
    if was_there {
        file::sync_parent(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(was_there)
}

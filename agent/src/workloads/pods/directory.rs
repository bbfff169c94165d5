//! The files that the CNI plugin writes.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use super::attachment::{Attachment, Id};
use crate::host::file;

const SUFFIX: &str = ".json";

/// The directory in which each attachment has a file.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory at `path`, which need not exist.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Writes the file of an attachment, which readers see whole or not at all. It need not survive a crash of the
    /// host, as no network namespace does.
    pub fn write(&self, attachment: &Attachment) -> Result<()> {
        let path = self.file(&attachment.id);
        let new = path.with_added_extension("new");
        let written = (|| {
            let mut directory = DirBuilder::new();
            directory.recursive(true).mode(0o700).create(&self.0)?;
            fs::write(&new, serde_json::to_vec_pretty(attachment)?)?;
            fs::rename(&new, &path)
        })();
        written.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the file of an attachment; `None` if there is none.
    pub fn read(&self, id: &Id) -> Result<Option<Attachment>> {
        let path = self.file(id);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let attachment = serde_json::from_slice(&bytes);
        attachment.with_context(|| format!("cannot understand {}: remove it", path.display()))
    }

    /// Removes the file of an attachment, if there is one.
    pub fn remove(&self, id: &Id) -> Result<()> {
        file::remove(&self.file(id)).map(drop)
    }

    /// The ids of the attachments that have a file.
    pub fn ids(&self) -> Result<Vec<Id>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {}", self.0.display()))?,
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let id = |name: OsString| {
            let (container_id, ifname) = name.to_str()?.strip_suffix(SUFFIX)?.split_once(':')?;
            Some(Id {
                container_id: container_id.into(),
                ifname: ifname.into(),
            })
        };
        Ok(names.filter_map(id).collect())
    }

    /// When a file was last added or removed; `None` if there is no directory.
    pub fn changed(&self) -> Option<SystemTime> {
        fs::metadata(&self.0).and_then(|m| m.modified()).ok()
    }

    /// Path of the file of an attachment. Neither part of an id can contain a colon or a slash.
    fn file(&self, id: &Id) -> PathBuf {
        self.0
            .join(format!("{}:{}{SUFFIX}", id.container_id, id.ifname))
    }
}

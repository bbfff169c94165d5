//! Reproducible archives, in which the same content gives the same bytes: sorted, owned by root, and dated 1970.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Files by their paths, with their modes.
#[derive(Default)]
pub(super) struct Archive(BTreeMap<String, (u32, Vec<u8>)>);

impl Archive {
    pub(super) fn add(&mut self, path: impl Into<String>, mode: u32, bytes: Vec<u8>) {
        self.0.insert(path.into(), (mode, bytes));
    }

    /// The archive, with the directories above the files.
    pub(super) fn tar(&self) -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        let mut entries = BTreeMap::new();
        for (path, (mode, bytes)) in &self.0 {
            for above in Path::new(path).ancestors().skip(1) {
                if above != Path::new("") {
                    let directory = format!("{}/", above.display());
                    entries.insert(directory, (EntryType::Directory, 0o755, &[][..]));
                }
            }
            entries.insert(path.clone(), (EntryType::Regular, *mode, bytes));
        }
        for (path, (kind, mode, bytes)) in entries {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes)?;
        }
        Ok(builder.into_inner()?)
    }
}

/// Compresses `bytes`; the result does not say when or where that was.
pub(super) fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The digest, as `sha256sum` prints it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

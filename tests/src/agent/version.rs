//! Agents of other versions.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::running::binary;

/// A field of a map, as the agent's description of its maps has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field(&'static str);

/// A field of a map in which what the agent knows is.
pub const KNOWN: Field = Field("received 160:u64 8");
/// A field of a map that connections need to go on.
pub const NEEDED: Field = Field("is_told 10:u8 1");

impl Field {
    /// An agent of another version: the same one, but this field has another name.
    pub fn another_version(self, directory: &Path) -> Result<PathBuf> {
        let Self(field) = self;
        let mut agent = std::fs::read(binary()?)?;
        let places: Vec<_> = (0..agent.len() - field.len())
            .filter(|at| agent[*at..].starts_with(field.as_bytes()))
            .collect();
        ensure!(!places.is_empty(), "no map has the field {field:?}");
        for at in places {
            agent[at] = agent[at].to_ascii_uppercase();
        }
        let (name, _) = field.split_once(' ').unwrap_or((field, ""));
        let path = directory.join(format!("another-{name}"));
        std::fs::write(&path, agent)?;
        std::fs::set_permissions(&path, std::fs::metadata(binary()?)?.permissions())?;
        Ok(path)
    }
}

//! What a check finds.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Something that breaks a rule.
pub(crate) struct Finding {
    /// The file, from the workspace's directory.
    pub(crate) file: PathBuf,
    /// The line, or 0 when it is about the whole file.
    line: usize,
    /// What is wrong, and how to cure it.
    what: String,
}

impl Finding {
    /// A finding in this file and line.
    pub(crate) fn new(file: impl AsRef<Path>, line: usize, what: impl Into<String>) -> Self {
        Self {
            file: file.as_ref().to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.line {
            0 => write!(f, "{file}: {}", self.what),
            line => write!(f, "{file}:{line}: {}", self.what),
        }
    }
}

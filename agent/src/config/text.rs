//! The text of a configuration.

use std::path::Path;

use toml::de::DeTable;

use super::{
    doubts::Doubt,
    lines::Cursor,
    problem::{ConfigError, Problem},
    whole::Config,
};

/// The default configuration, commented: what `truepeer config default` prints.
pub const DEFAULT: &str = include_str!("default.toml");

/// The text of a configuration, before it is checked.
pub struct Text {
    /// What errors call it.
    name: String,
    text: String,
}

impl Text {
    /// Reads a file; without a path, it is the default configuration.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is no text.
    pub fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Ok(Self {
                name: "default configuration".into(),
                text: DEFAULT.into(),
            });
        };
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            ConfigError::file(
                &name,
                format!("cannot read it: {error}"),
                "`truepeer config default` prints a configuration to start from",
            )
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
            ConfigError::file(
                &name,
                format!("line {line} is not UTF-8"),
                "save the file as UTF-8",
            )
        })?;
        Ok(Self { name, text })
    }

    /// This text.
    #[cfg(test)]
    pub(super) fn of(text: &str, name: &str) -> Self {
        let (text, name) = (text.into(), name.into());
        Self { name, text }
    }

    /// Checks it.
    ///
    /// # Errors
    ///
    /// When something is wrong with it: names everything.
    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::parse(&self.text, &self.name)
    }

    /// Doubts about it, each with its line, as a compiler shows warnings.
    pub fn warnings(&self, doubts: &[Doubt]) -> Vec<String> {
        let (document, _) = DeTable::parse_recoverable(&self.text);
        let mut cursor = Cursor::new(&self.text);
        let warning = |doubt: &Doubt| {
            let Doubt {
                section,
                reason,
                consequence,
                remedy,
                place,
            } = doubt;
            let problem = Problem {
                span: place.span(document.get_ref()),
                message: format!("{section}: {reason}: {consequence}"),
                help: vec![remedy.clone()],
            };
            problem.render("warning", &mut cursor, &self.name)
        };
        doubts.iter().map(warning).collect()
    }
}

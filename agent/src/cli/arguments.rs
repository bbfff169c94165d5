//! Arguments that several commands have.

use std::path::PathBuf;

use super::output::Format;
use crate::config::{Config, ConfigError};

/// Which configuration the agent has.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// Configuration of the agent; without it, the default one (`truepeer config default`)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads and checks the configuration.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref())
    }
}

/// How the command prints.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(super) output: Format,
}

/// How the command prints, and which agent it asks.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ReadArgs {
    #[command(flatten)]
    pub(super) output: OutputArgs,

    #[command(flatten)]
    pub(super) config: ConfigArgs,

    /// Unix socket of the agent; without it, the configuration's
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

//! How an agent begins, and how one that another has followed may begin again.

use std::sync::Arc;

use super::lock::Lock;
use crate::{
    api::State,
    config::{Config, ConfigError},
    host::inherited::Inherited,
};

/// Reads the configuration again.
pub type Load = Box<dyn Fn() -> Result<Config, ConfigError>>;

/// With what an agent starts.
pub(super) struct Beginning {
    pub(super) config: Config,
    pub(super) load: Load,
    pub(super) lock: Lock,
    /// Sockets on which somebody listened before.
    pub(super) inherited: Inherited,
    /// What agents of this process had begun before another followed them.
    pub(super) former: Vec<Arc<State>>,
}

/// What an agent needs to go on when its successor fails.
pub(super) struct Return {
    pub(super) config: Config,
    pub(super) load: Load,
    /// They listen, and nobody accepts what waits there but the successor.
    pub(super) sockets: Inherited,
}

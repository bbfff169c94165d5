//! What operators see of connections: metrics, statistics and the access log, and of the agent's upkeep.

pub mod access_log;
pub mod api;
pub mod metrics;
pub mod rate;
pub mod statistics;
pub mod upkeep;

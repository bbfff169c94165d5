//! The local API: JSON over HTTP/1.1 on a Unix socket. Metrics and health are on a TCP address too.

mod answer;
mod caller;
pub mod client;
mod door;
mod health;
mod peers;
mod places;
mod pods;
pub mod query;
mod reload;
mod report;
mod round;
mod server;
mod socket;
mod state;
#[cfg(test)]
mod tests;

pub use self::{
    answer::Failure,
    report::{AgentReport, PolicyTally, Report},
    server::Server,
    socket::remove_stale,
    state::{Reloaded, Request, State},
};

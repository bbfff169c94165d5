//! guard: policies judge the true client.

mod policy;
mod policy_life;
mod stage;

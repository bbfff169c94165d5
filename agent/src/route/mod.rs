//! Mark-and-route: the rules, routes and sysctls by which packets for foreign addresses reach a local proxy.
//!
//! [`items`] says what a configuration needs, and a [`Journal`] installs and removes it, through route netlink and
//! `/proc/sys`. Rules and routes bear a tag, by which [`sweep`] finds those that no journal knows.

mod item;
mod journal;
mod netlink;
mod rule;
mod sweep;
pub mod sysctl;
mod table;

pub use self::{
    item::{Item, MarkRule, items, missing},
    journal::Journal,
    netlink::PROTOCOL,
    rule::{PREFERENCE, Rule, rules},
    sweep::{sweep, sweep_all},
    table::{Route, routes},
};

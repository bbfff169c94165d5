//! The life of an agent: its start and refusals, reloads, crashes and end, and what it says meanwhile.

mod flood;
mod refused;
mod restart;
mod statistics;

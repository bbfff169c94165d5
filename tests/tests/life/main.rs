//! The life of an agent: its start and refusals, reloads, crashes and end, and what it says meanwhile.

mod doctor;
mod flood;
mod readers;
mod refused;
mod reload;
mod restart;
mod statistics;

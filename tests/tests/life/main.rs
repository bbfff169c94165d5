//! The life of an agent: its start and refusals, reloads, crashes and end, and what it says meanwhile.

mod awaited;
mod doctor;
mod flood;
mod logs;
mod neighbours;
mod put_back;
mod readers;
mod refused;
mod reload;
mod restart;
mod statistics;
mod steered;
mod systemd;

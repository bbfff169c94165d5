//! truepeer keeps the client's address of connections that pass a proxy, a load balancer or a NAT.
//!
//! [`cli`] calls the rest. [`datapath`] is the only module that imports aya; what serves origins
//! ([`api`], [`metrics`], [`access_log`]) sees the [`origins::Origins`] trait instead, [`relay`]
//! [`origins::Claims`].

pub mod access_log;
pub mod agent;
pub mod api;
pub mod cli;
pub mod cni;
pub mod config;
pub mod containers;
pub mod datapath;
pub mod details;
pub mod doctor;
pub mod ended;
pub mod file;
pub mod keys;
pub mod metrics;
pub mod netns;
pub mod origins;
pub mod peers;
pub mod pods;
pub mod processes;
pub mod relay;
pub mod route;
pub mod sockets;
pub mod statistics;

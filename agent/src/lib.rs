//! truepeer keeps the client's address of connections that pass a proxy, a load balancer or a NAT.
//!
//! The rooms, lowest first; each imports only from those above it in this list:
//!
//! * [`host`]: clocks, files, network namespaces, sockets, cgroups and processes of this host
//! * [`config`]: the configuration, one file a section
//! * [`workloads`]: pods and containers, and their names
//! * [`route`]: routing rules, routes and sysctls, and the journal that undoes them
//! * [`connections`]: origins of live connections and summaries of ended ones, with the data path behind traits
//! * [`datapath`]: loads, attaches and fills the BPF programs; the only room that imports aya
//! * [`relay`]: the relay in user space
//! * [`observe`]: metrics, statistics and the access log
//! * [`doctor`]: what works on this host and what does not
//! * [`api`]: the API on the Unix socket
//! * [`cni`]: the CNI plugin
//! * [`daemon`]: the agent itself
//! * [`cli`]: the command line

pub mod api;
pub mod cli;
pub mod cni;
pub mod config;
pub mod connections;
pub mod daemon;
pub mod datapath;
pub mod doctor;
pub mod host;
pub mod observe;
pub mod relay;
pub mod route;
pub mod workloads;

//! wire: what lies below a connection, and in the kernel beside it: devices, networks that lose and reorder, TCP's
//! extensions, a security module. It runs in virtual machines only, since a host's kernel may lack most of it.

mod confined;
mod fast_open;
mod ipvs;
mod links;
mod mptcp;
mod netem;
mod pair;
mod stage;

//! forge: nobody names a client whom no rule lets him name, or takes what others need, and the honest beside him are told and
//! served as ever.

mod frames;
mod headers;
mod hops;
mod pairs;
mod pods;
mod ports;
mod processes;
mod tenants;
mod vouchers;
mod workloads;

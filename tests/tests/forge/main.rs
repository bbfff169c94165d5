//! forge: nobody names a client whom no rule lets him name, and the honest beside him are told as ever.

mod headers;
mod hops;
mod pairs;
mod ports;
mod processes;

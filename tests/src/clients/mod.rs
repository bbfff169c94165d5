//! Who connects: many clients at a time, requests, PROXY headers, and TCP segment by segment.

pub mod during;
pub mod exchange;
pub mod fast_open;
pub mod http;
pub mod load;
pub mod raw;
pub mod tcp;

//! What truepeer knows of connections: their origins, the details of their PROXY headers, and how they ended.

pub mod details;
pub mod ended;
pub mod origins;
pub mod peers;

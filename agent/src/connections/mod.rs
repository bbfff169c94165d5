//! Connections: the origins of live ones, the TLVs of their PROXY headers, and summaries of those that have ended.

#[cfg(test)]
pub(crate) mod fixtures;
pub mod names;
pub mod origins;
pub mod peers;
pub mod proxy_tlvs;
pub mod summary;
pub mod tlv_store;

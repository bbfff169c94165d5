//! The PROXY protocol, versions 1 and 2, to the letter of its specification
//! (<https://www.haproxy.org/download/3.3/doc/proxy-protocol.txt>; sections are cited where a rule is
//! applied).
//!
//! There is no guessing: what does not begin with a header is an error, as section 2 demands of a
//! receiver. Whether the sender may be believed is for the caller to decide.

pub mod block;
mod crc32c;
mod header;
pub mod line;
mod reason;
mod tlv;
mod v1;
pub mod v2;
pub mod write;

pub use header::{Endpoints, Header, Parsed, Peer};
pub use reason::Reason;
pub use tlv::{Meaning, Ssl, Tlv, Tlvs, kind};

/// Length of the longest line of version 1, with its CRLF (2.1).
pub const V1_MAX: usize = v1::MAX;

/// Parses the header at the beginning of a connection. Bytes behind it are not looked at.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let outcome = if begins(bytes, v2::SIGNATURE) && !bytes.is_empty() {
        v2::parse(bytes)
    } else if begins(bytes, v1::SIGNATURE) {
        v1::parse(bytes)
    } else {
        Err(Reason::NoHeader)
    };
    outcome.unwrap_or_else(Parsed::Error)
}

/// Whether `bytes` may be the beginning of what starts with `signature`.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}

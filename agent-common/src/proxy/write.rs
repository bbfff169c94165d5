//! Writes headers.

use core::fmt::Write as _;

use super::{
    Endpoints, Peer,
    crc32c::Crc32c,
    tlv::{HEAD, Tlv, kind},
    v2,
};

/// A header of version 2 cannot be longer than 65,551 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Appends a line of version 1 to `out`: `UNKNOWN` without endpoints. Of a health check, the
/// specification wants the connection's own.
pub fn v1(endpoints: Option<&Endpoints>, out: &mut impl Extend<u8>) {
    let Some(endpoints) = endpoints else {
        return out.extend(*b"PROXY UNKNOWN\r\n");
    };
    let (source, destination) = (endpoints.source, endpoints.destination);
    let mut text = Text(out);
    let written = if is_v4(endpoints) {
        let (from, to) = (source.address.ip(), destination.address.ip());
        write!(text, "PROXY TCP4 {from} {to} ")
    } else {
        let (from, to) = (source.address.ipv6(), destination.address.ipv6());
        write!(text, "PROXY TCP6 {from} {to} ")
    };
    // Appending does not fail.
    let _ = written.and_then(|()| write!(text, "{} {}\r\n", source.port, destination.port));
}

/// Appends a header of version 2 to `out`, with `tlvs`, and behind them a checksum of the whole if
/// wanted. `tlvs` must not hold one.
///
/// # Errors
///
/// When the TLVs are too long for one header; nothing is written.
pub fn v2<'a>(
    peer: &Peer,
    tlvs: impl Iterator<Item = Tlv<'a>> + Clone,
    with_checksum: bool,
    out: &mut impl Extend<u8>,
) -> Result<(), TooLong> {
    let (command, family, addresses) = match peer {
        Peer::Local => (0x20, 0x00, 0),
        Peer::Unknown => (0x21, 0x00, 0),
        Peer::Proxied(endpoints) if is_v4(endpoints) => (0x21, 0x11, v2::TCP4),
        Peer::Proxied(_) => (0x21, 0x21, v2::TCP6),
    };
    let checksum_length = if with_checksum {
        HEAD + size_of::<u32>()
    } else {
        0
    };
    let length = tlvs
        .clone()
        .map(|tlv| HEAD + tlv.value.len())
        .sum::<usize>();
    let length = u16::try_from(addresses + length + checksum_length).map_err(|_| TooLong)?;
    let [high, low] = length.to_be_bytes();

    let write = |out: &mut dyn FnMut(&[u8])| {
        out(v2::SIGNATURE);
        out(&[command, family, high, low]);
        if let Peer::Proxied(endpoints) = peer {
            write_endpoints(endpoints, out);
        }
        for tlv in tlvs.clone() {
            write_tlv(tlv, out);
        }
    };
    write(&mut |bytes| out.extend(bytes.iter().copied()));
    if with_checksum {
        let mut crc = Crc32c::default();
        write(&mut |bytes| crc.extend(bytes.iter().copied()));
        write_tlv(CHECKSUM, &mut |bytes| crc.extend(bytes.iter().copied()));
        let checksum = Tlv {
            value: &crc.value().to_be_bytes(),
            ..CHECKSUM
        };
        write_tlv(checksum, &mut |bytes| out.extend(bytes.iter().copied()));
    }
    Ok(())
}

/// The checksum while it is computed.
const CHECKSUM: Tlv<'_> = Tlv {
    kind: kind::CRC32C,
    value: &[0; 4],
};

fn is_v4(endpoints: &Endpoints) -> bool {
    endpoints.source.address.is_v4() && endpoints.destination.address.is_v4()
}

fn write_endpoints(endpoints: &Endpoints, out: &mut dyn FnMut(&[u8])) {
    let Endpoints {
        source,
        destination,
    } = endpoints;
    // An IPv4 address is the last of the four words.
    let first = if is_v4(endpoints) { 3 } else { 0 };
    for end in [source, destination] {
        for word in &end.address.0[first..] {
            out(&word.to_ne_bytes());
        }
    }
    for end in [source, destination] {
        out(&end.port.to_be_bytes());
    }
}

/// Its length was checked with the whole header's.
fn write_tlv(tlv: Tlv<'_>, out: &mut dyn FnMut(&[u8])) {
    let [high, low] = (tlv.value.len() as u16).to_be_bytes();
    out(&[tlv.kind, high, low]);
    out(tlv.value);
}

/// Text that is appended as bytes.
struct Text<'a, O>(&'a mut O);

impl<O: Extend<u8>> core::fmt::Write for Text<'_, O> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend(text.bytes());
        Ok(())
    }
}

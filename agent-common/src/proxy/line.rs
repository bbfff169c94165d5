//! Version 1 byte by byte, as the kernel's verifier can follow it. It takes what [`super::parse`] takes.

use super::{Endpoints, Reason, v1};
use crate::{Address, Endpoint};

/// Room for a line of version 1; a power of two bounds an index by a mask.
pub const ROOM: usize = 128;
/// Where the fields of `TCP4` and `TCP6` begin.
const FIELDS: usize = 11;
/// Where a line may end at the earliest: behind `PROXY UNKNOWN`.
const UNKNOWN: usize = 13;
const MAPPED: u64 = 0xffff << 32;

/// A line with its CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// How many bytes it takes.
    pub len: usize,
    /// What it says; `None`: `UNKNOWN`.
    pub ends: Option<Endpoints>,
}

/// Reads a line of which `bytes` has the first `length` bytes, then zeros. `None`: its end is missing.
///
/// # Errors
///
/// When it is no line of version 1.
#[inline(always)]
pub fn read(bytes: &[u8; ROOM], length: usize) -> Result<Option<Line>, Reason> {
    let begins = |at: usize, text: &[u8]| {
        let mut same = true;
        let mut i = 0;
        while i < text.len() {
            same &= bytes[at + i] == text[i];
            i += 1;
        }
        same
    };
    if !begins(0, v1::SIGNATURE) {
        return Err(Reason::NoHeader);
    }
    let at = v1::SIGNATURE.len();
    if begins(at, b"UNKNOWN") {
        return unknown(bytes, length);
    }
    let is_v6 = begins(at, b"TCP6 ");
    if !is_v6 && !begins(at, b"TCP4 ") {
        return Err(Reason::Protocol);
    }
    let mut fields = Fields {
        is_v6: is_v6.into(),
        ..Fields::default()
    };
    // Zero, which the verifier does not know: what it is added to may be anything afterwards. Else the
    // verifier would follow each way that a line can be written.
    let [.., a, b, c, d, e, f, g, h] = *bytes;
    let veil = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let mut i = FIELDS;
    while i + 1 < v1::MAX {
        fields.veil(veil);
        if i + 1 >= length {
            return Ok(None);
        }
        if bytes[i] == b'\r' {
            if bytes[i + 1] != b'\n' {
                return Err(Reason::LineEnd);
            }
            let ends = fields.ends()?;
            return Ok(Some(Line {
                len: i + 2,
                ends: Some(ends),
            }));
        }
        fields.take(bytes[i])?;
        i += 1;
    }
    Err(Reason::LineTooLong)
}

/// Looks for the end of an `UNKNOWN` line, of which nothing else counts.
#[inline(always)]
fn unknown(bytes: &[u8; ROOM], length: usize) -> Result<Option<Line>, Reason> {
    let mut i = UNKNOWN;
    while i + 1 < v1::MAX {
        if i + 1 >= length {
            return Ok(None);
        }
        if bytes[i] == b'\r' && bytes[i + 1] == b'\n' {
            return Ok(Some(Line {
                len: i + 2,
                ends: None,
            }));
        }
        if i == UNKNOWN && bytes[i] != b' ' {
            return Err(Reason::Protocol);
        }
        i += 1;
    }
    Err(Reason::LineTooLong)
}

/// The four fields, as far as they have been read.
#[derive(Default)]
struct Fields {
    is_v6: u64,
    /// Which field is being read: both addresses, both ports.
    field: u64,
    /// The number that is being read, in base ten and in base sixteen, and its digits. A number with a
    /// letter, or with a zero before others, is too great in base ten.
    decimal: u64,
    hex: u64,
    digits: u64,
    /// Of the address that is being read: its bits, its complete numbers between dots, its complete groups,
    /// how many colons came last, and one more than the groups before `::`.
    high: u64,
    low: u64,
    octets: u64,
    groups: u64,
    colons: u64,
    gap: u64,
    /// What has been read.
    source: [u64; 2],
    destination: [u64; 2],
    source_port: u64,
}

/// Greater than all that is written in base ten.
const NO_DECIMAL: u64 = 1 << 20;

impl Fields {
    #[inline(always)]
    fn veil(&mut self, veil: u64) {
        let [a, b] = &mut self.source;
        let [c, d] = &mut self.destination;
        for value in [
            &mut self.is_v6,
            &mut self.field,
            &mut self.decimal,
            &mut self.hex,
            &mut self.digits,
            &mut self.high,
            &mut self.low,
            &mut self.octets,
            &mut self.groups,
            &mut self.colons,
            &mut self.gap,
            a,
            b,
            c,
            d,
            &mut self.source_port,
        ] {
            *value = value.wrapping_add(veil);
        }
    }

    /// Takes the next byte.
    #[inline(always)]
    fn take(&mut self, byte: u8) -> Result<(), Reason> {
        match byte {
            b'0'..=b'9' => self.digit((byte - b'0').into(), true),
            b'a'..=b'f' => self.digit((byte - b'a' + 10).into(), false),
            b'A'..=b'F' => self.digit((byte - b'A' + 10).into(), false),
            b'.' => self.octet(),
            b':' => self.colon(),
            b' ' => self.end_field(),
            _ => Err(self.wrong()),
        }
    }

    #[inline(always)]
    fn wrong(&self) -> Reason {
        if self.field < 2 {
            Reason::Address
        } else {
            Reason::Port
        }
    }

    #[inline(always)]
    fn digit(&mut self, digit: u64, is_decimal: bool) -> Result<(), Reason> {
        // A single colon cannot come first.
        let is_stray = self.colons == 1 && self.groups == 0 && self.gap == 0;
        if self.digits >= 5 || is_stray {
            return Err(self.wrong());
        }
        let has_zero = self.digits != 0 && self.decimal == 0;
        self.decimal = if is_decimal && !has_zero {
            self.decimal * 10 + digit
        } else {
            NO_DECIMAL
        };
        if self.decimal > NO_DECIMAL {
            self.decimal = NO_DECIMAL;
        }
        self.hex = self.hex << 4 | digit;
        self.digits += 1;
        self.colons = 0;
        Ok(())
    }

    /// A dot, or the end, behind a number of an IPv4 address.
    #[inline(always)]
    fn octet(&mut self) -> Result<(), Reason> {
        let is_octet = self.digits != 0 && self.decimal <= 255;
        if self.field >= 2 || !is_octet || self.octets >= 4 {
            return Err(self.wrong());
        }
        self.push(8, self.decimal);
        self.octets += 1;
        Ok(())
    }

    #[inline(always)]
    fn colon(&mut self) -> Result<(), Reason> {
        if self.field >= 2 || self.is_v6 == 0 || self.octets != 0 {
            return Err(self.wrong());
        }
        if self.digits != 0 {
            self.group()?;
            self.colons = 1;
            return Ok(());
        }
        let is_first = self.colons == 0 && self.groups == 0 && self.gap == 0;
        if is_first {
            self.colons = 1;
        } else if self.colons == 1 && self.gap == 0 {
            self.gap = self.groups + 1;
            self.colons = 2;
        } else {
            return Err(Reason::Address);
        }
        Ok(())
    }

    /// The end of a group of an IPv6 address.
    #[inline(always)]
    fn group(&mut self) -> Result<(), Reason> {
        if self.digits > 4 || self.groups >= 8 {
            return Err(Reason::Address);
        }
        self.push(16, self.hex);
        self.groups += 1;
        Ok(())
    }

    #[inline(always)]
    fn push(&mut self, bits: u32, number: u64) {
        self.high = self.high << bits | self.low >> (64 - bits);
        self.low = self.low << bits | number;
        self.decimal = 0;
        self.hex = 0;
        self.digits = 0;
    }

    /// A space.
    #[inline(always)]
    fn end_field(&mut self) -> Result<(), Reason> {
        match self.field {
            0 => self.source = self.address()?,
            1 => self.destination = self.address()?,
            2 => self.source_port = self.port()?,
            _ => return Err(Reason::Fields),
        }
        self.field += 1;
        self.high = 0;
        self.low = 0;
        self.octets = 0;
        self.groups = 0;
        self.colons = 0;
        self.gap = 0;
        self.decimal = 0;
        self.hex = 0;
        self.digits = 0;
        Ok(())
    }

    #[inline(always)]
    fn port(&self) -> Result<u64, Reason> {
        if self.digits != 0 && self.decimal <= 0xffff {
            Ok(self.decimal)
        } else {
            Err(Reason::Port)
        }
    }

    /// The address that ends here.
    #[inline(always)]
    fn address(&mut self) -> Result<[u64; 2], Reason> {
        if self.octets != 0 || self.is_v6 == 0 {
            self.octet()?;
            if self.octets != 4 {
                return Err(Reason::Address);
            }
            self.groups += 2;
        } else if self.digits != 0 {
            self.group()?;
        } else if self.colons != 2 {
            return Err(Reason::Address);
        }
        if self.is_v6 == 0 {
            return Ok([0, MAPPED | self.low]);
        }
        if self.gap == 0 {
            return if self.groups == 8 {
                Ok([self.high, self.low])
            } else {
                Err(Reason::Address)
            };
        }
        if self.groups > 7 {
            return Err(Reason::Address);
        }
        // The groups before the gap go to the front.
        let behind = 16 * (self.groups + 1 - self.gap);
        let missing = 16 * (8 - self.groups);
        let (high, low) = (self.high, self.low);
        let tail = low_bits(high, low, behind);
        let head = shift([high ^ tail[0], low ^ tail[1]], missing);
        Ok([head[0] | tail[0], head[1] | tail[1]])
    }

    /// Both ends, at the end of the line.
    #[inline(always)]
    fn ends(&self) -> Result<Endpoints, Reason> {
        if self.field != 3 {
            return Err(Reason::Fields);
        }
        let port = self.port()?;
        let end = |[high, low]: [u64; 2], port: u64| {
            let word = |half: u64| (half as u32).to_be();
            let words = [word(high >> 32), word(high), word(low >> 32), word(low)];
            Endpoint::new(Address::v6(words), port as u16)
        };
        Endpoints {
            source: end(self.source, self.source_port),
            destination: end(self.destination, port),
        }
        .checked()
    }
}

/// The lowest `bits` (below 128) of a number of two halves.
#[inline(always)]
fn low_bits(high: u64, low: u64, bits: u64) -> [u64; 2] {
    if bits >= 64 {
        [high & ((1 << (bits & 63)) - 1), low]
    } else {
        [0, low & ((1 << bits) - 1)]
    }
}

/// A number of two halves, multiplied by two to the power of `bits` (16 to 128).
#[inline(always)]
fn shift([high, low]: [u64; 2], bits: u64) -> [u64; 2] {
    if bits >= 128 {
        [0, 0]
    } else if bits >= 64 {
        [low << (bits & 63), 0]
    } else {
        [high << bits | low >> ((64 - bits) & 63), low << bits]
    }
}

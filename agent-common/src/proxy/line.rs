//! Version 1, read byte by byte in a way that the kernel's verifier can follow. It accepts what
//! [`super::parse`] accepts.

use super::{Endpoints, Reason, v1};
use crate::{Address, Endpoint, verifier::global};

/// Room for a line of version 1; a power of two bounds an index by a mask.
pub const ROOM: usize = 128;
/// How many bytes at its beginning tell a line from what is none.
pub const SIGNATURE: usize = v1::SIGNATURE.len();
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
    /// The ends that it names; `None` if it says `UNKNOWN`.
    pub ends: Option<Endpoints>,
}

/// Reads a line. `bytes` has its first `length` bytes, then zeros. `None` if its end is missing. `fields` is room to work in.
///
/// # Errors
///
/// When it is not a line of version 1.
#[inline(always)]
pub fn read(
    bytes: &[u8; ROOM],
    length: usize,
    fields: &mut Fields,
) -> Result<Option<Line>, Reason> {
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
    let at = SIGNATURE;
    if begins(at, b"UNKNOWN") {
        return unknown(bytes, length);
    }
    let is_v6 = begins(at, b"TCP6 ");
    if !is_v6 && !begins(at, b"TCP4 ") {
        return Err(Reason::Protocol);
    }
    *fields = Fields::default();
    if is_v6 {
        fields.counts = 1 << IS_V6;
    }
    // LLVM enters the loop of an iterator in its middle, which verifiers before Linux 6.7 refuse; here and below.
    let mut i = FIELDS;
    while i < v1::MAX - 1 {
        if bytes[i] == b'\r' {
            if i + 1 >= length {
                return Ok(None);
            }
            if bytes[i + 1] != b'\n' {
                return Err(Reason::LineEnd);
            }
            let mut ends = Endpoints::default();
            Reason::of(truepeer_fields(fields, &mut ends))?;
            return Ok(Some(Line {
                len: i + 2,
                ends: Some(ends),
            }));
        }
        if i >= length {
            return Ok(None);
        }
        Reason::of(truepeer_character(fields, bytes[i].into()))?;
        i += 1;
    }
    Err(Reason::LineTooLong)
}

/// Looks for the end of an `UNKNOWN` line, in which nothing else matters.
#[inline(always)]
fn unknown(bytes: &[u8; ROOM], length: usize) -> Result<Option<Line>, Reason> {
    let mut i = UNKNOWN;
    while i < v1::MAX - 1 {
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

global! {
    /// Takes the next byte of the fields.
    fn truepeer_character(fields: *mut Fields, byte: u32) -> u32 {
        // SAFETY: pointers of a global function lead to one value each.
        let fields = unsafe { fields.as_mut() };
        Reason::number(fields.map_or(Err(Reason::Fields), |fields| fields.take(byte as u8)))
    }
}

global! {
    /// The ends that the fields name, when the line has ended.
    fn truepeer_fields(fields: *const Fields, ends: *mut Endpoints) -> u32 {
        // SAFETY: pointers of a global function lead to one value each.
        let (Some(fields), Some(ends)) = (unsafe { (fields.as_ref(), ends.as_mut()) }) else {
            return Reason::number(Err(Reason::Fields));
        };
        Reason::number(fields.ends().map(|named| *ends = named))
    }
}

/// The value of each byte that is a hexadecimal digit; others are above all values.
static DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut i = 0;
    while i < 10 {
        digits[b'0' as usize + i] = i as u8;
        i += 1;
    }
    while i < 16 {
        digits[b'a' as usize + i - 10] = i as u8;
        digits[b'A' as usize + i - 10] = i as u8;
        i += 1;
    }
    digits
};
const NO_DIGIT: u8 = 16;
/// The least number of so many digits, in base ten without leading zeros.
static LEAST: [u64; 8] = [u64::MAX, 0, 10, 100, 1_000, 10_000, u64::MAX, u64::MAX];

/// Small numbers in one word, eight bits each, by how far to the left they are: digits of the number that is
/// being read; of the address that is being read its complete numbers between dots, its complete groups, the
/// colons that came last, and one more than the groups before `::`; the fields that have ended; and whether
/// addresses are IPv6.
const NUMERALS: u32 = 0;
const OCTETS: u32 = 8;
const GROUPS: u32 = 16;
const COLONS: u32 = 24;
const GAP: u32 = 32;
const FIELD: u32 = 40;
const IS_V6: u32 = 48;
/// Those that outlive a field.
const LASTING: u64 = !0 << FIELD;

/// The four fields, as far as they have been read.
#[repr(C)]
#[derive(Default)]
pub struct Fields {
    counts: u64,
    /// The number that is being read, in base ten and in base sixteen. With a letter in it, it is too great
    /// in base ten.
    decimal: u64,
    hex: u64,
    /// The bits of the address that is being read.
    high: u64,
    low: u64,
    /// The fields that have ended, the last one first: an address or, in `low`, a port.
    ended: [Ended; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Ended {
    high: u64,
    low: u64,
    counts: u64,
}

impl Fields {
    #[inline(always)]
    fn count(&self, which: u32) -> u64 {
        self.counts >> which & 0xff
    }

    /// Takes the next byte.
    #[inline(always)]
    fn take(&mut self, byte: u8) -> Result<(), Reason> {
        let digit = DIGITS[byte as usize];
        if digit < NO_DIGIT {
            let digit = u64::from(digit);
            // 6 and more stand for letters: added where no number in base ten reaches.
            let letter = (digit + 6) >> 4;
            self.decimal = (self.decimal.wrapping_mul(10).wrapping_add(digit)) | letter << 32;
            self.hex = self.hex << 4 | digit;
            self.counts = self.counts.wrapping_add(1 << NUMERALS);
            return Ok(());
        }
        match byte {
            b'.' => self.octet(),
            b':' => self.colon(),
            b' ' => self.space(),
            _ => Err(Reason::Fields),
        }
    }

    /// The number that ends here, in base ten and without leading zeros; else it is too great.
    #[inline(always)]
    fn number(&self) -> u64 {
        let least = LEAST[self.count(NUMERALS).min(7) as usize];
        if self.decimal >= least {
            self.decimal
        } else {
            u64::MAX
        }
    }

    /// A dot, or the end, behind a number of an IPv4 address.
    #[inline(always)]
    fn octet(&mut self) -> Result<(), Reason> {
        if self.count(FIELD) >= 2 {
            return Err(Reason::Port);
        }
        let number = self.number();
        if number > 255 || self.count(OCTETS) >= 4 || self.is_stray() {
            return Err(Reason::Address);
        }
        self.push(8, number);
        self.counts = self.counts.wrapping_add(1 << OCTETS);
        Ok(())
    }

    /// Whether what ends here follows a single colon at the beginning.
    #[inline(always)]
    fn is_stray(&self) -> bool {
        self.counts >> GROUPS & 0xff_ff_ff == 1 << (COLONS - GROUPS)
    }

    #[inline(always)]
    fn colon(&mut self) -> Result<(), Reason> {
        if self.count(FIELD) >= 2 || self.count(IS_V6) == 0 || self.count(OCTETS) != 0 {
            return Err(Reason::Address);
        }
        if self.count(NUMERALS) != 0 {
            self.group()?;
            self.counts |= 1 << COLONS;
            return Ok(());
        }
        let colons = self.count(COLONS);
        if colons == 1 && self.count(GAP) == 0 {
            self.counts = self.counts.wrapping_add((self.count(GROUPS) + 1) << GAP);
        } else if colons != 0 || self.count(GROUPS) != 0 || self.count(GAP) != 0 {
            return Err(Reason::Address);
        }
        self.counts = self.counts.wrapping_add(1 << COLONS);
        Ok(())
    }

    /// The end of a group of an IPv6 address.
    #[inline(always)]
    fn group(&mut self) -> Result<(), Reason> {
        if self.count(NUMERALS) > 4 || self.count(GROUPS) >= 8 || self.is_stray() {
            return Err(Reason::Address);
        }
        self.push(16, self.hex);
        self.counts = self.counts.wrapping_add(1 << GROUPS);
        Ok(())
    }

    /// Puts a number that has ended behind the address's others.
    #[inline(always)]
    fn push(&mut self, bits: u32, number: u64) {
        self.high = self.high << bits | self.low >> (64 - bits);
        self.low = self.low << bits | number;
        self.decimal = 0;
        self.hex = 0;
        self.counts &= !(0xff << NUMERALS | 0xff << COLONS);
    }

    /// The end of a field that is not the last.
    #[inline(always)]
    fn space(&mut self) -> Result<(), Reason> {
        if self.count(FIELD) >= 2 {
            self.low = self.number();
        } else if self.count(IS_V6) == 0 || self.count(OCTETS) != 0 {
            self.octet()?;
        } else if self.count(NUMERALS) != 0 {
            self.group()?;
        }
        let [first, second, _] = self.ended;
        let ended = Ended {
            high: self.high,
            low: self.low,
            counts: self.counts,
        };
        self.ended = [ended, first, second];
        self.counts = (self.counts & LASTING).wrapping_add(1 << FIELD);
        self.decimal = 0;
        self.hex = 0;
        self.high = 0;
        self.low = 0;
        Ok(())
    }

    /// Both ends, at the end of the line.
    #[inline(always)]
    fn ends(&self) -> Result<Endpoints, Reason> {
        if self.count(FIELD) != 3 {
            return Err(Reason::Fields);
        }
        let [port, destination, source] = &self.ended;
        Endpoints {
            source: source.end(port.low)?,
            destination: destination.end(self.number())?,
        }
        .checked()
    }
}

impl Ended {
    #[inline(always)]
    fn end(&self, port: u64) -> Result<Endpoint, Reason> {
        if port > 0xffff {
            return Err(Reason::Port);
        }
        let word = |half: u64| (half as u32).to_be();
        let [high, low] = self.address()?;
        let words = [word(high >> 32), word(high), word(low >> 32), word(low)];
        Ok(Endpoint::new(Address::v6(words), port as u16))
    }

    /// The address as two halves.
    #[inline(always)]
    fn address(&self) -> Result<[u64; 2], Reason> {
        let count = |which: u32| self.counts >> which & 0xff;
        let octets = count(OCTETS);
        if octets != 0 && octets != 4 {
            return Err(Reason::Address);
        }
        if count(IS_V6) == 0 {
            return Ok([0, MAPPED | self.low]);
        }
        // An IPv4 address takes two groups; a colon at the end is one of two.
        let groups = count(GROUPS) + octets / 2;
        let gap = count(GAP);
        let is_whole = (gap == 0) as u64 * 8 == groups || (gap != 0 && groups < 8);
        if !is_whole || count(COLONS) == 1 {
            return Err(Reason::Address);
        }
        if gap == 0 {
            return Ok([self.high, self.low]);
        }
        // The groups before the gap go to the front.
        let tail = low_bits(self.high, self.low, 16 * (groups + 1 - gap));
        let head = [self.high ^ tail[0], self.low ^ tail[1]];
        let head = shift(head, 16 * (8 - groups));
        Ok([head[0] | tail[0], head[1] | tail[1]])
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

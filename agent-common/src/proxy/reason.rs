//! Why bytes are not a header.

/// Why bytes are not a header.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// They begin with neither version's signature.
    NoHeader,
    /// Version 1: no CRLF within [`V1_MAX`](super::V1_MAX) bytes.
    LineTooLong,
    /// Version 1: LF without CR.
    LineEnd,
    /// Version 1: neither `TCP4`, `TCP6` nor `UNKNOWN`.
    Protocol,
    /// Version 1: not four fields with one space between them.
    Fields,
    /// Not an address of the family, or none that a TCP connection can have.
    Address,
    /// Version 1: not a port.
    Port,
    /// The signature of version 2 with another version.
    Version,
    /// Version 2: neither `LOCAL` nor `PROXY`.
    Command,
    /// Version 2: a family or transport that is not assigned.
    Family,
    /// Version 2: shorter than the family's addresses.
    Length,
    /// Version 2: a TLV that ends beyond the header, is not what its type demands, or is a second
    /// checksum.
    Tlv,
    /// Version 2: the header is not what its CRC32C says.
    Checksum,
}

impl Reason {
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Self; 13] = [
        Self::NoHeader,
        Self::LineTooLong,
        Self::LineEnd,
        Self::Protocol,
        Self::Fields,
        Self::Address,
        Self::Port,
        Self::Version,
        Self::Command,
        Self::Family,
        Self::Length,
        Self::Tlv,
        Self::Checksum,
    ];

    /// What came of something as a number, the only result that a global function of a BPF program can have.
    #[inline(always)]
    pub(super) fn number(result: Result<(), Self>) -> u32 {
        match result {
            Ok(()) => 0,
            Err(reason) => reason as u32 + 1,
        }
    }

    /// The reverse of [`Reason::number`].
    #[inline(always)]
    pub(super) fn of(number: u32) -> Result<(), Self> {
        if number == 0 {
            return Ok(());
        }
        let reason = Self::ALL.into_iter().find(|r| *r as u32 + 1 == number);
        Err(reason.unwrap_or(Self::NoHeader))
    }

    /// The word for it in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoHeader => "no_header",
            Self::LineTooLong => "line_too_long",
            Self::LineEnd => "line_end",
            Self::Protocol => "protocol",
            Self::Fields => "fields",
            Self::Address => "address",
            Self::Port => "port",
            Self::Version => "version",
            Self::Command => "command",
            Self::Family => "family",
            Self::Length => "length",
            Self::Tlv => "tlv",
            Self::Checksum => "checksum",
        }
    }
}

//! The checksum of a header (2.2.3): CRC32c (RFC 4960, appendix B).

/// A checksum of the bytes that it is extended by.
pub(super) struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self(!0)
    }
}

impl Crc32c {
    /// What has come so far, to go on with.
    #[inline(always)]
    pub(super) const fn state(&self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub(super) const fn from_state(state: u32) -> Self {
        Self(state)
    }

    /// The checksum of what has come so far.
    #[inline(always)]
    pub(super) const fn value(&self) -> u32 {
        !self.0
    }

    /// Takes one more byte.
    #[inline(always)]
    pub(super) fn push(&mut self, byte: u8) {
        self.0 = TABLE[usize::from(self.0 as u8 ^ byte)] ^ (self.0 >> 8);
    }
}

impl Extend<u8> for Crc32c {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        for byte in bytes {
            self.push(byte);
        }
    }
}

/// The checksum of a header, with four zero bytes instead of those that end at `end`.
pub(super) fn of_header(header: &[u8], end: usize) -> u32 {
    let mut crc = Crc32c::default();
    let is_checksum = |i| (end - size_of::<u32>()..end).contains(&i);
    crc.extend(
        (0..)
            .zip(header)
            .map(|(i, byte)| if is_checksum(i) { 0 } else { *byte }),
    );
    crc.value()
}

/// The remainder of each byte by the Castagnoli polynomial, bits reversed.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_3720() {
        let crc = |bytes: &mut dyn Iterator<Item = u8>| {
            let mut crc = Crc32c::default();
            crc.extend(bytes);
            crc.value()
        };
        // Appendix B.4, whose bytes are in the order of transmission.
        assert_eq!(crc(&mut [0; 32].into_iter()), 0x8a91_36aa);
        assert_eq!(crc(&mut [0xff; 32].into_iter()), 0x62a8_ab43);
        assert_eq!(crc(&mut (0..32)), 0x46dd_794e);
        assert_eq!(crc(&mut b"123456789".iter().copied()), 0xe306_9283);
    }
}

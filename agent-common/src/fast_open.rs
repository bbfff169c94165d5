//! TCP Fast Open (RFC 7413): the option by which a SYN asks for a cookie, or shows it.
//!
//! It has a kind of its own, or, in older senders, one of the kinds for experiments with an identifier (RFC 6994).

use crate::tcp::{Header, byte};

/// The option's own kind.
const KIND: u8 = 34;
/// The kinds for experiments (RFC 4727).
const EXPERIMENTS: [u8; 2] = [253, 254];
/// The option's identifier among them.
const IDENTIFIER: u16 = 0xf989;

/// Whether an option of this kind is TCP Fast Open's if its first two bytes are `identifier`.
#[inline(always)]
pub const fn is_experiment(kind: u8, identifier: u16) -> bool {
    identifier == IDENTIFIER && (kind == EXPERIMENTS[0] || kind == EXPERIMENTS[1])
}

/// Whether the option of this kind at `at` is TCP Fast Open's.
#[inline(always)]
pub(crate) fn is_option(header: &Header, kind: u8, at: usize) -> bool {
    let identifier = u16::from_be_bytes([byte(header, at + 2), byte(header, at + 3)]);
    kind == KIND || is_experiment(kind, identifier)
}

#[cfg(test)]
mod tests {
    use crate::{
        options::{class, find},
        tcp::tests::header,
        toa::Kinds,
    };

    #[test]
    fn it_is_found_in_both_forms() {
        let found = |options: &[&[u8]]| {
            let header = header(options);
            find(&header, &Kinds::NONE, class::FAST_OPEN).0
        };
        const MSS: [u8; 4] = [2, 4, 0x05, 0xb4];
        for option in [
            &[34, 2][..],
            &[34, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            &[254, 4, 0xf9, 0x89],
            &[253, 8, 0xf9, 0x89, 1, 2, 3, 4],
        ] {
            assert_eq!(found(&[&MSS, option]), 1, "{option:?}");
            assert_eq!(found(&[option, &MSS]), 1, "{option:?}");
        }
        assert_eq!(found(&[&MSS]), 0);
        assert_eq!(found(&[&[254, 8, 0xca, 0x64, 203, 0, 113, 7]]), 0);
        assert_eq!(found(&[&[200, 4, 0xf9, 0x89]]), 0);
    }
}

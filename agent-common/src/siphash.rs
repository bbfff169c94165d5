//! SipHash-2-4 (Aumasson and Bernstein, 2012) of four words, which is all that the data path hashes with a
//! key.

/// A key of 128 bits: its bytes as two little-endian words.
pub type Key = [u64; 2];

/// The hash of 32 bytes, given as little-endian words.
#[inline(always)]
pub fn siphash(key: &Key, words: &[u64; 4]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    // The last word has the length in its highest byte, besides the bytes that do not fill a word.
    let last = (size_of_val(words) as u64) << 56;
    for word in [words[0], words[1], words[2], words[3], last] {
        v[3] ^= word;
        rounds::<2>(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    rounds::<4>(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn rounds<const N: usize>(v: &mut [u64; 4]) {
    for _ in 0..N {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;

    #[test]
    fn it_gives_the_reference_vector() {
        // Of the authors' `vectors.h`: key 00 01 .. 0f, input 00 01 .. 1f.
        let word = |i: u64| u64::from_le_bytes(core::array::from_fn(|n| i as u8 * 8 + n as u8));
        let hash = siphash(&[word(0), word(1)], &[word(0), word(1), word(2), word(3)]);
        assert_eq!(
            hash.to_le_bytes(),
            [0xce, 0x7c, 0xf2, 0x72, 0x2f, 0x51, 0x27, 0x71]
        );
    }

    proptest! {
        #[test]
        fn it_agrees_with_another_implementation(key: Key, words: [u64; 4]) {
            let mut input = [0; 32];
            for (bytes, word) in input.chunks_exact_mut(8).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            let expected = SipHasher24::new_with_keys(key[0], key[1]).hash(&input);
            prop_assert_eq!(siphash(&key, &words), expected);
        }
    }
}

//! Numbers that look random, the same ones for the same seed.

use std::cell::Cell;

/// A generator (xorshift64*).
pub(super) struct Random(Cell<u64>);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(Cell::new(seed.wrapping_mul(2).wrapping_add(1)))
    }

    fn next(&self) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn number(&self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// One of the numbers below `end`.
    pub(super) fn below(&self, end: usize) -> usize {
        self.number() as usize % end
    }

    /// True once in so many times.
    pub(super) fn once_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<T: Copy>(&self, among: &[T]) -> T {
        among[self.below(among.len())]
    }

    pub(super) fn bytes(&self, number: usize) -> Vec<u8> {
        (0..number).map(|_| self.number() as u8).collect()
    }
}

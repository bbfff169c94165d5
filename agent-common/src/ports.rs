//! Sets of ports.

/// A set of ports, one bit a port.
///
/// Layout (8,192 bytes): 1,024 words of 64 bits in the machine's byte order; port `p` is bit `p % 64` of word `p / 64`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports([u64; 1 << 10]);

impl Ports {
    /// No port.
    pub const NONE: Self = Self([0; 1 << 10]);

    /// Adds a port (host byte order).
    pub const fn add(&mut self, port: u16) {
        self.0[port as usize >> 6] |= 1 << (port & 63);
    }

    /// The ports that are in both.
    pub fn common(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// Whether a port (host byte order) is among them.
    #[inline(always)]
    pub const fn has(&self, port: u16) -> bool {
        self.0[port as usize >> 6] >> (port & 63) & 1 != 0
    }
}

const _: () = assert!(size_of::<Ports>() == 1 << 13);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_were_added_are_there() {
        let mut ports = Ports::NONE;
        let some = [0, 63, 64, 30_000, u16::MAX];
        some.iter().for_each(|port| ports.add(*port));
        for port in 0..=u16::MAX {
            assert_eq!(ports.has(port), some.contains(&port), "{port}");
        }
        let mut others = Ports::NONE;
        [63, 65].iter().for_each(|port| others.add(*port));
        let mut common = Ports::NONE;
        common.add(63);
        assert_eq!(ports.common(&others), common);
    }
}

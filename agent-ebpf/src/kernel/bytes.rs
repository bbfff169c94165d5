//! Bytes of a packet.

use aya_ebpf::{
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::{TcContext, sk_buff::SkBuff},
};

/// Where the bytes of a packet come from.
pub(crate) trait Bytes {
    /// `N` bytes from `at` on; `None`: they are not there.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

/// The whole packet, read by a helper.
impl Bytes for SkBuff {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.load(at).ok()
    }
}

/// The linear part of a packet at tc, read directly.
pub(crate) struct Linear<'a>(pub(crate) &'a TcContext);

impl Bytes for Linear<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // SAFETY: `at` checked the bounds.
        self.at::<[u8; N]>(at).map(|bytes| unsafe { *bytes })
    }
}

impl Linear<'_> {
    /// The address of the `T` at `at`, if the linear part holds it.
    #[inline(always)]
    pub(crate) fn at<T>(&self, at: usize) -> Option<*const T> {
        let start = self.0.data() + at;
        (start + size_of::<T>() <= self.0.data_end()).then_some(start as *const T)
    }
}

/// Copies `length` bytes from `at` on; `false` if the packet ends before. The verifier must know that
/// `length` is between 1 and `N`.
#[inline(always)]
pub(crate) fn copy<const N: usize>(
    skb: &SkBuff,
    at: usize,
    to: &mut [u8; N],
    length: usize,
) -> bool {
    // SAFETY: the verifier accepts only a length that the array has.
    unsafe {
        let to = to.as_mut_ptr().cast();
        bpf_skb_load_bytes(skb.skb.cast(), at as u32, to, length as u32) == 0
    }
}

/// Writes the first `length` bytes to `at`, with the flags of `bpf_skb_store_bytes()`; `false` if the packet
/// cannot be written there. The verifier must know that `length` is between 1 and `N`.
#[inline(always)]
pub(crate) fn write<const N: usize>(
    skb: &SkBuff,
    at: usize,
    from: &[u8; N],
    length: usize,
    flags: u32,
) -> bool {
    let from = from.as_ptr().cast();
    // SAFETY: as in `copy`.
    unsafe { bpf_skb_store_bytes(skb.skb, at as u32, from, length as u32, flags.into()) == 0 }
}

/// A word as it lies in the packet.
#[inline(always)]
pub(crate) fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

//! Maps whose type does not tell what they hold.

use core::{marker::PhantomData, ops::Deref};

/// A map `M` that holds `T`s, or numbers that stand for them. As the other maps' types do, it lets the agent know that another
/// version's map holds something else.
#[repr(transparent)]
pub(crate) struct Described<M, T>(M, PhantomData<T>);

impl<M, T> Described<M, T> {
    pub(super) const fn new(map: M) -> Self {
        Self(map, PhantomData)
    }
}

impl<M, T> Deref for Described<M, T> {
    type Target = M;

    #[inline(always)]
    fn deref(&self) -> &M {
        &self.0
    }
}

//! A slice that several tasks write at once, each at places of its own.

use std::marker::PhantomData;

/// For results whose parts are interleaved, so that no `chunks_mut` can cut them.
#[derive(Debug)]
pub(super) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` that was split among tasks; who writes through it
// promises (see `at`) that nobody else touches the same elements.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), of: PhantomData }
    }

    /// Where element `index` lies.
    ///
    /// # Safety
    /// What is read or written from here on must lie in the slice, and no other
    /// task may touch it at the same time.
    #[inline(always)]
    pub(super) unsafe fn at(&self, index: usize) -> *mut T {
        debug_assert!(index <= self.len, "a place in the slice");
        // SAFETY: the caller's promise.
        unsafe { self.start.add(index) }
    }
}

//! Buffers that are used again.
//!
//! Fresh memory costs a page fault for every 4 KiB, which for activations is
//! more than some layers' arithmetic. A network therefore keeps what its steps
//! gave back, and a step that repeats the shapes of the last allocates nothing.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::kernels::Workspace;

/// All that a network reuses for one scalar type.
#[derive(Debug, Default)]
pub(super) struct Memory<T> {
    pub buffers: Arc<BufferPool<T>>,
    pub indices: Arc<BufferPool<u32>>,
    workspaces: Mutex<Vec<Workspace<T>>>,
}

impl<T: Copy + Default> Memory<T> {
    /// Runs `f` with a workspace of the kernels; calls at the same time get different ones.
    pub fn with_workspace<R>(&self, f: impl FnOnce(&mut Workspace<T>) -> R) -> R {
        let idle = lock(&self.workspaces).pop();
        let mut workspace = idle.unwrap_or_default();
        let result = f(&mut workspace);
        lock(&self.workspaces).push(workspace);
        result
    }

    /// Frees everything idle.
    pub fn release(&self) {
        lock(&self.workspaces).clear();
        self.buffers.release();
        self.indices.release();
    }
}

/// Buffers waiting for their next use.
///
/// Bounded: idle and used buffers together never hold more than
/// [`BufferPool::SLACK`] times the most that was ever in use at once.
#[derive(Debug, Default)]
pub(super) struct BufferPool<T>(Mutex<Shelf<T>>);

#[derive(Debug, Default)]
struct Shelf<T> {
    /// Oldest first.
    idle: Vec<Vec<T>>,
    /// Numbers in buffers that are out, and the most that ever were.
    in_use: usize,
    peak: usize,
}

impl<T: Copy + Default> BufferPool<T> {
    /// Forward, gradient and evaluation each need their own mix of sizes.
    const SLACK: f64 = 1.5;

    /// A buffer of `len` numbers of no particular value.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer<T> {
        let mut shelf = lock(&self.0);
        // The best fit, and of equals the one used last: it may still be in the cache.
        let fit = (0..shelf.idle.len())
            .rev()
            .filter(|&i| (len..=2 * len).contains(&shelf.idle[i].len()))
            .min_by_key(|&i| shelf.idle[i].len());
        let found = fit.map(|i| shelf.idle.remove(i));
        let size = found.as_ref().map_or(len, Vec::len);
        shelf.in_use += size;
        shelf.peak = shelf.peak.max(shelf.in_use);
        shelf.evict(Self::SLACK);
        drop(shelf);
        let data = found.unwrap_or_else(|| vec![T::default(); len]);
        Buffer { data, len, pool: Some(Arc::clone(self)) }
    }

    fn release(&self) {
        lock(&self.0).idle.clear();
    }

    /// Numbers held, idle and in use.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        let shelf = lock(&self.0);
        shelf.in_use + shelf.idle.iter().map(Vec::len).sum::<usize>()
    }
}

impl<T> Shelf<T> {
    fn evict(&mut self, slack: f64) {
        let limit = (self.peak as f64 * slack) as usize;
        let mut held = self.in_use + self.idle.iter().map(Vec::len).sum::<usize>();
        while held > limit && !self.idle.is_empty() {
            held -= self.idle.remove(0).len();
        }
    }
}

/// A slice that goes back to its pool when dropped.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    data: Vec<T>,
    len: usize,
    pool: Option<Arc<BufferPool<T>>>,
}

impl<T: Copy + Default> Buffer<T> {
    /// A buffer of zeros of no pool, to be kept for good.
    pub fn unpooled(len: usize) -> Self {
        Self { data: vec![T::default(); len], len, pool: None }
    }

    /// The numbers of an unpooled buffer.
    pub fn into_vec(mut self) -> Vec<T> {
        assert!(self.pool.is_none(), "a pooled buffer must go back");
        std::mem::take(&mut self.data)
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[..self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[..self.len]
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let mut shelf = lock(&pool.0);
            shelf.in_use -= self.data.len();
            shelf.idle.push(std::mem::take(&mut self.data));
        }
    }
}

/// Nothing here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

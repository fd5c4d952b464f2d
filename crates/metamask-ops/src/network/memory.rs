//! Buffers that are used again.
//!
//! Fresh memory costs a page fault for every 4 KiB, which for activations is
//! more than some layers' arithmetic. A network therefore keeps what its steps
//! gave back, and a step that repeats the shapes of the last allocates nothing.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::kernels::{Lines, Workspace};

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
    idle: Vec<Lines<T>>,
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
        let size = found.as_ref().map_or(len, |numbers| numbers.len());
        shelf.in_use += size;
        shelf.peak = shelf.peak.max(shelf.in_use);
        shelf.evict(Self::SLACK);
        drop(shelf);
        let numbers = found.unwrap_or_else(|| Lines::zeros(len));
        Buffer::Pooled { numbers, len, pool: Arc::clone(self) }
    }

    fn release(&self) {
        lock(&self.0).idle.clear();
    }

    /// Numbers held, idle and in use.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        let shelf = lock(&self.0);
        shelf.in_use + shelf.idle()
    }
}

impl<T> Shelf<T> {
    /// Numbers in buffers that nobody uses.
    fn idle(&self) -> usize {
        self.idle.iter().map(|numbers| numbers.len()).sum()
    }

    fn evict(&mut self, slack: f64) {
        let limit = (self.peak as f64 * slack) as usize;
        let mut held = self.in_use + self.idle();
        while held > limit && !self.idle.is_empty() {
            held -= self.idle.remove(0).len();
        }
    }
}

/// Numbers of the network's own memory.
#[derive(Debug)]
pub(super) enum Buffer<T> {
    /// Goes back to its pool when dropped. The first `len` numbers are of use.
    Pooled { numbers: Lines<T>, len: usize, pool: Arc<BufferPool<T>> },
    /// Of no pool, for its numbers will leave the network.
    Leaving(Vec<T>),
}

impl<T: Copy + Default> Buffer<T> {
    /// Zeros that will leave the network.
    pub fn leaving(len: usize) -> Self {
        Self::Leaving(vec![T::default(); len])
    }

    /// The numbers of a buffer that leaves.
    pub fn into_vec(mut self) -> Vec<T> {
        match &mut self {
            Self::Leaving(numbers) => std::mem::take(numbers),
            Self::Pooled { .. } => unreachable!("a pooled buffer must go back"),
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Pooled { numbers, len, .. } => &numbers[..*len],
            Self::Leaving(numbers) => numbers,
        }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Pooled { numbers, len, .. } => &mut numbers[..*len],
            Self::Leaving(numbers) => numbers,
        }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Self::Pooled { numbers, pool, .. } = self {
            let mut shelf = lock(&pool.0);
            shelf.in_use -= numbers.len();
            shelf.idle.push(std::mem::take(numbers));
        }
    }
}

/// Nothing here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

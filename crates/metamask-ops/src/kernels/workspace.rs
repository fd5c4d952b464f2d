//! Scratch memory that outlives a call.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lines::Lines;

/// Scratch memory of the kernels: packed weights, padded images, partial sums.
///
/// Buffers grow to the largest size ever asked for and stay: fresh memory costs
/// a page fault for every 4 KiB, which for some layers is more than the
/// arithmetic. One workspace serves any number of calls, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Workspace<T> {
    /// Weights in the order in which the tiles read them.
    pub(super) packed: Lines<T>,
    /// A whole batch with its zero border.
    pub(super) padded: Lines<T>,
    /// Partial weight gradients, one for each fixed part of the batch.
    pub(super) partials: Lines<T>,
    /// Partial sums over rows, for each fixed block of rows.
    pub(super) sums: Lines<f64>,
    per_thread: PerThread<T>,
}

/// One buffer for each thread of the pool.
#[derive(Debug, Default)]
pub(super) struct PerThread<T>(Vec<Mutex<Lines<T>>>);

impl<T: Copy + Default> Workspace<T> {
    /// The parts that one convolution uses together: packed weights, padded
    /// batch, partial gradients and the threads' own buffers.
    pub(super) fn parts(&mut self) -> (&mut Lines<T>, &mut Lines<T>, &mut Lines<T>, &PerThread<T>) {
        let threads = rayon::current_num_threads();
        if self.per_thread.0.len() < threads {
            self.per_thread.0.resize_with(threads, Mutex::default);
        }
        (&mut self.packed, &mut self.padded, &mut self.partials, &self.per_thread)
    }
}

impl<T> PerThread<T> {
    /// The calling thread's buffer. Never contended: a task of the pool runs to
    /// its end before its thread takes another one.
    pub(super) fn get(&self) -> MutexGuard<'_, Lines<T>> {
        let thread = rayon::current_thread_index().unwrap_or(0);
        self.0[thread].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The innermost loop of correlations: a tile of a matrix product in registers.

use crate::Kernel;
use crate::kernels::simd::{Real, Simd, Task};

/// Words that hold `terms` terms of a sum.
pub(super) const fn words<const PAIRS: bool>(terms: usize) -> usize {
    if PAIRS { terms.div_ceil(2) } else { terms }
}

/// Terms that a word holds.
pub(super) const fn words_hold<const PAIRS: bool>() -> usize {
    if PAIRS { 2 } else { 1 }
}

/// Runs a task that multiplies words.
pub(super) fn dispatch<T: Real, const PAIRS: bool>(kernel: Kernel, task: impl Task<T>) {
    if PAIRS { T::dispatch_pairs(kernel, task) } else { T::dispatch(kernel, task) }
}

/// Source elements that are read together: `len` from `offset` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// The right factor of a tile: packed rows of VECTORS whole vectors, one for
/// each element of the spans.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a, T> {
    pub(super) spans: &'a [Span],
    pub(super) w: *const T,
    /// Channels of the last vector that exist in the target.
    pub(super) last: usize,
    /// Whether the target already holds a part of the sum.
    pub(super) load: bool,
}

impl<T> Rows<'_, T> {
    /// `y[p][v] (+)= Σ_k x[p][k] w[k][v]` for PIXELS pixels by VECTORS vectors. If
    /// PAIRS, each word of x and w holds two neighbours along k.
    ///
    /// # Safety
    /// The CPU must have V's instructions. x must be readable at all spans, w at
    /// as many rows, y writable at VECTORS vectors, the last one `last` long.
    #[inline(always)]
    pub(super) unsafe fn multiply<
        V: Simd<Scalar = T>,
        const PAIRS: bool,
        const PIXELS: usize,
        const VECTORS: usize,
    >(
        &self,
        x: [*const T; PIXELS],
        y: [*mut T; PIXELS],
    ) where
        T: Copy,
    {
        let last = self.last;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[V::zero(); VECTORS]; PIXELS];
            if self.load {
                for (sums, y) in sums.iter_mut().zip(y) {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = if v + 1 < VECTORS || last == V::LANES {
                            V::load(y.add(v * V::LANES))
                        } else {
                            V::load_first(y.add(v * V::LANES), last)
                        };
                    }
                }
            }
            let mut w = self.w;
            for span in self.spans {
                let x = x.map(|x| x.add(span.offset));
                for k in 0..span.len {
                    let mut rows = [V::zero(); VECTORS];
                    for (v, row) in rows.iter_mut().enumerate() {
                        *row = V::load(w.add(v * V::LANES));
                    }
                    for (sums, x) in sums.iter_mut().zip(x) {
                        let x = V::splat(*x.add(k));
                        for (sum, row) in sums.iter_mut().zip(rows) {
                            *sum = x.mul_add_words::<PAIRS>(row, *sum);
                        }
                    }
                    w = w.add(VECTORS * V::LANES);
                }
            }
            for (sums, y) in sums.iter().zip(y) {
                for (v, sum) in sums.iter().enumerate() {
                    if v + 1 < VECTORS || last == V::LANES {
                        sum.store(y.add(v * V::LANES));
                    } else {
                        sum.store_first(y.add(v * V::LANES), last);
                    }
                }
            }
        }
    }
}

/// Calls `$run!(pixels, vectors)` with the height of a tile for `$vectors`
/// vectors of V: as many sums as the registers hold.
macro_rules! for_tile_of {
    ($V:ident, $vectors:expr, $run:ident) => {
        // Nested, so that only the arms of V's own TILE_SUMS are compiled.
        match $V::TILE_SUMS {
            24 => match $vectors {
                4 => $run!(6, 4),
                3 => $run!(8, 3),
                2 => $run!(12, 2),
                _ => $run!(12, 1),
            },
            12 => match $vectors {
                2 => $run!(6, 2),
                _ => $run!(12, 1),
            },
            _ => match $vectors {
                2 => $run!(4, 2),
                _ => $run!(8, 1),
            },
        }
    };
}
pub(super) use for_tile_of;

/// As [`for_tile_of`], but with a height that divides 16 where `$count` pixels
/// would leave too much of the last tile empty.
macro_rules! for_even_tile_of {
    ($V:ident, $vectors:expr, $count:expr, $run:ident) => {
        match $V::TILE_SUMS {
            24 => match $vectors {
                4 if wastes($count, 6) => $run!(4, 4),
                4 => $run!(6, 4),
                3 => $run!(8, 3),
                2 if wastes($count, 12) => $run!(8, 2),
                2 => $run!(12, 2),
                _ if wastes($count, 12) => $run!(16, 1),
                _ => $run!(12, 1),
            },
            12 => match $vectors {
                2 if wastes($count, 6) => $run!(4, 2),
                2 => $run!(6, 2),
                _ if wastes($count, 12) => $run!(8, 1),
                _ => $run!(12, 1),
            },
            _ => match $vectors {
                2 => $run!(4, 2),
                _ => $run!(8, 1),
            },
        }
    };
}
pub(super) use for_even_tile_of;

/// Whether tiles of `height` pixels compute a sixteenth more than `count` of them.
pub(super) fn wastes(count: usize, height: usize) -> bool {
    (count.next_multiple_of(height) - count) * 16 > count
}

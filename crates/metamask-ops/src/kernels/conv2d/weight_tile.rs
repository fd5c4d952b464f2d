//! The innermost loop of weight gradients: a tile of a matrix product whose
//! inner dimension are pixels.

use std::ops::Range;

use crate::kernels::simd::{Real, Simd};

/// A few rows by a few vectors of the gradient, held in registers over a sum of
/// `lines · pixels` terms.
pub(super) struct Tile<T> {
    pub(super) x: *const T,
    pub(super) x_step: usize,
    pub(super) x_line: usize,
    pub(super) dy: *const T,
    pub(super) dy_step: usize,
    pub(super) dy_line: usize,
    pub(super) pixels: usize,
    pub(super) lines: usize,
    pub(super) dw: *mut T,
    pub(super) dw_step: usize,
    /// Channels of the last vector that exist in dw.
    pub(super) last: usize,
    /// The rows that dw has and that are wanted.
    pub(super) stored: Range<usize>,
    pub(super) load: bool,
}

impl<T: Real> Tile<T> {
    /// `dw[r][v] (+)= Σ_pixels x[pixel][r] dy[pixel][v]`. WHOLE: dy has full
    /// vectors to read, whatever dw has. PAIRS: each word of x and dy holds two
    /// pixels.
    ///
    /// # Safety
    /// The CPU must have V's instructions. x must be readable at ROWS elements,
    /// dy at VECTORS vectors of every pixel (the last one `last` long unless
    /// WHOLE), dw writable at the rows stored.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep sums in registers")]
    pub(super) unsafe fn run<
        V: Simd<Scalar = T>,
        const ROWS: usize,
        const VECTORS: usize,
        const WHOLE: bool,
        const PAIRS: bool,
    >(
        self,
    ) {
        let partial = self.last < V::LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [[V::zero(); VECTORS]; ROWS];
            if self.load {
                for r in 0..ROWS {
                    if r >= self.stored.start && r < self.stored.end {
                        let from = self.dw.add(r * self.dw_step);
                        for v in 0..VECTORS {
                            sums[r][v] = if v + 1 == VECTORS && partial {
                                V::load_first(from.add(v * V::LANES), self.last)
                            } else {
                                V::load(from.add(v * V::LANES))
                            };
                        }
                    }
                }
            }
            for line in 0..self.lines {
                let mut x = self.x.add(line * self.x_line);
                let mut dy = self.dy.add(line * self.dy_line);
                for _ in 0..self.pixels {
                    let mut gradients = [V::zero(); VECTORS];
                    for v in 0..VECTORS {
                        gradients[v] = if v + 1 == VECTORS && !WHOLE {
                            V::load_first(dy.add(v * V::LANES), self.last)
                        } else {
                            V::load(dy.add(v * V::LANES))
                        };
                    }
                    for r in 0..ROWS {
                        let x = V::splat(*x.add(r));
                        for v in 0..VECTORS {
                            sums[r][v] = x.mul_add_words::<PAIRS>(gradients[v], sums[r][v]);
                        }
                    }
                    x = x.wrapping_add(self.x_step);
                    dy = dy.wrapping_add(self.dy_step);
                }
            }
            for r in 0..ROWS {
                if r >= self.stored.start && r < self.stored.end {
                    let to = self.dw.add(r * self.dw_step);
                    for v in 0..VECTORS {
                        if v + 1 == VECTORS && partial {
                            sums[r][v].store_first(to.add(v * V::LANES), self.last);
                        } else {
                            sums[r][v].store(to.add(v * V::LANES));
                        }
                    }
                }
            }
        }
    }
}

//! Weights to the points of interpolation and their gradients back.
//!
//! Transformed weights lie as `[columns][point][k][padded]`: for each block of
//! target channels the 36 matrices that a tile product reads, rows whole vectors.

use rayon::prelude::*;

use super::transform::{POINTS, WINDOW, transform_weight, transform_weight_gradient};
use crate::Kernel;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::shared::SharedMut;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::workspace::at_least;

/// Rows of a matrix that a task transforms, and the most lanes of a vector.
const ROWS: usize = 16;

/// Whether channels keep their roles, or the kernel is turned and they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// `u = G w Gᵀ` for `w`: `[3, 3, in_c, out_c]`.
pub(super) fn transform_weights<'u, T: Real>(
    kernel: Kernel,
    w: &[T],
    in_c: usize,
    out_c: usize,
    direction: Direction,
    u: &'u mut Vec<T>,
) -> &'u [T] {
    let (lanes, vectors) = T::tile_columns(kernel);
    let (k, n) = match direction {
        Direction::Forward => (in_c, out_c),
        Direction::Backward => (out_c, in_c),
    };
    let u = at_least(u, POINTS * k * n.next_multiple_of(lanes));
    let to = SharedMut::new(u);
    let blocks: Vec<_> = columns(n, lanes, vectors).collect();
    let tasks = k.div_ceil(ROWS);
    (0..blocks.len() * tasks).into_par_iter().for_each(|i| {
        let (block, first) = (blocks[i / tasks], i % tasks * ROWS);
        let rows = ROWS.min(k - first);
        T::dispatch(kernel, Rows { w, in_c, out_c, direction, k, block, first, rows, to: &to });
    });
    u
}

/// Some rows of one block of columns.
struct Rows<'a, T> {
    w: &'a [T],
    in_c: usize,
    out_c: usize,
    direction: Direction,
    k: usize,
    block: Columns,
    first: usize,
    rows: usize,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real> Task<T> for Rows<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { w, in_c, out_c, block, k, .. } = self;
        let tap_len = in_c * out_c;
        let mut turned = [[T::ZERO; ROWS * ROWS]; 9];
        for column in (0..block.width).step_by(V::LANES) {
            let lanes = V::LANES.min(block.width - column);
            if self.direction == Direction::Backward {
                for (t, turned) in turned.iter_mut().enumerate() {
                    let w = &w[(8 - t) * tap_len..];
                    for n in 0..lanes {
                        let row =
                            &w[(block.first + column + n) * out_c + self.first..][..self.rows];
                        for (r, &value) in row.iter().enumerate() {
                            turned[r * ROWS + n] = value;
                        }
                    }
                }
            }
            for r in 0..self.rows {
                // SAFETY: the caller's promise; rows and columns exist, and no
                // other task has them.
                unsafe {
                    let mut taps = [[V::zero(); 3]; 3];
                    for (t, tap) in taps.as_flattened_mut().iter_mut().enumerate() {
                        let from = match self.direction {
                            Direction::Forward => w
                                .as_ptr()
                                .add(t * tap_len + (self.first + r) * out_c + block.first + column),
                            Direction::Backward => turned[t].as_ptr().add(r * ROWS),
                        };
                        *tap = V::load_up_to(from, lanes);
                    }
                    let u = transform_weight(taps);
                    let to = self
                        .to
                        .at(POINTS * k * block.first + (self.first + r) * block.padded + column);
                    for (point, value) in u.as_flattened().iter().enumerate() {
                        value.store(to.add(point * k * block.padded));
                    }
                }
            }
        }
    }
}

/// `dw = Gᵀ du G`, `du` laid out like forward's transformed weights.
pub(super) fn transform_weight_gradients<T: Real>(
    kernel: Kernel,
    du: &[T],
    in_c: usize,
    out_c: usize,
    dw: &mut [T],
) {
    let (lanes, vectors) = T::tile_columns(kernel);
    assert_eq!(dw.len(), 9 * in_c * out_c, "winograd: weights must be 3x3");
    assert!(
        du.len() >= POINTS * in_c * out_c.next_multiple_of(lanes),
        "winograd: a transformed gradient for each weight"
    );
    let to = SharedMut::new(dw);
    let blocks: Vec<_> = columns(out_c, lanes, vectors).collect();
    let tasks = in_c.div_ceil(ROWS);
    (0..blocks.len() * tasks).into_par_iter().for_each(|i| {
        let (block, first) = (blocks[i / tasks], i % tasks * ROWS);
        let rows = ROWS.min(in_c - first);
        T::dispatch(kernel, GradientRows { du, in_c, out_c, block, first, rows, to: &to });
    });
}

/// Some rows of one block of columns, on the way back.
struct GradientRows<'a, T> {
    du: &'a [T],
    in_c: usize,
    out_c: usize,
    block: Columns,
    first: usize,
    rows: usize,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real> Task<T> for GradientRows<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { du, in_c, out_c, block, .. } = self;
        for r in self.first..self.first + self.rows {
            for column in (0..block.width).step_by(V::LANES) {
                let lanes = V::LANES.min(block.width - column);
                // SAFETY: the caller's promise; rows and columns exist, and no
                // other task has them.
                unsafe {
                    let from =
                        du.as_ptr().add(POINTS * in_c * block.first + r * block.padded + column);
                    let mut u = [[V::zero(); WINDOW]; WINDOW];
                    for (point, value) in u.as_flattened_mut().iter_mut().enumerate() {
                        *value = V::load(from.add(point * in_c * block.padded));
                    }
                    let taps = transform_weight_gradient(u);
                    for (t, tap) in taps.as_flattened().iter().enumerate() {
                        let at = (t * in_c + r) * out_c + block.first + column;
                        tap.store_up_to(self.to.at(at), lanes);
                    }
                }
            }
        }
    }
}

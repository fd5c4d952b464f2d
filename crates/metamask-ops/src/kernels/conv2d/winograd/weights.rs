//! Weights to the points of interpolation and their gradients back.
//!
//! Transformed weights lie as `[columns][point][k][padded]`: for each block of
//! target channels the 36 matrices that a tile product reads, rows whole vectors.

use std::ops::Range;

use rayon::prelude::*;

use super::transform::{POINTS, WINDOW, transform_weight, transform_weight_gradient};
use crate::Kernel;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::shared::SharedMut;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::workspace::at_least;

/// Rows of a matrix that a task transforms, and the most lanes of a vector.
pub(super) const ROWS: usize = 16;

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
        let rows = Rows { w, in_c, out_c, direction, block, first, rows };
        T::dispatch(kernel, Whole { rows, k, to: &to });
    });
    u
}

/// Some rows of one block of columns.
pub(super) struct Rows<'a, T> {
    pub(super) w: &'a [T],
    pub(super) in_c: usize,
    pub(super) out_c: usize,
    pub(super) direction: Direction,
    pub(super) block: Columns,
    pub(super) first: usize,
    /// At most [`ROWS`].
    pub(super) rows: usize,
}

impl<T: Real> Rows<'_, T> {
    /// Writes the rows to `to`, a point's to `point_stride` behind the last one's.
    ///
    /// # Safety
    /// The CPU must have V's instructions, rows and columns exist, and `to` have
    /// room for them that nobody else writes.
    #[inline(always)]
    pub(super) unsafe fn transform<V: Simd<Scalar = T>>(&self, to: *mut T, point_stride: usize) {
        let Self { w, in_c, out_c, block, .. } = *self;
        let tap_len = in_c * out_c;
        let mut turned = [[T::ZERO; ROWS * ROWS]; 9];
        for column in (0..block.width).step_by(V::LANES) {
            let lanes = V::LANES.min(block.width - column);
            if self.direction == Direction::Backward {
                for (t, turned) in turned.iter_mut().enumerate() {
                    let w = &w[(8 - t) * tap_len..];
                    for n in 0..lanes {
                        let row = (block.first + column + n) * out_c + self.first;
                        for (r, &value) in w[row..][..self.rows].iter().enumerate() {
                            turned[r * ROWS + n] = value;
                        }
                    }
                }
            }
            for r in 0..self.rows {
                // SAFETY: the caller's promise.
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
                    let to = to.add(r * block.padded + column);
                    for (point, value) in transform_weight(taps).as_flattened().iter().enumerate() {
                        value.store(to.add(point * point_stride));
                    }
                }
            }
        }
    }
}

/// Rows of a whole matrix.
struct Whole<'a, T> {
    rows: Rows<'a, T>,
    /// Rows of a point.
    k: usize,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real> Task<T> for Whole<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Rows { block, first, .. } = self.rows;
        // SAFETY: the caller's promise; no other task has these rows.
        unsafe {
            let to = self.to.at(POINTS * self.k * block.first + first * block.padded);
            self.rows.transform::<V>(to, self.k * block.padded);
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
        let Self { du, in_c, out_c, block, first, rows, to } = self;
        let du = &du[POINTS * in_c * block.first + first * block.padded..];
        // SAFETY: the caller's promise; no other task has these rows.
        unsafe {
            let (rows, stride) = (first..first + rows, in_c * block.padded);
            gradient_rows::<V>(du.as_ptr(), stride, (in_c, out_c), block, rows, to);
        }
    }
}

/// Writes rows of dw from their points: `du` is the first row's first point,
/// `point_stride` the way to the next one.
///
/// # Safety
/// The CPU must have V's instructions; rows and columns must exist in du and in
/// dw (`to`), where no other task has them.
#[inline(always)]
pub(super) unsafe fn gradient_rows<V: Simd>(
    du: *const V::Scalar,
    point_stride: usize,
    (in_c, out_c): (usize, usize),
    block: Columns,
    rows: Range<usize>,
    to: &SharedMut<'_, V::Scalar>,
) {
    for (i, row) in rows.enumerate() {
        for column in (0..block.width).step_by(V::LANES) {
            let lanes = V::LANES.min(block.width - column);
            // SAFETY: the caller's promise.
            unsafe {
                let from = du.add(i * block.padded + column);
                let mut u = [[V::zero(); WINDOW]; WINDOW];
                for (point, value) in u.as_flattened_mut().iter_mut().enumerate() {
                    *value = V::load(from.add(point * point_stride));
                }
                let taps = transform_weight_gradient(u);
                for (t, tap) in taps.as_flattened().iter().enumerate() {
                    let at = (t * in_c + row) * out_c + block.first + column;
                    tap.store_up_to(to.at(at), lanes);
                }
            }
        }
    }
}

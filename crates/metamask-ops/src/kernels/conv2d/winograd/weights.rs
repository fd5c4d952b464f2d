//! Weights to the points of interpolation and their gradients back.
//!
//! Transformed weights lie as `[columns][point][k][padded]`: for each block of
//! target channels the 36 matrices that a tile product reads, rows whole vectors.
//! With PAIRS a row is two channels of k.

use std::ops::Range;

use rayon::prelude::*;

use super::transform::{
    POINTS, WINDOW, flat, transform_weight, transform_weight_gradient, transform_weight_line,
};
use super::{dispatch, store_words, words, words_hold};
use crate::Kernel;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::lines::Lines;
use crate::kernels::shared::SharedMut;
use crate::kernels::simd::{Real, Simd, Task};

/// Rows of a matrix that a task transforms. Even.
const ROWS: usize = 16;

/// Weights of a kernel.
const TAPS: usize = 9;

/// The weights with which backward-data is a correlation: `[3, 3, out_c, in_c]`, the
/// kernel turned by half a turn, of `w`: `[3, 3, in_c, out_c]`.
pub(super) fn turned<'t, T: Real>(
    w: &[T],
    in_c: usize,
    out_c: usize,
    to: &'t mut Lines<T>,
) -> &'t [T] {
    let to = to.at_least(TAPS * in_c * out_c);
    for (tap, to) in to.chunks_exact_mut(in_c * out_c).enumerate() {
        let w = &w[(TAPS - 1 - tap) * in_c * out_c..][..in_c * out_c];
        // Squares of a few cache lines.
        to.par_chunks_mut(ROWS * in_c).enumerate().for_each(|(i, to)| {
            for first in (0..in_c).step_by(ROWS) {
                for (o, to) in to.chunks_exact_mut(in_c).enumerate() {
                    let to = &mut to[first..in_c.min(first + ROWS)];
                    for (value, w) in to.iter_mut().zip(w[first * out_c..].chunks(out_c)) {
                        *value = w[i * ROWS + o];
                    }
                }
            }
        });
    }
    to
}

/// `u = G w Gᵀ` for `w`: `[3, 3, k, n]`.
pub(super) fn transform_weights<'u, T: Real, const PAIRS: bool>(
    kernel: Kernel,
    w: &[T],
    k: usize,
    n: usize,
    u: &'u mut Lines<T>,
) -> &'u [T] {
    let (lanes, vectors) = T::tile_columns(kernel);
    let u = u.at_least(POINTS * words::<PAIRS>(k) * n.next_multiple_of(lanes));
    let to = SharedMut::new(u);
    let blocks: Vec<_> = columns(n, lanes, vectors).collect();
    let tasks = k.div_ceil(ROWS);
    (0..blocks.len() * tasks).into_par_iter().for_each(|i| {
        let (block, first) = (blocks[i / tasks], i % tasks * ROWS);
        let rows = Rows { w, k, n, block, rows: first..k.min(first + ROWS) };
        let whole: Whole<'_, T, PAIRS> = Whole { rows, to: &to };
        dispatch::<T, PAIRS>(kernel, whole);
    });
    u
}

/// Some rows of one block of columns of `w`: `[3, 3, k, n]`.
pub(super) struct Rows<'a, T> {
    pub(super) w: &'a [T],
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) block: Columns,
    /// From an even one on.
    pub(super) rows: Range<usize>,
}

impl<T: Real> Rows<'_, T> {
    /// Writes the rows to `to`, a point's to `point_stride` behind the last one's;
    /// a last one without a partner is paired with zeros.
    ///
    /// # Safety
    /// The CPU must have V's instructions, rows and columns exist, and `to` have
    /// room for them that nobody else writes.
    #[inline(always)]
    pub(super) unsafe fn transform<V: Simd<Scalar = T>, const PAIRS: bool>(
        &self,
        to: *mut T,
        point_stride: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            self.put::<V, PAIRS, POINTS>(to, point_stride, |taps| flat(transform_weight(taps)));
        }
    }

    /// The same for the points of one line, [`WINDOW`] of them.
    ///
    /// # Safety
    /// As [`Self::transform`].
    #[inline(always)]
    pub(super) unsafe fn transform_line<V: Simd<Scalar = T>, const PAIRS: bool>(
        &self,
        line: usize,
        to: *mut T,
        point_stride: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let points = |taps| transform_weight_line(taps, line);
            self.put::<V, PAIRS, WINDOW>(to, point_stride, points);
        }
    }

    /// # Safety
    /// As [`Self::transform`].
    #[inline(always)]
    unsafe fn put<V: Simd<Scalar = T>, const PAIRS: bool, const N: usize>(
        &self,
        to: *mut T,
        point_stride: usize,
        points: impl Fn([[V; 3]; 3]) -> [V; N],
    ) {
        let Self { w, k, n, block, ref rows } = *self;
        for column in (0..block.width).step_by(V::LANES) {
            let lanes = V::LANES.min(block.width - column);
            for (i, row) in rows.clone().step_by(words_hold::<PAIRS>()).enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let mut terms = [[V::zero(); N]; 2];
                    // `points` stands here once, so that it is inlined: alone it
                    // would be compiled without V's instructions.
                    let there = words_hold::<PAIRS>().min(rows.end - row);
                    for (term, row) in terms[..there].iter_mut().zip(row..) {
                        let from = w.as_ptr().add(row * n + block.first + column);
                        let mut taps = [[V::zero(); 3]; 3];
                        for (tap, value) in taps.as_flattened_mut().iter_mut().enumerate() {
                            *value = V::load_up_to(from.add(tap * k * n), lanes);
                        }
                        *term = points(taps);
                    }
                    let to = to.add(i * block.padded + column);
                    store_words::<V, PAIRS, N>(terms, to, point_stride);
                }
            }
        }
    }
}

/// Rows of a whole matrix.
struct Whole<'a, T, const PAIRS: bool> {
    rows: Rows<'a, T>,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real, const PAIRS: bool> Task<T> for Whole<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Rows { block, k, ref rows, .. } = self.rows;
        let (k, first) = (words::<PAIRS>(k), words::<PAIRS>(rows.start));
        // SAFETY: the caller's promise; no other task has these rows.
        unsafe {
            let to = self.to.at(POINTS * k * block.first + first * block.padded);
            self.rows.transform::<V, PAIRS>(to, k * block.padded);
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

//! The gradient in the weights: an outer product of source elements and output
//! gradients, summed over all pixels of the batch.

use std::ops::Range;

use rayon::prelude::*;

use super::ConvShape;
use super::pack::{Columns, columns, pad_image};
use super::plan::{Frame, frame};
use crate::Kernel;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::workspace::{Workspace, at_least};

/// Output pixels that are summed before going on to other weights, so that
/// their gradients stay in the first-level cache.
const PIXELS_PER_STEP: usize = 128;

/// Tasks that the sum is cut into: parts of the batch times parts of the rows.
const TASKS: usize = 16;

/// Elements of partial gradients to write at most. Small weights are summed in
/// many parts of the batch, which reads every image once; large ones in parts
/// of their rows, which needs no partial gradients.
const PARTIAL_ELEMENTS: usize = 1 << 20;

/// Elements of the gradient that a task adds up from its parts.
const SUM_BLOCK: usize = 1 << 12;

/// `dw = Σ x dy`; see `conv2d_backward_weight`.
pub(super) fn backward_weight<T: Real>(
    kernel: Kernel,
    s: &ConvShape,
    x: &[T],
    dy: &[T],
    dw: &mut [T],
    ws: &mut Workspace<T>,
) {
    let parts = (PARTIAL_ELEMENTS / dw.len()).clamp(1, TASKS);
    let images = s.batch.div_ceil(parts);
    let parts = s.batch.div_ceil(images);
    let rows = dw.len() / s.out_c;
    let rows_per_task = rows.div_ceil(TASKS.div_ceil(parts));

    let frame = frame(s);
    let (_, padded, partials, _) = ws.parts();
    let source: &[T] = if frame.is_bare() {
        x
    } else {
        let padded = at_least(padded, s.batch * frame.len());
        padded
            .par_chunks_mut(frame.len())
            .zip(x.par_chunks(frame.image_len()))
            .for_each(|(to, image)| pad_image(&frame, image, to));
        padded
    };

    let part_len = dw.len();
    let dy_len = s.out_h() * s.out_w() * s.out_c;
    let run = |part: usize, first: usize, dw: &mut [T]| {
        let batch = part * images..s.batch.min((part + 1) * images);
        let rows = first..first + dw.len() / s.out_c;
        let source = &source[batch.start * frame.len()..batch.end * frame.len()];
        let dy = &dy[batch.start * dy_len..batch.end * dy_len];
        T::dispatch(kernel, Rows { s, frame: &frame, source, dy, rows, dw });
    };
    let run_part = |part: usize, dw: &mut [T]| {
        dw.par_chunks_mut(rows_per_task * s.out_c)
            .enumerate()
            .for_each(|(i, dw)| run(part, i * rows_per_task, dw));
    };
    if parts == 1 {
        run_part(0, dw);
        return;
    }
    let partials = at_least(partials, parts * part_len);
    partials.par_chunks_mut(part_len).enumerate().for_each(|(part, dw)| run_part(part, dw));
    dw.par_chunks_mut(SUM_BLOCK).enumerate().for_each(|(i, dw)| {
        dw.copy_from_slice(&partials[i * SUM_BLOCK..][..dw.len()]);
        for part in 1..parts {
            let partial = &partials[part * part_len + i * SUM_BLOCK..];
            for (dw, &partial) in dw.iter_mut().zip(partial) {
                *dw += partial;
            }
        }
    });
}

/// Some rows (kernel position, input channel) of the gradient, over some images.
struct Rows<'a, T> {
    s: &'a ConvShape,
    frame: &'a Frame,
    source: &'a [T],
    dy: &'a [T],
    rows: Range<usize>,
    dw: &'a mut [T],
}

impl<T: Real> Task<T> for Rows<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(mut self) {
        let (out_h, out_w) = (self.s.out_h(), self.s.out_w());
        let lines = (PIXELS_PER_STEP / out_w).clamp(1, out_h);
        let images = self.source.len() / self.frame.len();
        for image in 0..images {
            for y in (0..out_h).step_by(lines) {
                let pixels =
                    Pixels { image, y, lines: lines.min(out_h - y), first: image + y == 0 };
                for block in columns(self.s.out_c, V::LANES, V::TILE_VECTORS) {
                    // SAFETY: the caller's promise; pixels lie in the images.
                    unsafe {
                        match (V::REGISTERS, block.padded / V::LANES) {
                            (32, 4) => self.sweep::<V, 6, 4>(pixels, block),
                            (32, 3) => self.sweep::<V, 8, 3>(pixels, block),
                            (32, 2) => self.sweep::<V, 12, 2>(pixels, block),
                            (32, 1) => self.sweep::<V, 24, 1>(pixels, block),
                            (_, 2) => self.sweep::<V, 4, 2>(pixels, block),
                            (_, 1) => self.sweep::<V, 8, 1>(pixels, block),
                            (_, n) => unreachable!("a block has at most TILE_VECTORS, got {n}"),
                        }
                    }
                }
            }
        }
    }
}

/// Whole lines of output pixels of an image.
#[derive(Clone, Copy)]
struct Pixels {
    image: usize,
    y: usize,
    lines: usize,
    /// Whether they are the first of the sum.
    first: bool,
}

impl<T: Real> Rows<'_, T> {
    /// Adds some pixels to a block of columns of all rows. Rows of one kernel
    /// line read neighbouring source elements; a tile never leaves its line.
    ///
    /// # Safety
    /// The CPU must have V's instructions; pixels must lie in the images.
    #[inline(always)]
    unsafe fn sweep<V: Simd<Scalar = T>, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        pixels: Pixels,
        block: Columns,
    ) {
        let line = self.s.kernel_w * self.s.in_c;
        let mut row = self.rows.start;
        while row < self.rows.end {
            let end = self.rows.end.min((row / line + 1) * line);
            // SAFETY: the caller's promise; row..end lies in one kernel line.
            unsafe {
                match end - row {
                    n if n >= ROWS => self.rows::<V, ROWS, VECTORS>(pixels, block, row..end),
                    n if n >= 3 => self.rows::<V, 3, VECTORS>(pixels, block, row..end),
                    _ => self.rows::<V, 1, VECTORS>(pixels, block, row..end),
                }
            }
            row = end;
        }
    }

    /// Tiles of ROWS rows; the last one reaches back over rows that are done
    /// already and leaves those alone.
    ///
    /// # Safety
    /// As [`Rows::sweep`]; `rows` must be at least ROWS and of one kernel line.
    #[inline(always)]
    unsafe fn rows<V: Simd<Scalar = T>, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        pixels: Pixels,
        block: Columns,
        rows: Range<usize>,
    ) {
        let whole = block.padded == block.width;
        for first in rows.clone().step_by(ROWS) {
            let start = first.min(rows.end - ROWS);
            // SAFETY: the caller's promise.
            unsafe {
                if whole {
                    self.tile::<V, ROWS, VECTORS, true>(pixels, block, start, first - start);
                } else {
                    self.tile::<V, ROWS, VECTORS, false>(pixels, block, start, first - start);
                }
            }
        }
    }

    /// `dw[r][v] (+)= Σ_pixels x[pixel][r] dy[pixel][v]`, of which the first
    /// `skip` rows are not stored. WHOLE: the last vector is a full one.
    ///
    /// # Safety
    /// As [`Rows::rows`].
    #[inline(always)]
    unsafe fn tile<
        V: Simd<Scalar = T>,
        const ROWS: usize,
        const VECTORS: usize,
        const WHOLE: bool,
    >(
        &mut self,
        pixels: Pixels,
        block: Columns,
        row: usize,
        skip: usize,
    ) {
        let (s, frame) = (self.s, self.frame);
        let line = s.kernel_w * s.in_c;
        let (out_h, out_w, out_c) = (s.out_h(), s.out_w(), s.out_c);
        let last = block.width - (VECTORS - 1) * V::LANES;
        let source = pixels.image * frame.len()
            + (pixels.y * s.stride + row / line) * frame.row_len()
            + row % line;
        let dy = (pixels.image * out_h + pixels.y) * out_w * out_c + block.first;
        let dw = (row - self.rows.start) * out_c + block.first;
        // SAFETY: the caller's promise: all offsets lie in their slices, and the
        // last vector touches only channels that exist.
        unsafe {
            let load = |from: *const T, v: usize| {
                if WHOLE || v + 1 < VECTORS {
                    V::load(from.add(v * V::LANES))
                } else {
                    V::load_first(from.add(v * V::LANES), last)
                }
            };
            let dw = self.dw.as_mut_ptr().add(dw);
            let mut sums = [[V::zero(); VECTORS]; ROWS];
            if !pixels.first {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = load(dw.add(r * out_c), v);
                    }
                }
            }
            for y in 0..pixels.lines {
                let mut x = self.source.as_ptr().add(source + y * s.stride * frame.row_len());
                let mut dy = self.dy.as_ptr().add(dy + y * out_w * out_c);
                for _ in 0..out_w {
                    let mut gradients = [V::zero(); VECTORS];
                    for (v, gradient) in gradients.iter_mut().enumerate() {
                        *gradient = load(dy, v);
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = V::splat(*x.add(r));
                        for (sum, gradient) in sums.iter_mut().zip(gradients) {
                            *sum = x.mul_add(gradient, *sum);
                        }
                    }
                    x = x.wrapping_add(s.stride * s.in_c);
                    dy = dy.wrapping_add(out_c);
                }
            }
            for (r, sums) in sums.iter().enumerate().skip(skip) {
                for (v, sum) in sums.iter().enumerate() {
                    let to = dw.add(r * out_c + v * V::LANES);
                    if WHOLE || v + 1 < VECTORS {
                        sum.store(to);
                    } else {
                        sum.store_first(to, last);
                    }
                }
            }
        }
    }
}

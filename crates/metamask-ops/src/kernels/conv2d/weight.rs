//! The gradient in the weights: a matrix product whose inner dimension is all
//! the pixels of the batch.
//!
//! Rows of dw are (kernel position, input channel), columns output channels.
//! With few input channels the tiles read the bordered image where it lies;
//! with many, lines of the image are far apart and fight for the same cache
//! sets, so both operands are first copied into the order of use.

use std::ops::Range;

use rayon::prelude::*;

use super::ConvShape;
use super::pack::{Columns, Pad, columns};
use super::plan::{Frame, frame};
use super::weight_tile::Tile;
use crate::Kernel;
use crate::kernels::lines::{Lines, whole_lines};
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::source::Source;
use crate::kernels::workspace::Workspace;

/// Pixels that are summed before going on to other weights, so that their
/// gradients stay in the first-level cache.
const PIXELS_PER_STEP: usize = 128;

/// Input channels from which on operands are copied. Measured.
const COPY_FROM: usize = 128;

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
    x: Source<'_, T>,
    dy: &[T],
    dw: &mut [T],
    ws: &mut Workspace<T>,
) {
    let parts = (PARTIAL_ELEMENTS / dw.len()).clamp(1, TASKS);
    let images = s.batch.div_ceil(parts);
    let parts = s.batch.div_ceil(images);
    let rows = dw.len() / s.out_c;
    let rows_per_task = rows.div_ceil(TASKS.div_ceil(parts));

    let copy = s.in_c >= COPY_FROM;
    let frame = frame(s);
    let (_, padded, partials, per_thread) = ws.parts();
    let is_ready = frame.is_bare() && x.by.is_none();
    let source: Source<'_, T> = if is_ready || !copy {
        x
    } else {
        let padded = padded.at_least(s.batch * frame.len());
        (padded.par_chunks_mut(frame.len()).zip(x.x.par_chunks(frame.image_len()))).for_each(
            |(padded, image)| {
                let pad: Pad<'_, T, false> = Pad { frame: &frame, images: x.at(image), padded };
                T::dispatch(kernel, pad);
            },
        );
        (&*padded).into()
    };

    let part_len = dw.len();
    let run = |part: usize, first: usize, dw: &mut [T]| {
        let batch = part * images..s.batch.min((part + 1) * images);
        let (x_len, y_len) = (source.x.len() / s.batch, dy.len() / s.batch);
        let task = Rows {
            s,
            frame: &frame,
            source: source.at(&source.x[batch.start * x_len..batch.end * x_len]),
            dy: &dy[batch.start * y_len..batch.end * y_len],
            rows: first..first + dw.len() / s.out_c,
            dw,
            scratch: &mut per_thread.get(),
        };
        if copy {
            T::dispatch(kernel, Copied(task));
        } else {
            T::dispatch(kernel, InPlace(task));
        }
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
    let partials = partials.at_least(parts * part_len);
    partials.par_chunks_mut(part_len).enumerate().for_each(|(part, dw)| run_part(part, dw));
    add_up(partials, dw);
}

/// `dw = Σ partials`, each as long as dw, in their order.
pub(super) fn add_up<T: Real>(partials: &[T], dw: &mut [T]) {
    let len = dw.len();
    dw.par_chunks_mut(SUM_BLOCK).enumerate().for_each(|(i, dw)| {
        dw.copy_from_slice(&partials[i * SUM_BLOCK..][..dw.len()]);
        for partial in partials.chunks_exact(len).skip(1) {
            for (dw, &partial) in dw.iter_mut().zip(&partial[i * SUM_BLOCK..]) {
                *dw += partial;
            }
        }
    });
}

/// Some rows of the gradient, over some images.
struct Rows<'a, T> {
    s: &'a ConvShape,
    frame: &'a Frame,
    source: Source<'a, T>,
    dy: &'a [T],
    rows: Range<usize>,
    dw: &'a mut [T],
    scratch: &'a mut Lines<T>,
}

/// Calls `$self.$method::<V, ROWS, VECTORS>(…)` with the tile's height for the
/// block's number of vectors: as many sums as the registers hold.
macro_rules! for_width {
    ($self:ident.$method:ident, $block:expr, $($argument:expr),*) => {
        // Nested, so that only the arms of V's own TILE_SUMS are compiled.
        match V::TILE_SUMS {
            24 => match $block.padded / V::LANES {
                4 => $self.$method::<V, 6, 4>($block, $($argument),*),
                3 => $self.$method::<V, 8, 3>($block, $($argument),*),
                2 => $self.$method::<V, 12, 2>($block, $($argument),*),
                _ => $self.$method::<V, 16, 1>($block, $($argument),*),
            },
            12 => match $block.padded / V::LANES {
                2 => $self.$method::<V, 6, 2>($block, $($argument),*),
                _ => $self.$method::<V, 12, 1>($block, $($argument),*),
            },
            _ => match $block.padded / V::LANES {
                2 => $self.$method::<V, 4, 2>($block, $($argument),*),
                _ => $self.$method::<V, 8, 1>($block, $($argument),*),
            },
        }
    };
}

/// The tiles read source and gradients where they lie.
struct InPlace<'a, T>(Rows<'a, T>);

impl<T: Real> Task<T> for InPlace<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Rows { s, frame, source, dy, rows, dw, scratch } = self.0;
        let (out_h, out_w) = (s.out_h(), s.out_w());
        let lines = (PIXELS_PER_STEP / out_w).clamp(1, out_h);
        let is_ready = frame.is_bare() && source.by.is_none();
        let images = source.x.chunks_exact(frame.image_len());
        for (i, (image, dy)) in images.zip(dy.chunks_exact(out_h * out_w * s.out_c)).enumerate() {
            let source = if is_ready {
                image
            } else {
                let padded = scratch.at_least(frame.len());
                let images = source.at(image);
                let pad: Pad<'_, T, false> = Pad { frame, images, padded: &mut *padded };
                // SAFETY: the caller's promise.
                unsafe { pad.run::<V>() }
                padded
            };
            for y in (0..out_h).step_by(lines) {
                let mut step = LinesStep {
                    s,
                    x: &source[y * s.stride * frame.row_len()..],
                    x_line: frame.row_len(),
                    dy: &dy[y * out_w * s.out_c..],
                    lines: lines.min(out_h - y),
                    rows: rows.clone(),
                    dw,
                    load: i + y > 0,
                };
                for block in columns(s.out_c, V::LANES, V::TILE_VECTORS) {
                    // SAFETY: the caller's promise; the lines lie in the image.
                    unsafe { for_width!(step.sweep, block,) }
                }
            }
        }
    }
}

/// Whole lines of output pixels of one image, and the rows they are added to.
struct LinesStep<'a, T> {
    s: &'a ConvShape,
    /// The bordered image from the first line's source on.
    x: &'a [T],
    x_line: usize,
    dy: &'a [T],
    lines: usize,
    rows: Range<usize>,
    dw: &'a mut [T],
    /// Whether dw already holds a part of the sum.
    load: bool,
}

impl<T: Real> LinesStep<'_, T> {
    /// Rows of one kernel line read neighbouring source elements; a tile never
    /// leaves its line.
    ///
    /// # Safety
    /// The CPU must have V's instructions; the lines must lie in x and dy.
    #[inline(always)]
    unsafe fn sweep<V: Simd<Scalar = T>, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        block: Columns,
    ) {
        let line = self.s.kernel_w * self.s.in_c;
        let mut row = self.rows.start;
        while row < self.rows.end {
            let end = self.rows.end.min((row / line + 1) * line);
            // SAFETY: the caller's promise; row..end lies in one kernel line.
            unsafe {
                match end - row {
                    n if n >= ROWS => self.tiles::<V, ROWS, VECTORS>(block, row..end),
                    n if n >= 3 => self.tiles::<V, 3, VECTORS>(block, row..end),
                    _ => self.tiles::<V, 1, VECTORS>(block, row..end),
                }
            }
            row = end;
        }
    }

    /// Tiles of ROWS rows; the last one reaches back over rows that are done
    /// already and leaves those alone.
    ///
    /// # Safety
    /// As [`LinesStep::sweep`]; `rows` must be at least ROWS, of one kernel line.
    #[inline(always)]
    unsafe fn tiles<V: Simd<Scalar = T>, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        block: Columns,
        rows: Range<usize>,
    ) {
        let s = self.s;
        let line = s.kernel_w * s.in_c;
        for first in rows.clone().step_by(ROWS) {
            let start = first.min(rows.end - ROWS);
            // SAFETY: the caller's promise puts every offset inside its slice.
            unsafe {
                let tile = Tile {
                    x: self.x.as_ptr().add(start / line * self.x_line + start % line),
                    x_step: s.stride * s.in_c,
                    x_line: s.stride * self.x_line,
                    dy: self.dy.as_ptr().add(block.first),
                    dy_step: s.out_c,
                    dy_line: s.out_w() * s.out_c,
                    pixels: s.out_w(),
                    lines: self.lines,
                    dw: self.dw.as_mut_ptr().add((start - self.rows.start) * s.out_c + block.first),
                    dw_step: s.out_c,
                    last: block.width - (VECTORS - 1) * V::LANES,
                    stored: first - start..ROWS,
                    load: self.load,
                };
                if block.width == block.padded {
                    tile.run::<V, ROWS, VECTORS, true, false>();
                } else {
                    tile.run::<V, ROWS, VECTORS, false, false>();
                }
            }
        }
    }
}

/// The tiles read copies: `[tile][pixel][ROWS]` of the source, `[pixel][columns]`
/// of the gradients.
struct Copied<'a, T>(Rows<'a, T>);

impl<T: Real> Task<T> for Copied<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Rows { s, frame, source, dy, rows, dw, scratch } = self.0;
        let (out_h, out_w) = (s.out_h(), s.out_w());
        let pixels = dy.len() / s.out_c;
        let mut offsets = [0; PIXELS_PER_STEP];
        for first in (0..pixels).step_by(PIXELS_PER_STEP) {
            let len = PIXELS_PER_STEP.min(pixels - first);
            for (i, offset) in offsets[..len].iter_mut().enumerate() {
                let (image, pixel) = ((first + i) / (out_h * out_w), (first + i) % (out_h * out_w));
                let (y, x) = (pixel / out_w, pixel % out_w);
                *offset = image * frame.len() + s.stride * (y * frame.row_len() + x * s.in_c);
            }
            let mut step = PixelsStep {
                s,
                x_line: frame.row_len(),
                source: source.x,
                offsets: &offsets[..len],
                dy: &dy[first * s.out_c..],
                rows: rows.clone(),
                dw,
                scratch,
                rows_copied: 0,
                load: first > 0,
            };
            for block in columns(s.out_c, V::LANES, V::TILE_VECTORS) {
                // SAFETY: the caller's promise; the pixels lie in the images.
                unsafe { for_width!(step.sweep, block,) }
            }
        }
    }
}

/// Any pixels of the batch, and the rows they are added to.
struct PixelsStep<'a, T> {
    s: &'a ConvShape,
    x_line: usize,
    source: &'a [T],
    /// Where each pixel's first source element lies.
    offsets: &'a [usize],
    dy: &'a [T],
    rows: Range<usize>,
    dw: &'a mut [T],
    scratch: &'a mut Lines<T>,
    /// Height of the tiles that the source was copied for, 0 before the first.
    rows_copied: usize,
    load: bool,
}

impl<T: Real> PixelsStep<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions; the pixels must lie in source and dy.
    #[inline(always)]
    unsafe fn sweep<V: Simd<Scalar = T>, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        block: Columns,
    ) {
        let s = self.s;
        let line = s.kernel_w * s.in_c;
        let pixels = self.offsets.len();
        let tiles = self.rows.len().div_ceil(ROWS);
        let copied = whole_lines::<T>(pixels * tiles * ROWS);
        let scratch = self.scratch.at_least(copied + pixels * block.padded);
        let (x, dy) = scratch.split_at_mut(copied);

        if self.rows_copied != ROWS {
            self.rows_copied = ROWS;
            for (tile, to) in x.chunks_exact_mut(pixels * ROWS).take(tiles).enumerate() {
                let first = self.rows.start + tile * ROWS;
                let end = self.rows.end.min(first + ROWS);
                let offset = first / line * self.x_line + first % line;
                if first + ROWS == end && first / line == (end - 1) / line {
                    for (to, pixel) in to.chunks_exact_mut(ROWS).zip(self.offsets) {
                        to.copy_from_slice(&self.source[pixel + offset..][..ROWS]);
                    }
                } else {
                    for (to, pixel) in to.chunks_exact_mut(ROWS).zip(self.offsets) {
                        for (r, to) in to.iter_mut().enumerate() {
                            // Rows past the end are computed and thrown away.
                            let row = (first + r).min(end - 1);
                            *to = self.source[pixel + row / line * self.x_line + row % line];
                        }
                    }
                }
            }
        }
        for (to, from) in dy.chunks_exact_mut(block.padded).zip(self.dy.chunks_exact(s.out_c)) {
            to[..block.width].copy_from_slice(&from[block.first..][..block.width]);
            to[block.width..].fill(T::ZERO);
        }

        for (tile, x) in x.chunks_exact(pixels * ROWS).take(tiles).enumerate() {
            let first = tile * ROWS;
            // SAFETY: the copies have the tile's shape; dw has the rows stored.
            unsafe {
                Tile {
                    x: x.as_ptr(),
                    x_step: ROWS,
                    x_line: 0,
                    dy: dy.as_ptr(),
                    dy_step: block.padded,
                    dy_line: 0,
                    pixels,
                    lines: 1,
                    dw: self.dw.as_mut_ptr().wrapping_add(first * s.out_c + block.first),
                    dw_step: s.out_c,
                    last: block.width - (VECTORS - 1) * V::LANES,
                    stored: 0..ROWS.min(self.rows.len() - first),
                    load: self.load,
                }
                .run::<V, ROWS, VECTORS, true, false>();
            }
        }
    }
}

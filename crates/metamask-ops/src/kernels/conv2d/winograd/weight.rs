//! The gradient in the weights: the same points, summed over tiles.
//!
//! A task owns some rows (input channels) of one block of columns (output
//! channels) for one part of the tiles. It brings a cell of tiles to the points,
//! adds the products to its sums, and goes on to the next cell: cell and sums
//! stay in the second-level cache. Tasks that share channels each transform them
//! again: sharing the result would send it through the last-level cache, whose
//! delays cost more.

use std::ops::Range;

use rayon::prelude::*;

use super::grid::{Grid, point_stride};
use super::transform::{POINTS, flat, transform_gradient, transform_input};
use super::weights::gradient_rows;
use super::{dispatch, store_words, words_hold};
use crate::Kernel;
use crate::kernels::conv2d::ConvShape;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::conv2d::product::{for_even_tile_of, wastes};
use crate::kernels::conv2d::weight::add_up;
use crate::kernels::conv2d::weight_tile::Tile;
use crate::kernels::lines::Lines;
use crate::kernels::shared::SharedMut;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::source::Source;
use crate::kernels::workspace::Workspace;

/// Tiles that are transformed together, if two lines (rows of tiles) are not more. With
/// [`ROWS`] rows and 64 columns they are 288 KiB at all points.
const CELL: usize = 16;

/// Rows of a task: with 64 columns their sums are 576 KiB. Measured, with [`CELL`]:
/// half the rows, or three quarters, and cells as much larger are slower by a tenth.
const ROWS: usize = 64;

/// Parts that the tiles are cut into at most, each with a gradient of its own.
const PARTS: usize = 16;

/// Elements of those gradients at most.
const PART_ELEMENTS: usize = 1 << 20;

/// Cells of a part at least: taking the sums back from the points costs as much
/// as the products of a few tiles.
const PART_CELLS: usize = 8;

/// `dw = Gᵀ [Σ_tiles (Bᵀ x B) ⊙ (A dy Aᵀ)] G`
pub(super) fn backward_weight<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    s: &ConvShape,
    x: Source<'_, T>,
    dy: &[T],
    dw: &mut [T],
    ws: &mut Workspace<T>,
) {
    let grid = Grid::forward(s);
    let lines = s.batch * grid.rows();
    let per_cell = (CELL / grid.columns() / 2 * 2).max(2);
    let parts = (PART_ELEMENTS / dw.len()).min(lines / (PART_CELLS * per_cell)).clamp(1, PARTS);
    let per_part = lines.div_ceil(parts).next_multiple_of(per_cell);
    let parts = lines.div_ceil(per_part);

    let (lanes, vectors) = T::tile_columns(kernel);
    let blocks: Vec<_> = columns(s.out_c, lanes, vectors).collect();
    let strips = s.in_c.div_ceil(ROWS);
    let (_, _, partials, per_thread) = ws.parts();
    let weights = dw.len();
    let sums = if parts == 1 { &mut *dw } else { partials.at_least(parts * weights) };
    let to: Vec<_> = sums.chunks_mut(weights).map(SharedMut::new).collect();
    (0..parts * blocks.len() * strips).into_par_iter().for_each(|i| {
        let (part, block, strip) =
            (i / strips / blocks.len(), blocks[i / strips % blocks.len()], i % strips);
        let sum: Sum<'_, T, PAIRS> = Sum {
            grid: &grid,
            x,
            dy,
            per_cell,
            lines: part * per_part..lines.min((part + 1) * per_part),
            rows: strip * ROWS..s.in_c.min((strip + 1) * ROWS),
            block,
            scratch: &mut per_thread.get(),
            to: &to[part],
        };
        dispatch::<T, PAIRS>(kernel, sum);
    });
    if parts > 1 {
        add_up(&partials[..parts * weights], dw);
    }
}

/// Some rows of one block of columns of the gradient, over some lines of tiles.
struct Sum<'a, T, const PAIRS: bool> {
    grid: &'a Grid,
    x: Source<'a, T>,
    dy: &'a [T],
    lines: Range<usize>,
    /// Lines of a cell. Even.
    per_cell: usize,
    rows: Range<usize>,
    block: Columns,
    scratch: &'a mut Lines<T>,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real, const PAIRS: bool> Task<T> for Sum<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { grid, x, dy, lines, per_cell, rows, block, scratch, to } = self;
        let columns = block.first..block.first + block.width;
        let depth = rows.len().next_multiple_of(V::LANES);
        let [x_step, dy_step] = [depth, block.padded].map(|len| point_stride::<T>(POINTS * len));
        let sum_stride = point_stride::<T>(rows.len() * block.padded);
        let words = per_cell / words_hold::<PAIRS>() * grid.columns();
        let (x_band, dy_band) = (grid.inputs_len(rows.len()), grid.outputs_len(block.width));
        let len = words * (x_step + dy_step) + POINTS * sum_stride + 2 * (x_band + dy_band);
        let (inputs, scratch) = scratch.at_least(len).split_at_mut(words * x_step);
        let (gradients, scratch) = scratch.split_at_mut(words * dy_step);
        let (sums, scratch) = scratch.split_at_mut(POINTS * sum_stride);
        let (x_bands, dy_bands) = scratch.split_at_mut(2 * x_band);

        for first in lines.clone().step_by(per_cell) {
            let end = lines.end.min(first + per_cell);
            let mut words = 0;
            for line in (first..end).step_by(words_hold::<PAIRS>()) {
                // With PAIRS a word is the tiles of two lines in the same column; a
                // last line without a partner is paired with zeros.
                for i in 0..words_hold::<PAIRS>() {
                    let x_band = &mut x_bands[i * x_band..][..x_band];
                    let dy_band = &mut dy_bands[i * dy_band..][..dy_band];
                    if line + i < end {
                        let place = grid.place((line + i) * grid.columns());
                        // SAFETY: the caller's promise.
                        unsafe {
                            grid.copy_inputs::<V>(&x, place, rows.clone(), x_band);
                            grid.copy_outputs::<V>(dy, place, columns.clone(), dy_band);
                        }
                    } else {
                        x_band.fill(T::ZERO);
                        dy_band.fill(T::ZERO);
                    }
                }
                for column in 0..grid.columns() {
                    // SAFETY: the caller's promise; column and channels exist, and
                    // the cell has a place for each word.
                    unsafe {
                        for (row, lanes) in Grid::vectors::<V>(rows.len()) {
                            let tile = Channels { of: rows.len(), column, first: row, lanes };
                            let even = tile.inputs::<V>(grid, x_bands);
                            let odd = if PAIRS {
                                tile.inputs::<V>(grid, &x_bands[x_band..])
                            } else {
                                even
                            };
                            let to = inputs.as_mut_ptr().add(words * x_step + row);
                            store_words::<V, PAIRS, POINTS>([even, odd], to, depth);
                        }
                        for (channel, lanes) in Grid::vectors::<V>(block.width) {
                            let tile = Channels { of: block.width, column, first: channel, lanes };
                            let even = tile.gradients::<V>(grid, dy_bands);
                            let odd = if PAIRS {
                                tile.gradients::<V>(grid, &dy_bands[dy_band..])
                            } else {
                                even
                            };
                            let to = gradients.as_mut_ptr().add(words * dy_step + channel);
                            store_words::<V, PAIRS, POINTS>([even, odd], to, block.padded);
                        }
                    }
                    words += 1;
                }
            }
            for point in 0..POINTS {
                let product = PointProduct {
                    x: &inputs[point * depth..],
                    x_step,
                    dy: &gradients[point * block.padded..],
                    dy_step,
                    words,
                    sums: &mut sums[point * sum_stride..],
                    rows: rows.len(),
                    load: first > lines.start,
                };
                macro_rules! run {
                    ($rows:literal, $vectors:literal) => {
                        product.run::<V, PAIRS, $rows, $vectors>()
                    };
                }
                // SAFETY: the caller's promise; the cell holds the words, sums
                // the rows.
                unsafe { for_even_tile_of!(V, block.padded / V::LANES, rows.len(), run) }
            }
        }
        // SAFETY: the caller's promise; sums has the rows at every point, and no
        // other task has these rows of this block.
        unsafe {
            let channels = (grid.in_c, grid.out_c);
            gradient_rows::<V>(sums.as_ptr(), sum_stride, channels, block, rows, to);
        }
    }
}

/// Some channels of a tile in a band.
struct Channels {
    /// Channels of the band.
    of: usize,
    /// The tile's column.
    column: usize,
    first: usize,
    lanes: usize,
}

impl Channels {
    /// # Safety
    /// The CPU must have V's instructions, the band the channels.
    #[inline(always)]
    unsafe fn inputs<V: Simd>(&self, grid: &Grid, band: &[V::Scalar]) -> [V; POINTS] {
        let Self { of, column, first, lanes } = *self;
        // SAFETY: the caller's promise.
        unsafe { flat(transform_input(grid.window(band, of, column, first, lanes))) }
    }

    /// # Safety
    /// As [`Self::inputs`].
    #[inline(always)]
    unsafe fn gradients<V: Simd>(&self, grid: &Grid, band: &[V::Scalar]) -> [V; POINTS] {
        let Self { of, column, first, lanes } = *self;
        // SAFETY: the caller's promise.
        unsafe { flat(transform_gradient(grid.tile(band, of, column, first, lanes))) }
    }
}

/// `sums[r][v] (+)= Σ_words x[word][r] dy[word][v]` at one point.
struct PointProduct<'a, T> {
    x: &'a [T],
    x_step: usize,
    dy: &'a [T],
    dy_step: usize,
    words: usize,
    sums: &'a mut [T],
    rows: usize,
    load: bool,
}

impl<T: Real> PointProduct<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions; x and dy must hold the words, sums
    /// the rows, VECTORS whole vectors each. Behind x there must be ROWS elements.
    #[inline(always)]
    unsafe fn run<
        V: Simd<Scalar = T>,
        const PAIRS: bool,
        const ROWS: usize,
        const VECTORS: usize,
    >(
        self,
    ) {
        for row in (0..self.rows).step_by(ROWS) {
            // SAFETY: the caller's promise. Rows past the last one are computed
            // and thrown away.
            unsafe {
                Tile {
                    x: self.x.as_ptr().add(row),
                    x_step: self.x_step,
                    x_line: 0,
                    dy: self.dy.as_ptr(),
                    dy_step: self.dy_step,
                    dy_line: 0,
                    pixels: self.words,
                    lines: 1,
                    dw: self.sums.as_mut_ptr().add(row * VECTORS * V::LANES),
                    dw_step: VECTORS * V::LANES,
                    last: V::LANES,
                    stored: 0..ROWS.min(self.rows - row),
                    load: self.load,
                }
                .run::<V, ROWS, VECTORS, true, PAIRS>();
            }
        }
    }
}

//! The same for many channels: transformed weights would be four times the size
//! of the weights, and come from memory. Here a task transforms those of one line of
//! points at a time, for one block of columns, into the cache, and multiplies all
//! its tiles by them.

use std::ops::Range;

use rayon::prelude::*;

use super::correlate::{PointProduct, put_tiles, transform_inputs};
use super::grid::{Grid, point_stride};
use super::transform::{POINTS, WINDOW};
use super::weights::Rows;
use super::{Buffers, dispatch, words};
use crate::Kernel;
use crate::kernels::conv2d::Parts;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::conv2d::product::{self, Span, for_tile_of};
use crate::kernels::lines::Lines;
use crate::kernels::shared::SharedMut;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::source::Source;

/// Tiles of a task: their products at all points are 576 KiB for 64 channels.
const TILES: usize = 64;

/// Channels that are summed at a time: their weights at a line of points are 768 KiB
/// for 64 columns. Even.
const DEPTH: usize = 512;

/// Elements of transformed tiles at a time.
const ELEMENTS: usize = 1 << 22;

/// `target (+)= correlation of source with the weights`; `finish` as in the direct one.
#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
pub(super) fn correlate<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    grid: &Grid,
    source: Source<'_, T>,
    w: &[T],
    target: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    buffers: Buffers<'_, T>,
) {
    let (lanes, vectors) = T::tile_columns(kernel);
    let depth = words::<PAIRS>(grid.in_c.next_multiple_of(lanes));
    let cell = TILES * point_stride::<T>(POINTS * depth);
    let tiles = source.x.len() / grid.in_len() * grid.tiles();
    let cells = (ELEMENTS / cell).clamp(1, tiles.div_ceil(TILES));
    let Buffers { padded, per_thread, .. } = buffers;
    let inputs = padded.at_least(cells * cell);
    let blocks: Vec<_> = columns(grid.out_c, lanes, vectors).collect();
    let to = SharedMut::new(&mut *target);

    for first in (0..tiles).step_by(cells * TILES) {
        let n_tiles = (cells * TILES).min(tiles - first);
        let inputs = &mut inputs[..n_tiles.div_ceil(TILES) * cell];
        let part = |i: usize| (first + i * TILES, TILES.min(n_tiles - i * TILES));
        // One cell may be all there is: its rows of tiles are enough for many threads.
        inputs.par_chunks_mut(cell).enumerate().for_each(|(i, cell)| {
            let (first, tiles) = part(i);
            let cell = SharedMut::new(cell);
            let rows = first / grid.columns()..(first + tiles).div_ceil(grid.columns());
            rows.into_par_iter().with_min_len(8 / grid.columns().min(8)).for_each(|row| {
                let row = row * grid.columns()..(row + 1) * grid.columns();
                let tiles = first.max(row.start)..row.end.min(first + tiles);
                let scratch = &mut per_thread.get();
                let cell = &cell;
                let input: Input<'_, T, PAIRS> =
                    Input { grid, source, first, tiles, scratch, cell };
                dispatch::<T, PAIRS>(kernel, input);
            });
        });
        let inputs = &*inputs;
        (0..inputs.len() / cell * blocks.len()).into_par_iter().for_each(|task| {
            let (block, i) = (blocks[task % blocks.len()], task / blocks.len());
            let (first, tiles) = part(i);
            let inputs = &inputs[i * cell..][..cell];
            let scratch = &mut per_thread.get();
            let to = &to;
            let block: Block<'_, T, PAIRS> =
                Block { grid, w, inputs, first, tiles, block, scratch, to, accumulate };
            dispatch::<T, PAIRS>(kernel, block);
        });
    }
    // A task has a block of channels only: what is finished are whole images.
    let len = parts(grid).part;
    target.par_chunks_mut(len).enumerate().for_each(|(i, image)| finish(i * len, image));
}

/// The parts of the target that [`correlate`] finishes.
pub(super) fn parts(grid: &Grid) -> Parts {
    Parts { piece: grid.out_len(), part: grid.out_len() }
}

/// Brings tiles of one row to the points.
struct Input<'a, T, const PAIRS: bool> {
    grid: &'a Grid,
    source: Source<'a, T>,
    /// The cell's first tile.
    first: usize,
    tiles: Range<usize>,
    scratch: &'a mut Lines<T>,
    cell: &'a SharedMut<'a, T>,
}

impl<T: Real, const PAIRS: bool> Task<T> for Input<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { grid, source, first, tiles, scratch, cell } = self;
        let depth = words::<PAIRS>(grid.in_c.next_multiple_of(V::LANES));
        let band = scratch.at_least(grid.inputs_len(grid.in_c));
        // SAFETY: the caller's promise.
        unsafe { grid.copy_inputs::<V>(&source, grid.place(tiles.start), 0..grid.in_c, band) }
        for tile in tiles {
            // SAFETY: the caller's promise; no other task has this tile of the cell.
            unsafe {
                let to = cell.at((tile - first) * point_stride::<T>(POINTS * depth));
                transform_inputs::<V, PAIRS>(grid, band, grid.place(tile).column, to);
            }
        }
    }
}

/// One block of target channels, for the tiles of a cell.
struct Block<'a, T, const PAIRS: bool> {
    grid: &'a Grid,
    w: &'a [T],
    inputs: &'a [T],
    first: usize,
    tiles: usize,
    block: Columns,
    scratch: &'a mut Lines<T>,
    to: &'a SharedMut<'a, T>,
    accumulate: bool,
}

impl<T: Real, const PAIRS: bool> Task<T> for Block<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { grid, w, block, tiles, .. } = self;
        let depth = words::<PAIRS>(grid.in_c.next_multiple_of(V::LANES));
        let input_step = point_stride::<T>(POINTS * depth);
        let product_stride = point_stride::<T>(TILES * block.padded);
        let rows = words::<PAIRS>(grid.in_c.min(DEPTH));
        let weight_stride = point_stride::<T>(rows * block.padded);
        let scratch = self.scratch.at_least(POINTS * product_stride + WINDOW * weight_stride);
        let (products, weights) = scratch.split_at_mut(POINTS * product_stride);

        for first in (0..grid.in_c).step_by(DEPTH) {
            let last = grid.in_c.min(first + DEPTH);
            let rows = Rows { w, k: grid.in_c, n: grid.out_c, block, rows: first..last };
            let spans = [Span { offset: words::<PAIRS>(first), len: words::<PAIRS>(last - first) }];
            for point in 0..POINTS {
                let (line, column) = (point / WINDOW, point % WINDOW);
                if column == 0 {
                    // SAFETY: the caller's promise; weights has the rows at WINDOW points.
                    unsafe {
                        rows.transform_line::<V, PAIRS>(line, weights.as_mut_ptr(), weight_stride);
                    }
                }
                let product = PointProduct {
                    rows: product::Rows {
                        spans: &spans,
                        w: weights[column * weight_stride..].as_ptr(),
                        last: V::LANES,
                        load: first > 0,
                    },
                    x: &self.inputs[point * depth..],
                    x_step: input_step,
                    y: &mut products[point * product_stride..],
                    y_step: block.padded,
                    tiles,
                };
                macro_rules! run {
                    ($pixels:literal, $vectors:literal) => {
                        product.run::<V, PAIRS, $pixels, $vectors>()
                    };
                }
                // SAFETY: the caller's promise; inputs and products hold a row
                // for each tile, weights one for each word of the span.
                unsafe { for_tile_of!(V, block.padded / V::LANES, run) }
            }
        }
        // SAFETY: the caller's promise; the tiles lie in the target, and no other
        // task has this block of them.
        unsafe {
            let place = |tile| grid.place(self.first + tile);
            let to = self.to.at(0);
            put_tiles::<V>(
                grid,
                products,
                product_stride,
                block,
                tiles,
                place,
                to,
                0,
                self.accumulate,
            );
        }
    }
}

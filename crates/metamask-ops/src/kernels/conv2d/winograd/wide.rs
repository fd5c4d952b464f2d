//! The same for many channels: transformed weights would be four times the size
//! of the weights, and come from memory. Here a task transforms a few rows of
//! them at a time, into the cache, and multiplies all its tiles by them.

use rayon::prelude::*;

use super::correlate::{PointProduct, put_tiles, transform_inputs};
use super::grid::{Grid, point_stride};
use super::transform::POINTS;
use super::weights::{Direction, ROWS, Rows};
use crate::Kernel;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::conv2d::product::{self, Span, for_tile_of};
use crate::kernels::shared::SharedMut;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::workspace::{Workspace, at_least};

/// Tiles of a task: their products at all points are 576 KiB for 64 channels.
const TILES: usize = 64;

/// Rows of the weights that are transformed at a time: again 576 KiB.
const DEPTH: usize = 64;

/// Elements of transformed tiles at a time.
const ELEMENTS: usize = 1 << 22;

/// `target (+)= correlation of source with the weights`; `finish` as in the direct one.
#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
pub(super) fn correlate<T: Real>(
    kernel: Kernel,
    grid: &Grid,
    direction: Direction,
    source: &[T],
    w: &[T],
    target: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    ws: &mut Workspace<T>,
) {
    let (lanes, vectors) = T::tile_columns(kernel);
    let depth = grid.in_c.next_multiple_of(lanes);
    let cell = POINTS * point_stride::<T>(TILES * depth);
    let tiles = source.len() / grid.in_len() * grid.tiles();
    let cells = (ELEMENTS / cell).clamp(1, tiles.div_ceil(TILES));
    let (_, inputs, _, per_thread) = ws.parts();
    let inputs = at_least(inputs, cells * cell);
    let blocks: Vec<_> = columns(grid.out_c, lanes, vectors).collect();
    let to = SharedMut::new(&mut *target);

    for first in (0..tiles).step_by(cells * TILES) {
        let n_tiles = (cells * TILES).min(tiles - first);
        let inputs = &mut inputs[..n_tiles.div_ceil(TILES) * cell];
        let part = |i: usize| (first + i * TILES, TILES.min(n_tiles - i * TILES));
        // One cell may be all there is: its tiles are enough for many threads.
        inputs.par_chunks_mut(cell).enumerate().for_each(|(i, cell)| {
            let (first, tiles) = part(i);
            let cell = SharedMut::new(cell);
            (0..tiles).into_par_iter().with_min_len(8).for_each(|tile| {
                T::dispatch(kernel, Input { grid, source, first, tile, cell: &cell });
            });
        });
        let inputs = &*inputs;
        (0..inputs.len() / cell * blocks.len()).into_par_iter().for_each(|task| {
            let (block, i) = (blocks[task % blocks.len()], task / blocks.len());
            let (first, tiles) = part(i);
            let inputs = &inputs[i * cell..][..cell];
            let scratch = &mut per_thread.get();
            let to = &to;
            T::dispatch(
                kernel,
                Block { grid, direction, w, inputs, first, tiles, block, scratch, to, accumulate },
            );
        });
    }
    // A task has a block of channels only: what is finished are whole images.
    let len = grid.out_len();
    target.par_chunks_mut(len).enumerate().for_each(|(i, image)| finish(i * len, image));
}

/// Brings one tile to the points.
struct Input<'a, T> {
    grid: &'a Grid,
    source: &'a [T],
    first: usize,
    tile: usize,
    cell: &'a SharedMut<'a, T>,
}

impl<T: Real> Task<T> for Input<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { grid, source, first, tile, cell } = self;
        let depth = grid.in_c.next_multiple_of(V::LANES);
        // SAFETY: the caller's promise; no other task has this tile of the cell.
        unsafe {
            let (to, stride) = (cell.at(tile * depth), point_stride::<T>(TILES * depth));
            transform_inputs::<V>(grid, source, grid.place(first + tile), to, stride);
        }
    }
}

/// One block of target channels, for the tiles of a cell.
struct Block<'a, T> {
    grid: &'a Grid,
    direction: Direction,
    w: &'a [T],
    inputs: &'a [T],
    first: usize,
    tiles: usize,
    block: Columns,
    scratch: &'a mut Vec<T>,
    to: &'a SharedMut<'a, T>,
    accumulate: bool,
}

impl<T: Real> Task<T> for Block<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { grid, direction, w, block, tiles, .. } = self;
        let depth = grid.in_c.next_multiple_of(V::LANES);
        let input_stride = point_stride::<T>(TILES * depth);
        let product_stride = point_stride::<T>(TILES * block.padded);
        let weight_stride = point_stride::<T>(DEPTH * block.padded);
        let scratch = at_least(self.scratch, POINTS * (product_stride + weight_stride));
        let (products, weights) = scratch.split_at_mut(POINTS * product_stride);
        let (in_c, out_c) = match direction {
            Direction::Forward => (grid.in_c, grid.out_c),
            Direction::Backward => (grid.out_c, grid.in_c),
        };

        for k in (0..grid.in_c).step_by(DEPTH) {
            let len = DEPTH.min(grid.in_c - k);
            for row in (0..len).step_by(ROWS) {
                let rows = Rows {
                    w,
                    in_c,
                    out_c,
                    direction,
                    block,
                    first: k + row,
                    rows: ROWS.min(len - row),
                };
                // SAFETY: the caller's promise; weights has DEPTH rows a point.
                unsafe {
                    let to = weights.as_mut_ptr().add(row * block.padded);
                    rows.transform::<V>(to, weight_stride);
                }
            }
            let spans = [Span { offset: k, len }];
            for point in 0..POINTS {
                let product = PointProduct {
                    rows: product::Rows {
                        spans: &spans,
                        w: weights[point * weight_stride..].as_ptr(),
                        last: V::LANES,
                        load: k > 0,
                    },
                    x: &self.inputs[point * input_stride..],
                    x_step: depth,
                    y: &mut products[point * product_stride..],
                    y_step: block.padded,
                    tiles,
                };
                macro_rules! run {
                    ($pixels:literal, $vectors:literal) => {
                        product.run::<V, $pixels, $vectors>()
                    };
                }
                // SAFETY: the caller's promise; inputs and products hold a row
                // for each tile, weights one for each channel of the span.
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

//! The gradient in the weights: the same points, summed over tiles.

use std::ops::Range;

use rayon::prelude::*;

use super::grid::{Grid, point_stride};
use super::transform::{POINTS, flat, transform_gradient, transform_input};
use super::weights::{gradient_rows, transform_weight_gradients};
use super::{dispatch, store_words, words, words_hold};
use crate::Kernel;
use crate::kernels::conv2d::ConvShape;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::conv2d::product::for_tile_of;
use crate::kernels::conv2d::weight_tile::Tile;
use crate::kernels::shared::SharedMut;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::workspace::{Workspace, at_least};

/// Tiles that are transformed together, the unit of work. Even.
const CELL: usize = 32;

/// Elements of transformed tiles at a time.
const ELEMENTS: usize = 1 << 20;

/// Cells that are summed at a time at least: loading and storing the sums costs.
const CELLS: usize = 2;

/// Products of channels from which on a sum over all tiles goes straight to the
/// gradient: the sums at all points would be four times its size, in memory.
const FUSE_FROM: usize = 1 << 16;

/// Rows of the gradient whose points a task sums: 32 · 64 channels are 288 KiB.
const FUSED_ROWS: usize = 32;

/// `dw = Gᵀ [Σ_tiles (Bᵀ x B) ⊙ (A dy Aᵀ)] G`
pub(super) fn backward_weight<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    s: &ConvShape,
    x: &[T],
    dy: &[T],
    dw: &mut [T],
    ws: &mut Workspace<T>,
) {
    let (lanes, vectors) = T::tile_columns(kernel);
    let layout: Layout<PAIRS> = Layout {
        grid: Grid::forward(s),
        depth: s.in_c.next_multiple_of(lanes),
        width: s.out_c.next_multiple_of(lanes),
    };
    let tiles = s.batch * layout.grid.tiles();
    let cells = (ELEMENTS / layout.cell::<T>()).max(CELLS).min(tiles.div_ceil(CELL));
    let (_, cell_buffer, sums, per_thread) = ws.parts();
    let cell_buffer = at_least(cell_buffer, cells * layout.cell::<T>());
    let blocks: Vec<_> = columns(s.out_c, lanes, vectors).collect();

    for first in (0..tiles).step_by(cells * CELL) {
        let n_tiles = (cells * CELL).min(tiles - first);
        let cell_buffer = &mut cell_buffer[..n_tiles.div_ceil(CELL) * layout.cell::<T>()];
        cell_buffer.par_chunks_mut(layout.cell::<T>()).enumerate().for_each(|(i, cell)| {
            let first = first + i * CELL;
            let tiles = CELL.min(tiles - first);
            dispatch::<T, PAIRS>(kernel, Transform { layout: &layout, x, dy, first, tiles, cell });
        });
        let cells = &*cell_buffer;
        if n_tiles == tiles && s.in_c * s.out_c >= FUSE_FROM {
            let to = SharedMut::new(dw);
            let tasks = s.in_c.div_ceil(FUSED_ROWS);
            (0..blocks.len() * tasks).into_par_iter().for_each(|i| {
                let (block, first) = (blocks[i / tasks], i % tasks * FUSED_ROWS);
                let rows = first..s.in_c.min(first + FUSED_ROWS);
                let scratch = &mut per_thread.get();
                let layout = &layout;
                dispatch::<T, PAIRS>(
                    kernel,
                    Fused { layout, cells, n_tiles, block, rows, scratch, to: &to },
                );
            });
            return;
        }
        let sums = at_least(sums, POINTS * s.in_c * layout.width);
        let to = SharedMut::new(sums);
        (0..blocks.len() * POINTS).into_par_iter().for_each(|i| {
            let (block, point) = (blocks[i / POINTS], i % POINTS);
            let load = first > 0;
            let layout = &layout;
            dispatch::<T, PAIRS>(
                kernel,
                Sum { layout, cells, n_tiles, block, point, load, to: &to },
            );
        });
    }
    transform_weight_gradients(kernel, sums, s.in_c, s.out_c, dw);
}

/// A cell lies as `[point][tile][depth]` of x, then `[point][tile][width]` of dy.
/// With PAIRS a word is two tiles; a last one without a partner is paired with zeros.
struct Layout<const PAIRS: bool> {
    grid: Grid,
    depth: usize,
    width: usize,
}

impl<const PAIRS: bool> Layout<PAIRS> {
    fn input_stride<T: Real>(&self) -> usize {
        point_stride::<T>(words::<PAIRS>(CELL) * self.depth)
    }

    fn gradient_stride<T: Real>(&self) -> usize {
        point_stride::<T>(words::<PAIRS>(CELL) * self.width)
    }

    fn cell<T: Real>(&self) -> usize {
        POINTS * (self.input_stride::<T>() + self.gradient_stride::<T>())
    }
}

/// Brings the tiles of a cell to the points.
struct Transform<'a, T, const PAIRS: bool> {
    layout: &'a Layout<PAIRS>,
    x: &'a [T],
    dy: &'a [T],
    first: usize,
    tiles: usize,
    cell: &'a mut [T],
}

impl<T: Real, const PAIRS: bool> Task<T> for Transform<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { layout, x, dy, first, tiles, cell } = self;
        let grid = &layout.grid;
        let (input_stride, gradient_stride) =
            (layout.input_stride::<T>(), layout.gradient_stride::<T>());
        let (inputs, gradients) = cell.split_at_mut(POINTS * input_stride);
        for (row, tile) in (0..tiles).step_by(words_hold::<PAIRS>()).enumerate() {
            let there = words_hold::<PAIRS>().min(tiles - tile);
            let places = || (first + tile..first + tile + there).map(|tile| grid.place(tile));
            // SAFETY: the caller's promise; tiles and channels exist, and the
            // cell has a place for each.
            unsafe {
                for (channel, lanes) in Grid::vectors::<V>(grid.in_c) {
                    let mut terms = [[V::zero(); POINTS]; 2];
                    for (term, place) in terms.iter_mut().zip(places()) {
                        let window = grid.window::<V>(x, place, channel, lanes);
                        *term = flat(transform_input(window));
                    }
                    let to = inputs.as_mut_ptr().add(row * layout.depth + channel);
                    store_words::<V, PAIRS, POINTS>(terms, to, input_stride);
                }
                for (channel, lanes) in Grid::vectors::<V>(grid.out_c) {
                    let mut terms = [[V::zero(); POINTS]; 2];
                    for (term, place) in terms.iter_mut().zip(places()) {
                        let tile = grid.tile::<V>(dy, place, channel, lanes);
                        *term = flat(transform_gradient(tile));
                    }
                    let to = gradients.as_mut_ptr().add(row * layout.width + channel);
                    store_words::<V, PAIRS, POINTS>(terms, to, gradient_stride);
                }
            }
        }
    }
}

/// Sums the products at one point over the tiles, for one block of channels.
struct Sum<'a, T, const PAIRS: bool> {
    layout: &'a Layout<PAIRS>,
    cells: &'a [T],
    n_tiles: usize,
    block: Columns,
    point: usize,
    load: bool,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real, const PAIRS: bool> Task<T> for Sum<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { layout, cells, n_tiles, block, point, load, to } = self;
        let in_c = layout.grid.in_c;
        // SAFETY: the caller's promise; no other task has this point of this block.
        unsafe {
            let to = to.at(POINTS * in_c * block.first + point * in_c * block.padded);
            layout.sum_point::<V>(cells, n_tiles, block, 0..in_c, point, to, load);
        }
    }
}

/// Sums at all points, for some rows of one block, and takes them back to dw.
struct Fused<'a, T, const PAIRS: bool> {
    layout: &'a Layout<PAIRS>,
    cells: &'a [T],
    n_tiles: usize,
    block: Columns,
    rows: Range<usize>,
    scratch: &'a mut Vec<T>,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real, const PAIRS: bool> Task<T> for Fused<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { layout, cells, n_tiles, block, rows, scratch, to } = self;
        let channels = (layout.grid.in_c, layout.grid.out_c);
        let stride = point_stride::<T>(rows.len() * block.padded);
        let sums = at_least(scratch, POINTS * stride).as_mut_ptr();
        // SAFETY: the caller's promise; sums has the rows at every point, and no
        // other task has these rows of this block.
        unsafe {
            for point in 0..POINTS {
                let to = sums.add(point * stride);
                layout.sum_point::<V>(cells, n_tiles, block, rows.clone(), point, to, false);
            }
            gradient_rows::<V>(sums, stride, channels, block, rows, to);
        }
    }
}

impl<const PAIRS: bool> Layout<PAIRS> {
    /// `to[r][v] (+)= Σ_tiles x[tile][r] dy[tile][v]` at one point.
    ///
    /// # Safety
    /// The CPU must have V's instructions; cells must hold the tiles, `to` the
    /// rows, whole vectors each.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "what, where to, and how much of it")]
    unsafe fn sum_point<V: Simd>(
        &self,
        cells: &[V::Scalar],
        n_tiles: usize,
        block: Columns,
        rows: Range<usize>,
        point: usize,
        to: *mut V::Scalar,
        load: bool,
    ) {
        macro_rules! run {
            ($rows:literal, $vectors:literal) => {
                self.sum::<V, $rows, $vectors>(cells, n_tiles, block, rows, point, to, load)
            };
        }
        // SAFETY: the caller's promise.
        unsafe { for_tile_of!(V, block.padded / V::LANES, run) }
    }

    /// # Safety
    /// As [`Self::sum_point`].
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "as `sum_point`")]
    unsafe fn sum<V: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        cells: &[V::Scalar],
        n_tiles: usize,
        block: Columns,
        rows: Range<usize>,
        point: usize,
        to: *mut V::Scalar,
        load: bool,
    ) {
        let cell = self.cell::<V::Scalar>();
        let inputs = point * self.input_stride::<V::Scalar>();
        let gradients = POINTS * self.input_stride::<V::Scalar>()
            + point * self.gradient_stride::<V::Scalar>()
            + block.first;
        // Whole cells, then what is left of the last one.
        let (whole, rest) = (n_tiles / CELL, n_tiles % CELL);
        let cells_of = [(0, whole, words::<PAIRS>(CELL)), (whole, 1, words::<PAIRS>(rest))];
        for (first_cell, lines, pixels) in cells_of {
            if lines * pixels == 0 {
                continue;
            }
            let start = first_cell * cell;
            for row in rows.clone().step_by(ROWS) {
                // SAFETY: the caller's promise. Cells hold `depth` channels of x
                // (rows past them are computed and thrown away; dy's follow in
                // the cell), `width` of dy.
                unsafe {
                    Tile {
                        x: cells.as_ptr().add(start + inputs + row),
                        x_step: self.depth,
                        x_line: cell,
                        dy: cells.as_ptr().add(start + gradients),
                        dy_step: self.width,
                        dy_line: cell,
                        pixels,
                        lines,
                        dw: to.add((row - rows.start) * block.padded),
                        dw_step: block.padded,
                        last: V::LANES,
                        stored: 0..ROWS.min(rows.end - row),
                        load: load || first_cell > 0,
                    }
                    .run::<V, ROWS, VECTORS, true, PAIRS>();
                }
            }
        }
    }
}

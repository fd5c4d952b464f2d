//! The gradient in the weights: the same points, summed over tiles.

use std::ops::Range;

use rayon::prelude::*;

use super::grid::{Grid, point_stride};
use super::transform::{POINTS, transform_gradient, transform_input};
use super::weights::{gradient_rows, transform_weight_gradients};
use crate::Kernel;
use crate::kernels::conv2d::ConvShape;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::conv2d::product::for_tile_of;
use crate::kernels::conv2d::weight_tile::Tile;
use crate::kernels::shared::SharedMut;
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::workspace::{Workspace, at_least};

/// Tiles that are transformed together, the unit of work.
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
pub(super) fn backward_weight<T: Real>(
    kernel: Kernel,
    s: &ConvShape,
    x: &[T],
    dy: &[T],
    dw: &mut [T],
    ws: &mut Workspace<T>,
) {
    let (lanes, vectors) = T::tile_columns(kernel);
    let layout = Layout {
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
            T::dispatch(kernel, Transform { layout: &layout, x, dy, first, tiles, cell });
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
                T::dispatch(
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
            T::dispatch(kernel, Sum { layout, cells, n_tiles, block, point, load, to: &to });
        });
    }
    transform_weight_gradients(kernel, sums, s.in_c, s.out_c, dw);
}

/// A cell lies as `[point][tile][depth]` of x, then `[point][tile][width]` of dy.
struct Layout {
    grid: Grid,
    depth: usize,
    width: usize,
}

impl Layout {
    fn input_stride<T: Real>(&self) -> usize {
        point_stride::<T>(CELL * self.depth)
    }

    fn gradient_stride<T: Real>(&self) -> usize {
        point_stride::<T>(CELL * self.width)
    }

    fn cell<T: Real>(&self) -> usize {
        POINTS * (self.input_stride::<T>() + self.gradient_stride::<T>())
    }
}

/// Brings the tiles of a cell to the points.
struct Transform<'a, T> {
    layout: &'a Layout,
    x: &'a [T],
    dy: &'a [T],
    first: usize,
    tiles: usize,
    cell: &'a mut [T],
}

impl<T: Real> Task<T> for Transform<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { layout, x, dy, first, tiles, cell } = self;
        let grid = &layout.grid;
        let (input_stride, gradient_stride) =
            (layout.input_stride::<T>(), layout.gradient_stride::<T>());
        let (inputs, gradients) = cell.split_at_mut(POINTS * input_stride);
        for tile in 0..tiles {
            let place = grid.place(first + tile);
            // SAFETY: the caller's promise; tiles and channels exist, and the
            // cell has a place for each.
            unsafe {
                for (channel, lanes) in Grid::vectors::<V>(grid.in_c) {
                    let points = transform_input(grid.window::<V>(x, place, channel, lanes));
                    let to = inputs.as_mut_ptr().add(tile * layout.depth + channel);
                    for (point, value) in points.as_flattened().iter().enumerate() {
                        value.store(to.add(point * input_stride));
                    }
                }
                for (channel, lanes) in Grid::vectors::<V>(grid.out_c) {
                    let points = transform_gradient(grid.tile::<V>(dy, place, channel, lanes));
                    let to = gradients.as_mut_ptr().add(tile * layout.width + channel);
                    for (point, value) in points.as_flattened().iter().enumerate() {
                        value.store(to.add(point * gradient_stride));
                    }
                }
            }
        }
    }
}

/// Sums the products at one point over the tiles, for one block of channels.
struct Sum<'a, T> {
    layout: &'a Layout,
    cells: &'a [T],
    n_tiles: usize,
    block: Columns,
    point: usize,
    load: bool,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real> Task<T> for Sum<'_, T> {
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
struct Fused<'a, T> {
    layout: &'a Layout,
    cells: &'a [T],
    n_tiles: usize,
    block: Columns,
    rows: Range<usize>,
    scratch: &'a mut Vec<T>,
    to: &'a SharedMut<'a, T>,
}

impl<T: Real> Task<T> for Fused<'_, T> {
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

impl Layout {
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
        for (first_cell, lines, pixels) in [(0, whole, CELL), (whole, 1, rest)] {
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
                    .run::<V, ROWS, VECTORS, true>();
                }
            }
        }
    }
}

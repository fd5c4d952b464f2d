//! The gradient in the weights: the same points, summed over tiles.

use rayon::prelude::*;

use super::grid::{Grid, point_stride};
use super::transform::{POINTS, transform_gradient, transform_input};
use super::weights::transform_weight_gradients;
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
    let (_, cell_buffer, sums, _) = ws.parts();
    let cell_buffer = at_least(cell_buffer, cells * layout.cell::<T>());
    let sums = at_least(sums, POINTS * s.in_c * layout.width);
    let blocks: Vec<_> = columns(s.out_c, lanes, vectors).collect();

    for first in (0..tiles).step_by(cells * CELL) {
        let n_tiles = (cells * CELL).min(tiles - first);
        let cell_buffer = &mut cell_buffer[..n_tiles.div_ceil(CELL) * layout.cell::<T>()];
        cell_buffer.par_chunks_mut(layout.cell::<T>()).enumerate().for_each(|(i, cell)| {
            let first = first + i * CELL;
            let tiles = CELL.min(tiles - first);
            T::dispatch(kernel, Transform { layout: &layout, x, dy, first, tiles, cell });
        });
        let to = SharedMut::new(sums);
        let cells = &*cell_buffer;
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
        macro_rules! run {
            ($rows:literal, $vectors:literal) => {
                self.tiles::<V, $rows, $vectors>()
            };
        }
        // SAFETY: the caller's promise.
        unsafe { for_tile_of!(V, self.block.padded / V::LANES, run) }
    }
}

impl<T: Real> Sum<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions.
    #[inline(always)]
    unsafe fn tiles<V: Simd<Scalar = T>, const ROWS: usize, const VECTORS: usize>(self) {
        let Self { layout, block, point, .. } = self;
        let in_c = layout.grid.in_c;
        let cell = layout.cell::<T>();
        let input = point * layout.input_stride::<T>();
        let gradient = POINTS * layout.input_stride::<T>()
            + point * layout.gradient_stride::<T>()
            + block.first;
        let target = POINTS * in_c * block.first + point * in_c * block.padded;
        // Whole cells, then what is left of the last one.
        let (whole, rest) = (self.n_tiles / CELL, self.n_tiles % CELL);
        for (first_cell, lines, pixels) in [(0, whole, CELL), (whole, 1, rest)] {
            if lines * pixels == 0 {
                continue;
            }
            let start = first_cell * cell;
            for row in (0..in_c).step_by(ROWS) {
                // SAFETY: cells hold `depth` channels of x (rows past in_c are
                // computed and thrown away), `width` of dy; no other task has
                // this point of this block.
                unsafe {
                    Tile {
                        x: self.cells.as_ptr().add(start + input + row),
                        x_step: layout.depth,
                        x_line: cell,
                        dy: self.cells.as_ptr().add(start + gradient),
                        dy_step: layout.width,
                        dy_line: cell,
                        pixels,
                        lines,
                        dw: self.to.at(target + row * block.padded),
                        dw_step: block.padded,
                        last: V::LANES,
                        stored: 0..ROWS.min(in_c - row),
                        load: self.load || first_cell > 0,
                    }
                    .run::<V, ROWS, VECTORS, true>();
                }
            }
        }
    }
}

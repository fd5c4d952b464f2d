//! The tiles' products summed over channels: forward and backward-data.

use rayon::prelude::*;

use super::grid::{Grid, Place, point_stride};
use super::transform::{POINTS, TILE, WINDOW, transform_input, transform_output};
use super::{dispatch, words};
use crate::Kernel;
use crate::kernels::conv2d::Parts;
use crate::kernels::conv2d::pack::{Columns, columns};
use crate::kernels::conv2d::product::{Rows, Span, for_even_tile_of, wastes};
use crate::kernels::lines::{Lines, whole_lines};
use crate::kernels::simd::{Real, Simd, Task};
use crate::kernels::source::Source;
use crate::kernels::workspace::PerThread;

/// Tiles of a task: as many as reuse the weights well while their products stay
/// in the second-level cache.
const TILES: usize = 32;

/// `target (+)= correlation of source with the transformed weights u`; `finish` as
/// in the direct one.
#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
pub(super) fn correlate<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    grid: &Grid,
    source: Source<'_, T>,
    u: &[T],
    target: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    per_thread: &PerThread<T>,
) {
    let all = source;
    let run = |source: &[T], target: &mut [T], first_row: usize, tiles: usize| {
        let (source, scratch) = (all.at(source), &mut per_thread.get());
        let tiles: Tiles<'_, T, PAIRS> =
            Tiles { grid, source, u, target, first_row, tiles, accumulate, scratch };
        dispatch::<T, PAIRS>(kernel, tiles);
    };
    let Parts { piece, part } = parts(grid);
    if takes_images(grid) {
        let images = part / grid.out_len();
        target
            .par_chunks_mut(part)
            .zip(source.x.par_chunks(images * grid.in_len()))
            .enumerate()
            .for_each(|(i, (target, source))| {
                run(source, target, 0, target.len() / grid.out_len() * grid.tiles());
                finish(i * part, target);
            });
    } else {
        let rows = rows_per_task(grid);
        target.par_chunks_mut(piece).zip(source.x.par_chunks(grid.in_len())).enumerate().for_each(
            |(image, (target, source))| {
                target.par_chunks_mut(part).enumerate().for_each(|(i, target)| {
                    let first_row = i * rows;
                    let rows = rows.min(grid.rows() - first_row);
                    run(source, target, first_row, rows * grid.columns());
                    finish(image * piece + i * part, target);
                });
            },
        );
    }
}

/// Whether a task has whole images, or some rows of one.
fn takes_images(grid: &Grid) -> bool {
    grid.tiles() <= TILES
}

/// Rows of tiles of a task that has not whole images.
fn rows_per_task(grid: &Grid) -> usize {
    (TILES / grid.columns()).max(1)
}

/// The parts of the target that [`correlate`] finishes: some images, or some rows of one.
pub(super) fn parts(grid: &Grid) -> Parts {
    if takes_images(grid) {
        let images = TILES / grid.tiles() * grid.out_len();
        Parts { piece: images, part: images }
    } else {
        let part = rows_per_task(grid) * TILE * grid.out_w * grid.out_c;
        Parts { piece: grid.out_len(), part }
    }
}

/// Neighbouring tiles: of some whole images, or some rows of one.
struct Tiles<'a, T, const PAIRS: bool> {
    grid: &'a Grid,
    /// The images of the tiles.
    source: Source<'a, T>,
    u: &'a [T],
    /// Exactly what the tiles cover.
    target: &'a mut [T],
    first_row: usize,
    tiles: usize,
    accumulate: bool,
    scratch: &'a mut Lines<T>,
}

impl<T: Real, const PAIRS: bool> Task<T> for Tiles<'_, T, PAIRS> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { grid, source, u, target, first_row, tiles, accumulate, scratch } = self;
        let place = |tile: usize| grid.place(tile + first_row * grid.columns());
        let k = words::<PAIRS>(grid.in_c);
        let depth = words::<PAIRS>(grid.in_c.next_multiple_of(V::LANES));
        let input_step = point_stride::<T>(POINTS * depth);
        let widest = V::LANES * V::TILE_VECTORS;
        let band = grid.inputs_len(grid.in_c);
        let before = whole_lines::<T>(band);
        let scratch = scratch
            .at_least(before + tiles * input_step + POINTS * point_stride::<T>(tiles * widest));
        let (bands, scratch) = scratch.split_at_mut(before);
        let band = &mut bands[..band];
        let (inputs, products) = scratch.split_at_mut(tiles * input_step);

        for first in (0..tiles).step_by(grid.columns()) {
            // SAFETY: the caller's promise.
            unsafe { grid.copy_inputs::<V>(&source, place(first), 0..grid.in_c, band) }
            for column in 0..grid.columns() {
                // SAFETY: the caller's promise; the tile exists, and inputs has
                // a place for it.
                unsafe {
                    let to = inputs.as_mut_ptr().add((first + column) * input_step);
                    transform_inputs::<V, PAIRS>(grid, band, column, to);
                }
            }
        }

        let spans = [Span { offset: 0, len: k }];
        for block in columns(grid.out_c, V::LANES, V::TILE_VECTORS) {
            let stride = point_stride::<T>(tiles * block.padded);
            let u = &u[POINTS * k * block.first..][..POINTS * k * block.padded];
            for point in 0..POINTS {
                let product = PointProduct {
                    rows: Rows {
                        spans: &spans,
                        w: u[point * k * block.padded..].as_ptr(),
                        last: V::LANES,
                        load: false,
                    },
                    x: &inputs[point * depth..],
                    x_step: input_step,
                    y: &mut products[point * stride..],
                    y_step: block.padded,
                    tiles,
                };
                macro_rules! run {
                    ($pixels:literal, $vectors:literal) => {
                        product.run::<V, PAIRS, $pixels, $vectors>()
                    };
                }
                // SAFETY: the caller's promise; inputs and products hold a row
                // for each tile, u one for each word of channels.
                unsafe { for_even_tile_of!(V, block.padded / V::LANES, tiles, run) }
            }
            // SAFETY: the caller's promise; the target is what the tiles cover.
            unsafe {
                let to = target.as_mut_ptr();
                put_tiles::<V>(
                    grid, products, stride, block, tiles, place, to, first_row, accumulate,
                );
            }
        }
    }
}

/// Brings all channels of a tile to the points, `[point][channel]`, from its band.
///
/// # Safety
/// The CPU must have V's instructions; the column must exist, and `to` have room
/// for whole vectors of words at every point.
#[inline(always)]
pub(super) unsafe fn transform_inputs<V: Simd, const PAIRS: bool>(
    grid: &Grid,
    band: &[V::Scalar],
    column: usize,
    to: *mut V::Scalar,
) {
    let stride = words::<PAIRS>(grid.in_c.next_multiple_of(V::LANES));
    for (channel, lanes) in Grid::vectors::<V>(grid.in_c) {
        // SAFETY: the caller's promise.
        unsafe {
            let window = grid.window::<V>(band, grid.in_c, column, channel, lanes);
            let points = transform_input(window);
            for (point, value) in points.as_flattened().iter().enumerate() {
                let to = to.add(point * stride + words::<PAIRS>(channel));
                if PAIRS { value.store_pairs(to) } else { value.store(to) }
            }
        }
    }
}

/// Brings one block of channels of the products back from the points, to where
/// their tiles lie in the target.
///
/// # Safety
/// The CPU must have V's instructions; `products` must hold the tiles at all
/// points, and the target what they cover, from tile row `first_row` on.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "what, where to, and how much of it")]
pub(super) unsafe fn put_tiles<V: Simd>(
    grid: &Grid,
    products: &[V::Scalar],
    stride: usize,
    block: Columns,
    tiles: usize,
    place: impl Fn(usize) -> Place,
    to: *mut V::Scalar,
    first_row: usize,
    accumulate: bool,
) {
    for tile in 0..tiles {
        let place = place(tile);
        for (channel, lanes) in Grid::vectors::<V>(block.width) {
            // SAFETY: the caller's promise.
            unsafe {
                let from = products.as_ptr().add(tile * block.padded + channel);
                let mut points = [[V::zero(); WINDOW]; WINDOW];
                for (point, value) in points.as_flattened_mut().iter_mut().enumerate() {
                    *value = V::load(from.add(point * stride));
                }
                let tile = transform_output(points);
                grid.put(tile, to, first_row, place, block.first + channel, lanes, accumulate);
            }
        }
    }
}

/// The matrix product at one point, for one block of target channels.
pub(super) struct PointProduct<'a, T> {
    pub(super) rows: Rows<'a, T>,
    pub(super) x: &'a [T],
    pub(super) x_step: usize,
    pub(super) y: &'a mut [T],
    pub(super) y_step: usize,
    pub(super) tiles: usize,
}

impl<T: Real> PointProduct<'_, T> {
    /// # Safety
    /// The CPU must have V's instructions; x and y must hold `tiles` rows.
    #[inline(always)]
    pub(super) unsafe fn run<
        V: Simd<Scalar = T>,
        const PAIRS: bool,
        const PIXELS: usize,
        const VECTORS: usize,
    >(
        self,
    ) {
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        for first in (0..self.tiles).step_by(PIXELS) {
            // Past the end the last tile repeats, with the same result.
            let tile = |i: usize| (first + i).min(self.tiles - 1);
            // SAFETY: the caller's promise.
            unsafe {
                self.rows.multiply::<V, PAIRS, PIXELS, VECTORS>(
                    std::array::from_fn(|i| x.add(tile(i) * self.x_step)),
                    std::array::from_fn(|i| y.add(tile(i) * self.y_step)),
                );
            }
        }
    }
}

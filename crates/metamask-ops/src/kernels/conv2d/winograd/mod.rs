//! Winograd's minimal filtering F(4x4, 3x3): 3x3 convolutions of stride 1 with a
//! quarter of the multiplications.
//!
//! An output tile of 4x4 pixels depends on a window of 6x6. Both it and the
//! kernel are polynomials in two variables; evaluated at 6x6 points, their
//! product is pointwise:
//!
//! ```text
//! y  = Aᵀ [Σ_i (Bᵀ xᵢ B) ⊙ (G wᵢ Gᵀ)] A          36 products for 16 · 9
//! dw = Gᵀ [Σ_tiles (Bᵀ x B) ⊙ (A dy Aᵀ)] G       the same map, transposed: F(3x3, 4x4)
//! ```
//! The sum over channels (or tiles) is a matrix product at each of the points. With
//! PAIRS its factors are rounded to half their width, two to a word, neighbours
//! along the sum; the transforms and the sums are of full width.
//! Not exact: see `docs/results/precision.md`. Source: Winograd 1980; Lavin and
//! Gray 2016, arXiv:1509.09308. Departs: other points, see [`transform`].

mod correlate;
mod grid;
#[cfg(test)]
mod tests;
mod transform;
mod weight;
mod weights;
mod wide;

use self::grid::Grid;
use self::transform::POINTS;
use self::weights::{transform_weights, turned};
use super::product::{dispatch, words, words_hold};
use super::{ConvShape, Parts};
use crate::Kernel;
use crate::kernels::lines::Lines;
use crate::kernels::simd::{Real, Simd};
use crate::kernels::source::Source;
use crate::kernels::workspace::{PerThread, Workspace};

/// Products of channels from which on the weights are transformed line by line.
const WIDE: usize = 1 << 16;

/// Whether the method exists for a shape.
pub(super) fn applies(s: &ConvShape) -> bool {
    s.kernel_h == 3 && s.kernel_w == 3 && s.stride == 1 && s.padding <= 2
}

/// Whether it needs clearly less time than the direct sum. A count of vector
/// operations: the products, the transforms of tiles and those of the weights
/// (whose matrices are written to memory and read back).
pub(super) fn pays(s: &ConvShape) -> bool {
    const TRANSFORM: usize = 8;
    if !applies(s) || s.in_c < 16 || s.out_c < 16 {
        return false;
    }
    let (tiles, products) = (s.batch * Grid::forward(s).tiles(), s.in_c * s.out_c);
    let direct = s.batch * s.out_h() * s.out_w() * 9 * products;
    let winograd = POINTS * (tiles * (products + TRANSFORM * (s.in_c + s.out_c)) + 8 * products);
    winograd * 5 < direct * 4
}

/// Stores the first terms, or both as pairs, at N points, each `stride` behind the last.
///
/// # Safety
/// The CPU must have V's instructions, `to` room for a vector at every point.
#[inline(always)]
unsafe fn store_words<V: Simd, const PAIRS: bool, const N: usize>(
    terms: [[V; N]; 2],
    to: *mut V::Scalar,
    stride: usize,
) {
    let [even, odd] = terms;
    for (point, (even, odd)) in even.into_iter().zip(odd).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let word = if PAIRS { even.pair(odd) } else { even };
            word.store(to.add(point * stride));
        }
    }
}

/// The parts in which a forward pass comes.
pub(super) fn parts(s: &ConvShape) -> Parts {
    let grid = Grid::forward(s);
    if is_wide(&grid) { wide::parts(&grid) } else { correlate::parts(&grid) }
}

/// Whether the weights are transformed line by line.
fn is_wide(grid: &Grid) -> bool {
    grid.in_c * grid.out_c >= WIDE
}

/// As `conv2d_forward`; `finish` as in the direct correlation.
#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
pub(super) fn forward<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    s: &ConvShape,
    x: Source<'_, T>,
    w: &[T],
    y: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    ws: &mut Workspace<T>,
) {
    let (packed, padded, _, per_thread) = ws.parts();
    let buffers = Buffers { packed, padded, per_thread };
    correlate_with::<T, PAIRS>(kernel, &Grid::forward(s), x, w, y, accumulate, finish, buffers);
}

/// As `conv2d_backward_data`.
pub(super) fn backward_data<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    s: &ConvShape,
    dy: &[T],
    w: &[T],
    dx: &mut [T],
    accumulate: bool,
    ws: &mut Workspace<T>,
) {
    let (packed, padded, partials, per_thread) = ws.parts();
    let w = turned(w, s.in_c, s.out_c, partials);
    let buffers = Buffers { packed, padded, per_thread };
    correlate_with::<T, PAIRS>(
        kernel,
        &Grid::backward_data(s),
        dy.into(),
        w,
        dx,
        accumulate,
        |_, _| {},
        buffers,
    );
}

/// As `conv2d_backward_weight`.
pub(super) fn backward_weight<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    s: &ConvShape,
    x: Source<'_, T>,
    dy: &[T],
    dw: &mut [T],
    ws: &mut Workspace<T>,
) {
    weight::backward_weight::<T, PAIRS>(kernel, s, x, dy, dw, ws);
}

/// Where a correlation works.
struct Buffers<'a, T> {
    packed: &'a mut Lines<T>,
    padded: &'a mut Lines<T>,
    per_thread: &'a PerThread<T>,
}

/// `w`: `[3, 3, in_c, out_c]` of the grid.
#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
fn correlate_with<T: Real, const PAIRS: bool>(
    kernel: Kernel,
    grid: &Grid,
    source: Source<'_, T>,
    w: &[T],
    target: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    buffers: Buffers<'_, T>,
) {
    if is_wide(grid) {
        wide::correlate::<T, PAIRS>(kernel, grid, source, w, target, accumulate, finish, buffers);
    } else {
        let Buffers { packed, per_thread, .. } = buffers;
        let u = transform_weights::<T, PAIRS>(kernel, w, grid.in_c, grid.out_c, packed);
        correlate::correlate::<T, PAIRS>(
            kernel, grid, source, u, target, accumulate, finish, per_thread,
        );
    }
}

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
//! The sum over channels (or tiles) is a matrix product at each of the points.
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
use self::weights::{Direction, transform_weights};
use super::ConvShape;
use crate::Kernel;
use crate::kernels::simd::Real;
use crate::kernels::workspace::Workspace;

/// Products of channels from which on the weights are transformed piece by piece.
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

/// As `conv2d_forward`; `finish` as in the direct correlation.
#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
pub(super) fn forward<T: Real>(
    kernel: Kernel,
    s: &ConvShape,
    x: &[T],
    w: &[T],
    y: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    ws: &mut Workspace<T>,
) {
    correlate_with(
        kernel,
        s,
        &Grid::forward(s),
        Direction::Forward,
        x,
        w,
        y,
        accumulate,
        finish,
        ws,
    );
}

/// As `conv2d_backward_data`.
pub(super) fn backward_data<T: Real>(
    kernel: Kernel,
    s: &ConvShape,
    dy: &[T],
    w: &[T],
    dx: &mut [T],
    accumulate: bool,
    ws: &mut Workspace<T>,
) {
    let grid = Grid::backward_data(s);
    correlate_with(kernel, s, &grid, Direction::Backward, dy, w, dx, accumulate, |_, _| {}, ws);
}

/// As `conv2d_backward_weight`.
pub(super) fn backward_weight<T: Real>(
    kernel: Kernel,
    s: &ConvShape,
    x: &[T],
    dy: &[T],
    dw: &mut [T],
    ws: &mut Workspace<T>,
) {
    weight::backward_weight(kernel, s, x, dy, dw, ws);
}

#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
fn correlate_with<T: Real>(
    kernel: Kernel,
    s: &ConvShape,
    grid: &Grid,
    direction: Direction,
    source: &[T],
    w: &[T],
    target: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    ws: &mut Workspace<T>,
) {
    if s.in_c * s.out_c >= WIDE {
        wide::correlate(kernel, grid, direction, source, w, target, accumulate, finish, ws);
    } else {
        let (packed, _, _, per_thread) = ws.parts();
        let u = transform_weights(kernel, w, s.in_c, s.out_c, direction, packed);
        correlate::correlate(kernel, grid, source, u, target, accumulate, finish, per_thread);
    }
}

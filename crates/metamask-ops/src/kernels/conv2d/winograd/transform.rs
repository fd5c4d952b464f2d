//! The linear maps of F(4x4, 3x3), on vectors of channels.
//!
//! Toom and Cook's construction with the points 0, ±a, ±b, ∞ gives for one axis
//!
//! ```text
//!      ⎡a²b²   0   −a²−b²    0     1  0⎤         ⎡1/a²b²             ⎤
//!      ⎢ 0   −ab²   −b²      a     1  0⎥         ⎢ n_a   a n_a  a²n_a⎥        ⎡1  1   1   1   1  0⎤
//! Bᵀ = ⎢ 0    ab²   −b²     −a     1  0⎥     G = ⎢ n_a  −a n_a  a²n_a⎥   Aᵀ = ⎢0  a  −a   b  −b  0⎥
//!      ⎢ 0   −ba²   −a²      b     1  0⎥         ⎢ n_b   b n_b  b²n_b⎥        ⎢0  a²  a²  b²  b² 0⎥
//!      ⎢ 0    ba²   −a²     −b     1  0⎥         ⎢ n_b  −b n_b  b²n_b⎥        ⎣0  a³ −a³  b³ −b³ 1⎦
//!      ⎣ 0   a²b²    0    −a²−b²   0  1⎦         ⎣  0      0      1  ⎦
//!
//! n_a = 1/(2a²(a² − b²))     n_b = 1/(2b²(b² − a²))
//! ```
//! Lavin and Gray (2016, arXiv:1509.09308) take a = 1, b = 2. With a = √½, b = √2
//! (ab = 1, so the largest entries of Bᵀ and Aᵀ shrink) the same sums in f32 come
//! out with a half of the root mean square error and a quarter of the largest
//! (measured on standard normal numbers, 64 channels).
//!
//! # Safety
//! All functions need a CPU that has V's instructions.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::kernels::simd::{Real, Simd};

/// Outputs of a tile along an axis.
pub(super) const TILE: usize = 4;
/// Inputs of a tile along an axis, and interpolation points.
pub(super) const WINDOW: usize = 6;
/// Products of a tile.
pub(super) const POINTS: usize = WINDOW * WINDOW;

const A: f64 = FRAC_1_SQRT_2;
const A2: f64 = 0.5;
const A3: f64 = A * A2;
const B: f64 = SQRT_2;
const B2: f64 = 2.0;
const B3: f64 = B * B2;
const N_A: f64 = 1.0 / (2.0 * A2 * (A2 - B2));
const N_B: f64 = 1.0 / (2.0 * B2 * (B2 - A2));

#[inline(always)]
unsafe fn constant<V: Simd>(value: f64) -> V {
    // SAFETY: the caller's promise.
    unsafe { V::splat(V::Scalar::from_f64(value)) }
}

/// `factor x + y`
#[inline(always)]
unsafe fn plus<V: Simd>(factor: f64, x: V, y: V) -> V {
    // SAFETY: the caller's promise.
    unsafe { x.mul_add(constant(factor), y) }
}

/// `[even + factor odd, even − factor odd]`: the rows of a pair of points.
#[inline(always)]
unsafe fn pair<V: Simd>(even: V, factor: f64, odd: V) -> [V; 2] {
    // SAFETY: the caller's promise.
    unsafe { [plus(factor, odd, even), plus(-factor, odd, even)] }
}

/// Bᵀ d
#[inline(always)]
unsafe fn input<V: Simd>(d: [V; 6]) -> [V; 6] {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, minus_a] = pair(plus(-B2, d[2], d[4]), A, plus(-B2, d[1], d[3]));
        let [b, minus_b] = pair(plus(-A2, d[2], d[4]), B, plus(-A2, d[1], d[3]));
        let zero = plus(-A2 - B2, d[2], d[0].add(d[4]));
        let infinity = plus(-A2 - B2, d[3], d[1].add(d[5]));
        [zero, a, minus_a, b, minus_b, infinity]
    }
}

/// Aᵀ m
#[inline(always)]
unsafe fn output<V: Simd>(m: [V; 6]) -> [V; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (even_a, odd_a) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (even_b, odd_b) = (m[3].add(m[4]), m[3].sub(m[4]));
        [
            m[0].add(even_a.add(even_b)),
            plus(A, odd_a, plus(B, odd_b, V::zero())),
            plus(A2, even_a, plus(B2, even_b, V::zero())),
            plus(A3, odd_a, plus(B3, odd_b, m[5])),
        ]
    }
}

/// A y, the transpose of [`output`].
#[inline(always)]
unsafe fn gradient<V: Simd>(y: [V; 4]) -> [V; 6] {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, minus_a] = pair(plus(A2, y[2], y[0]), A, plus(A2, y[3], y[1]));
        let [b, minus_b] = pair(plus(B2, y[2], y[0]), B, plus(B2, y[3], y[1]));
        [y[0], a, minus_a, b, minus_b, y[3]]
    }
}

/// G w
#[inline(always)]
unsafe fn weight<V: Simd>(w: [V; 3]) -> [V; 6] {
    // SAFETY: the caller's promise.
    unsafe {
        let even = |n, square: f64| plus(n * square, w[2], plus(n, w[0], V::zero()));
        let [a, minus_a] = pair(even(N_A, A2), N_A * A, w[1]);
        let [b, minus_b] = pair(even(N_B, B2), N_B * B, w[1]);
        [w[0], a, minus_a, b, minus_b, w[2]]
    }
}

/// One line of G w, of three kernels' columns side by side.
#[inline(always)]
unsafe fn weight_line<V: Simd>(w: [[V; 3]; 3], line: usize) -> [V; 3] {
    const G: [[f64; 3]; WINDOW] = [
        [1.0, 0.0, 0.0],
        [N_A, N_A * A, N_A * A2],
        [N_A, -N_A * A, N_A * A2],
        [N_B, N_B * B, N_B * B2],
        [N_B, -N_B * B, N_B * B2],
        [0.0, 0.0, 1.0],
    ];
    // SAFETY: the caller's promise.
    unsafe {
        let g = G[line].map(|g| constant(g));
        let at = |x: usize| {
            w[0][x].mul_add(g[0], w[1][x].mul_add(g[1], w[2][x].mul_add(g[2], V::zero())))
        };
        [at(0), at(1), at(2)]
    }
}

/// The points of one line of G w Gᵀ: `transform_weight(w)[line]`, up to rounding.
#[inline(always)]
pub(super) unsafe fn transform_weight_line<V: Simd>(w: [[V; 3]; 3], line: usize) -> [V; WINDOW] {
    // SAFETY: the caller's promise.
    unsafe { weight(weight_line(w, line)) }
}

/// Gᵀ u, the transpose of [`weight`].
#[inline(always)]
unsafe fn weight_gradient<V: Simd>(u: [V; 6]) -> [V; 3] {
    // SAFETY: the caller's promise.
    unsafe {
        let (even_a, odd_a) = (u[1].add(u[2]), u[1].sub(u[2]));
        let (even_b, odd_b) = (u[3].add(u[4]), u[3].sub(u[4]));
        [
            plus(N_A, even_a, plus(N_B, even_b, u[0])),
            plus(N_A * A, odd_a, plus(N_B * B, odd_b, V::zero())),
            plus(N_A * A2, even_a, plus(N_B * B2, even_b, u[5])),
        ]
    }
}

/// The points in one row.
#[inline(always)]
pub(super) fn flat<V: Simd>(points: [[V; WINDOW]; WINDOW]) -> [V; POINTS] {
    std::array::from_fn(|point| points[point / WINDOW][point % WINDOW])
}

/// Defines `$name`, which applies `$along` to the columns, then to the rows.
macro_rules! on_both_axes {
    ($(#[$doc:meta])* $name:ident = $along:ident: $n:literal => $m:literal) => {
        $(#[$doc])*
        #[inline(always)]
        #[allow(clippy::needless_range_loop, reason = "constant indices keep vectors in registers")]
        pub(super) unsafe fn $name<V: Simd>(from: [[V; $n]; $n]) -> [[V; $m]; $m] {
            // SAFETY: the caller's promise.
            unsafe {
                let mut lines = [[V::zero(); $n]; $m];
                for x in 0..$n {
                    let mut column = [V::zero(); $n];
                    for y in 0..$n {
                        column[y] = from[y][x];
                    }
                    let column = $along(column);
                    for y in 0..$m {
                        lines[y][x] = column[y];
                    }
                }
                let mut to = [[V::zero(); $m]; $m];
                for y in 0..$m {
                    to[y] = $along(lines[y]);
                }
                to
            }
        }
    };
}

on_both_axes! {
    /// Bᵀ d B of a window of the input.
    transform_input = input: 6 => 6
}
on_both_axes! {
    /// Aᵀ m A: the outputs of a tile from its products.
    transform_output = output: 6 => 4
}
on_both_axes! {
    /// A dy Aᵀ: a tile of the output's gradient.
    transform_gradient = gradient: 4 => 6
}
on_both_axes! {
    /// G w Gᵀ of a kernel.
    transform_weight = weight: 3 => 6
}
on_both_axes! {
    /// Gᵀ du G: the gradient of a kernel from that of its transform.
    transform_weight_gradient = weight_gradient: 6 => 3
}

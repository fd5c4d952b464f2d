//! Loss and gradient of softmax regression, in one pass over the features.
//!
//! A block of rows stays in the second-level cache from its scores to its share
//! of the gradient, so the features come from memory once. As two matrix
//! products they would come twice, and with few classes that is what takes the
//! time.

use rayon::prelude::*;

use super::simd::{Real, Simd, Task};
use crate::Kernel;

/// Parts that are summed by themselves: enough for many threads, and few enough
/// to hold a gradient each.
const PARTS: usize = 64;
/// Rows of a part at least: below, adding up the parts would cost as much.
const ROWS_PER_PART: usize = 256;
/// Values of all parts' gradients together, 64 MiB of f32.
const PARTIAL_VALUES: usize = 1 << 24;
/// Values of a block's features and scores: 128 KiB of f32. Two blocks are a part of
/// the cache.
const BLOCK_VALUES: usize = 1 << 15;

/// Rows `[x; dim]` with a label each, and the classifier that scores them.
pub(crate) struct SoftmaxRegression<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) labels: &'a [u32],
    /// `[n_classes, dim]`.
    pub(crate) weight: &'a [T],
    /// `[n_classes]`.
    pub(crate) bias: &'a [T],
}

/// Sums over rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegressionSums {
    pub(crate) loss: f64,
    pub(crate) weight: Vec<f64>,
    pub(crate) bias: Vec<f64>,
}

impl<T: Real> SoftmaxRegression<'_, T> {
    /// Cross-entropy and its gradient in weight and bias, summed over the rows:
    ///
    /// ```text
    /// s = W x + b,  p = softmax(s):    Σ −ln p_y      Σ (p − e_y) xᵀ      Σ (p − e_y)
    /// ```
    /// Products in T, exponentials and sums over classes in f64.
    pub(crate) fn sums(&self, kernel: Kernel) -> RegressionSums {
        let (n, n_classes) = (self.labels.len(), self.bias.len());
        let dim = self.weight.len() / n_classes;
        assert_eq!(self.weight.len(), n_classes * dim, "softmax regression: weights must fit");
        assert_eq!(self.x.len(), n * dim, "softmax regression: one row a label");

        let parts = n.div_ceil(ROWS_PER_PART).min(PARTS).min(PARTIAL_VALUES / (n_classes * dim));
        let rows = n.div_ceil(parts.max(1)).next_multiple_of(4);
        let partials: Vec<Partial<T>> = self
            .x
            .par_chunks(rows * dim)
            .zip(self.labels.par_chunks(rows))
            .map(|(x, labels)| {
                let mut partial = Partial::zero(n_classes, dim);
                T::dispatch(kernel, Part { of: &Self { x, labels, ..*self }, into: &mut partial });
                partial
            })
            .collect();

        let mut sums = RegressionSums {
            loss: 0.0,
            weight: vec![0.0; n_classes * dim],
            bias: vec![0.0; n_classes],
        };
        for partial in &partials {
            sums.loss += partial.loss;
            for (sum, &part) in sums.weight.iter_mut().zip(&partial.weight) {
                *sum += part.to_f64();
            }
            sums.bias.iter_mut().zip(&partial.bias).for_each(|(sum, part)| *sum += part);
        }
        sums
    }
}

/// Sums over a part of the rows.
struct Partial<T> {
    loss: f64,
    weight: Vec<T>,
    bias: Vec<f64>,
}

impl<T: Real> Partial<T> {
    fn zero(n_classes: usize, dim: usize) -> Self {
        Self { loss: 0.0, weight: vec![T::ZERO; n_classes * dim], bias: vec![0.0; n_classes] }
    }
}

struct Part<'a, T> {
    of: &'a SoftmaxRegression<'a, T>,
    into: &'a mut Partial<T>,
}

impl<T: Real> Task<T> for Part<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { of, into } = self;
        let n_classes = of.bias.len();
        let dim = of.weight.len() / n_classes;
        let rows = (BLOCK_VALUES / (dim + 3 * n_classes)).max(4).next_multiple_of(4);
        let mut scores = vec![T::ZERO; rows * n_classes];
        let mut shares = vec![0.0; rows * n_classes];
        for (x, labels) in of.x.chunks(rows * dim).zip(of.labels.chunks(rows)) {
            let len = labels.len() * n_classes;
            let (scores, shares) = (&mut scores[..len], &mut shares[..len]);
            // SAFETY: the caller's promise; slices of whole rows.
            unsafe {
                score::<V>(x, of.weight, of.bias, rows * dim, scores);
                into.loss += softmax(scores, shares, labels, &mut into.bias);
                add_gradient::<V>(scores, x, &mut into.weight, n_classes);
            }
        }
    }
}

const CACHE_LINE: usize = 64;

/// Calls `$run!(deep, wide)` for a tile of `deep` rows, or vectors, by at most
/// [`widest`] classes: as many sums as the registers hold.
macro_rules! for_tile {
    ($V:ident, $width:expr, $run:ident) => {
        // Nested, so that only the arms of V's own TILE_SUMS are compiled.
        match $V::TILE_SUMS {
            24 => match $width {
                6 => $run!(4, 6),
                5 => $run!(4, 5),
                4 => $run!(4, 4),
                3 => $run!(4, 3),
                2 => $run!(4, 2),
                _ => $run!(4, 1),
            },
            12 => match $width {
                6 => $run!(2, 6),
                5 => $run!(2, 5),
                4 => $run!(2, 4),
                3 => $run!(2, 3),
                2 => $run!(2, 2),
                _ => $run!(2, 1),
            },
            _ => match $width {
                4 => $run!(2, 4),
                3 => $run!(2, 3),
                2 => $run!(2, 2),
                _ => $run!(2, 1),
            },
        }
    };
}

const fn widest<V: Simd>() -> usize {
    V::TILE_SUMS / V::TILE_VECTORS
}

/// `scores[r, c] = x[r] · weight[c] + bias[c]`. Asks for what lies `ahead` values
/// behind x, the next block: a few rows at a time are no sequence that a CPU foresees,
/// and waiting for each line took three times as long.
///
/// # Safety
/// The CPU must have V's instructions; the slices must be whole rows.
#[inline(always)]
unsafe fn score<V: Simd>(
    x: &[V::Scalar],
    weight: &[V::Scalar],
    bias: &[V::Scalar],
    ahead: usize,
    scores: &mut [V::Scalar],
) {
    let n_classes = bias.len();
    let (dim, widest) = (weight.len() / n_classes, widest::<V>());
    let rows = scores.len() / n_classes;
    for first in (0..rows).step_by(V::TILE_VECTORS) {
        // Past the end the last row repeats: it is computed and stored again.
        let row = |i: usize| (first + i).min(rows - 1);
        for class in (0..n_classes).step_by(widest) {
            macro_rules! run {
                ($rows:literal, $width:literal) => {{
                    // SAFETY: rows and classes exist, each dim long.
                    let sums: [[V::Scalar; $width]; $rows] = unsafe {
                        dots::<V, $rows, $width>(
                            std::array::from_fn(|i| x.as_ptr().add(row(i) * dim)),
                            std::array::from_fn(|c| weight.as_ptr().add((class + c) * dim)),
                            dim,
                            if class == 0 { ahead } else { 0 },
                        )
                    };
                    for (i, sums) in sums.into_iter().enumerate() {
                        let scores = &mut scores[row(i) * n_classes + class..][..$width];
                        for ((score, sum), &bias) in scores.iter_mut().zip(sums).zip(&bias[class..])
                        {
                            *score = sum + bias;
                        }
                    }
                }};
            }
            for_tile!(V, widest.min(n_classes - class), run);
        }
    }
}

/// The products of each of ROWS rows with each of WIDTH.
///
/// # Safety
/// The CPU must have V's instructions; every row must be readable for `dim`.
#[inline(always)]
unsafe fn dots<V: Simd, const ROWS: usize, const WIDTH: usize>(
    x: [*const V::Scalar; ROWS],
    w: [*const V::Scalar; WIDTH],
    dim: usize,
    ahead: usize,
) -> [[V::Scalar; WIDTH]; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::zero(); WIDTH]; ROWS];
        let whole = dim / V::LANES * V::LANES;
        let (mut rows, mut columns) = ([V::zero(); ROWS], [V::zero(); WIDTH]);
        for at in (0..whole).step_by(V::LANES) {
            if ahead > 0 && (at * size_of::<V::Scalar>()).is_multiple_of(CACHE_LINE) {
                x.iter().for_each(|x| prefetch(x.wrapping_add(at + ahead)));
            }
            // Loops, not `map`: the library's functions know nothing of the instructions.
            for (row, x) in rows.iter_mut().zip(x) {
                *row = V::load(x.add(at));
            }
            for (column, w) in columns.iter_mut().zip(w) {
                *column = V::load(w.add(at));
            }
            add_products(&mut sums, rows, columns);
        }
        if whole < dim {
            let part = dim - whole;
            for (row, x) in rows.iter_mut().zip(x) {
                *row = V::load_first(x.add(whole), part);
            }
            for (column, w) in columns.iter_mut().zip(w) {
                *column = V::load_first(w.add(whole), part);
            }
            add_products(&mut sums, rows, columns);
        }
        let mut totals = [[V::Scalar::ZERO; WIDTH]; ROWS];
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = sum_of_lanes(sum);
            }
        }
        totals
    }
}

/// Asks for the cache line of `at`, which need not exist.
#[inline(always)]
fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// `sums[i][j] += rows[i] · columns[j]`, lane by lane.
///
/// # Safety
/// The CPU must have V's instructions.
#[inline(always)]
unsafe fn add_products<V: Simd, const ROWS: usize, const COLUMNS: usize>(
    sums: &mut [[V; COLUMNS]; ROWS],
    rows: [V; ROWS],
    columns: [V; COLUMNS],
) {
    for (sums, row) in sums.iter_mut().zip(rows) {
        for (sum, column) in sums.iter_mut().zip(columns) {
            // SAFETY: the caller's promise.
            *sum = unsafe { row.mul_add(column, *sum) };
        }
    }
}

/// Halves are added until one lane is left.
///
/// # Safety
/// The CPU must have V's instructions.
#[inline(always)]
unsafe fn sum_of_lanes<V: Simd>(vector: V) -> V::Scalar {
    let mut lanes = [V::Scalar::ZERO; 16];
    // SAFETY: the caller's promise; no vector has more lanes.
    unsafe { vector.store(lanes.as_mut_ptr()) };
    let mut len = V::LANES;
    while len > 1 {
        len /= 2;
        for i in 0..len {
            lanes[i] += lanes[i + len];
        }
    }
    lanes[0]
}

/// Turns rows of scores into softmax − e_label, adds these to `bias`, and returns
/// the sum of the cross-entropies. `shares` is scratch, like `scores`.
#[inline(always)]
fn softmax<T: Real>(scores: &mut [T], shares: &mut [f64], labels: &[u32], bias: &mut [f64]) -> f64 {
    let n_classes = bias.len();
    let mut loss = 0.0;
    for ((scores, shares), &label) in
        scores.chunks_exact(n_classes).zip(shares.chunks_exact_mut(n_classes)).zip(labels)
    {
        let highest = scores.iter().fold(T::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        for (share, &score) in shares.iter_mut().zip(scores) {
            *share = score.to_f64() - highest.to_f64();
        }
        loss -= shares[label as usize];
    }
    shares.iter_mut().for_each(|share| *share = exp(*share));
    for ((scores, shares), &label) in
        scores.chunks_exact_mut(n_classes).zip(shares.chunks_exact_mut(n_classes)).zip(labels)
    {
        let sum: f64 = shares.iter().sum();
        loss += sum.ln();
        shares.iter_mut().for_each(|share| *share /= sum);
        shares[label as usize] -= 1.0;
        bias.iter_mut().zip(&*shares).for_each(|(sum, share)| *sum += share);
        scores.iter_mut().zip(&*shares).for_each(|(score, &share)| *score = T::from_f64(share));
    }
    loss
}

/// eˣ for x ≤ 0 to 2 units in the last place; 0 below e⁻⁷⁰⁸. Without branches and
/// calls, so that the compiler makes vectors of a loop over it.
///
/// ```text
/// eˣ = 2ⁿ eʳ,   n = round(x / ln 2),   r = x − n ln 2,   |r| ≤ ln 2 / 2
/// ```
#[inline(always)]
fn exp(x: f64) -> f64 {
    /// Added and taken off again it leaves the nearest integer, in its lowest bits.
    const ROUND: f64 = 1.5 * (1_u64 << 52) as f64;
    /// ln 2 in two: the upper part has 32 bits, its products with n are exact.
    const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    /// 1 / k! for k from 12 to 0. The term after 1 / 13! is below 5e-18.
    const RECIPROCALS: [f64; 13] = [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let bounded = if x < -708.0 { -708.0 } else { x };
    let shifted = bounded * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * LN_2[0] - n * LN_2[1];
    let sum = RECIPROCALS.iter().fold(1.0 / 6_227_020_800.0, |sum, term| sum * r + term);
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { sum * power }
}

/// `weight[c] += Σ_r residual[r, c] x[r]`.
///
/// # Safety
/// The CPU must have V's instructions; the slices must be whole rows.
#[inline(always)]
unsafe fn add_gradient<V: Simd>(
    residual: &[V::Scalar],
    x: &[V::Scalar],
    weight: &mut [V::Scalar],
    n_classes: usize,
) {
    let (dim, widest) = (weight.len() / n_classes, widest::<V>());
    let rows = residual.len() / n_classes;
    for at in (0..dim).step_by(V::TILE_VECTORS * V::LANES) {
        let len = (V::TILE_VECTORS * V::LANES).min(dim - at);
        for class in (0..n_classes).step_by(widest) {
            macro_rules! run {
                ($vectors:literal, $width:literal) => {
                    // SAFETY: rows, classes and the len dimensions from `at` exist.
                    unsafe {
                        add_outer_products::<V, $vectors, $width>(
                            residual.as_ptr().add(class),
                            n_classes,
                            x.as_ptr().add(at),
                            weight.as_mut_ptr().add(class * dim + at),
                            dim,
                            rows,
                            len,
                        )
                    }
                };
            }
            for_tile!(V, widest.min(n_classes - class), run);
        }
    }
}

/// One tile of [`add_gradient`]: WIDTH classes by `len` ≤ VECTORS vectors of dimensions.
///
/// # Safety
/// The CPU must have V's instructions. `residual` must be readable for WIDTH
/// values, x for `len`, in each of `rows`; `weight` writable for `len` in WIDTH rows.
#[inline(always)]
unsafe fn add_outer_products<V: Simd, const VECTORS: usize, const WIDTH: usize>(
    residual: *const V::Scalar,
    n_classes: usize,
    x: *const V::Scalar,
    weight: *mut V::Scalar,
    dim: usize,
    rows: usize,
    len: usize,
) {
    let mut lanes = [V::LANES; VECTORS];
    for (v, lanes) in lanes.iter_mut().enumerate() {
        *lanes = len.saturating_sub(v * V::LANES).min(V::LANES);
    }
    // SAFETY: the caller's promise; no lane beyond `len` is touched.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; WIDTH];
        let mut columns = [V::zero(); VECTORS];
        for row in 0..rows {
            let (residual, x) = (residual.add(row * n_classes), x.add(row * dim));
            for (v, column) in columns.iter_mut().enumerate() {
                *column = match len == VECTORS * V::LANES {
                    true => V::load(x.add(v * V::LANES)),
                    false => V::load_first(x.wrapping_add(v * V::LANES), lanes[v]),
                };
            }
            for (c, sums) in sums.iter_mut().enumerate() {
                let residual = V::splat(*residual.add(c));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = residual.mul_add(column, *sum);
                }
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let to = weight.wrapping_add(c * dim + v * V::LANES);
                sum.add(V::load_up_to(to, lanes[v])).store_up_to(to, lanes[v]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_same_for_any_threads, values, widen};

    /// Sums of up to 1,100 products in f32.
    const TOLERANCE_F32: f64 = 1e-5;
    const TOLERANCE_F64: f64 = 1e-12;

    fn labels(n: usize, n_classes: usize) -> Vec<u32> {
        (0..n).map(|i| (i * 7 % n_classes) as u32).collect()
    }

    /// The definition, written out in f64.
    fn written_out(x: &[f64], labels: &[u32], weight: &[f64], bias: &[f64]) -> RegressionSums {
        let dim = weight.len() / bias.len();
        let mut sums = RegressionSums {
            loss: 0.0,
            weight: vec![0.0; weight.len()],
            bias: vec![0.0; bias.len()],
        };
        for (x, &label) in x.chunks(dim).zip(labels) {
            let scores = weight
                .chunks(dim)
                .zip(bias)
                .map(|(w, b)| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b);
            let powers: Vec<f64> = scores.map(f64::exp).collect();
            let total: f64 = powers.iter().sum();
            sums.loss -= (powers[label as usize] / total).ln();
            for (class, power) in powers.iter().enumerate() {
                let residual = power / total - f64::from(u8::from(class == label as usize));
                sums.bias[class] += residual;
                for (sum, x) in sums.weight[class * dim..].iter_mut().zip(x) {
                    *sum += residual * x;
                }
            }
        }
        sums
    }

    fn check<T: Real>(kernel: Kernel, (n, dim, n_classes): (usize, usize, usize), tolerance: f64) {
        let what = format!("{kernel:?}, {n} x {dim}, {n_classes} classes");
        let (x, labels) = (values::<T>(n * dim, 1), labels(n, n_classes));
        let (weight, bias) = (values::<T>(n_classes * dim, 2), values::<T>(n_classes, 3));
        let regression = SoftmaxRegression { x: &x, labels: &labels, weight: &weight, bias: &bias };
        let got = regression.sums(kernel);
        let expected = written_out(&widen(&x), &labels, &widen(&weight), &widen(&bias));
        assert_close(&format!("{what}: loss"), &[got.loss], &[expected.loss], tolerance);
        assert_close(&format!("{what}: weight"), &got.weight, &expected.weight, tolerance);
        assert_close(&format!("{what}: bias"), &got.bias, &expected.bias, tolerance);
    }

    #[test]
    fn sums_equal_the_definition_for_every_shape_and_instruction_set() {
        let shapes = [(1, 1, 1), (1, 5, 2), (3, 16, 3), (7, 17, 10), (130, 64, 7), (33, 100, 13)];
        for shape in shapes.into_iter().chain([(1100, 65, 10), (513, 512, 10), (9, 3, 100)]) {
            check::<f64>(Kernel::Portable, shape, TOLERANCE_F64);
            for kernel in Kernel::supported() {
                check::<f32>(kernel, shape, TOLERANCE_F32);
            }
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_number_of_threads() {
        let (x, labels) = (values::<f32>(3001 * 33, 1), labels(3001, 5));
        let (weight, bias) = (values(5 * 33, 2), values(5, 3));
        let regression = SoftmaxRegression { x: &x, labels: &labels, weight: &weight, bias: &bias };
        assert_same_for_any_threads("sums", || regression.sums(Kernel::current()));
    }

    #[test]
    fn scores_far_apart_neither_overflow_nor_vanish() {
        // s = (1000, 0), label 1: −ln p = 1000, p − e = (1, −1).
        let regression = SoftmaxRegression {
            x: &[1000.0_f64],
            labels: &[1],
            weight: &[1.0, 0.0],
            bias: &[0.0; 2],
        };
        let sums = regression.sums(Kernel::Portable);
        assert_eq!(
            sums,
            RegressionSums { loss: 1000.0, weight: vec![1000.0, -1000.0], bias: vec![1.0, -1.0] }
        );
    }

    #[test]
    fn the_exponential_is_the_library_s_to_two_units() {
        let exact = |x: f64| x.exp();
        for i in 0..100_000 {
            let x = -f64::from(i) * 0.007_07;
            let units = (exp(x) - exact(x)).abs() / (exact(x) * f64::EPSILON);
            assert!(units <= 2.0, "e^{x}: {} {}", exp(x), exact(x));
        }
        assert_eq!(
            (exp(0.0), exp(-0.0), exp(-709.0), exp(f64::NEG_INFINITY)),
            (1.0, 1.0, 0.0, 0.0)
        );
        assert!(exp(f64::NAN).is_nan());
    }
}

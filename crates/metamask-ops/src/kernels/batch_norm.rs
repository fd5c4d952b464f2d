//! Batch normalisation over the rows of an `[M, C]` matrix (an NHWC batch has
//! M = batch · height · width), with optional residual and ReLU.
//!
//! ```text
//! x̂ = (x − μ) s      s = 1/√(σ² + ε)      y = relu?(γ x̂ + β (+ residual))
//! ```
//! Gradient and tangent have one shape: two column sums, then one affine map
//! per channel. Each exists once here, with switches known at compile time.

use rayon::prelude::*;

use super::simd::{Real, Simd, Task};
use super::workspace::{Workspace, at_least};
use crate::Kernel;

/// Where μ and σ² come from, which decides whether they depend on x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statistics {
    /// From the batch itself: gradients flow through them.
    Batch,
    /// From elsewhere (running statistics): constants.
    Fixed,
}

/// What a batch normalisation was computed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchNorm<'a, T> {
    /// μ `[C]`.
    pub(crate) mean: &'a [T],
    /// s = 1/√(σ² + ε) `[C]`.
    pub(crate) inv_std: &'a [T],
    /// γ `[C]`.
    pub(crate) gamma: &'a [T],
    pub(crate) statistics: Statistics,
}

/// Elements in a block of rows. It is the unit of work and of partial sums, so
/// results depend on it; and it fits the second-level cache several times.
const BLOCK: usize = 1 << 14;

fn rows_per_block(channels: usize) -> usize {
    (BLOCK / channels).max(1)
}

/// Mean and biased variance of every column.
///
/// ```text
/// μ = Σ x / M        σ² = Σ (x − μ)² / M
/// ```
/// Exact two-pass sums in each block while it is in the cache, blocks joined by
/// Chan's formula in f64: one trip through memory, no cancellation.
///
/// # Shapes
/// `x`: `[M, channels]`; `mean`, `variance`: `[channels]`.
pub(crate) fn moments<T: Real>(
    x: &[T],
    channels: usize,
    mean: &mut [T],
    variance: &mut [T],
    ws: &mut Workspace<T>,
) {
    moments_with(Kernel::current(), x, channels, mean, variance, ws);
}

/// `y = relu?(x · scale + shift (+ residual))`, the whole forward pass once the
/// statistics are folded in: `scale = γ s`, `shift = β − μ γ s`.
///
/// # Shapes
/// `x`, `y`, `residual`: `[M, channels]`; `scale`, `shift`: `[channels]`.
pub(crate) fn batch_norm_forward<T: Real>(
    x: &[T],
    channels: usize,
    scale: &[T],
    shift: &[T],
    residual: Option<&[T]>,
    relu: bool,
    y: &mut [T],
) {
    forward_with(Kernel::current(), x, channels, scale, shift, residual, relu, y);
}

/// Gradient of batch normalisation with optional ReLU and residual.
///
/// ```text
/// g = dy ⊙ 1[y > 0]  (or dy, without ReLU)
/// dβ = Σ g        dγ = Σ g x̂        d_residual = g
/// dx = γ s (g − dβ/M − x̂ dγ/M)  with the batch's statistics,   γ s g  with fixed ones
/// ```
/// `y` is the output after ReLU, given exactly when there was a ReLU. Writes
/// all its outputs.
///
/// # Shapes
/// `x`, `y`, `dy`, `dx`, `d_residual`: `[M, C]`; `dgamma`, `dbeta`: `[C]`.
#[allow(clippy::too_many_arguments, reason = "what the layer read and what it owes")]
pub(crate) fn batch_norm_backward<T: Real>(
    bn: &BatchNorm<'_, T>,
    x: &[T],
    y: Option<&[T]>,
    dy: &[T],
    dgamma: &mut [T],
    dbeta: &mut [T],
    dx: &mut [T],
    d_residual: Option<&mut [T]>,
    ws: &mut Workspace<T>,
) {
    let kernel = Kernel::current();
    backward_with(kernel, bn, x, y, dy, dgamma, dbeta, dx, d_residual, ws);
}

/// Tangent of batch normalisation with optional ReLU and residual.
///
/// ```text
/// x̂̇ = s (ẋ − mean ẋ − x̂ mean(x̂ ẋ))  with the batch's statistics,   s ẋ  with fixed ones
/// ẏ = (γ̇ x̂ + γ x̂̇ + β̇ (+ residual̇)) ⊙ 1[y > 0]
/// ```
/// `y` is the output after ReLU, given exactly when there was a ReLU.
///
/// # Shapes
/// `x`, `y`, `x_dot`, `residual_dot`, `y_dot`: `[M, C]`;
/// `gamma_dot`, `beta_dot`: `[C]`.
#[allow(clippy::too_many_arguments, reason = "every input of the layer has a tangent")]
pub(crate) fn batch_norm_tangent<T: Real>(
    bn: &BatchNorm<'_, T>,
    x: &[T],
    y: Option<&[T]>,
    x_dot: &[T],
    gamma_dot: &[T],
    beta_dot: &[T],
    residual_dot: Option<&[T]>,
    y_dot: &mut [T],
    ws: &mut Workspace<T>,
) {
    let kernel = Kernel::current();
    tangent_with(kernel, bn, x, y, x_dot, gamma_dot, beta_dot, residual_dot, y_dot, ws);
}

fn moments_with<T: Real>(
    kernel: Kernel,
    x: &[T],
    channels: usize,
    mean: &mut [T],
    variance: &mut [T],
    ws: &mut Workspace<T>,
) {
    assert!(channels > 0 && x.len().is_multiple_of(channels), "moments: rows must be whole");
    let block = rows_per_block(channels) * channels;
    let sums = at_least(&mut ws.sums, x.len().div_ceil(block) * 2 * channels);
    sums.par_chunks_mut(2 * channels).zip(x.par_chunks(block)).for_each(|(sums, x)| {
        T::dispatch(kernel, BlockMoments { x, channels, sums });
    });

    for (c, (mean, variance)) in mean.iter_mut().zip(variance.iter_mut()).enumerate() {
        // Chan et al. 1979: joins (count, mean, squared deviations) of two sets.
        let (mut count, mut m, mut squares) = (0.0, 0.0, 0.0);
        for (sums, x) in sums.chunks_exact(2 * channels).zip(x.chunks(block)) {
            let block_count = (x.len() / channels) as f64;
            let (block_mean, block_squares) = (sums[c], sums[channels + c]);
            let delta = block_mean - m;
            let total = count + block_count;
            m += delta * block_count / total;
            squares += block_squares + delta * delta * count * block_count / total;
            count = total;
        }
        *mean = T::from_f64(m);
        *variance = T::from_f64(squares / count);
    }
}

#[allow(clippy::too_many_arguments, reason = "as `batch_norm_forward`")]
fn forward_with<T: Real>(
    kernel: Kernel,
    x: &[T],
    channels: usize,
    scale: &[T],
    shift: &[T],
    residual: Option<&[T]>,
    relu: bool,
    y: &mut [T],
) {
    let zeros = vec![T::ZERO; channels];
    let map = Affine { a: scale, b: &zeros, mean: &zeros, c: shift };
    let operands = Operands { u: x, x: None, gate: None, residual };
    affine(kernel, channels, &map, &operands, relu, y, None);
}

#[allow(clippy::too_many_arguments, reason = "as `batch_norm_backward`")]
fn backward_with<T: Real>(
    kernel: Kernel,
    bn: &BatchNorm<'_, T>,
    x: &[T],
    y: Option<&[T]>,
    dy: &[T],
    dgamma: &mut [T],
    dbeta: &mut [T],
    dx: &mut [T],
    d_residual: Option<&mut [T]>,
    ws: &mut Workspace<T>,
) {
    let channels = bn.mean.len();
    let rows = (x.len() / channels) as f64;
    let sums = column_sums(kernel, dy, y, x, bn.mean, ws);

    let mut coefficients = vec![T::ZERO; 3 * channels];
    let (a, rest) = coefficients.split_at_mut(channels);
    let (b, c) = rest.split_at_mut(channels);
    for i in 0..channels {
        let (sum, product) = (sums[i], sums[channels + i]);
        let inv_std = bn.inv_std[i].to_f64();
        let scale = bn.gamma[i].to_f64() * inv_std;
        dbeta[i] = T::from_f64(sum);
        dgamma[i] = T::from_f64(product * inv_std);
        a[i] = T::from_f64(scale);
        if bn.statistics == Statistics::Batch {
            b[i] = T::from_f64(-scale * inv_std * inv_std * product / rows);
            c[i] = T::from_f64(-scale * sum / rows);
        }
    }
    let map = Affine { a, b, mean: bn.mean, c };
    let x = (bn.statistics == Statistics::Batch).then_some(x);
    let operands = Operands { u: dy, x, gate: y, residual: None };
    affine(kernel, channels, &map, &operands, false, dx, d_residual);
}

#[allow(clippy::too_many_arguments, reason = "as `batch_norm_tangent`")]
fn tangent_with<T: Real>(
    kernel: Kernel,
    bn: &BatchNorm<'_, T>,
    x: &[T],
    y: Option<&[T]>,
    x_dot: &[T],
    gamma_dot: &[T],
    beta_dot: &[T],
    residual_dot: Option<&[T]>,
    y_dot: &mut [T],
    ws: &mut Workspace<T>,
) {
    let channels = bn.mean.len();
    let rows = (x.len() / channels) as f64;
    let sums = match bn.statistics {
        Statistics::Batch => column_sums(kernel, x_dot, None, x, bn.mean, ws),
        Statistics::Fixed => {
            let zeros = at_least(&mut ws.sums, 2 * channels);
            zeros.fill(0.0);
            zeros
        }
    };

    let mut coefficients = vec![T::ZERO; 3 * channels];
    let (a, rest) = coefficients.split_at_mut(channels);
    let (b, c) = rest.split_at_mut(channels);
    for i in 0..channels {
        let (sum, product) = (sums[i], sums[channels + i]);
        let inv_std = bn.inv_std[i].to_f64();
        let scale = bn.gamma[i].to_f64() * inv_std;
        a[i] = T::from_f64(scale);
        b[i] = T::from_f64(
            gamma_dot[i].to_f64() * inv_std - scale * inv_std * inv_std * product / rows,
        );
        c[i] = T::from_f64(beta_dot[i].to_f64() - scale * sum / rows);
    }
    let map = Affine { a, b, mean: bn.mean, c };
    let operands = Operands { u: x_dot, x: Some(x), gate: None, residual: residual_dot };
    match y {
        // The mask applies to the sum, so it cannot be the gate of u.
        Some(y) => {
            affine(kernel, channels, &map, &operands, false, y_dot, None);
            mask_in_place(y, y_dot);
        }
        None => affine(kernel, channels, &map, &operands, false, y_dot, None),
    }
}

fn mask_in_place<T: Real>(y: &[T], out: &mut [T]) {
    out.par_chunks_mut(BLOCK).zip(y.par_chunks(BLOCK)).for_each(|(out, y)| {
        for (out, &y) in out.iter_mut().zip(y) {
            *out = if y > T::ZERO { *out } else { T::ZERO };
        }
    });
}

/// `[Σ u, Σ u (x − mean)]` of every column, u masked by `gate > 0` if given.
fn column_sums<'w, T: Real>(
    kernel: Kernel,
    u: &[T],
    gate: Option<&[T]>,
    x: &[T],
    mean: &[T],
    ws: &'w mut Workspace<T>,
) -> &'w [f64] {
    let channels = mean.len();
    assert!(u.len() == x.len() && gate.is_none_or(|g| g.len() == x.len()), "batch_norm: shapes");
    let block = rows_per_block(channels) * channels;
    let sums = at_least(&mut ws.sums, x.len().div_ceil(block) * 2 * channels);
    sums.par_chunks_mut(2 * channels).enumerate().for_each(|(i, sums)| {
        let part = i * block..(i * block + block).min(x.len());
        let gate = gate.map(|g| &g[part.clone()]);
        T::dispatch(kernel, BlockSums { u: &u[part.clone()], gate, x: &x[part], mean, sums });
    });
    let (total, parts) = sums.split_at_mut(2 * channels);
    for part in parts.chunks_exact(2 * channels) {
        for (total, part) in total.iter_mut().zip(part) {
            *total += part;
        }
    }
    total
}

/// Coefficients of `out = a u + b (x − mean) + c`, one of each a channel.
struct Affine<'a, T> {
    a: &'a [T],
    b: &'a [T],
    mean: &'a [T],
    c: &'a [T],
}

/// What an affine map reads at every element.
struct Operands<'a, T> {
    u: &'a [T],
    /// Absent: b is zero.
    x: Option<&'a [T]>,
    /// Masks u where it is not above zero.
    gate: Option<&'a [T]>,
    residual: Option<&'a [T]>,
}

/// `out = relu?(a u + b (x − mean) + c + residual)`; `masked` receives u.
fn affine<T: Real>(
    kernel: Kernel,
    channels: usize,
    map: &Affine<'_, T>,
    operands: &Operands<'_, T>,
    relu: bool,
    out: &mut [T],
    masked: Option<&mut [T]>,
) {
    assert_eq!(operands.u.len(), out.len(), "batch_norm: output must have the input's shape");
    let block = rows_per_block(channels) * channels;
    let len = out.len();
    let part = |i: usize| i * block..(i * block + block).min(len);
    let at = |i: usize| Operands {
        u: &operands.u[part(i)],
        x: operands.x.map(|s| &s[part(i)]),
        gate: operands.gate.map(|s| &s[part(i)]),
        residual: operands.residual.map(|s| &s[part(i)]),
    };
    let run = |i: usize, out: &mut [T], masked: Option<&mut [T]>| {
        T::dispatch(kernel, BlockAffine { map, operands: at(i), relu, out, masked });
    };
    match masked {
        None => out.par_chunks_mut(block).enumerate().for_each(|(i, out)| run(i, out, None)),
        Some(masked) => {
            assert_eq!(masked.len(), len, "batch_norm: residual gradient must have dy's shape");
            out.par_chunks_mut(block)
                .zip(masked.par_chunks_mut(block))
                .enumerate()
                .for_each(|(i, (out, masked))| run(i, out, Some(masked)));
        }
    }
}

struct BlockMoments<'a, T> {
    x: &'a [T],
    channels: usize,
    sums: &'a mut [f64],
}

impl<T: Real> Task<T> for BlockMoments<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let Self { x, channels, sums } = self;
        let rows = x.len() / channels;
        let (means, squares) = sums.split_at_mut(channels);
        for c in 0..channels {
            let mut sum = T::ZERO;
            for r in 0..rows {
                sum += x[r * channels + c];
            }
            let mean = sum.to_f64() / rows as f64;
            let m = T::from_f64(mean);
            let (mut square, mut rest) = (T::ZERO, T::ZERO);
            for r in 0..rows {
                let d = x[r * channels + c] - m;
                square += d * d;
                rest += d;
            }
            let correction = rest.to_f64() / rows as f64;
            means[c] = m.to_f64() + correction;
            squares[c] = square.to_f64() - rest.to_f64() * correction;
        }
    }
}

struct BlockSums<'a, T> {
    u: &'a [T],
    gate: Option<&'a [T]>,
    x: &'a [T],
    mean: &'a [T],
    sums: &'a mut [f64],
}

impl<T: Real> Task<T> for BlockSums<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(self) {
        let channels = self.mean.len();
        let rows = self.x.len() / channels;
        for c in 0..channels {
            let (mut sum, mut product) = (T::ZERO, T::ZERO);
            for r in 0..rows {
                let i = r * channels + c;
                let u = match self.gate {
                    Some(gate) if gate[i] <= T::ZERO => T::ZERO,
                    _ => self.u[i],
                };
                sum += u;
                product += u * (self.x[i] - self.mean[c]);
            }
            self.sums[c] = sum.to_f64();
            self.sums[channels + c] = product.to_f64();
        }
    }
}

struct BlockAffine<'a, T> {
    map: &'a Affine<'a, T>,
    operands: Operands<'a, T>,
    relu: bool,
    out: &'a mut [T],
    masked: Option<&'a mut [T]>,
}

impl<T: Real> Task<T> for BlockAffine<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Simd<Scalar = T>>(mut self) {
        let (map, operands) = (self.map, &self.operands);
        let channels = map.a.len();
        for (row, out) in self.out.chunks_exact_mut(channels).enumerate() {
            for (c, out) in out.iter_mut().enumerate() {
                let i = row * channels + c;
                let u = match operands.gate {
                    Some(gate) if gate[i] <= T::ZERO => T::ZERO,
                    _ => operands.u[i],
                };
                if let Some(masked) = self.masked.as_deref_mut() {
                    masked[i] = u;
                }
                let mut value = map.a[c] * u + map.c[c];
                if let Some(x) = operands.x {
                    value += map.b[c] * (x[i] - map.mean[c]);
                }
                if let Some(residual) = operands.residual {
                    value += residual[i];
                }
                *out = if self.relu && value <= T::ZERO { T::ZERO } else { value };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_same_for_any_threads, values, widen};

    /// Sums over up to 3000 rows in f32, relative to their root mean square.
    const TOLERANCE_F32: f64 = 2e-5;
    const TOLERANCE_F64: f64 = 1e-11;
    const EPSILON: f64 = 1e-5;

    const SHAPES: [(usize, usize); 9] = [
        (2, 1),
        (7, 3),
        (3000, 5),
        (64, 16),
        (1100, 17),
        (700, 32),
        (530, 64),
        (300, 100),
        (37, 512),
    ];

    /// One layer: inputs, and in f64 everything it computes, from the definition.
    struct Layer<T> {
        rows: usize,
        channels: usize,
        x: Vec<T>,
        gamma: Vec<T>,
        beta: Vec<T>,
        residual: Vec<T>,
        mean: Vec<T>,
        inv_std: Vec<T>,
    }

    impl<T: Real> Layer<T> {
        fn new(rows: usize, channels: usize) -> Self {
            // An offset far above the spread, where one-pass sums would cancel.
            let x: Vec<T> =
                values::<T>(rows * channels, 1).iter().map(|v| *v + T::from_f64(3.0)).collect();
            let column = |c: usize| x.iter().skip(c).step_by(channels).map(|v| v.to_f64());
            let mean = |c| column(c).sum::<f64>() / rows as f64;
            let variance = |c| column(c).map(|v| (v - mean(c)).powi(2)).sum::<f64>() / rows as f64;
            let means = (0..channels).map(|c| T::from_f64(mean(c))).collect();
            let inv_std =
                (0..channels).map(|c| T::from_f64(1.0 / (variance(c) + EPSILON).sqrt())).collect();
            Self {
                rows,
                channels,
                gamma: values(channels, 2),
                beta: values(channels, 3),
                residual: values(rows * channels, 4),
                x,
                mean: means,
                inv_std,
            }
        }

        fn batch_norm(&self, statistics: Statistics) -> BatchNorm<'_, T> {
            let Self { mean, inv_std, gamma, .. } = self;
            BatchNorm { mean, inv_std, gamma, statistics }
        }

        fn normalized(&self) -> Vec<f64> {
            let c = |i: usize| i % self.channels;
            let normal = |(i, x): (usize, &T)| {
                (x.to_f64() - self.mean[c(i)].to_f64()) * self.inv_std[c(i)].to_f64()
            };
            self.x.iter().enumerate().map(normal).collect()
        }

        /// `γ x̂ + β + residual`, before ReLU.
        fn output(&self) -> Vec<f64> {
            let c = |i: usize| i % self.channels;
            let output = |(i, x): (usize, f64)| {
                x * self.gamma[c(i)].to_f64() + self.beta[c(i)].to_f64() + self.residual[i].to_f64()
            };
            self.normalized().into_iter().enumerate().map(output).collect()
        }

        fn column_means(&self, terms: impl Fn(usize) -> f64) -> Vec<f64> {
            let mut means = vec![0.0; self.channels];
            for i in 0..self.rows * self.channels {
                means[i % self.channels] += terms(i) / self.rows as f64;
            }
            means
        }
    }

    fn check<T: Real>(kernel: Kernel, (rows, channels): (usize, usize), tolerance: f64) {
        let layer = Layer::<T>::new(rows, channels);
        let what = |step: &str| format!("{kernel:?} {step} [{rows}, {channels}]");
        let c = |i: usize| i % channels;
        let mut ws = Workspace::new();
        let n = rows * channels;

        let (mut mean, mut variance) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
        moments_with(kernel, &layer.x, channels, &mut mean, &mut variance, &mut ws);
        assert_close(&what("mean"), &mean, &widen(&layer.mean), tolerance);
        let expected: Vec<f64> =
            layer.inv_std.iter().map(|s| s.to_f64().powi(-2) - EPSILON).collect();
        assert_close(&what("variance"), &variance, &expected, tolerance);

        let scale: Vec<T> = (0..channels).map(|i| layer.gamma[i] * layer.inv_std[i]).collect();
        let shift: Vec<T> =
            (0..channels).map(|i| layer.beta[i] - layer.mean[i] * scale[i]).collect();
        let mut y = vec![T::ZERO; n];
        let residual = Some(layer.residual.as_slice());
        forward_with(kernel, &layer.x, channels, &scale, &shift, residual, true, &mut y);
        let expected: Vec<f64> = layer.output().iter().map(|y| y.max(0.0)).collect();
        assert_close(&what("forward"), &y, &expected, tolerance);

        let normal = layer.normalized();
        let dy = values::<T>(n, 5);
        let x_dot = values::<T>(n, 6);
        let residual_dot = values::<T>(n, 7);
        let (gamma_dot, beta_dot) = (values::<T>(channels, 8), values::<T>(channels, 9));
        for statistics in [Statistics::Batch, Statistics::Fixed] {
            for relu in [false, true] {
                let open = |i: usize| !relu || y[i] > T::ZERO;
                let gate = relu.then_some(y.as_slice());
                let bn = layer.batch_norm(statistics);
                let batch = f64::from(u8::from(statistics == Statistics::Batch));

                let g: Vec<f64> =
                    (0..n).map(|i| if open(i) { dy[i].to_f64() } else { 0.0 }).collect();
                let mean_g = layer.column_means(|i| g[i]);
                let mean_gx = layer.column_means(|i| g[i] * normal[i]);
                let (mut dgamma, mut dbeta) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
                let (mut dx, mut d_residual) = (vec![T::ZERO; n], vec![T::ZERO; n]);
                backward_with(
                    kernel,
                    &bn,
                    &layer.x,
                    gate,
                    &dy,
                    &mut dgamma,
                    &mut dbeta,
                    &mut dx,
                    Some(&mut d_residual),
                    &mut ws,
                );
                let total =
                    |means: &[f64]| means.iter().map(|m| m * rows as f64).collect::<Vec<_>>();
                assert_close(&what("dbeta"), &dbeta, &total(&mean_g), tolerance);
                assert_close(&what("dgamma"), &dgamma, &total(&mean_gx), tolerance);
                assert_close(&what("residual gradient"), &d_residual, &g, 0.0);
                let expected: Vec<f64> = (0..n)
                    .map(|i| {
                        layer.gamma[c(i)].to_f64()
                            * layer.inv_std[c(i)].to_f64()
                            * (g[i] - batch * (mean_g[c(i)] + normal[i] * mean_gx[c(i)]))
                    })
                    .collect();
                assert_close(&what("dx"), &dx, &expected, tolerance);

                let mean_x = layer.column_means(|i| x_dot[i].to_f64());
                let mean_xx = layer.column_means(|i| x_dot[i].to_f64() * normal[i]);
                let mut y_dot = vec![T::ZERO; n];
                tangent_with(
                    kernel,
                    &bn,
                    &layer.x,
                    gate,
                    &x_dot,
                    &gamma_dot,
                    &beta_dot,
                    Some(&residual_dot),
                    &mut y_dot,
                    &mut ws,
                );
                let expected: Vec<f64> = (0..n)
                    .map(|i| {
                        let normal_dot = layer.inv_std[c(i)].to_f64()
                            * (x_dot[i].to_f64()
                                - batch * (mean_x[c(i)] + normal[i] * mean_xx[c(i)]));
                        let sum = gamma_dot[c(i)].to_f64() * normal[i]
                            + layer.gamma[c(i)].to_f64() * normal_dot
                            + beta_dot[c(i)].to_f64()
                            + residual_dot[i].to_f64();
                        if open(i) { sum } else { 0.0 }
                    })
                    .collect();
                assert_close(&what("tangent"), &y_dot, &expected, tolerance);
            }
        }
    }

    #[test]
    fn passes_equal_their_definition_in_f64() {
        for shape in SHAPES {
            check::<f64>(Kernel::Portable, shape, TOLERANCE_F64);
        }
    }

    #[test]
    fn passes_equal_their_definition_in_f32_on_every_kernel() {
        for kernel in Kernel::supported() {
            for shape in SHAPES {
                check::<f32>(kernel, shape, TOLERANCE_F32);
            }
        }
    }

    /// The formulas above were derived by hand; this one needs no derivation.
    #[test]
    fn tangent_equals_central_differences() {
        let (rows, channels, h) = (23, 5, 1e-5);
        let layer = Layer::<f64>::new(rows, channels);
        let x_dot = values::<f64>(rows * channels, 6);
        let (gamma_dot, beta_dot) = (values::<f64>(channels, 8), values::<f64>(channels, 9));
        let forward = |h: f64| {
            let mut ws = Workspace::new();
            let x: Vec<f64> = layer.x.iter().zip(&x_dot).map(|(x, d)| x + h * d).collect();
            let (mut mean, mut variance) = (vec![0.0; channels], vec![0.0; channels]);
            moments(&x, channels, &mut mean, &mut variance, &mut ws);
            let scale: Vec<f64> = (0..channels)
                .map(|i| (layer.gamma[i] + h * gamma_dot[i]) / (variance[i] + EPSILON).sqrt())
                .collect();
            let shift: Vec<f64> = (0..channels)
                .map(|i| layer.beta[i] + h * beta_dot[i] - mean[i] * scale[i])
                .collect();
            let mut y = vec![0.0; x.len()];
            batch_norm_forward(&x, channels, &scale, &shift, None, false, &mut y);
            y
        };
        let (plus, minus) = (forward(h), forward(-h));
        let differences: Vec<f64> =
            plus.iter().zip(&minus).map(|(p, m)| (p - m) / (2.0 * h)).collect();
        let mut y_dot = vec![0.0; differences.len()];
        let bn = layer.batch_norm(Statistics::Batch);
        let mut ws = Workspace::new();
        batch_norm_tangent(
            &bn, &layer.x, None, &x_dot, &gamma_dot, &beta_dot, None, &mut y_dot, &mut ws,
        );
        // Truncation h² and cancellation 1e-16 / h.
        assert_close("tangent", &y_dot, &differences, 1e-8);
    }

    #[test]
    fn passes_are_the_same_bits_for_any_number_of_threads() {
        for kernel in Kernel::supported() {
            for (rows, channels) in SHAPES {
                assert_same_for_any_threads(&format!("{kernel:?} [{rows}, {channels}]"), || {
                    let layer = Layer::<f32>::new(rows, channels);
                    let mut ws = Workspace::new();
                    let zeros = vec![0.0; channels];
                    let (mut a, mut b) = (zeros.clone(), zeros.clone());
                    moments_with(kernel, &layer.x, channels, &mut a, &mut b, &mut ws);
                    let (mut dgamma, mut dbeta) = (zeros.clone(), zeros);
                    let mut dx = layer.x.clone();
                    let bn = layer.batch_norm(Statistics::Batch);
                    backward_with(
                        kernel,
                        &bn,
                        &layer.x,
                        None,
                        &layer.residual,
                        &mut dgamma,
                        &mut dbeta,
                        &mut dx,
                        None,
                        &mut ws,
                    );
                    (a, b, dgamma, dbeta, dx)
                });
            }
        }
    }
}

//! Batch normalisation over the rows of an `[M, C]` matrix (an NHWC batch has
//! M = batch · height · width), with optional residual and ReLU.
//!
//! ```text
//! x̂ = (x − μ) s      s = 1/√(σ² + ε)      y = relu?(γ x̂ + β (+ residual))
//! ```
//! Gradient and tangent have one shape: two column sums, then one affine map
//! per channel. This file holds the formulas, [`columns`] the loops.

mod columns;
mod gradient;
mod in_place;
#[cfg(test)]
mod tests;

pub(crate) use self::columns::PartMoments;
pub(crate) use self::in_place::Normalisation;

use self::columns::{Affine, Operands, affine, column_moments, column_sums, fold};
use self::gradient::{ReluInput, Terms, input_gradient};
use super::simd::Real;
use super::workspace::Workspace;
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
    column_moments(Kernel::current(), x, channels, mean, variance, &mut ws.sums);
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

/// Where the ReLU behind a normalisation was open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Relu<'a, T> {
    /// There was none.
    None,
    /// Where its output is above zero.
    Output(&'a [T]),
    /// Where its input is, which was `x · scale + shift`: nothing was added to it.
    Input {
        /// `[C]`
        scale: &'a [T],
        /// `[C]`
        shift: &'a [T],
    },
}

/// Gradient of batch normalisation with optional ReLU and residual.
///
/// ```text
/// g = dy ⊙ 1[ReLU was open]
/// dβ = Σ g        dγ = Σ g x̂        d_residual = g
/// dx = γ s (g − dβ/M − x̂ dγ/M)  with the batch's statistics,   γ s g  with fixed ones
/// ```
/// `dy` becomes dx if there is no `dx`; otherwise it becomes g, unless ReLU is given by
/// its input. This is bound by memory: results take the place of what was just read.
///
/// # Shapes
/// `x`, `dy`, `dx`, a ReLU's output: `[M, C]`; `dgamma`, `dbeta`: `[C]`.
#[allow(clippy::too_many_arguments, reason = "what the layer read and what it owes")]
pub(crate) fn batch_norm_backward<T: Real>(
    bn: &BatchNorm<'_, T>,
    x: &[T],
    relu: Relu<'_, T>,
    dy: &mut [T],
    dgamma: &mut [T],
    dbeta: &mut [T],
    dx: Option<&mut [T]>,
    ws: &mut Workspace<T>,
) {
    backward_with(Kernel::current(), bn, x, relu, dy, dgamma, dbeta, dx, ws);
}

/// Tangent of batch normalisation with optional ReLU and residual.
///
/// ```text
/// x̂̇ = s (ẋ − mean ẋ − x̂ mean(x̂ ẋ))  with the batch's statistics,   s ẋ  with fixed ones
/// ẏ = (γ̇ x̂ + γ x̂̇ + β̇ (+ residual̇)) ⊙ 1[ReLU was open]
/// ```
///
/// # Shapes
/// `x`, a ReLU's output, `x_dot`, `residual_dot`, `y_dot`: `[M, C]`;
/// `gamma_dot`, `beta_dot`: `[C]`.
#[allow(clippy::too_many_arguments, reason = "every input of the layer has a tangent")]
pub(crate) fn batch_norm_tangent<T: Real>(
    bn: &BatchNorm<'_, T>,
    x: &[T],
    relu: Relu<'_, T>,
    x_dot: &[T],
    gamma_dot: &[T],
    beta_dot: &[T],
    residual_dot: Option<&[T]>,
    y_dot: &mut [T],
    ws: &mut Workspace<T>,
) {
    let kernel = Kernel::current();
    tangent_with(kernel, bn, x, relu, x_dot, gamma_dot, beta_dot, residual_dot, y_dot, ws);
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
    let map = Affine::new(channels, |i| [scale[i], T::ZERO, T::ZERO, shift[i]]);
    let operands =
        Operands { u: x, x: None, residual, relu, open_by_output: None, open_by_input: None };
    affine(kernel, &map, &operands, y);
}

#[allow(clippy::too_many_arguments, reason = "as `batch_norm_backward`")]
fn backward_with<T: Real>(
    kernel: Kernel,
    bn: &BatchNorm<'_, T>,
    x: &[T],
    relu: Relu<'_, T>,
    dy: &mut [T],
    dgamma: &mut [T],
    dbeta: &mut [T],
    dx: Option<&mut [T]>,
    ws: &mut Workspace<T>,
) {
    let channels = bn.mean.len();
    let rows = (x.len() / channels) as f64;
    let through_statistics = bn.statistics == Statistics::Batch;
    let (scale, shift);
    let (terms, relu) = match relu {
        Relu::None => (Terms::All(dy), None),
        Relu::Output(y) => {
            assert_eq!(y.len(), dy.len(), "batch_norm: ReLU's output must have dy's shape");
            (Terms::WhereOutput { u: dy, y }, None)
        }
        Relu::Input { scale: of_scale, shift: of_shift } => {
            scale = of_scale.repeat(fold(channels));
            shift = of_shift.repeat(fold(channels));
            let relu = ReluInput { scale: &scale, shift: &shift };
            (Terms::WhereInput { u: dy, relu }, Some(relu))
        }
    };
    let sums = column_sums(kernel, terms, x, bn.mean, &mut ws.sums);
    let map = Affine::new(channels, |i| {
        let (sum, product) = (sums[i], sums[channels + i]);
        let inv_std = bn.inv_std[i].to_f64();
        let a = bn.gamma[i].to_f64() * inv_std;
        let b = -a * inv_std * inv_std * product / rows;
        [a, b, bn.mean[i].to_f64(), if through_statistics { -a * sum / rows } else { 0.0 }]
            .map(T::from_f64)
    });
    for i in 0..channels {
        dbeta[i] = T::from_f64(sums[i]);
        dgamma[i] = T::from_f64(sums[channels + i] * bn.inv_std[i].to_f64());
    }
    input_gradient(kernel, &map, x, through_statistics, relu, dy, dx);
}

#[allow(clippy::too_many_arguments, reason = "as `batch_norm_tangent`")]
fn tangent_with<T: Real>(
    kernel: Kernel,
    bn: &BatchNorm<'_, T>,
    x: &[T],
    relu: Relu<'_, T>,
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
        Statistics::Batch => Some(column_sums(kernel, Terms::All(x_dot), x, bn.mean, &mut ws.sums)),
        Statistics::Fixed => None,
    };
    let map = Affine::new(channels, |i| {
        let (sum, product) = sums.map_or((0.0, 0.0), |sums| (sums[i], sums[channels + i]));
        let inv_std = bn.inv_std[i].to_f64();
        let a = bn.gamma[i].to_f64() * inv_std;
        let b = gamma_dot[i].to_f64() * inv_std - a * inv_std * inv_std * product / rows;
        let c = beta_dot[i].to_f64() - a * sum / rows;
        [a, b, bn.mean[i].to_f64(), c].map(T::from_f64)
    });
    let (scale, shift);
    let (open_by_output, open_by_input) = match relu {
        Relu::None => (None, None),
        Relu::Output(y) => (Some(y), None),
        Relu::Input { scale: of_scale, shift: of_shift } => {
            scale = of_scale.repeat(fold(channels));
            shift = of_shift.repeat(fold(channels));
            (None, Some(ReluInput { scale: &scale, shift: &shift }))
        }
    };
    let (x, residual) = (Some(x), residual_dot);
    let operands = Operands { u: x_dot, x, residual, open_by_output, open_by_input, relu: false };
    affine(kernel, &map, &operands, y_dot);
}

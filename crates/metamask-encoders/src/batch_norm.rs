//! Batch normalisation of the rows of a matrix, for the heads.
//!
//! An expression over [`Differentiable`], so that it carries tangents; images
//! are normalised inside `metamask_ops::Network`.

use candle_core::{Result, Tensor, Var, bail};
use metamask_ops::{BatchStats, Differentiable};

/// Added to a variance before its root, as in PyTorch.
const EPSILON: f64 = 1e-5;
/// Share of the batch's statistics in the new running ones, as in PyTorch.
const MOMENTUM: f64 = 0.1;

/// Running mean and variance of a batch normalisation, each `[dim]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running<'a> {
    pub mean: &'a Var,
    pub variance: &'a Var,
}

/// Normalises each dimension of `x`, then scales and shifts it.
///
/// ```text
/// y = γ (x − μ) / √(σ² + ε) + β      ε = 1e-5
/// ```
/// μ and σ² are the mean and biased variance over the batch, or the running
/// ones. An update moves these by a tenth towards the batch's mean and
/// *unbiased* variance, as PyTorch does.
///
/// # Shapes
/// `x`: `[batch, dim]`; `gamma`, `beta`: `[dim]`. Returns `x`'s.
/// # Errors
/// If the batch's statistics are asked of fewer than two rows.
pub(crate) fn batch_norm<T: Differentiable>(
    x: &T,
    gamma: &T,
    beta: &T,
    running: Running<'_>,
    stats: BatchStats,
) -> Result<T> {
    let (centred, variance) = match stats {
        BatchStats::Running => {
            let centred = x.sub(&T::constant(running.mean.as_detached_tensor()))?;
            (centred, T::constant(running.variance.as_detached_tensor()))
        }
        BatchStats::BatchOnly | BatchStats::BatchAndUpdate => {
            let batch = x.value().dim(0)?;
            if batch < 2 {
                bail!("batch_norm: a batch has statistics from 2 rows on, got {batch}");
            }
            let mean = x.mean_keepdim(0)?; // [1, D]
            let centred = x.sub(&mean)?;
            let variance = centred.sqr()?.mean_keepdim(0)?; // [1, D]
            if stats == BatchStats::BatchAndUpdate {
                let unbiased = (variance.value() * (batch as f64 / (batch - 1) as f64))?;
                move_towards(running.mean, mean.value())?;
                move_towards(running.variance, &unbiased)?;
            }
            (centred, variance)
        }
    };
    let scale = gamma.div(&variance.affine(1.0, EPSILON)?.sqrt()?)?;
    centred.mul(&scale)?.add(beta)
}

fn move_towards(running: &Var, batch: &Tensor) -> Result<()> {
    let batch = batch.detach().reshape(running.shape())?;
    let kept = (running.as_detached_tensor() * (1.0 - MOMENTUM))?;
    running.set(&(kept + batch * MOMENTUM)?)
}

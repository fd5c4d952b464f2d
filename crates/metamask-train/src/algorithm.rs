//! MetaMask's iteration: a regular step of the network, a meta step of the mask
//! (docs/method.md, "One iteration"; Li et al. 2022, arXiv:2209.07902).
//!
//! ```text
//! R1  m = m(w)                                  L = ρ L_drr(θ, w) + α L_c(θ, w)
//! R2  θ ← SGD(θ, ∇_θ L)                         what L leaves on w is discarded
//! M1  g = ∇_θ L_c(θ, w)
//! M2  θ′ = θ − l (μ V + g + λ θ)                the virtual step
//! M3  d = ∂_w L_c(θ′, w),  v = ∇_θ′ L_c(θ′, w)
//! M4  G = d − l · ∂²L_c/∂w∂θ · v
//! M5  w ← SGD(w, G)
//! ```
//! With `VirtualStep::AfterRegular` θ in M1 to M4 is the one after R2, with
//! `Shared` the one before. The views are the same throughout, and every pass
//! normalises each view by its own batch; only R1 moves running statistics.
//! Knows nothing of files, progress or where the views come from.

use candle_core::{DType, Result, Tensor};
use metamask_objectives::{barlow_twins, nt_xent};
use metamask_ops::{BatchStats, Differentiable, Dual, Linearized};
use metamask_optim::{
    HeadGradient, Hypergradient, MetaGradient, MetaLoss, Point, ThetaGradient, VirtualStep,
    encoder_gradient, head_gradient, meta_gradient,
};

use crate::learner::Learner;

/// The two learning rates of one step.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// l, of the network.
    pub network: f64,
    /// Of the mask.
    pub mask: f64,
}

/// What one iteration found.
#[derive(Clone, Debug)]
pub struct Iteration {
    /// L
    pub loss: f64,
    /// L_c
    pub contrastive_loss: f64,
    /// L_drr, where it has a weight.
    pub redundancy_loss: Option<f64>,
    /// ‖∇_θ L‖
    pub gradient_norm: f64,
    /// G and its parts, where there is a mask to learn.
    pub meta: Option<MetaGradient>,
}

/// One iteration on two views `[batch, height, width, 3]` of the same images.
///
/// # Errors
/// If a shape or dtype does not fit.
pub fn iteration(learner: &mut Learner, views: &[Tensor; 2], rates: Rates) -> Result<Iteration> {
    let (alpha, rho) = (learner.objective.alpha, learner.objective.redundancy_weight);
    let meta = learner.meta;
    let is_shared = meta.is_some_and(|meta| meta.virtual_step == VirtualStep::Shared);

    // R1. The contrastive gradient stays apart: the shared virtual step wants it alone.
    let h = features(learner, views, BatchStats::BatchAndUpdate, is_shared)?; // 2 x [B, D]
    let values: Vec<Tensor> = h.iter().map(|h| h.value.clone()).collect();
    let (theta_f, theta_c, theta_r) = (learner.theta_f(), learner.theta_c(), learner.theta_r());
    let (mask, train) = (&learner.mask, BatchStats::BatchAndUpdate);
    let contrastive = head_gradient(&contrastive_loss(learner, train), &values, &theta_c, mask)?;
    let redundancy = match &learner.redundancy_head {
        Some(_) => Some(head_gradient(&redundancy_loss(learner, train), &values, &theta_r, mask)?),
        None => None,
    };
    let g = match is_shared {
        true => Some(ThetaGradient {
            theta_f: encoder_gradient(&values, &theta_f, &contrastive.features)?,
            theta_g: contrastive.theta_g.clone(),
        }),
        false => None,
    };
    let mut gradient = match (&g, &redundancy) {
        (Some(g), None) => scaled(&g.theta_f, alpha)?,
        _ => {
            encoder_gradient(&values, &theta_f, &weighted(alpha, &contrastive, rho, &redundancy)?)?
        }
    };
    gradient.extend(scaled(&contrastive.theta_g, alpha)?);
    if let Some(redundancy) = &redundancy {
        gradient.extend(scaled(&redundancy.theta_g, rho)?);
    }
    drop(values);

    // M1 to M4 at θ before the regular step, which moves the weights in place.
    let mut found = match meta.filter(|_| is_shared) {
        Some(meta) => Some(meta_step(learner, views, h, g, rates.network, meta.hypergradient)?),
        None => None,
    };

    // R2
    learner.optimizer.step(&learner.groups, &gradient, rates.network)?;

    // M1 to M4 at θ after it.
    if let Some(meta) = meta.filter(|_| !is_shared) {
        let is_exact = meta.hypergradient == Hypergradient::Exact;
        let h = features(learner, views, BatchStats::BatchOnly, is_exact)?;
        found = Some(meta_step(learner, views, h, None, rates.network, meta.hypergradient)?);
    }

    // M5
    if let Some(MetaGradient { total, .. }) = &found {
        let w = [learner.mask.parameter_group()];
        learner.mask_optimizer.step(&w, std::slice::from_ref(total), rates.mask)?;
    }

    let contrastive_loss = scalar(&contrastive.loss)?;
    let redundancy_loss = redundancy.map(|redundancy| scalar(&redundancy.loss)).transpose()?;
    Ok(Iteration {
        loss: alpha * contrastive_loss + rho * redundancy_loss.unwrap_or(0.0),
        contrastive_loss,
        redundancy_loss,
        gradient_norm: norm(&gradient)?,
        meta: found,
    })
}

/// M1 to M4. `h` are the features at θ, `g` is M1's gradient if it is known.
fn meta_step(
    learner: &Learner,
    views: &[Tensor; 2],
    h: Vec<Linearized>,
    g: Option<ThetaGradient>,
    learning_rate: f64,
    hypergradient: Hypergradient,
) -> Result<MetaGradient> {
    let (theta_f, theta_c) = (learner.theta_f(), learner.theta_c());
    let (velocity_f, rest) = learner.optimizer.velocity().split_at(theta_f.len());
    let velocity_g = &rest[..theta_c.len()];
    let at = Point { theta_f: &theta_f, theta_g: &theta_c, velocity_f, velocity_g, features: h };
    let encode = |theta: &[Tensor]| -> Result<Vec<Tensor>> {
        views.iter().map(|x| learner.encoder.forward(x, theta, BatchStats::BatchOnly)).collect()
    };
    let head = contrastive_loss(learner, BatchStats::BatchOnly);
    let loss = MetaLoss { features: &encode, head: &head, mask: &learner.mask };
    meta_gradient(&loss, at, g, &learner.optimizer, learning_rate, hypergradient)
}

/// h = f(x) of both views at θ, with their tangents where these are wanted.
fn features(
    learner: &Learner,
    views: &[Tensor; 2],
    stats: BatchStats,
    with_tangent: bool,
) -> Result<Vec<Linearized>> {
    let theta = learner.theta_f();
    let encode = |x: &Tensor| match with_tangent {
        true => learner.encoder.linearize(x, &theta, stats),
        false => Ok(Linearized::new(learner.encoder.forward(x, &theta, stats)?, |_| {
            candle_core::bail!("features: this pass kept no tangent")
        })),
    };
    views.iter().map(encode).collect()
}

/// L_c: features of both views, θ_c and m to NT-Xent of g_c(m ⊙ h).
fn contrastive_loss(
    learner: &Learner,
    stats: BatchStats,
) -> impl Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> {
    move |h, theta, m| {
        let z = |h: &Dual| learner.contrastive_head.forward(&h.mul(m)?, theta, stats);
        nt_xent(&z(&h[0])?, &z(&h[1])?, learner.objective.temperature)
    }
}

/// L_drr: features of both views, θ_r and m to Barlow Twins' loss of g_r(m ⊙ h).
fn redundancy_loss(
    learner: &Learner,
    stats: BatchStats,
) -> impl Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> {
    move |h, theta, m| {
        let head = learner.redundancy_head.as_ref().expect("called where there is one");
        let z = |h: &Dual| head.forward(&h.mul(m)?, theta, stats);
        barlow_twins(&z(&h[0])?, &z(&h[1])?, learner.objective.redundancy_lambda)
    }
}

/// ∂L/∂h of each view: α ∂L_c/∂h + ρ ∂L_drr/∂h.
fn weighted(
    alpha: f64,
    contrastive: &HeadGradient,
    rho: f64,
    redundancy: &Option<HeadGradient>,
) -> Result<Vec<Tensor>> {
    let u = scaled(&contrastive.features, alpha)?;
    let Some(redundancy) = redundancy else { return Ok(u) };
    u.iter().zip(scaled(&redundancy.features, rho)?).map(|(u, r)| u + r).collect()
}

fn scaled(tensors: &[Tensor], factor: f64) -> Result<Vec<Tensor>> {
    if factor == 1.0 {
        return Ok(tensors.to_vec());
    }
    tensors.iter().map(|x| x.affine(factor, 0.0)).collect()
}

fn scalar(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.to_scalar()
}

/// The Euclidean norm over all elements of all tensors.
pub fn norm(tensors: &[Tensor]) -> Result<f64> {
    let square = |x: &Tensor| scalar(&x.sqr()?.sum_all()?);
    Ok(tensors.iter().map(square).sum::<Result<f64>>()?.sqrt())
}

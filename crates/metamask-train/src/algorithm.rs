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
use metamask_ops::{BatchStats, Linearized};
use metamask_optim::{
    Hypergradient, MetaGradient, MetaLoss, Point, ThetaGradient, VirtualStep, encoder_gradient,
    head_gradient, meta_gradient,
};

use crate::{config::Meta, learner::Learner};

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
    let meta_at = |step: VirtualStep| learner.meta.filter(|meta| meta.virtual_step == step);
    let (shared, after_regular) =
        (meta_at(VirtualStep::Shared), meta_at(VirtualStep::AfterRegular));

    // R1, and M1 where both steps start at the same θ.
    let Regular { gradient, g, features, contrastive_loss, redundancy_loss } =
        regular(learner, views, shared)?;

    // M2 to M4 at θ before R2, which moves it in place.
    let before = shared
        .map(|meta| meta_step(learner, views, features, g, rates.network, meta))
        .transpose()?;

    // R2
    learner.optimizer.step(&learner.groups, &gradient, rates.network)?;

    // M1 to M4 at θ after R2.
    let after = match after_regular {
        Some(meta) => {
            let h = learner.features(views, BatchStats::BatchOnly, needs_tangent(meta))?;
            Some(meta_step(learner, views, h, None, rates.network, meta)?)
        }
        None => None,
    };

    // M5
    let found = before.or(after);
    if let Some(MetaGradient { total, .. }) = &found {
        let w = [learner.mask.parameter_group()];
        learner.mask_optimizer.step(&w, std::slice::from_ref(total), rates.mask)?;
    }
    let (alpha, rho) = (learner.objective.alpha, learner.objective.redundancy_weight);
    Ok(Iteration {
        loss: alpha * contrastive_loss + rho * redundancy_loss.unwrap_or(0.0),
        contrastive_loss,
        redundancy_loss,
        gradient_norm: norm(&gradient)?,
        meta: found,
    })
}

/// What R1 leaves for the rest of the iteration.
struct Regular {
    /// ∇_θ L, a tensor for each group of θ.
    gradient: Vec<Tensor>,
    /// M1's g, if the meta step shares θ.
    g: Option<ThetaGradient>,
    /// h of both views, `[batch, D]`.
    features: Vec<Linearized>,
    contrastive_loss: f64,
    redundancy_loss: Option<f64>,
}

/// R1. The two losses are differentiated apart: the shared virtual step takes
/// one of them alone, and without L_drr its g serves for both.
fn regular(learner: &Learner, views: &[Tensor; 2], shared: Option<Meta>) -> Result<Regular> {
    let (alpha, rho) = (learner.objective.alpha, learner.objective.redundancy_weight);
    let (theta_f, mask, train) = (learner.theta_f(), &learner.mask, BatchStats::BatchAndUpdate);
    let features = learner.features(views, train, shared.is_some_and(needs_tangent))?;
    let h: Vec<Tensor> = features.iter().map(|h| h.value.clone()).collect();

    let c = head_gradient(&learner.contrastive_loss(train), &h, &learner.theta_c(), mask)?;
    let r = match &learner.redundancy_head {
        Some(head) => {
            let loss = learner.redundancy_loss(head, train);
            Some(head_gradient(&loss, &h, &learner.theta_r(), mask)?)
        }
        None => None,
    };
    let g_f = shared.map(|_| encoder_gradient(&h, &theta_f, &c.features)).transpose()?;
    let mut gradient = match (&g_f, &r) {
        (Some(g_f), None) => scaled(alpha, g_f)?,
        (_, None) => encoder_gradient(&h, &theta_f, &scaled(alpha, &c.features)?)?,
        (_, Some(r)) => {
            let u = scaled(alpha, &c.features)?.into_iter().zip(scaled(rho, &r.features)?);
            let u: Vec<Tensor> = u.map(|(c, r)| c + r).collect::<Result<_>>()?; // ∂L/∂h
            encoder_gradient(&h, &theta_f, &u)?
        }
    };
    gradient.extend(scaled(alpha, &c.theta_g)?);
    gradient
        .extend(r.iter().map(|r| scaled(rho, &r.theta_g)).collect::<Result<Vec<_>>>()?.concat());
    Ok(Regular {
        gradient,
        g: g_f.map(|theta_f| ThetaGradient { theta_f, theta_g: c.theta_g }),
        features,
        contrastive_loss: scalar(&c.loss)?,
        redundancy_loss: r.map(|r| scalar(&r.loss)).transpose()?,
    })
}

/// M1 to M4. `features` are h at θ; `g` is M1's gradient if it is known.
fn meta_step(
    learner: &Learner,
    views: &[Tensor; 2],
    features: Vec<Linearized>,
    g: Option<ThetaGradient>,
    learning_rate: f64,
    meta: Meta,
) -> Result<MetaGradient> {
    let (theta_f, theta_g) = (&learner.theta_f(), &learner.theta_c());
    let (velocity_f, velocity_heads) = learner.optimizer.velocity().split_at(theta_f.len());
    let velocity_g = &velocity_heads[..theta_g.len()];
    let at = Point { theta_f, theta_g, velocity_f, velocity_g, features };
    let encode = |theta: &[Tensor]| -> Result<Vec<Tensor>> {
        views.iter().map(|x| learner.encoder.forward(x, theta, BatchStats::BatchOnly)).collect()
    };
    let head = learner.contrastive_loss(BatchStats::BatchOnly);
    let loss = MetaLoss { features: &encode, head: &head, mask: &learner.mask };
    meta_gradient(&loss, at, g, &learner.optimizer, learning_rate, meta.hypergradient)
}

/// Whether M4 asks the encoder for ḣ = J_f v.
fn needs_tangent(meta: Meta) -> bool {
    meta.hypergradient == Hypergradient::Exact
}

fn scaled(factor: f64, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    tensors.iter().map(|x| x.affine(factor, 0.0)).collect()
}

fn scalar(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.to_scalar()
}

/// The Euclidean norm over all elements of all tensors.
pub(crate) fn norm(tensors: &[Tensor]) -> Result<f64> {
    let square = |x: &Tensor| scalar(&x.sqr()?.sum_all()?);
    Ok(tensors.iter().map(square).sum::<Result<f64>>()?.sqrt())
}

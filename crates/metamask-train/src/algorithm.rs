//! MetaMask's iteration: a regular step of the network, a meta step of the mask
//! (docs/method.md, "One iteration"; Li et al. 2022, arXiv:2209.07902). B is the
//! base method's loss, L_c in the paper's SimCLR.
//!
//! ```text
//! R1  m = m(w)                                  L = ρ L_drr(θ, w) + α B(θ, w)
//! R2  θ ← optimiser(θ, ∇_θ L)                   what L leaves on w is discarded
//! M1  g = ∇_θ B(θ, w)
//! M2  θ′ = θ − l (μ V + g + λ θ)                the virtual step
//! M3  d = ∂_w B(θ′, w),  v = ∇_θ′ B(θ′, w)
//! M4  G = d − l · ∂²B/∂w∂θ · v
//! M5  w ← optimiser(w, G)
//! ```
//! With `VirtualStep::AfterRegular` θ in M1 to M4 is the one after R2, with `Shared`
//! the one before. With `Lookahead` M1 and M2 are the regular step of the iteration
//! before (so M4 goes through L, not B), and M3 is taken on this batch.
//!
//! Every pass normalises each view by its own batch; only R1 moves running
//! statistics. BYOL's target and NNCLR's queue move once, at the end: all passes of
//! an iteration see them as they were. Knows nothing of files, progress or where the
//! views come from.

use std::cell::OnceCell;

use candle_core::{DType, Result, Tensor};
use metamask_objectives::ema_update;
use metamask_ops::{BatchStats, Linearized};
use metamask_optim::{
    Activations, HeadGradient, Hypergradient, MetaGradient, MetaLoss, Point, ThetaGradient,
    VirtualStep, encoder_gradient, head_gradient, meta_gradient,
};

use crate::{
    config::Meta,
    learner::{Learner, Theta},
    lookahead::{Departure, departed_product},
    losses::Given,
    moment::Moment,
};

/// What one iteration found.
#[derive(Clone, Debug)]
pub struct Iteration {
    /// L
    pub loss: f64,
    /// B
    pub base_loss: f64,
    /// L_drr, where it has a weight beside B.
    pub redundancy_loss: Option<f64>,
    /// ∇_θ L, a tensor for each group of θ.
    pub gradient: Vec<Tensor>,
    /// ‖∇_θ L‖
    pub gradient_norm: f64,
    /// h of view a, `[batch, D]`, without the mask.
    pub features: Tensor,
    /// z of both views, `[batch, P]`.
    pub embeddings: [Tensor; 2],
    /// G and its parts, where the mask moved.
    pub meta: Option<MetaGradient>,
}

/// One iteration on two views `[batch, height, width, 3]` of the same images.
///
/// # Errors
/// If a shape or dtype does not fit.
pub fn iteration(learner: &mut Learner, views: &[Tensor; 2], moment: &Moment) -> Result<Iteration> {
    let given = learner.given(views, moment.beta)?;
    let moving = learner.meta.filter(|_| moment.mask_moves);
    let departing = learner.meta.filter(|_| moment.mask_moves_next).filter(looks_ahead);
    let shared = moving.filter(|meta| meta.virtual_step == VirtualStep::Shared);
    let whole_batch = learner.experimental.batch_fraction == 1.0;

    // R1, with M1 where both steps start at the same θ, and the next lookahead's M1.
    let theta = match departing {
        Some(_) => learner.copy_of_theta()?, // R2 moves the learner's in place
        None => learner.theta(),
    };
    let wanted = Wanted {
        base_gradient: (shared.is_some() && whole_batch) || moving.is_some_and(|m| looks_ahead(&m)),
        tangent: [shared.filter(|_| whole_batch), departing].into_iter().flatten().any(keeps),
    };
    let Regular { gradient, base, g, features, embeddings, redundancy_loss } =
        regular(learner, &theta, views, &given, wanted)?;

    let h_a = features[0].value.detach();
    // The judgement of a mask that the step did not see.
    let judged = match (moving, &learner.beside) {
        (Some(_), Some(_)) => {
            let h: Vec<Tensor> = features.iter().map(|h| h.value.clone()).collect();
            let loss = learner.base_loss(BatchStats::BatchOnly, &given, None);
            Some(head_gradient(&loss, &h, &theta.head, &learner.mask)?)
        }
        _ => None,
    };

    // M2 to M4 before R2. Activations that serve for nothing more go first.
    let (for_shared, for_departure) = match (shared, departing) {
        (Some(_), _) if whole_batch => (Some(features), None),
        (_, Some(meta)) if keeps(meta) => (None, Some(features)),
        _ => {
            drop(features);
            (None, None)
        }
    };
    let mut found = match moving {
        Some(meta) if meta.virtual_step == VirtualStep::Lookahead => {
            lookahead(learner, judged.as_ref().unwrap_or(&base), g, meta)?
        }
        Some(meta) if meta.virtual_step == VirtualStep::Shared => Some(match for_shared {
            Some(h) => meta_step(learner, &theta, (views, &given), h, g, moment, meta)?,
            None => part_step(learner, &theta, (views, &given), moment, meta)?,
        }),
        _ => None,
    };
    learner.departure = match departing {
        Some(_) => Some(Departure {
            theta,
            mask: learner.mask.copy()?,
            given: given.clone(),
            views: views.clone(),
            learning_rate: moment.learning_rate,
            features: for_departure,
        }),
        None => None,
    };

    // R2
    learner.optimizer.step(&learner.groups, &gradient, moment.learning_rate)?;

    // M1 to M4 after R2.
    if let Some(meta) = moving.filter(|meta| meta.virtual_step == VirtualStep::AfterRegular) {
        found = Some(part_step(learner, &learner.theta(), (views, &given), moment, meta)?);
    }

    // M5
    if let Some(MetaGradient { total, .. }) = &found {
        let total = match &learner.shuffle {
            None => total.clone(),
            Some(others) => total.index_select(others, 0)?,
        };
        let w = [learner.mask.parameter_group()];
        learner.mask_optimizer.step(&w, &[total], moment.mask_learning_rate)?;
    }

    // What the base method keeps.
    if let Some(target) = &learner.target {
        ema_update(target, &learner.groups[..target.len()], moment.target_momentum)?;
    }
    if let Some(queue) = &mut learner.queue {
        queue.enqueue(&embeddings[0])?;
    }
    let (alpha, rho) = (learner.objective.alpha, learner.objective.redundancy_weight);
    // Read together, when everything else has been asked for.
    let losses = [Some(base.loss), redundancy_loss].into_iter().flatten();
    let numbers: Vec<Tensor> =
        losses.map(Ok).chain(gradient.iter().map(square)).collect::<Result<_>>()?;
    let mut numbers = scalars(&numbers)?.into_iter();
    let base_loss = numbers.next().expect("the base loss is the first");
    let redundancy_loss = learner.redundancy_head.as_ref().and_then(|_| numbers.next());
    Ok(Iteration {
        loss: alpha * base_loss + rho * redundancy_loss.unwrap_or(0.0),
        base_loss,
        redundancy_loss,
        gradient_norm: numbers.sum::<f64>().sqrt(),
        gradient,
        features: h_a,
        embeddings,
        meta: found,
    })
}

/// Whether a lookahead differentiates the step before.
fn looks_ahead(meta: &Meta) -> bool {
    meta.virtual_step == VirtualStep::Lookahead && meta.hypergradient != Hypergradient::FirstOrder
}

/// Whether activations stay for M4's ḣ = J_f v.
fn keeps(meta: Meta) -> bool {
    meta.hypergradient == Hypergradient::Exact && meta.activations == Activations::Keep
}

/// What R1 is asked for beside its step.
#[derive(Clone, Copy)]
struct Wanted {
    /// ∇_θ B apart from ∇_θ L.
    base_gradient: bool,
    /// The encoder's derivative along any direction.
    tangent: bool,
}

/// What R1 leaves for the rest of the iteration.
struct Regular {
    /// ∇_θ L, a tensor for each group of θ.
    gradient: Vec<Tensor>,
    /// B at the head, with ∂_w B.
    base: HeadGradient,
    /// ∇_θ B, if it was wanted.
    g: Option<ThetaGradient>,
    /// h of both views, `[batch, D]`.
    features: Vec<Linearized>,
    embeddings: [Tensor; 2],
    redundancy_loss: Option<Tensor>,
}

/// R1. The two losses are differentiated apart: M1 takes one of them alone, and
/// without L_drr its g serves for both.
fn regular(
    learner: &Learner,
    theta: &Theta,
    views: &[Tensor; 2],
    given: &Given,
    wanted: Wanted,
) -> Result<Regular> {
    let (alpha, rho) = (learner.objective.alpha, learner.objective.redundancy_weight);
    let (theta_f, mask, train) =
        (&theta.encoder, learner.training_mask(), BatchStats::BatchAndUpdate);
    let features = features(learner, views, theta_f, train, wanted.tangent)?;
    let h: Vec<Tensor> = features.iter().map(|h| h.value.clone()).collect();

    let seen = OnceCell::new();
    let base = head_gradient(&learner.base_loss(train, given, Some(&seen)), &h, &theta.head, mask)?;
    let r = match &learner.redundancy_head {
        Some(head) => {
            let loss = learner.redundancy_loss(head, train);
            Some(head_gradient(&loss, &h, &theta.redundancy, mask)?)
        }
        None => None,
    };
    let g_f = match wanted.base_gradient {
        true => Some(encoder_gradient(&h, theta_f, &base.features)?),
        false => None,
    };
    let mut gradient = match (&g_f, &r) {
        (Some(g_f), None) => scaled(alpha, g_f)?,
        (_, None) => encoder_gradient(&h, theta_f, &scaled(alpha, &base.features)?)?,
        (_, Some(r)) => {
            let u = scaled(alpha, &base.features)?.into_iter().zip(scaled(rho, &r.features)?);
            let u: Vec<Tensor> = u.map(|(b, r)| b + r).collect::<Result<_>>()?; // ∂L/∂h
            encoder_gradient(&h, theta_f, &u)?
        }
    };
    gradient.extend(scaled(alpha, &base.theta_g)?);
    if let Some(r) = &r {
        gradient.extend(scaled(rho, &r.theta_g)?);
    }
    Ok(Regular {
        gradient,
        g: g_f.map(|theta_f| ThetaGradient { theta_f, theta_g: base.theta_g.clone() }),
        base,
        features,
        embeddings: seen.into_inner().expect("the base loss embeds the batch"),
        redundancy_loss: r.map(|r| r.loss),
    })
}

/// Features of both views at θ_f, with their tangents where these are wanted.
fn features(
    learner: &Learner,
    views: &[Tensor; 2],
    theta_f: &[Tensor],
    stats: BatchStats,
    with_tangent: bool,
) -> Result<Vec<Linearized>> {
    if with_tangent {
        return learner.linearize(views, theta_f, stats);
    }
    let plain = |h| Linearized::new(h, |_| candle_core::bail!("this pass kept no tangent"));
    Ok(learner.features(views, theta_f, stats)?.into_iter().map(plain).collect())
}

/// M1 to M4. `features` are h at θ; `g` is M1's gradient if it is known.
fn meta_step(
    learner: &Learner,
    theta: &Theta,
    (views, given): (&[Tensor; 2], &Given),
    features: Vec<Linearized>,
    g: Option<ThetaGradient>,
    moment: &Moment,
    meta: Meta,
) -> Result<MetaGradient> {
    let (sgd, stats) = (learner.virtual_sgd(), BatchStats::BatchOnly);
    let velocity = learner.by_part(sgd.velocity().to_vec());
    let at = Point {
        theta_f: &theta.encoder,
        theta_g: &theta.head,
        velocity_f: &velocity.encoder,
        velocity_g: &velocity.head,
        features,
    };
    let loss = MetaLoss {
        features: &|theta| learner.features(views, theta, stats),
        linearize: &|theta| learner.linearize(views, theta, stats),
        head: &learner.base_loss(stats, given, None),
        mask: &learner.mask,
    };
    let how = (meta.hypergradient, meta.activations);
    meta_gradient(&loss, at, g, sgd, moment.learning_rate, how)
}

/// M1 to M4 with a forward pass of their own, on the first images of the batch
/// (`mask.experimental.batch_fraction`; usually all).
fn part_step(
    learner: &Learner,
    theta: &Theta,
    (views, given): (&[Tensor; 2], &Given),
    moment: &Moment,
    meta: Meta,
) -> Result<MetaGradient> {
    let batch = views[0].dim(0)?;
    let part = ((batch as f64 * learner.experimental.batch_fraction).ceil() as usize).min(batch);
    let (views, given) = match part == batch {
        true => (views.clone(), given.clone()),
        false => ([views[0].narrow(0, 0, part)?, views[1].narrow(0, 0, part)?], given.first(part)?),
    };
    let h = features(learner, &views, &theta.encoder, BatchStats::BatchOnly, keeps(meta))?;
    meta_step(learner, theta, (&views, &given), h, None, moment, meta)
}

/// M3 and M4 of a lookahead: d and v are the regular step's own, of this batch. There
/// is nothing to judge before the first step.
fn lookahead(
    learner: &mut Learner,
    base: &HeadGradient,
    v: Option<ThetaGradient>,
    meta: Meta,
) -> Result<Option<MetaGradient>> {
    let (loss, d) = (base.loss.clone(), base.w.clone());
    if !looks_ahead(&meta) {
        return MetaGradient::new(loss, d, None, 0.0).map(Some);
    }
    let Some(departure) = learner.departure.take() else { return Ok(None) };
    let v = v.expect("a lookahead wants the base gradient");
    let step = departure.learning_rate * learner.virtual_sgd().virtual_gradient_factor();
    let product = departed_product(learner, departure, &v, meta.hypergradient)?;
    MetaGradient::new(loss, d, product, step).map(Some)
}

fn scaled(factor: f64, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    tensors.iter().map(|x| x.affine(factor, 0.0)).collect()
}

/// The numbers of scalars, all in one piece: a GPU is waited for once.
pub(crate) fn scalars(scalars: &[Tensor]) -> Result<Vec<f64>> {
    let of_one = |x: &Tensor| x.detach().to_dtype(DType::F64)?.reshape(1);
    Tensor::cat(&scalars.iter().map(of_one).collect::<Result<Vec<_>>>()?, 0)?.to_vec1()
}

/// The sum of the squares of a tensor's elements.
pub(crate) fn square(x: &Tensor) -> Result<Tensor> {
    x.sqr()?.sum_all()
}

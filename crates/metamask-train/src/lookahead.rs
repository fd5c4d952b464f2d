//! The state between two iterations of a lookahead: the regular step that has been
//! taken, and whose dependence on the mask the next batch will judge.

use candle_core::{Result, Tensor};
use metamask_ops::{BatchStats, Linearized};
use metamask_optim::{DimensionMask, Hypergradient, MetaLoss, ThetaGradient, mixed_product};

use crate::{
    learner::{Learner, Theta},
    losses::Given,
};

/// Where a regular step departed from, and on what it was taken.
pub(crate) struct Departure {
    /// θ before the step.
    pub theta: Theta,
    /// The mask that the step was taken under.
    pub mask: DimensionMask,
    /// What its base loss took as given.
    pub given: Given,
    /// The views of its batch.
    pub views: [Tensor; 2],
    /// l of that step.
    pub learning_rate: f64,
    /// h at θ with its activations, if they are kept.
    pub features: Option<Vec<Linearized>>,
}

/// ∂²L(θ, w)/∂w∂θ · v of the regular step that departed from θ; `v` is ∇B at
/// where it arrived, on the next batch.
pub(crate) fn departed_product(
    learner: &Learner,
    departure: Departure,
    v: &ThetaGradient,
    hypergradient: Hypergradient,
) -> Result<Option<Tensor>> {
    let Departure { theta, mask, given, views, features, .. } = departure;
    let stats = BatchStats::BatchOnly;
    let head = learner.regular_loss(stats, &given);
    let loss = MetaLoss {
        features: &|theta| learner.features(&views, theta, stats),
        linearize: &|theta| learner.linearize(&views, theta, stats),
        head: &head,
        mask: &mask,
    };
    // B does not depend on θ_r, which comes last: there v is zero.
    let theta_heads = [&theta.head[..], &theta.redundancy].concat();
    mixed_product(&loss, (&theta.encoder, &theta_heads), features, v, hypergradient)
}

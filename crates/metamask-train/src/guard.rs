//! Watches a run for collapse: embeddings that no longer tell images apart.

use candle_core::{Device, Result, Tensor};
use metamask_eval::{Usage, dead_dimensions, effective_rank, redundancy};
use serde::Serialize;

use crate::{algorithm::Iteration, learner::Learner};

/// How the dimensions of a batch are used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Dimensions {
    /// Effective rank of the masked features.
    pub effective_rank: f64,
    /// Features whose spread is below a hundredth of the largest one.
    pub dead_dimensions: usize,
}

impl Dimensions {
    /// Of view a of an iteration's batch.
    ///
    /// # Errors
    /// If a feature is not finite.
    pub fn of(learner: &Learner, found: &Iteration) -> Result<Self> {
        let h = masked_features(learner, found)?;
        Ok(Self {
            effective_rank: effective_rank(&h)?,
            dead_dimensions: dead_dimensions(&h, DEAD)?,
        })
    }
}

/// The same and what is too dear for every step that is logged. A batch bounds all of it: compare
/// batches of one size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DimensionsOfEpoch {
    /// As in [`Dimensions`].
    pub effective_rank: f64,
    /// As in [`Dimensions`].
    pub dead_dimensions: usize,
    /// RankMe.
    pub rank_me: f64,
    /// Participation ratio.
    pub participation_ratio: f64,
    /// α of α-ReQ, where there are eigenvalues enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_req: Option<f64>,
    /// Mean absolute correlation of two dimensions, where two vary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_correlation: Option<f64>,
}

impl DimensionsOfEpoch {
    /// Of view a of an epoch's last batch, under the mask.
    ///
    /// # Errors
    /// If a feature is not finite.
    pub fn of(learner: &Learner, found: &Iteration) -> Result<Self> {
        let h = masked_features(learner, found)?;
        let Usage {
            effective_rank, rank_me, participation_ratio, alpha_req, dead_dimensions, ..
        } = Usage::of(&h)?;
        Ok(Self {
            effective_rank,
            dead_dimensions,
            rank_me,
            participation_ratio,
            alpha_req: alpha_req.map(|law| law.alpha),
            mean_correlation: redundancy(&h)?.mean_off_diagonal,
        })
    }
}

/// m ⊙ h of view a, or h where the mask lies on the embedding.
fn masked_features(learner: &Learner, found: &Iteration) -> Result<Tensor> {
    let h = match learner.mask.logits.dims() == [found.features.dim(1)?] {
        true => found.features.broadcast_mul(&learner.mask.values()?.detach())?,
        false => found.features.clone(),
    };
    h.to_device(&Device::Cpu)
}

/// Share of the largest standard deviation below which a dimension is dead.
const DEAD: f64 = 0.01;

/// Share of an even spread below which embeddings count as one point.
const COLLAPSED: f64 = 0.1;
/// Steps in a row that make a collapse; a single batch can be unlucky.
const PATIENCE: u32 = 10;

/// Counts the steps in a row whose embeddings have next to no spread.
#[derive(Debug, Default)]
pub struct Guard {
    in_a_row: u32,
    told: bool,
}

impl Guard {
    /// Looks at a step: what to say if the run has collapsed, once.
    ///
    /// `spread` is the mean standard deviation of the L2-normalised embeddings'
    /// dimensions, `even` what it is for embeddings spread evenly, 1 / √P
    /// (Chen & He 2021, arXiv:2011.10566, figure 2).
    pub fn watch(&mut self, step: u64, spread: f64, even: f64) -> Option<String> {
        let is_point = spread < COLLAPSED * even;
        self.in_a_row = if is_point { self.in_a_row + 1 } else { 0 };
        if self.in_a_row < PATIENCE || self.told {
            return None;
        }
        self.told = true;
        Some(format!(
            "step {step}: the embeddings have collapsed to a point: their spread is {spread:.4}, \
             evenly spread ones have {even:.4}"
        ))
    }
}

/// What to try against a collapse.
pub const COLLAPSE_HELP: &str = "lower `optimizer.learning_rate` or `mask.learning_rate`, lower \
     the weight decay, raise `target.momentum` (BYOL), or raise `objective.redundancy_weight`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapse_is_told_once_and_only_after_some_steps_in_a_row() {
        let mut guard = Guard::default();
        let told: Vec<u64> =
            (1..40).filter(|&step| guard.watch(step, 0.001, 0.1).is_some()).collect();
        assert_eq!(told, [u64::from(PATIENCE)]);
    }

    #[test]
    fn a_spread_in_between_starts_the_count_again() {
        let mut guard = Guard::default();
        for step in 1..100 {
            let spread = if step % u64::from(PATIENCE) == 0 { 0.05 } else { 0.001 };
            assert_eq!(guard.watch(step, spread, 0.1), None);
        }
    }
}

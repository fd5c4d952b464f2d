//! The forms of the meta step beside each other, on the state of a run: what each
//! says the hypergradient is, and what it costs.

use std::time::Instant;

use candle_core::DType;
use metamask_data::Dataset;
use metamask_optim::{Activations, Hypergradient, VirtualStep};
use serde::{Deserialize, Serialize};

use crate::{
    algorithm::{Iteration, iteration},
    checkpoint::Checkpoint,
    config::{Config, MaskMode, Meta},
    failure::Failure,
    learner::Learner,
    moment::Moment,
    views::{batch_of, recipe},
};

/// Every form of the meta step; `exact` with activations kept and computed again.
pub fn all_forms() -> Vec<Meta> {
    let mut forms = Vec::new();
    for virtual_step in [VirtualStep::AfterRegular, VirtualStep::Shared, VirtualStep::Lookahead] {
        for (hypergradient, activations) in [
            (Hypergradient::FirstOrder, Activations::Keep),
            (Hypergradient::FiniteDifference, Activations::Keep),
            (Hypergradient::Exact, Activations::Keep),
            (Hypergradient::Exact, Activations::Recompute),
        ] {
            forms.push(Meta { virtual_step, hypergradient, activations, every: 1 });
        }
    }
    forms
}

/// What one form gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// d, the direct term; empty without a mask.
    pub direct: Vec<f64>,
    /// G; empty without a mask.
    pub total: Vec<f64>,
    /// Seconds that a whole iteration took, meta step and regular step, each time.
    pub durations_s: Vec<f64>,
}

/// Takes the iteration after a checkpoint under one form of the meta step (`None`:
/// under none), `repeats` times from the same state.
///
/// The batches are the first ones of the epoch that would come next; rates are those
/// of the last step that was taken, since after the end of a run they may be 0.
/// `before_the_first` is called when everything but the iterations is done: whoever
/// watches memory begins there.
///
/// # Errors
/// If the data do not suit the run.
pub fn measure(
    config: &Config,
    data: &Dataset,
    checkpoint: &Checkpoint,
    form: Option<Meta>,
    repeats: usize,
    before_the_first: impl FnOnce(),
) -> anyhow::Result<Found> {
    let mut config = config.clone();
    match form {
        Some(meta) => config.meta = meta,
        None => config.mask.mode = MaskMode::Off,
    }
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let (recipe, batch_size) = (recipe(&config.augmentation)?, config.training.batch_size);
    let (seed, epoch) = (config.run.seed, checkpoint.state.epoch);
    let batches = [0, 1].map(|batch| batch_of(&images, &recipe, seed, batch_size, (epoch, batch)));
    let [first, second] = batches;
    // An epoch of one batch has no second one.
    let (first, second) =
        (first?, second.or_else(|_| batch_of(&images, &recipe, seed, batch_size, (epoch + 1, 0)))?);

    let steps_per_epoch = (images.len() / batch_size) as u64;
    let last = Moment::of(&config, checkpoint.state.step.max(1) - 1, steps_per_epoch);
    let moves = Moment { mask_moves: form.is_some(), mask_moves_next: false, ..last };
    let looks_ahead = form.is_some_and(|meta| meta.virtual_step == VirtualStep::Lookahead);

    let mut learner = Learner::new(&config, DType::F32)?;
    before_the_first();
    let mut found: Option<Iteration> = None;
    let mut durations_s = Vec::new();
    // The first time allocates what the others reuse.
    for repeat in 0..=repeats {
        learner.restore(checkpoint)?;
        let batch = match looks_ahead {
            false => &first,
            true => {
                let departs = Moment { mask_moves: false, mask_moves_next: true, ..last };
                iteration(&mut learner, &first, &departs)?;
                &second
            }
        };
        // In a row of lookaheads every iteration also prepares for the next one.
        let now = Moment { mask_moves_next: looks_ahead, ..moves };
        let start = Instant::now();
        found = Some(iteration(&mut learner, batch, &now)?);
        if repeat > 0 {
            durations_s.push(start.elapsed().as_secs_f64());
        }
    }
    let numbers = |x: &candle_core::Tensor| x.to_dtype(DType::F64)?.to_vec1::<f64>();
    let (direct, total) = match found.and_then(|found| found.meta) {
        Some(meta) => (numbers(&meta.direct)?, numbers(&meta.total)?),
        None => Default::default(),
    };
    Ok(Found { direct, total, durations_s })
}

/// How two directions agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// ⟨a, b⟩ / ‖a‖ ‖b‖
    pub cosine: f64,
    /// ‖a − b‖ / ‖b‖
    pub relative_error: f64,
}

impl Agreement {
    /// Of `a` with the reference `b`.
    pub fn of(a: &[f64], b: &[f64]) -> Self {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let (norm_a, norm_b) = (dot(a, a).sqrt(), dot(b, b).sqrt());
        Self {
            cosine: dot(a, b) / (norm_a * norm_b).max(f64::MIN_POSITIVE),
            relative_error: dot(&difference, &difference).sqrt() / norm_b.max(f64::MIN_POSITIVE),
        }
    }
}

/// ‖G − d‖ / ‖d‖, the second-order term beside the direct one.
pub fn second_order_share(found: &Found) -> f64 {
    Agreement::of(&found.total, &found.direct).relative_error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_that_of_directions_in_the_plane() {
        let Agreement { cosine, relative_error } = Agreement::of(&[0.0, 2.0], &[3.0, 0.0]);
        assert_eq!(cosine, 0.0);
        assert!((relative_error - 13f64.sqrt() / 3.0).abs() < 1e-15);
        let same = Agreement::of(&[1.0, -2.0], &[1.0, -2.0]);
        assert!((same.cosine - 1.0).abs() < 1e-15 && same.relative_error == 0.0);
    }

    #[test]
    fn there_are_nine_forms_and_exact_in_two_memories() {
        assert_eq!(all_forms().len(), 9 + 3);
    }
}

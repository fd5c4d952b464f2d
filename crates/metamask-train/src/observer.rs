//! What a run tells whoever watches it: the only way from the algorithm to a screen.

use std::path::Path;

use serde::Serialize;

use crate::{
    failure::Failure,
    guard::{Dimensions, DimensionsOfEpoch},
    init::InitReport,
};

/// Receives a run's events. Every method has an empty body.
pub trait Observer {
    /// The run begins, or goes on after `plan.first_step` steps.
    fn started(&mut self, plan: &Plan<'_>) {
        let _ = plan;
    }
    /// A step is done.
    fn step(&mut self, report: &StepReport) {
        let _ = report;
    }
    /// An epoch is done.
    fn epoch(&mut self, report: &EpochReport, images_per_s: f64) {
        let _ = (report, images_per_s);
    }
    /// A checkpoint is safe.
    fn saved(&mut self, checkpoint: &Path) {
        let _ = checkpoint;
    }
    /// A checkpoint does not verify; an older one is used.
    fn rejected(&mut self, checkpoint: &Failure) {
        let _ = checkpoint;
    }
    /// The encoder starts from a file's weights.
    fn initialised(&mut self, report: &InitReport) {
        let _ = report;
    }
    /// Something is wrong with the run, which goes on: a collapse, a saturated mask.
    fn warned(&mut self, warning: &str, help: &str) {
        let _ = (warning, help);
    }
    /// Whether the run is to stop: it is asked after each step, saves its state and ends.
    fn is_interrupted(&self) -> bool {
        false
    }
    /// The evaluation of `what` begins.
    fn evaluating(&mut self, what: &str) {
        let _ = what;
    }
    /// So many steps of how many are done of fine-tuning `what`; the last batch's loss.
    fn fine_tuning(&mut self, what: &str, steps: (usize, usize), loss: f64) {
        let _ = (what, steps, loss);
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// What a run is going to do.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Its folder.
    pub folder: &'a Path,
    /// One line about the data.
    pub data: String,
    /// Epochs in all.
    pub epochs: u64,
    /// Steps in an epoch.
    pub steps_per_epoch: u64,
    /// Images in a step.
    pub batch_size: u64,
    /// Steps done before.
    pub first_step: u64,
    /// Base loss of a representation that knows nothing, where there is such a value.
    pub chance_level: Option<f64>,
}

/// One step's results, a line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// `step`
    pub kind: &'static str,
    /// Steps done.
    pub step: u64,
    /// The epoch it belongs to, from 1.
    pub epoch: u64,
    /// L
    pub loss: f64,
    /// B
    pub base_loss: f64,
    /// L_drr
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redundancy_loss: Option<f64>,
    /// ‖∇L‖ over all parameters.
    pub gradient_norm: f64,
    /// ‖l ∂²B/∂w∂θ · v‖ / ‖d‖, the second-order term beside the direct one, if the mask moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_order_ratio: Option<f64>,
    /// Spread of the normalised embeddings; 0 is collapse.
    pub embedding_std: f64,
    /// What the spread is for embeddings spread evenly.
    pub embedding_std_even: f64,
    /// How the features' dimensions are used; in the steps that are logged.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<Dimensions>,
}

/// Parts of the mask's histogram.
pub const MASK_BINS: usize = 20;

/// One epoch's results, a line of `metrics.jsonl`. Means are over its steps.
#[derive(Clone, Debug, Serialize)]
pub struct EpochReport {
    /// `epoch`
    pub kind: &'static str,
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// The learning rate l.
    pub learning_rate: f64,
    /// Mean L.
    pub loss: f64,
    /// Mean B.
    pub base_loss: f64,
    /// B of a representation that knows nothing, where there is such a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chance_level: Option<f64>,
    /// Mean L_drr.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redundancy_loss: Option<f64>,
    /// Mean ‖∇L‖.
    pub gradient_norm: f64,
    /// Mean of the second-order term's norm over the direct one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_order_ratio: Option<f64>,
    /// Lowest value of the mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_min: Option<f64>,
    /// Highest value of the mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_max: Option<f64>,
    /// Share of the mask within 0.01 of 0 or 1, where its gradient is next to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_saturated: Option<f64>,
    /// How many values of the mask lie in each of [`MASK_BINS`] equal parts of 0 to 1; what lies
    /// beyond counts to the nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_histogram: Option<[u32; MASK_BINS]>,
    /// Spread of the last batch's normalised embeddings; 0 is collapse.
    pub embedding_std: f64,
    /// What the spread is for embeddings spread evenly.
    pub embedding_std_even: f64,
    /// How the dimensions of the last batch's features are used.
    #[serde(flatten)]
    pub dimensions: DimensionsOfEpoch,
}

//! What a run will take, before it is started: time, memory, disk, arithmetic.
//!
//! Measured, not modelled: the data are loaded, a few steps are taken at full size, a
//! checkpoint is encoded and some images evaluated, and the rest is proportion. Nothing
//! is written. Evaluation's own share is counted from its shapes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use candle_core::{DType, Device, Tensor};
use metamask_augment::{ImageBatch, evaluation, evaluation_views, to_tensor};
use metamask_data::Dataset;
use metamask_encoders::BatchStats;
use metamask_ops::{StepView, Watcher};
use serde::Serialize;

use crate::{
    algorithm::iteration,
    checkpoint::{Checkpoint, encoded_bytes},
    config::{Config, MaskMode},
    evaluate::{encoded_images, looks},
    failure::Failure,
    learner::Learner,
    machine,
    moment::Moment,
    raw_pixels::RawPixels,
    views::{ViewStream, recipe},
};

/// What a run will take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Steps in an epoch.
    pub steps_per_epoch: u64,
    /// Steps in all.
    pub steps: u64,
    /// Seconds of a step, the mean over those that move the mask and those that do not.
    pub step_s: f64,
    /// Seconds of all steps.
    pub training_s: f64,
    /// Seconds of the evaluation after them, roughly.
    pub evaluation_s: f64,
    /// Floating point operations of the encoder in a step, all of its passes.
    pub step_flops: u64,
    /// The same over all steps.
    pub flops: f64,
    /// The most bytes of memory that the process will have; none where the system does
    /// not tell.
    pub memory_bytes: Option<u64>,
    /// Bytes of a checkpoint.
    pub checkpoint_bytes: u64,
    /// The most bytes that the run's folder will have, while a checkpoint is being saved.
    pub disk_bytes: u64,
    /// Bytes that the run's folder will have in the end.
    pub disk_in_the_end_bytes: u64,
    /// Whether steps were taken at the full batch: it would not have fitted otherwise.
    pub at_full_batch: bool,
}

/// Bytes of a line of `metrics.jsonl` and `timings.jsonl`, and of the files that every
/// run has once.
const STEP_LINE: u64 = 360;
const EPOCH_LINES: u64 = 760 + 130;
const ONCE: u64 = 14_000;

/// Room that a run's folder needs: at most, and in the end.
pub fn disk_bytes(config: &Config, checkpoint_bytes: u64, steps_per_epoch: u64) -> (u64, u64) {
    let epochs = config.training.epochs as u64;
    let saves = epochs.div_ceil(config.checkpoint.every_epochs as u64);
    let kept = saves.min(config.checkpoint.keep as u64);
    let logged = match config.log.every_steps as u64 {
        0 => 0,
        every => 1 + steps_per_epoch * epochs / every,
    };
    let rest = logged * STEP_LINE + epochs * EPOCH_LINES + ONCE;
    // A new checkpoint is whole before an old one goes.
    ((kept + 1) * checkpoint_bytes + rest, kept * checkpoint_bytes + rest)
}

/// What the file system adds to that, in blocks that are not full.
pub(crate) fn blocks_bytes(config: &Config) -> u64 {
    const BLOCK: u64 = 4096;
    const FILES_AND_FOLDERS: u64 = 8;
    (config.checkpoint.keep as u64 + 2) * FILES_AND_FOLDERS * BLOCK
}

/// Takes a few steps of a run and says what all of it will take. The data are those of
/// the configuration.
///
/// # Errors
/// If a step cannot be taken.
pub fn forecast(config: &Config, data: &Dataset) -> anyhow::Result<Forecast> {
    let counter = Arc::new(Counter::default());
    let mut learner = Learner::new(config, DType::F32)?;
    learner.encoder.watch(Some(counter.clone()));
    metamask_ops::give_back_freed_memory();
    let at_rest = machine::resident_memory();

    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let batch = config.training.batch_size;
    let steps_per_epoch = (images.len() / batch) as u64;
    // A quarter of the batch first: whether all of it fits is known before it is tried.
    let part = (batch / 4).max(2);
    let taken = steps_of(config, &mut learner, data, part, &counter)?;
    let growth = machine::peak_memory().zip(at_rest).map(|(peak, rest)| peak.saturating_sub(rest));
    let factor = batch as f64 / part as f64;
    let would_grow = growth.map(|growth| (growth as f64 * factor) as u64);
    let fits = match would_grow.zip(machine::available_memory()) {
        Some((needed, available)) => needed < available,
        None => true,
    };
    let Taken { step_s, multiply_adds } = match fits {
        true => steps_of(config, &mut learner, data, batch, &counter)?,
        false => Taken {
            step_s: taken.step_s * factor,
            multiply_adds: (taken.multiply_adds as f64 * factor) as u64,
        },
    };

    let checkpoint: Checkpoint = learner.like_checkpoint(batch)?;
    let checkpoint_bytes = encoded_bytes(&checkpoint)?;
    drop(checkpoint);
    let encode_s = encode_some(config, &learner, data)?;
    let trained = match fits {
        true => machine::peak_memory(),
        false => at_rest.zip(would_grow).map(|(rest, growth)| rest + growth),
    };
    // Features are there with the mask and without.
    let (n_train, n_test) = (data.train.len(), data.test.len());
    let pixels = RawPixels::new(n_train + n_test, config.augmentation.size).dim();
    let widest = pixels.max(2 * learner.encoder.feature_dim());
    // Those of both splits, a copy of the training ones with unit rows or standardised,
    // and one on the way there.
    let evaluation_bytes = 4 * widest * (3 * n_train + n_test);
    let evaluated = at_rest.map(|rest| rest + evaluation_bytes as u64);
    let steps = steps_per_epoch * config.training.epochs as u64;
    let (disk_bytes, disk_in_the_end_bytes) = disk_bytes(config, checkpoint_bytes, steps_per_epoch);
    let step_flops = 2 * multiply_adds;
    Ok(Forecast {
        steps_per_epoch,
        steps,
        step_s,
        training_s: step_s * steps as f64,
        evaluation_s: evaluation_s(config, &learner, data, encode_s)?,
        step_flops,
        flops: step_flops as f64 * steps as f64,
        memory_bytes: trained.zip(evaluated).map(|(trained, evaluated)| trained.max(evaluated)),
        checkpoint_bytes,
        disk_bytes,
        disk_in_the_end_bytes,
        at_full_batch: fits,
    })
}

/// The network counts the multiplications of all its passes.
#[derive(Default)]
struct Counter(AtomicU64);

impl Watcher for Counter {
    fn begin(&self, step: &StepView<'_>) {
        self.0.fetch_add(step.multiply_adds, Ordering::Relaxed);
    }

    fn end(&self) {}
}

/// A step's time and the encoder's multiplications in it.
#[derive(Clone, Copy)]
struct Taken {
    step_s: f64,
    multiply_adds: u64,
}

/// Takes steps at some batch size, as training takes them: with the mask and without, in
/// the shares of the run.
fn steps_of(
    config: &Config,
    learner: &mut Learner,
    data: &Dataset,
    batch: usize,
    counter: &Counter,
) -> anyhow::Result<Taken> {
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let steps_per_epoch = (images.len() / config.training.batch_size) as u64;
    let recipe = recipe(&config.augmentation)?;
    let mut views =
        ViewStream::start(images, recipe, config.run.seed, batch, 0..1_000_000, 0, &Device::Cpu)?;
    let mut mean_of = |mask_moves: bool, n: u32| -> anyhow::Result<Taken> {
        let moment = Moment {
            // Weights that fly away would time something else.
            learning_rate: 1e-6,
            mask_learning_rate: 1e-6,
            mask_moves,
            mask_moves_next: mask_moves,
            ..Moment::of(config, 0, steps_per_epoch)
        };
        let (mut start, mut before) = (Instant::now(), 0);
        for step in 0..=n {
            if step == 1 {
                // The first one fills buffers, and has no lookahead to judge.
                (start, before) = (Instant::now(), counter.0.load(Ordering::Relaxed));
            }
            iteration(learner, &views.next_batch()?, &moment)?;
        }
        Ok(Taken {
            step_s: start.elapsed().as_secs_f64() / f64::from(n),
            multiply_adds: (counter.0.load(Ordering::Relaxed) - before) / u64::from(n),
        })
    };
    let epochs = config.training.epochs as f64;
    let masked = match config.mask.mode {
        MaskMode::Off => 0.0,
        MaskMode::On => {
            let late = (config.mask.experimental.start_epoch as f64 / epochs).min(1.0);
            (1.0 - late) / config.meta.every as f64
        }
    };
    let plain =
        if masked < 1.0 { mean_of(false, 2)? } else { Taken { step_s: 0.0, multiply_adds: 0 } };
    let moving = if masked > 0.0 { mean_of(true, 2)? } else { plain };
    let mean = |plain: f64, moving: f64| (1.0 - masked) * plain + masked * moving;
    Ok(Taken {
        step_s: mean(plain.step_s, moving.step_s),
        multiply_adds: mean(plain.multiply_adds as f64, moving.multiply_adds as f64) as u64,
    })
}

/// Images that evaluation encodes at a time.
const ENCODED: usize = 256;

/// Seconds that evaluation takes to encode an image.
fn encode_some(config: &Config, learner: &Learner, data: &Dataset) -> anyhow::Result<f64> {
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let images = images.images();
    let n = images.len().min(ENCODED);
    let samples: Vec<u32> = (0..n as u32).collect();
    let batch = ImageBatch::new(images.bytes(), images.height(), images.width())?;
    let size = config.augmentation.size;
    let start = Instant::now();
    let views = evaluation_views(&evaluation(size), batch, &samples)?;
    let views = to_tensor(views, (size, size), &Device::Cpu)?;
    let theta: Vec<Tensor> = learner.theta().encoder.iter().map(Tensor::detach).collect();
    learner.encoder.forward(&views, &theta, BatchStats::Running)?;
    Ok(start.elapsed().as_secs_f64() / n as f64)
}

/// Seconds of evaluation: what is encoded, and matrix products of neighbours and probes at the
/// speed of one that is timed here.
fn evaluation_s(
    config: &Config,
    learner: &Learner,
    data: &Dataset,
    encode_s: f64,
) -> anyhow::Result<f64> {
    /// Evaluations of the probe's loss, of its 300 iterations at most.
    const PROBE_PASSES: f64 = 200.0;
    if data.train.is_empty() {
        return Ok(0.0);
    }
    let dim = learner.encoder.feature_dim();
    let images = [data.train.len(), data.test.len()];
    let [knn, probes] = looks(config, dim, images, &data.train);
    let (queries, bank) = (128, 1024);
    let [a, b] = [queries, bank].map(|n| Tensor::ones((n, dim), DType::F32, &Device::Cpu));
    let (a, b) = (a?, b?.t()?);
    a.matmul(&b)?;
    let start = Instant::now();
    a.matmul(&b)?;
    let a_multiply_add = start.elapsed().as_secs_f64() / (queries * bank * dim) as f64;
    let [n_train, n_test] = images.map(|n| n as f64);
    let a_probe = 2.0 * PROBE_PASSES * data.train.n_classes() as f64;
    let products = dim as f64 * n_train * (knn * n_test + probes * a_probe);
    Ok(encoded_images(config, images) as f64 * encode_s + a_multiply_add * products)
}

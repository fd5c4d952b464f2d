//! A run from its configuration to its results: data, steps, checkpoints, evaluation.

use std::{path::PathBuf, time::Instant};

use candle_core::{DType, Tensor};
use metamask_data::{Dataset, LoadOptions};
use metamask_encoders::BatchStats;
use metamask_eval::{effective_rank, embedding_spread};
use metamask_objectives::nt_xent_chance_level;
use serde::Serialize;

use crate::{
    algorithm::{Iteration, Rates, iteration, norm},
    checkpoint::{Checkpoints, Identity, State},
    config::Config,
    durable,
    evaluate::{MaskRange, Measure, Results, evaluate},
    failure::{Code, Failure},
    learner::Learner,
    observer::{EpochReport, Observer, Plan, StepReport},
    run_folder::{self, RunFolder},
    run_log::RunLog,
    views::{ViewStream, recipe},
};

/// Where a run happens; nothing of it changes the result.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The run's folder.
    pub out: PathBuf,
    /// Whether to go on with a run that is there.
    pub resume: bool,
    /// Where data files lie.
    pub data_dir: Option<PathBuf>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its results.
    pub results: Results,
    /// Whether it was finished before.
    pub was_finished: bool,
}

/// Loads the data of a configuration, cut as it says.
///
/// # Errors
/// If the data are not there, are damaged, or fewer than asked for.
pub fn load_data(config: &Config, data_dir: Option<PathBuf>) -> anyhow::Result<Dataset> {
    let wanted = config.data.train_images;
    let options =
        LoadOptions { data_dir, train: (wanted > 0).then_some(wanted), ..Default::default() };
    let data = metamask_data::load(&config.data.dataset, &options)
        .and_then(|data| match config.data.validation_images {
            0 => Ok(data),
            n => data.with_validation(n),
        })
        .map_err(Failure::from_data)?;
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let (batch, n) = (config.training.batch_size, images.len());
    if batch > n {
        let message =
            format!("`training.batch_size`: must be at most the {n} training images, got {batch}");
        return Err(Failure::new(Code::Config, message).into());
    }
    Ok(data)
}

/// Trains, saves, evaluates.
///
/// # Errors
/// With a [`Failure`] inside: the data, the folder, a number that is not finite.
pub fn pretrain(
    config: &Config,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> anyhow::Result<Outcome> {
    // Everything that can be refused is refused before there is a folder.
    let data = load_data(config, options.data_dir.clone())?;
    let mut learner = Learner::new(config, DType::F32)?;
    let folder = match options.resume && run_folder::is_run(&options.out) {
        false => RunFolder::create(&options.out, config)?,
        true => RunFolder::open(&options.out)?,
    };
    if let [difference, ..] = &config.differences(folder.config())[..] {
        let message = format!("the run was started with other settings: {difference}");
        return Err(Failure::at(Code::Config, folder.path(), message)
            .help("resume with the run's own settings, or start another run with --out")
            .into());
    }
    let identity = Identity {
        config_sha256: folder.config_sha256().to_owned(),
        data_sha256: data.fingerprint(),
    };
    let keep = config.checkpoint.keep;
    let checkpoints = Checkpoints { folder: folder.checkpoints(), identity, keep };
    checkpoints.remove_partial()?;

    let mut state = State::default();
    if let Some(latest) = checkpoints.latest(&learner.to_checkpoint(state)?)? {
        latest.rejected.iter().for_each(|failure| observer.rejected(failure));
        learner.restore(&latest.checkpoint)?;
        state = latest.checkpoint.state;
    }
    if let Some(results) = finished(&folder, &state, config)? {
        return Ok(Outcome { results, was_finished: true });
    }

    // A damaged last checkpoint may have taken a finished run back.
    if folder.results().exists() {
        durable::remove(&folder.results())?;
    }
    let mut log = RunLog::open(&folder, state.step)?;
    train(config, &data, &mut learner, &mut state, (&folder, &checkpoints, &mut log), observer)?;
    let both = [Measure::Knn, Measure::Linear];
    let at = (state.step, state.epoch);
    let start = Instant::now();
    let results = evaluate(config, &data, &learner, at, &both, observer)?;
    log.metric(&Line { kind: "evaluation", line: &results })?;
    log.timing(&serde_json::json!({
        "kind": "evaluation", "step": state.step, "duration_s": start.elapsed().as_secs_f64(),
    }))?;
    log.sync()?;
    let mut text = serde_json::to_vec_pretty(&results)?;
    text.push(b'\n');
    durable::replace(&folder.results(), &text)?;
    Ok(Outcome { results, was_finished: false })
}

#[derive(Serialize)]
struct Line<'a, T> {
    kind: &'static str,
    #[serde(flatten)]
    line: &'a T,
}

/// The results of a run that has nothing left to do.
fn finished(folder: &RunFolder, state: &State, config: &Config) -> anyhow::Result<Option<Results>> {
    let path = folder.results();
    if state.epoch < config.training.epochs as u64 || !path.exists() {
        return Ok(None);
    }
    const MAX_BYTES: u64 = 1 << 20;
    let text = durable::read_at_most(&path, MAX_BYTES)
        .map_err(|error| Failure::io(&path, "read", &error))?;
    // What does not read is evaluated again.
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

fn train(
    config: &Config,
    data: &Dataset,
    learner: &mut Learner,
    state: &mut State,
    (folder, checkpoints, log): (&RunFolder, &Checkpoints, &mut RunLog),
    observer: &mut dyn Observer,
) -> anyhow::Result<()> {
    let (epochs, batch_size) = (config.training.epochs, config.training.batch_size);
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let steps_per_epoch = (images.len() / batch_size) as u64;
    let chance_level = nt_xent_chance_level(batch_size);
    observer.started(&Plan {
        folder: folder.path(),
        data: format!("{}, {} images", data.name, images.len()),
        epochs: epochs as u64,
        steps_per_epoch,
        batch_size: batch_size as u64,
        first_step: state.step,
        chance_level,
    });
    let recipe = recipe(&config.augmentation)?;
    let remaining = state.epoch..epochs as u64;
    let mut views =
        ViewStream::start(images, recipe, config.run.seed, batch_size, remaining.clone());

    for epoch in remaining {
        let start = Instant::now();
        let rates = rates(config, epoch as usize);
        let mut sums = Sums::default();
        let mut batch = None;
        for _ in 0..steps_per_epoch {
            let pair = views.next_batch()?;
            let found = iteration(learner, &pair, rates)?;
            batch = Some(pair);
            state.step += 1;
            let report = report(state.step, epoch + 1, &found)?;
            check_finite(&report, &found, checkpoints)?;
            let every = config.log.every_steps as u64;
            if every > 0 && state.step.is_multiple_of(every) {
                log.metric(&report)?;
            }
            observer.step(&report);
            sums.add(&report);
        }
        state.epoch = epoch + 1;
        let batch = batch.expect("the batch is at most the data, so an epoch has a step");
        let report = epoch_report(learner, &batch, &sums, *state, rates, chance_level)?;
        log.metric(&report)?;
        let duration_s = start.elapsed().as_secs_f64();
        let images_per_s = (steps_per_epoch * batch_size as u64) as f64 / duration_s;
        log.timing(&serde_json::json!({
            "kind": "epoch", "step": state.step, "epoch": state.epoch,
            "duration_s": duration_s, "images_per_s": images_per_s,
        }))?;
        observer.epoch(&report, images_per_s);

        let is_last = state.epoch == epochs as u64;
        if is_last || state.epoch.is_multiple_of(config.checkpoint.every_epochs as u64) {
            log.sync()?;
            let checkpoint = learner.to_checkpoint(*state)?;
            check_savable(&checkpoint, checkpoints)?;
            observer.saved(&checkpoints.save(&checkpoint)?);
        }
    }
    Ok(())
}

/// The learning rates of an epoch, from 0: pure functions of it.
pub fn rates(config: &Config, epoch: usize) -> Rates {
    let (o, m, epochs) = (&config.optimizer, &config.mask, config.training.epochs);
    Rates {
        network: o.schedule.learning_rate(o.learning_rate, epoch, epochs),
        mask: m.schedule.learning_rate(m.learning_rate, epoch, epochs),
    }
}

fn report(step: u64, epoch: u64, found: &Iteration) -> candle_core::Result<StepReport> {
    let second_order_ratio = match &found.meta {
        None => None,
        Some(meta) => {
            let direct = norm(std::slice::from_ref(&meta.direct))?;
            Some(norm(std::slice::from_ref(&meta.second_order))? / direct.max(f64::MIN_POSITIVE))
        }
    };
    Ok(StepReport {
        kind: "step",
        step,
        epoch,
        loss: found.loss,
        contrastive_loss: found.contrastive_loss,
        redundancy_loss: found.redundancy_loss,
        gradient_norm: found.gradient_norm,
        second_order_ratio,
    })
}

/// Stops at the step in which a number is lost.
fn check_finite(
    report: &StepReport,
    found: &Iteration,
    checkpoints: &Checkpoints,
) -> anyhow::Result<()> {
    let hypergradient = match &found.meta {
        None => 0.0,
        Some(meta) => norm(std::slice::from_ref(&meta.total))?,
    };
    let numbers = [
        ("loss", report.loss),
        ("gradient", report.gradient_norm),
        ("hypergradient", hypergradient),
    ];
    match numbers.into_iter().find(|(_, number)| !number.is_finite()) {
        None => Ok(()),
        Some((what, number)) => {
            Err(lost(checkpoints, format!("step {}: the {what} is {number}", report.step))?.into())
        }
    }
}

/// No checkpoint ever holds a number that is not finite.
fn check_savable(
    checkpoint: &crate::checkpoint::Checkpoint,
    checkpoints: &Checkpoints,
) -> anyhow::Result<()> {
    for (name, tensor) in checkpoint.model.iter().chain(&checkpoint.optim).chain(&checkpoint.mask) {
        let bad = crate::checkpoint::count_not_finite(tensor)?;
        if bad > 0 {
            let step = checkpoint.state.step;
            let message = format!("step {step}: `{name}` has {bad} values that are not finite");
            return Err(lost(checkpoints, message)?.into());
        }
    }
    Ok(())
}

fn lost(checkpoints: &Checkpoints, message: String) -> Result<Failure, Failure> {
    let failure = Failure::new(Code::NotFinite, message)
        .help("try a lower `optimizer.learning_rate` or `mask.learning_rate`");
    Ok(match checkpoints.steps()?.last() {
        Some(step) => failure.kept(format!("step {step}")),
        None => failure,
    })
}

/// Sums over an epoch's steps.
#[derive(Default)]
struct Sums {
    steps: f64,
    loss: f64,
    contrastive: f64,
    redundancy: Option<f64>,
    gradient_norm: f64,
    second_order: Option<f64>,
}

impl Sums {
    fn add(&mut self, report: &StepReport) {
        let add = |sum: &mut Option<f64>, x: Option<f64>| {
            *sum = x.map(|x| x + sum.unwrap_or(0.0));
        };
        self.steps += 1.0;
        self.loss += report.loss;
        self.contrastive += report.contrastive_loss;
        self.gradient_norm += report.gradient_norm;
        add(&mut self.redundancy, report.redundancy_loss);
        add(&mut self.second_order, report.second_order_ratio);
    }
}

fn epoch_report(
    learner: &Learner,
    views: &[Tensor; 2],
    sums: &Sums,
    state: State,
    rates: Rates,
    chance_level: f64,
) -> candle_core::Result<EpochReport> {
    let detached =
        |theta: Vec<Tensor>| -> Vec<Tensor> { theta.iter().map(Tensor::detach).collect() };
    let theta = detached(learner.theta_f());
    let h = learner.encoder.forward(&views[0], &theta, BatchStats::BatchOnly)?.detach();
    let masked = h.broadcast_mul(&learner.mask.values()?.detach())?;
    let theta = detached(learner.theta_c());
    let z = learner.contrastive_head.forward(&masked, &theta, BatchStats::BatchOnly)?;
    let spread = embedding_spread(&z)?;
    let mask = learner.meta.map(|_| MaskRange::of(learner)).transpose()?;
    Ok(EpochReport {
        kind: "epoch",
        step: state.step,
        epoch: state.epoch,
        learning_rate: rates.network,
        loss: sums.loss / sums.steps,
        contrastive_loss: sums.contrastive / sums.steps,
        chance_level,
        redundancy_loss: sums.redundancy.map(|sum| sum / sums.steps),
        gradient_norm: sums.gradient_norm / sums.steps,
        second_order_ratio: sums.second_order.map(|sum| sum / sums.steps),
        mask_min: mask.map(|mask| mask.min),
        mask_max: mask.map(|mask| mask.max),
        embedding_std: spread.std,
        embedding_std_even: spread.even,
        effective_rank: match embedding_spread(&masked)?.std > 0.0 {
            true => effective_rank(&masked)?,
            false => 1.0, // collapsed to one point
        },
    })
}

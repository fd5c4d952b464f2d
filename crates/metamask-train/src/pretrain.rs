//! A run from its configuration to its results: data, steps, checkpoints, evaluation.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use candle_core::{DType, Device, Tensor};
use metamask_data::{Dataset, LoadOptions, Places};
use metamask_eval::{DimensionSpread, embedding_spread};
use metamask_optim::MaskForm;
use serde::Serialize;

use crate::{
    algorithm::{Iteration, iteration, scalars, square},
    checkpoint::{Checkpoint, Checkpoints, Identity, State, encoded_bytes},
    config::{Config, OnCollapse},
    dump::Before,
    durable,
    epoch_sums::EpochSums,
    evaluate::{Evaluated, MaskRange, Measure, Results, evaluate},
    failure::{Code, Failure, one_line, shown},
    finite, forecast,
    guard::{COLLAPSE_HELP, Dimensions, DimensionsOfEpoch, Guard},
    init,
    learner::Learner,
    losses::chance_level,
    machine,
    moment::Moment,
    observer::{EpochReport, MASK_BINS, Observer, Plan, StepReport},
    run_folder::{self, RunFolder},
    run_log::RunLog,
    views::{ViewStream, batch_of, recipe},
};

/// Where a run happens; nothing of it changes the result, but that each kind of device rounds in
/// its own way.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The run's folder.
    pub out: PathBuf,
    /// Whether to go on with a run that is there.
    pub resume: bool,
    /// Where data sets are looked for and kept.
    pub places: Places,
    /// Whether a step that fails leaves a dump; each step then begins with a copy of
    /// the state.
    pub dump_on_error: bool,
    /// Where it computes.
    pub device: Device,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            out: PathBuf::new(),
            resume: false,
            places: Places::default(),
            dump_on_error: false,
            device: Device::Cpu,
        }
    }
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
pub fn load_data(config: &Config, places: &Places) -> anyhow::Result<Dataset> {
    let wanted = config.data.train_images;
    let train = (wanted > 0).then_some(wanted);
    let options = LoadOptions {
        places: places.clone(),
        train,
        side: (config.data.image_size > 0).then_some(config.data.image_size),
        bad_images: config.data.bad_images,
        drop_equal_to_test: config.data.drop_equal_to_test,
        difficulty: config.data.difficulty,
        spurious: config.data.spurious as f32,
        ..LoadOptions::default()
    };
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
    let config = &init::resolve(config, &options.places)?;
    let data = load_data(config, &options.places)?;
    let batch_size = config.training.batch_size;
    let resumes = options.resume && run_folder::is_run(&options.out);
    let mut learner = match resumes {
        // A checkpoint needs no file to start from.
        true => Learner::on(&options.device, config, DType::F32)?,
        false => started(config, options, observer)?,
    };
    let like = learner.like_checkpoint(batch_size)?;
    check_free_disk(config, &data, &options.out, &like)?;
    let folder = match resumes {
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
    if let Some(latest) = checkpoints.latest(&like)? {
        latest.rejected.iter().for_each(|failure| observer.rejected(failure));
        restore(config, &data, &mut learner, &latest.checkpoint)?;
        state = latest.checkpoint.state;
    } else if resumes {
        learner = started(config, options, observer)?;
    }
    if let Some(results) = finished(&folder, &state, config)? {
        return Ok(Outcome { results, was_finished: true });
    }
    checkpoints.try_save(&Checkpoint { state, ..like })?;

    // A damaged last checkpoint may have taken a finished run back.
    if folder.results().exists() {
        durable::remove(&folder.results())?;
    }
    let mut log = RunLog::open(&folder, state.step)?;
    let into = Into { folder: &folder, checkpoints: &checkpoints, log: &mut log };
    train(config, &data, (&mut learner, &mut state), into, options, observer)?;
    let both = [Measure::Knn, Measure::Linear];
    let at = (state.step, state.epoch);
    let start = Instant::now();
    let places = &options.places;
    let evaluated = Evaluated { config, data: &data, learner: &learner, at, places };
    let results = evaluate(&evaluated, &both, observer)?;
    log.metric(&Line { kind: "evaluation", line: &results })?;
    log.timing(&serde_json::json!({
        "kind": "evaluation", "step": state.step, "duration_s": start.elapsed().as_secs_f64(),
        "peak_memory_bytes": machine::peak_memory(),
    }))?;
    log.sync()?;
    let mut text = serde_json::to_vec_pretty(&results)?;
    text.push(b'\n');
    durable::replace(&folder.results(), &text)?;
    Ok(Outcome { results, was_finished: false })
}

/// Refuses a run whose checkpoints will not fit, with the figures.
fn check_free_disk(
    config: &Config,
    data: &Dataset,
    out: &Path,
    like: &Checkpoint,
) -> anyhow::Result<()> {
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let steps_per_epoch = (images.len() / config.training.batch_size) as u64;
    let checkpoint = encoded_bytes(like)?;
    let (needed, _) = forecast::disk_bytes(config, checkpoint, steps_per_epoch);
    let needed = needed + forecast::blocks_bytes(config);
    // What a run that is resumed has already is not needed again.
    let there = folder_bytes(out);
    let free = machine::free_disk(out);
    match free.filter(|free| *free < needed.saturating_sub(there)) {
        None => Ok(()),
        Some(free) => {
            let mega = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
            let message = format!(
                "needs about {} ({} for a checkpoint, at most {} of them at a time), {} are free",
                mega(needed.saturating_sub(there)),
                mega(checkpoint),
                config.checkpoint.keep + 1,
                mega(free)
            );
            Err(Failure::at(Code::DiskFull, out, message)
                .help("free some space, or choose another disk with --out")
                .into())
        }
    }
}

/// Bytes of the files in a folder and below; what cannot be read counts nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Takes a learner to where a checkpoint left it, to go on training: the regular
/// step that a lookahead still has to judge gets its batch back, which is the last
/// one before the checkpoint.
///
/// # Errors
/// If a tensor is missing or of another shape.
pub fn restore(
    config: &Config,
    data: &Dataset,
    learner: &mut Learner,
    checkpoint: &Checkpoint,
) -> anyhow::Result<()> {
    learner.restore(checkpoint)?;
    let (step, batch_size) = (checkpoint.state.step, config.training.batch_size);
    if checkpoint.departure.is_empty() || step == 0 {
        return Ok(());
    }
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let recipe = recipe(&config.augmentation)?;
    let steps_per_epoch = (images.len() / batch_size) as u64;
    if steps_per_epoch == 0 {
        return Ok(());
    }
    let last = ((step - 1) / steps_per_epoch, ((step - 1) % steps_per_epoch) as usize);
    let views = batch_of(&images, &recipe, config.run.seed, batch_size, last)?;
    let moment = Moment::of(config, step - 1, steps_per_epoch);
    Ok(learner.restore_departure(checkpoint, learner.take_views(&views)?, &moment)?)
}

#[derive(Serialize)]
struct Line<'a, T> {
    kind: &'static str,
    #[serde(flatten)]
    line: &'a T,
}

/// A learner at its start, from a file if there is one.
fn started(
    config: &Config,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> anyhow::Result<Learner> {
    let (learner, report) = init::start(config, DType::F32, &options.places, &options.device)?;
    if let Some(report) = report {
        observer.initialised(&report);
    }
    Ok(learner)
}

/// The results of a run that has nothing left to do.
fn finished(folder: &RunFolder, state: &State, config: &Config) -> anyhow::Result<Option<Results>> {
    match state.epoch < config.training.epochs as u64 {
        true => Ok(None),
        // What does not read is evaluated again.
        false => Ok(run_folder::read_results(folder.path())?),
    }
}

/// Where training leaves what it finds.
struct Into<'a> {
    folder: &'a RunFolder,
    checkpoints: &'a Checkpoints,
    log: &'a mut RunLog,
}

fn train(
    config: &Config,
    data: &Dataset,
    (learner, state): (&mut Learner, &mut State),
    Into { folder, checkpoints, log }: Into<'_>,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> anyhow::Result<()> {
    let (epochs, batch_size) = (config.training.epochs, config.training.batch_size);
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let steps_per_epoch = (images.len() / batch_size) as u64;
    let chance_level = chance_level(config.objective.method, batch_size);
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
    let mut sums = state.unfinished.take().unwrap_or_default();
    let from = sums.steps as usize;
    let (seed, device) = (config.run.seed, learner.device());
    let mut views =
        ViewStream::start(images, recipe, seed, batch_size, remaining.clone(), from, device)?;
    if !device.is_cpu() && !views.is_on_gpu() {
        let message =
            "views are made on the CPU: the images take more than half of what the GPU has free";
        observer.warned(message, "smaller images (`data.image_size`) or fewer of them make room");
    }

    let (mut guard, mut told_saturated) = (Guard::default(), false);
    for epoch in remaining {
        let (start, first) = (Instant::now(), sums.steps);
        let mut last = None;
        for _ in first..steps_per_epoch {
            let pair = views.next_batch()?;
            let moment = Moment::of(config, state.step, steps_per_epoch);
            let before = match options.dump_on_error {
                true => Some(Before::of(learner, *state, &pair)?),
                false => None,
            };
            let found = sound_iteration(learner, &pair, &moment, state.step + 1);
            let found = found.map_err(|failure| {
                let failure = with_kept(failure, checkpoints);
                let Some(before) = before else { return failure };
                let said = (steps_per_epoch, failure.message.as_str());
                let dump = before.write(&folder.dumps(), config, &checkpoints.identity, said);
                with_dump(failure, dump)
            })?;
            state.step += 1;
            let mut report = report(state.step, epoch + 1, &found)?;
            let every = config.log.every_steps as u64;
            if every > 0 && (state.step == 1 || state.step.is_multiple_of(every)) {
                report.dimensions = Some(Dimensions::of(learner, &found)?);
                log.metric(&report)?;
            }
            observer.step(&report);
            sums.add(&report);
            let (spread, even) = (report.embedding_std, report.embedding_std_even);
            if let Some(warning) = guard.watch(state.step, spread, even) {
                collapsed(config, warning, checkpoints, log, observer)?;
            }
            last = Some((found, report, moment));
            if sums.steps < steps_per_epoch && observer.is_interrupted() {
                state.unfinished = Some(sums);
                observer.saved(&save(learner, *state, checkpoints, log)?);
                return Err(Interrupted { step: state.step }.into());
            }
        }
        state.epoch = epoch + 1;
        let (found, report, moment) =
            last.expect("the batch is at most the data, so an epoch has a step");
        let report =
            epoch_report(learner, (&found, &report, &moment), &sums, *state, chance_level)?;
        sums = EpochSums::default();
        log.metric(&report)?;
        let saturated = report.mask_saturated.filter(|&share| share >= SATURATED);
        if let (Some(share), false) = (saturated, told_saturated) {
            told_saturated = true;
            let warning = format!(
                "epoch {}: the mask is saturated: {:.0} % of it lie within 0.01 of 0 or 1 and \
                 hardly move any more",
                state.epoch,
                100.0 * share
            );
            observer.warned(&warning, "lower `mask.learning_rate`, or give it a weight decay");
        }
        let duration_s = start.elapsed().as_secs_f64();
        let images_per_s = ((steps_per_epoch - first) * batch_size as u64) as f64 / duration_s;
        log.timing(&serde_json::json!({
            "kind": "epoch", "step": state.step, "epoch": state.epoch,
            "duration_s": duration_s, "images_per_s": images_per_s,
        }))?;
        observer.epoch(&report, images_per_s);

        let is_last = state.epoch == epochs as u64;
        let is_due = state.epoch.is_multiple_of(config.checkpoint.every_epochs as u64);
        let is_interrupted = observer.is_interrupted();
        if is_last || is_due || is_interrupted {
            observer.saved(&save(learner, *state, checkpoints, log)?);
            if is_interrupted {
                return Err(Interrupted { step: state.step }.into());
            }
        }
    }
    Ok(())
}

/// A run that was asked to stop, and has: its state is safe.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted {
    /// Steps done, and saved.
    pub step: u64,
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interrupted; step {} is saved", self.step)
    }
}

impl std::error::Error for Interrupted {}

/// Makes the state of a run safe: the log first, a checkpoint must not be ahead of it.
fn save(
    learner: &Learner,
    state: State,
    checkpoints: &Checkpoints,
    log: &RunLog,
) -> anyhow::Result<PathBuf> {
    log.sync()?;
    let checkpoint = learner.to_checkpoint(state)?;
    check_savable(&checkpoint, checkpoints)?;
    checkpoints.save(&checkpoint)
}

/// Share of saturated dimensions from which on it is worth a word.
const SATURATED: f64 = 0.9;

/// Says that the run has collapsed, and ends it if it is to end.
fn collapsed(
    config: &Config,
    warning: String,
    checkpoints: &Checkpoints,
    log: &RunLog,
    observer: &mut dyn Observer,
) -> anyhow::Result<()> {
    match config.guard.on_collapse {
        OnCollapse::Warn => observer.warned(&warning, COLLAPSE_HELP),
        OnCollapse::Stop => {
            log.sync()?;
            let failure = Failure::new(Code::Collapsed, warning).help(COLLAPSE_HELP);
            return Err(with_kept(failure, checkpoints).into());
        }
    }
    Ok(())
}

fn report(step: u64, epoch: u64, found: &Iteration) -> candle_core::Result<StepReport> {
    let second_order_ratio = match &found.meta {
        Some(meta) => match &meta.second_order {
            Some(second_order) => {
                let squares = scalars(&[square(&meta.direct)?, square(second_order)?])?;
                Some(squares[1].sqrt() / squares[0].sqrt().max(f64::MIN_POSITIVE))
            }
            None => None,
        },
        None => None,
    };
    // What is not finite is found by name in a moment.
    let DimensionSpread { std, even } = match found.base_loss.is_finite() {
        true => embedding_spread(&found.embeddings[0].to_device(&Device::Cpu)?)?,
        false => DimensionSpread { std: f64::NAN, even: f64::NAN },
    };
    Ok(StepReport {
        kind: "step",
        step,
        epoch,
        loss: found.loss,
        base_loss: found.base_loss,
        redundancy_loss: found.redundancy_loss,
        gradient_norm: found.gradient_norm,
        second_order_ratio,
        embedding_std: std,
        embedding_std_even: even,
        dimensions: None,
    })
}

/// One iteration that lost no number. Its gradient, which has served, is gone.
fn sound_iteration(
    learner: &mut Learner,
    views: &[Tensor; 2],
    moment: &Moment,
    step: u64,
) -> Result<Iteration, Failure> {
    let cannot = |error: candle_core::Error| Failure::new(Code::Internal, one_line(&error.into()));
    let mut found = iteration(learner, views, moment).map_err(cannot)?;
    if finite::is_finite(learner, &found).map_err(cannot)? {
        found.gradient.clear();
        return Ok(found);
    }
    let parts = finite::examine(learner, views, &found).map_err(cannot)?;
    let lost = match parts.iter().find(|part| part.bad > 0) {
        Some(part) => part.to_string(),
        None => format!("the gradient's norm is {}, expected a number", found.gradient_norm),
    };
    Err(not_finite(step, &lost))
}

fn not_finite(step: u64, lost: &str) -> Failure {
    Failure::new(Code::NotFinite, format!("step {step}: {lost}")).help(NOT_FINITE_HELP)
}

const NOT_FINITE_HELP: &str = "lower `optimizer.learning_rate` or `mask.learning_rate`; \
     `--resume --dump-on-error` comes to the same step and keeps it for `metamask doctor`";

/// Says where the dump of the step is, or why there is none.
fn with_dump(failure: Failure, dump: anyhow::Result<PathBuf>) -> Failure {
    let (kept, help) = match dump {
        Ok(path) => {
            let path = shown(&path);
            (format!("the step, in {path}"), format!("see `metamask doctor {path}`"))
        }
        Err(error) => (format!("no dump of the step: {}", one_line(&error)), String::new()),
    };
    let join = |old: &Option<String>, new: String| match old {
        Some(old) => format!("{old}; {new}"),
        None => new,
    };
    let kept = Some(join(&failure.kept, kept));
    match help.is_empty() {
        true => Failure { kept, ..failure },
        false => Failure { kept, help: Some(help), ..failure },
    }
}

/// No checkpoint ever holds a number that is not finite.
fn check_savable(checkpoint: &Checkpoint, checkpoints: &Checkpoints) -> anyhow::Result<()> {
    let Checkpoint { model, optim, mask, departure, .. } = checkpoint;
    for (name, tensor) in model.iter().chain(optim).chain(mask).chain(departure) {
        let bad = crate::checkpoint::count_not_finite(tensor)?;
        if bad > 0 {
            let part =
                format!("{name} has {bad} of {} values that are not finite", tensor.elem_count());
            return Err(with_kept(not_finite(checkpoint.state.step, &part), checkpoints).into());
        }
    }
    Ok(())
}

/// Says which checkpoint is safe.
fn with_kept(failure: Failure, checkpoints: &Checkpoints) -> Failure {
    // A folder that cannot be read is another failure, and not this one's.
    match checkpoints.steps().ok().and_then(|steps| steps.last().copied()) {
        Some(step) => failure.kept(format!("step {step}")),
        None => failure,
    }
}

fn mask_histogram(learner: &Learner) -> candle_core::Result<[u32; MASK_BINS]> {
    let mut counts = [0; MASK_BINS];
    for m in learner.mask.values()?.to_dtype(DType::F64)?.to_vec1::<f64>()? {
        let part = (m * MASK_BINS as f64).clamp(0.0, (MASK_BINS - 1) as f64);
        counts[part as usize] += 1;
    }
    Ok(counts)
}

fn epoch_report(
    learner: &Learner,
    (found, last, moment): (&Iteration, &StepReport, &Moment),
    sums: &EpochSums,
    state: State,
    chance_level: Option<f64>,
) -> candle_core::Result<EpochReport> {
    let mask = learner.meta.map(|_| MaskRange::of(learner)).transpose()?;
    Ok(EpochReport {
        kind: "epoch",
        step: state.step,
        epoch: state.epoch,
        learning_rate: moment.learning_rate,
        loss: sums.loss(),
        base_loss: sums.base_loss(),
        chance_level,
        redundancy_loss: sums.redundancy_loss(),
        gradient_norm: sums.gradient_norm(),
        second_order_ratio: sums.second_order_ratio(),
        mask_min: mask.map(|mask| mask.min),
        mask_max: mask.map(|mask| mask.max),
        mask_saturated: mask
            .filter(|_| learner.mask.form == MaskForm::Sigmoid)
            .map(|mask| mask.saturated),
        mask_histogram: learner.meta.map(|_| mask_histogram(learner)).transpose()?,
        embedding_std: last.embedding_std,
        embedding_std_even: last.embedding_std_even,
        dimensions: DimensionsOfEpoch::of(learner, found)?,
    })
}

//! What the representation is worth: kNN and linear probe of raw pixels, of the
//! untrained encoder, and of the trained one with the mask and without.

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor, bail};
use metamask_augment::{ImageBatch, evaluation, evaluation_views, to_tensor};
use metamask_data::{Dataset, Images, Labelled, Places};
use metamask_encoders::BatchStats;
use metamask_eval::{
    ControlSubject, Knn, LinearProbe, MaskControls, NuisanceFactor, Protocol, control_looks,
    mask_controls,
};
use metamask_ops::free_gpu_memory;
use metamask_random::{Key, Purpose};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, MaskMode},
    failure::Failure,
    fine_tune::{FineTune, Recipe, fine_tune},
    init,
    learner::Learner,
    nuisance::nuisance_factors,
    observer::Observer,
    pretrain::Interrupted,
    raw_pixels::RawPixels,
    training_images::TrainingImages,
    unlabelled::{DimensionUse, evaluate_unlabelled},
    views,
};

/// A way to evaluate, by its word on the command line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// k nearest neighbours.
    Knn,
    /// Linear probe.
    Linear,
    /// The encoder and a linear classifier trained end to end.
    FineTune(FineTune),
}

/// What is evaluated.
#[derive(Clone, Copy)]
pub struct Evaluated<'a> {
    /// The run's settings.
    pub config: &'a Config,
    /// The images, the run's own or others.
    pub data: &'a Dataset,
    /// The run's encoder and mask.
    pub learner: &'a Learner,
    /// Steps and epochs that it has been trained for.
    pub at: (u64, u64),
    /// Where weights to start from are looked for, if the run has some.
    pub places: &'a Places,
}

/// The accuracies of a run, each with what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// What was trained on and what was tested on.
    pub split: String,
    /// The protocols in full.
    pub protocols: Vec<String>,
    /// Accuracy of a guess.
    pub chance_percent: f64,
    /// The representations.
    pub rows: Vec<Row>,
    /// The mask's values, where there is a mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskRange>,
    /// The mask beside masks of the same values in other orders, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_controls: Option<MaskControls>,
}

/// One representation's accuracies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which representation.
    pub representation: String,
    /// kNN, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knn_percent: Option<f64>,
    /// Linear probe, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear_percent: Option<f64>,
    /// Fine-tuned, for each share of the labels that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fine_tuned: Vec<FineTuned>,
    /// How the dimensions are used, where there are no labels to be right about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<DimensionUse>,
}

impl Row {
    /// A representation of which nothing is known yet.
    pub(crate) fn new(representation: impl Into<String>) -> Self {
        Self {
            representation: representation.into(),
            knn_percent: None,
            linear_percent: None,
            fine_tuned: Vec::new(),
            dimensions: None,
        }
    }
}

/// The accuracy of a fine-tuned encoder.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FineTuned {
    /// Share of the training labels that was used.
    pub labels: f64,
    /// How many images that is.
    pub images: usize,
    /// On the test images.
    pub accuracy_percent: f64,
}

/// Where the mask's values lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskRange {
    /// The lowest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The highest.
    pub max: f64,
    /// How many there are.
    pub dimensions: usize,
    /// Share of them within 0.01 of 0 or 1.
    #[serde(default)]
    pub saturated: f64,
}

impl MaskRange {
    /// Of a learner's mask.
    ///
    /// # Errors
    /// If the mask cannot be read.
    pub fn of(learner: &Learner) -> Result<Self> {
        let values = learner.mask.values()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        Ok(Self {
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            dimensions: values.len(),
            saturated: values.iter().filter(|&&m| !(0.01..=0.99).contains(&m)).count() as f64
                / values.len() as f64,
        })
    }
}

/// Evaluates a run's encoder and its baselines.
///
/// Images without labels are evaluated by how the dimensions are used, whatever the
/// measures.
///
/// # Errors
/// If a feature is not finite, a shape does not fit, or the observer interrupts.
pub fn evaluate(
    evaluated: &Evaluated<'_>,
    measures: &[Measure],
    observer: &mut dyn Observer,
) -> anyhow::Result<Results> {
    let Evaluated { config, data, learner, at: (step, epoch), places } = *evaluated;
    if data.train.is_empty() {
        return evaluate_unlabelled(evaluated, observer);
    }
    // No probe learns from an image that it is judged by.
    let train = TrainingImages::of(data)?;
    let recipes = measures
        .iter()
        .filter_map(|measure| match measure {
            Measure::FineTune(wanted) => Some(Recipe::new(config, &train, *wanted)),
            Measure::Knn | Measure::Linear => None,
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let knn = Knn {
        k: config.evaluation.knn_k.min(train.len()),
        temperature: config.evaluation.knn_temperature,
    };
    let bench = Bench { evaluated, train: &train, measures, knn, recipes: &recipes };
    let pixels = RawPixels::new(train.len() + data.test.len(), config.augmentation.size);

    // Features come where training's tensors and buffers were.
    learner.encoder.release_buffers();
    metamask_ops::give_back_freed_memory();
    let mut rows = Vec::new();
    if bench.is_frozen() {
        begin(step, PIXELS, observer)?;
        let of_train = pixels.of(&train.all.images, Some(&train.samples))?;
        let of_test = pixels.of(&data.test.images, None)?;
        rows.push(bench.row(PIXELS, None, Some((&of_train, &of_test)), None, observer)?);
    }
    for start in Start::of(config) {
        let name = start.name(config);
        begin(step, &name, observer)?;
        let Some(learner) = start.learner(config, learner.device(), places, observer)? else {
            continue;
        };
        let features = bench.features(&learner)?;
        rows.extend(bench.rows([(name, None)], &learner, features.as_ref(), observer)?);
    }
    begin(step, TRAINED, observer)?;
    let mask = learner.meta.as_ref().map(|_| MaskRange::of(learner)).transpose()?;
    let features = bench.features(learner)?;
    let trained = trained_rows(config, learner)?;
    rows.extend(bench.rows(trained, learner, features.as_ref(), observer)?);
    let mask_controls = match (config.evaluation.mask_controls, &features) {
        (0, _) | (_, None) => None,
        (draws, Some(features)) => {
            Some(bench.mask_controls(learner, features, draws as u16, observer)?)
        }
    };

    let protocols = measures
        .iter()
        .filter_map(|measure| match measure {
            Measure::Knn => Some(Protocol::Knn(knn).to_string()),
            Measure::Linear => Some(Protocol::LinearProbe(LinearProbe::default()).to_string()),
            Measure::FineTune(_) => None,
        })
        .chain(recipes.iter().map(Recipe::to_string))
        .chain(pixels.protocol().filter(|_| bench.is_frozen()));
    Ok(Results {
        step,
        epoch,
        split: split(config, data, &train),
        protocols: protocols.collect(),
        chance_percent: 100.0 / train.n_classes() as f64,
        rows,
        mask,
        mask_controls,
    })
}

pub(crate) fn begin(step: u64, what: &str, observer: &mut dyn Observer) -> anyhow::Result<()> {
    match observer.is_interrupted() {
        true => Err(Interrupted { step }.into()),
        false => {
            observer.evaluating(what);
            Ok(())
        }
    }
}

const PIXELS: &str = "raw pixels";
const TRAINED: &str = "trained encoder";

/// The trained encoder's rows with the mask of each, the run's own number first.
pub(crate) fn trained_rows(
    config: &Config,
    learner: &Learner,
) -> Result<Vec<(String, Option<Tensor>)>> {
    let named = |words: &str, mask| (format!("{TRAINED}{words}"), mask);
    let Some(m) = learner.feature_mask()? else { return Ok(vec![named("", None)]) };
    let mut rows = vec![named(", with mask", Some(m)), named(", without mask", None)];
    if !config.mask.at_test_time {
        rows.reverse();
    }
    Ok(rows)
}

/// An encoder that a run could have begun from.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Start {
    /// Its seeded random start.
    Random,
    /// The weights that `encoder.init` names.
    Weights,
}

impl Start {
    /// What a run is held against: its random start, and its weights if it has some.
    pub(crate) fn of(config: &Config) -> Vec<Self> {
        match config.encoder.init.is_empty() {
            true => vec![Self::Random],
            false => vec![Self::Random, Self::Weights],
        }
    }

    /// What its row says.
    pub(crate) fn name(self, config: &Config) -> String {
        let init = &config.encoder.init;
        match (self, init.is_empty()) {
            (Self::Random, true) => "untrained encoder".to_owned(),
            (Self::Random, false) => "untrained encoder, random start".to_owned(),
            (Self::Weights, _) => {
                let file = Path::new(init).file_name().filter(|_| !init.starts_with("hub:"));
                let name =
                    file.map_or_else(|| init.clone(), |name| name.to_string_lossy().into_owned());
                format!("weights it started from ({name})")
            }
        }
    }

    /// The encoder, on a device; none if its weights are not there any more, which the observer
    /// hears.
    pub(crate) fn learner(
        self,
        config: &Config,
        device: &Device,
        places: &Places,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Option<Learner>> {
        if self == Self::Random {
            return Ok(Some(Learner::on(device, config, DType::F32)?));
        }
        match init::start(config, DType::F32, places, device) {
            Ok((learner, _)) => Ok(Some(learner)),
            Err(error) => match error.downcast::<Failure>() {
                Ok(failure) => {
                    let message =
                        format!("no row for the weights it started from: {}", failure.message);
                    observer.warned(&message, "put them back where `encoder.init` says");
                    Ok(None)
                }
                Err(error) => Err(error),
            },
        }
    }
}

/// What every representation goes through.
struct Bench<'a> {
    evaluated: &'a Evaluated<'a>,
    train: &'a TrainingImages<'a>,
    measures: &'a [Measure],
    knn: Knn,
    recipes: &'a [Recipe],
}

impl Bench<'_> {
    /// Whether features are looked at as they are.
    fn is_frozen(&self) -> bool {
        self.measures.iter().any(|measure| matches!(measure, Measure::Knn | Measure::Linear))
    }

    /// Features of the training images that are learned from, and of the test images; none if
    /// nothing looks at features as they are.
    fn features(&self, learner: &Learner) -> Result<Option<(Tensor, Tensor)>> {
        if !self.is_frozen() {
            return Ok(None);
        }
        let size = self.evaluated.config.augmentation.size;
        let TrainingImages { all, samples, .. } = self.train;
        let train = features_of_images(learner, &all.images, Some(samples), size)?;
        Ok(Some((train, features_of(learner, &self.evaluated.data.test, size)?)))
    }

    /// Training and test features on the learner's GPU, if it is on one that has room for them and
    /// for what neighbours and probe make of them.
    fn on_gpu(&self, (train, test): (&Tensor, &Tensor)) -> Result<Option<(Tensor, Tensor)>> {
        /// Features, the same with unit rows or standardised, and one on the way there.
        const COPIES: usize = 3;
        let device = self.evaluated.learner.device();
        let Some(free) = free_gpu_memory(device)? else { return Ok(None) };
        let bytes = (train.elem_count() + test.elem_count()) * size_of::<f32>();
        if COPIES * bytes > free / 2 {
            return Ok(None);
        }
        Ok(Some((train.to_device(device)?, test.to_device(device)?)))
    }

    /// The trained mask beside masks of the same values in other orders.
    fn mask_controls(
        &self,
        learner: &Learner,
        (train, test): &(Tensor, Tensor),
        draws: u16,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<MaskControls> {
        let Evaluated { config, data, at: (step, epoch), .. } = *self.evaluated;
        begin(step, "masks in other orders", observer)?;
        let views = features_of_views(config, data, learner, epoch)?;
        let mask = learner.feature_mask()?.map(|m| m.to_dtype(DType::F64)?.to_vec1::<f64>());
        let mask = mask.transpose()?;
        let [mut of_train, of_test] = nuisance_factors([&data.train, &data.test]);
        for NuisanceFactor { groups, .. } in &mut of_train {
            *groups = self.train.samples.iter().map(|&i| groups[i as usize]).collect();
        }
        let subject = ControlSubject {
            train: (train, &self.train.labels),
            test: (test, &data.test.labels),
            n_classes: self.train.n_classes(),
            views: [&views[0], &views[1]],
            mask: mask.as_deref(),
            factors: [&of_train, &of_test],
            knn: self.knn,
            draws,
            key: Key::new(config.run.seed, Purpose::Evaluation),
        };
        Ok(mask_controls(&subject, &mut |what| observer.evaluating(what))?)
    }

    /// The rows of an encoder under each of these masks.
    fn rows(
        &self,
        rows: impl IntoIterator<Item = (String, Option<Tensor>)>,
        learner: &Learner,
        features: Option<&(Tensor, Tensor)>,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Vec<Row>> {
        let row = |(name, mask): (String, Option<Tensor>)| {
            let masked = |h: &Tensor| match &mask {
                Some(m) => h.broadcast_mul(m),
                None => Ok(h.clone()),
            };
            let features = match features {
                Some((train, test)) => Some((masked(train)?, masked(test)?)),
                None => None,
            };
            let features = features.as_ref().map(|(train, test)| (train, test));
            self.row(&name, Some(learner), features, mask.as_ref(), observer)
        };
        rows.into_iter().map(row).collect()
    }

    fn row(
        &self,
        name: &str,
        learner: Option<&Learner>,
        features: Option<(&Tensor, &Tensor)>,
        mask: Option<&Tensor>,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Row> {
        let Evaluated { config, data, at: (step, _), .. } = *self.evaluated;
        let mut row = Row::new(name);
        let there = features.map(|features| self.on_gpu(features)).transpose()?.flatten();
        let features = there.as_ref().map(|(train, test)| (train, test)).or(features);
        let accuracy = |measure: Measure, protocol: Protocol| -> Result<Option<f64>> {
            let Some((train, test)) = features.filter(|_| self.measures.contains(&measure)) else {
                return Ok(None);
            };
            let (train, test) = ((train, &self.train.labels[..]), (test, &data.test.labels[..]));
            protocol.accuracy_percent(train, test, self.train.n_classes()).map(Some)
        };
        row.knn_percent = accuracy(Measure::Knn, Protocol::Knn(self.knn))?;
        row.linear_percent =
            accuracy(Measure::Linear, Protocol::LinearProbe(LinearProbe::default()))?;
        let Some(learner) = learner else { return Ok(row) };
        for recipe in self.recipes {
            let start = (&*learner.encoder, mask);
            let images = (self.train.all, &data.test);
            let accuracy_percent =
                fine_tune(config, start, recipe, images, (name, step), observer)?;
            let (labels, images) = (recipe.labels, recipe.images.len());
            row.fine_tuned.push(FineTuned { labels, images, accuracy_percent });
        }
        Ok(row)
    }
}

fn split(config: &Config, data: &Dataset, train: &TrainingImages<'_>) -> String {
    let (n_train, n_test, classes) = (train.len(), data.test.len(), train.n_classes());
    let test = match config.data.validation_images {
        0 => "test images".to_owned(),
        _ => "validation images (the last of the training set)".to_owned(),
    };
    let left_out = match train.n_left_out() {
        0 => String::new(),
        n => format!(" ({n} more equal a test image and are left out)"),
    };
    format!(
        "{}: {n_train} training images{left_out}, {n_test} {test}, {classes} classes",
        data.name
    )
}

/// How many images go through at a time; results do not depend on it.
const BATCH: usize = 256;

/// h = f(x) of every image under the running statistics, without the mask, `[n, D]`.
///
/// # Errors
/// If the images do not suit the encoder.
pub fn features_of(learner: &Learner, images: &Labelled, size: usize) -> Result<Tensor> {
    features_of_images(learner, &images.images, None, size)
}

/// The same of images without labels: of all, or of these.
///
/// # Errors
/// As [`features_of`].
pub fn features_of_images(
    learner: &Learner,
    images: &Images,
    samples: Option<&[u32]>,
    size: usize,
) -> Result<Tensor> {
    let encode = running(learner);
    in_batches(images, samples, size, |views| encode(&views))
}

/// f under the running statistics, apart from autograd.
fn running(learner: &Learner) -> impl Fn(&Tensor) -> Result<Tensor> + '_ {
    let theta: Vec<Tensor> = learner.theta().encoder.iter().map(Tensor::detach).collect();
    move |x| {
        let x = x.to_device(learner.device())?;
        learner.encoder.forward(&x, &theta, BatchStats::Running)?.detach().to_device(&Device::Cpu)
    }
}

/// Images of which the mask controls see two views each. A correlation's standard error is
/// then 0.02.
const CONTROL_IMAGES: usize = 2000;

/// How many images evaluation encodes, some of them twice: for forecasts.
///
/// ```text
/// 2 (train + test) + [4,000 with mask controls]
/// ```
/// The untrained encoder is evaluated beside the trained one.
pub(crate) fn encoded_images(config: &Config, [train, test]: [usize; 2]) -> usize {
    let views = match config.evaluation.mask_controls {
        0 => 0,
        _ => 2 * CONTROL_IMAGES.min(train),
    };
    2 * (train + test) + views
}

/// How often evaluation looks through all features of dimension `dim`, by nearest neighbours and
/// by fitting a linear probe; other dimensions count in proportion. `data` is what it looks at, or
/// a part of it.
///
/// ```text
/// pixels / dim + 2 + [1 with a mask] + mask controls
/// ```
pub(crate) fn looks(
    config: &Config,
    dim: usize,
    [train, test]: [usize; 2],
    data: &Labelled,
) -> [f64; 2] {
    let has_mask = config.mask.mode == MaskMode::On;
    let n_factors = data.factors.as_ref().map_or(0, |table| table.factors().len());
    let pixels = RawPixels::new(train + test, config.augmentation.size).dim();
    let rows = pixels as f64 / dim as f64 + if has_mask { 3.0 } else { 2.0 };
    match config.evaluation.mask_controls {
        0 => [rows; 2],
        draws => control_looks(has_mask, draws, n_factors).map(|looks| rows + looks),
    }
}

/// h of two views of the first training images, drawn as in the epoch after the last, with the
/// running statistics, `[n, D]` each.
fn features_of_views(
    config: &Config,
    data: &Dataset,
    learner: &Learner,
    epoch: u64,
) -> anyhow::Result<[Tensor; 2]> {
    let images = data.pretraining(data.pretraining_split())?;
    let recipe = views::recipe(&config.augmentation)?;
    let encode = running(learner);
    let samples: Vec<u32> = (0..images.len().min(CONTROL_IMAGES) as u32).collect();
    let mut found = [Vec::new(), Vec::new()];
    for samples in samples.chunks(BATCH) {
        let views = views::make(&images, &recipe, samples, config.run.seed, epoch as u32)?;
        for (found, view) in found.iter_mut().zip(&views) {
            found.push(encode(view)?);
        }
    }
    Ok([Tensor::cat(&found[0], 0)?, Tensor::cat(&found[1], 0)?])
}

/// A function of images as evaluation sees them, all of them or some, `[n, dim]`.
pub(crate) fn in_batches(
    images: &Images,
    samples: Option<&[u32]>,
    size: usize,
    function: impl Fn(Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let batch = ImageBatch::new(images.bytes(), images.height(), images.width())?;
    let all: Vec<u32>;
    let samples = match samples {
        Some(samples) => samples,
        None => {
            all = (0..images.len() as u32).collect();
            &all
        }
    };
    let (n, pipeline) = (samples.len(), evaluation(size));
    // In its place at once: parts that are joined at the end would be there twice.
    let mut all: Option<Tensor> = None;
    for (i, samples) in samples.chunks(BATCH).enumerate() {
        let views = evaluation_views(&pipeline, batch, samples)?;
        let part = function(to_tensor(views, (size, size), &Device::Cpu)?)?.contiguous()?;
        images.looked_at(samples.len());
        let all = match &all {
            Some(all) => all,
            None => all.insert(Tensor::zeros((n, part.dim(1)?), part.dtype(), &Device::Cpu)?),
        };
        all.slice_set(&part, 0, i * BATCH)?;
    }
    match all {
        Some(all) => Ok(all),
        None => bail!("evaluation: expected images, got none"),
    }
}

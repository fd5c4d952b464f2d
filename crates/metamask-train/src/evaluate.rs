//! What the representation is worth: kNN and linear probe of raw pixels, of the
//! untrained encoder, and of the trained one with the mask and without.

use candle_core::{DType, Device, Result, Tensor};
use metamask_augment::{ImageBatch, evaluation, evaluation_views, to_tensor};
use metamask_data::{Dataset, Labelled};
use metamask_encoders::BatchStats;
use metamask_eval::{Knn, LinearProbe, Protocol};
use serde::{Deserialize, Serialize};

use crate::{config::Config, learner::Learner, observer::Observer, pretrain::Interrupted};

/// A way to evaluate, by its word on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// k nearest neighbours.
    Knn,
    /// Linear probe.
    Linear,
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

/// Evaluates a learner that stands at `(step, epoch)`, and its baselines.
///
/// # Errors
/// If a feature is not finite, a shape does not fit, or the observer interrupts.
pub fn evaluate(
    config: &Config,
    data: &Dataset,
    learner: &Learner,
    (step, epoch): (u64, u64),
    measures: &[Measure],
    observer: &mut dyn Observer,
) -> anyhow::Result<Results> {
    let mut begin = |what: &str| match observer.is_interrupted() {
        true => Err(Interrupted { step }),
        false => {
            observer.evaluating(what);
            Ok(())
        }
    };
    let protocol = |measure: &Measure| match measure {
        Measure::Knn => {
            let k = config.evaluation.knn_k.min(data.train.len());
            Protocol::Knn(Knn { k, temperature: config.evaluation.knn_temperature })
        }
        Measure::Linear => Protocol::LinearProbe(LinearProbe::default()),
    };
    let n_classes = data.train.n_classes();
    if data.train.is_empty() {
        // Without labels there is nothing to be right about: the log's effective
        // rank is what such a run is judged by.
        let mask = learner.meta.as_ref().map(|_| MaskRange::of(learner)).transpose()?;
        let n = data.unlabelled.as_ref().map_or(0, |unlabelled| unlabelled.len());
        let split = format!("{}: {n} images without labels", data.name);
        let (protocols, rows) = (Vec::new(), Vec::new());
        return Ok(Results { step, epoch, split, protocols, chance_percent: 0.0, rows, mask });
    }
    let mut rows = Vec::new();
    let mut measure_row = |name: &str, train: &Tensor, test: &Tensor| -> Result<()> {
        let accuracy = |measure: Measure| -> Result<Option<f64>> {
            if !measures.contains(&measure) {
                return Ok(None);
            }
            let (train, test) = ((train, &data.train.labels[..]), (test, &data.test.labels[..]));
            protocol(&measure).accuracy_percent(train, test, n_classes).map(Some)
        };
        let (knn_percent, linear_percent) = (accuracy(Measure::Knn)?, accuracy(Measure::Linear)?);
        rows.push(Row { representation: name.to_owned(), knn_percent, linear_percent });
        Ok(())
    };

    let size = config.augmentation.size;
    begin(PIXELS)?;
    measure_row(PIXELS, &pixels(&data.train, size)?, &pixels(&data.test, size)?)?;

    begin(UNTRAINED)?;
    let untrained = Learner::new(config, DType::F32)?;
    let encode = |learner: &Learner, images: &Labelled| features_of(learner, images, size);
    measure_row(UNTRAINED, &encode(&untrained, &data.train)?, &encode(&untrained, &data.test)?)?;
    drop(untrained);

    begin("trained encoder")?;
    let (train, test) = (encode(learner, &data.train)?, encode(learner, &data.test)?);
    let masks_features = learner.mask.logits.dims() == [train.dim(1)?];
    let mask = match learner.meta {
        None => None,
        Some(_) => Some(MaskRange::of(learner)?),
    };
    if mask.is_none() || !masks_features {
        measure_row("trained encoder", &train, &test)?;
    } else {
        let m = learner.mask.values()?.detach();
        let masked = |h: &Tensor| h.broadcast_mul(&m);
        // The run's own number comes first.
        for with_mask in [config.mask.at_test_time, !config.mask.at_test_time] {
            match with_mask {
                true => {
                    measure_row("trained encoder, with mask", &masked(&train)?, &masked(&test)?)?
                }
                false => measure_row("trained encoder, without mask", &train, &test)?,
            }
        }
    }
    Ok(Results {
        step,
        epoch,
        split: split(config, data),
        protocols: measures.iter().map(|measure| protocol(measure).to_string()).collect(),
        chance_percent: 100.0 / n_classes as f64,
        rows,
        mask,
    })
}

const PIXELS: &str = "raw pixels";
const UNTRAINED: &str = "untrained encoder";

fn split(config: &Config, data: &Dataset) -> String {
    let (n_train, n_test, classes) = (data.train.len(), data.test.len(), data.train.n_classes());
    let test = match config.data.validation_images {
        0 => "test images".to_owned(),
        _ => "validation images (the last of the training set)".to_owned(),
    };
    format!("{}: {n_train} training images, {n_test} {test}, {classes} classes", data.name)
}

/// How many images go through at a time; results do not depend on it.
const BATCH: usize = 256;

/// h = f(x) of every image under the running statistics, without the mask, `[n, D]`.
///
/// # Errors
/// If the images do not suit the encoder.
pub fn features_of(learner: &Learner, images: &Labelled, size: usize) -> Result<Tensor> {
    let theta: Vec<Tensor> = learner.theta().encoder.iter().map(Tensor::detach).collect();
    let encode = |views: Tensor| learner.encoder.forward(&views, &theta, BatchStats::Running);
    in_batches(images, size, |views| Ok(encode(views)?.detach()))
}

/// The pixels that the encoder sees, `[n, size · size · 3]`.
fn pixels(images: &Labelled, size: usize) -> Result<Tensor> {
    in_batches(images, size, |views| views.flatten_from(1))
}

fn in_batches(
    labelled: &Labelled,
    size: usize,
    function: impl Fn(Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let images = &labelled.images;
    let batch = ImageBatch::new(images.bytes(), images.height(), images.width())?;
    let samples: Vec<u32> = (0..images.len() as u32).collect();
    let pipeline = evaluation(size);
    let parts = samples.chunks(BATCH).map(|samples| {
        let views = evaluation_views(&pipeline, batch, samples)?;
        function(to_tensor(views, (size, size), &Device::Cpu)?)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}

//! Fine-tuning: an encoder and a linear classifier behind it, trained end to end with
//! the labels of a share of the training images, and judged on the test images.
//!
//! ```text
//! p(y | x) = softmax(W (m ⊙ f(x)) + b)        L = mean over the batch of −ln p(y | x)
//! ```
//! f starts from the weights that are judged, W and b as PyTorch's linear layer does.
//! The mask m stays as pre-training left it; without one m is 1. Whatever is drawn (the
//! images, their order and views, W) is drawn by its place and the seed, and views are
//! none that pre-training has seen.
//!
//! The recipe is that of SimCLR's semi-supervised learning (Chen et al. 2020,
//! arXiv:2002.05709, appendix B.5: momentum 0.9, crop and flip only, no weight decay,
//! 60 epochs for 1 % of the labels and 30 for 10 %) with a cosine for the rate.

use std::fmt;

use candle_core::{DType, Device, Result, Tensor};
use metamask_augment::{ImageBatch, Pipeline, Transform, evaluation, to_tensor, views};
use metamask_data::{Batches, Labelled};
use metamask_encoders::{Encoder, Mlp, MlpConfig};
use metamask_eval::{accuracy_percent, label_subset};
use metamask_ops::{BatchStats, ParameterGroup, log_sum_exp};
use metamask_optim::{Progress, Schedule, ScheduleConfig, Sgd, Stepping, linear_scaling};
use metamask_random::{Key, Purpose};

use crate::{
    config::Config,
    evaluate::in_batches,
    failure::{Code, Failure},
    learner::{device_of, seeded_encoder},
    named::{encoder_to_named, set_encoder},
    observer::Observer,
    pretrain::Interrupted,
    training_images::TrainingImages,
};

/// What may be chosen about a fine-tuning; `None` is the default for that many labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FineTune {
    /// Share of the training labels that is used, above 0 and at most 1.
    pub labels: f64,
    /// Passes over the labelled images: 30, and 60 below a twentieth of the labels.
    pub epochs: Option<usize>,
    /// l at the start: 0.3 for a batch of 256, in proportion for others.
    pub learning_rate: Option<f64>,
    /// Images in a step: an eighth of the labelled images, but 8 to 64.
    pub batch_size: Option<usize>,
    /// Seed of every draw: the run's.
    pub seed: Option<u64>,
}

impl FineTune {
    /// The defaults for a share of the labels.
    pub fn of_labels(labels: f64) -> Self {
        Self { labels, epochs: None, learning_rate: None, batch_size: None, seed: None }
    }
}

/// A fine-tuning with everything decided. Displays as its protocol line.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Share of the training labels.
    pub labels: f64,
    /// The labelled images, as rising indices into the training images.
    pub images: Vec<u32>,
    /// How many training images they were drawn from.
    pub n_train: usize,
    /// Passes over the labelled images.
    pub epochs: usize,
    /// l at the start; falls along a cosine, every step.
    pub learning_rate: f64,
    /// Images in a step; an epoch's last incomplete batch is dropped.
    pub batch_size: usize,
    /// Share of an image's area that a crop keeps, lowest and highest: pre-training's.
    pub crop_scale: [f64; 2],
    /// Probability of a horizontal flip: pre-training's.
    pub flip_probability: f64,
    /// Seed of every draw.
    pub seed: u64,
}

const MOMENTUM: f64 = 0.9;
/// l for a batch of 256.
const RATE_OF_256: f64 = 0.3;
/// Views 0 and 1 of an image are pre-training's.
const VIEW: u16 = 2;

/// What a number is drawn for, the view of a [`Purpose::Evaluation`] key.
#[derive(Clone, Copy)]
enum Draw {
    Labels = 1,
    Order = 2,
    Classifier = 3,
}

fn key(seed: u64, draw: Draw) -> Key {
    Key::new(seed, Purpose::Evaluation).view(draw as u16)
}

impl Recipe {
    /// Of a run's configuration, for these training images.
    ///
    /// # Errors
    /// With a [`Failure`] inside if a choice is out of range, or a batch would be
    /// smaller than two images.
    pub(crate) fn new(
        config: &Config,
        train: &TrainingImages<'_>,
        wanted: FineTune,
    ) -> anyhow::Result<Self> {
        let refuse = |message: String| Failure::new(Code::Usage, format!("fine-tune: {message}"));
        let FineTune { labels, epochs, learning_rate, batch_size, seed } = wanted;
        if !(labels > 0.0 && labels <= 1.0) {
            let message = format!("share of labels must be above 0 and at most 1, got {labels}");
            return Err(refuse(message).into());
        }
        let seed = seed.unwrap_or(config.run.seed);
        let key = key(seed, Draw::Labels);
        let chosen = label_subset(&train.labels, train.n_classes(), labels, key)?;
        let images: Vec<u32> = chosen.iter().map(|&i| train.samples[i as usize]).collect();
        let n = images.len();
        let batch_size = batch_size.unwrap_or_else(|| (n / 8).clamp(8, 64).min(n));
        let epochs = epochs.unwrap_or(if labels < 0.05 { 60 } else { 30 });
        let learning_rate =
            learning_rate.unwrap_or_else(|| linear_scaling(RATE_OF_256, batch_size));
        if !(2..=n).contains(&batch_size) {
            let message =
                format!("batch must be from 2 to the {n} labelled images, got {batch_size}");
            return Err(refuse(message).into());
        }
        if epochs == 0 {
            return Err(refuse("epochs must be at least 1, got 0".into()).into());
        }
        if !(learning_rate.is_finite() && learning_rate >= 0.0) {
            let message = format!("learning rate must be at least 0, got {learning_rate}");
            return Err(refuse(message).into());
        }
        let a = &config.augmentation;
        let (crop_scale, flip_probability) = (a.crop_scale, a.flip_probability);
        let n_train = train.len();
        Ok(Self {
            labels,
            images,
            n_train,
            epochs,
            learning_rate,
            batch_size,
            crop_scale,
            flip_probability,
            seed,
        })
    }

    /// Crop and flip, normalised as evaluation does.
    fn pipeline(&self, size: usize) -> Result<Pipeline> {
        let Self { crop_scale: scale, flip_probability: p, .. } = *self;
        let ratio = [3.0 / 4.0, 4.0 / 3.0];
        let mut transforms = vec![
            Transform::RandomResizedCrop { size, scale, ratio },
            Transform::HorizontalFlip { p },
        ];
        transforms.extend(evaluation(size).transforms().last().cloned());
        Pipeline::new(transforms)
    }
}

/// A share in percent, as short as it is exact: `10 %`, `0.5 %`.
pub fn percent(share: f64) -> String {
    // 0.07 · 100 is 7.000000000000001.
    format!("{} %", (share * 1e8).round() / 1e6)
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { labels, images, n_train, epochs, learning_rate, batch_size, .. } = self;
        let [low, high] = self.crop_scale;
        write!(
            f,
            "fine-tune, {} of labels: {} of {n_train} training images, the same share of every \
             class; encoder and linear classifier end to end, the mask fixed where it is on; SGD, \
             momentum {MOMENTUM}, no weight decay, rate {learning_rate} on a cosine, {epochs} \
             epochs of batch {batch_size}, crop {low} to {high} and flip {}, seed {}, last epoch",
            percent(*labels),
            images.len(),
            self.flip_probability,
            self.seed,
        )
    }
}

/// An encoder with a linear classifier behind its features, masked or not.
struct Classifier {
    encoder: Box<dyn Encoder>,
    head: Mlp,
    /// m, `[D]`, which does not move.
    mask: Option<Tensor>,
    /// The encoder's groups, then W and b.
    groups: Vec<ParameterGroup>,
}

impl Classifier {
    /// A copy of an encoder under a new classifier.
    fn new(
        config: &Config,
        (start, mask): (&dyn Encoder, Option<&Tensor>),
        n_classes: usize,
        key: Key,
        dtype: DType,
    ) -> Result<Self> {
        let device = device_of(start);
        let encoder = seeded_encoder(config, dtype, &device)?;
        set_encoder(&*encoder, &encoder_to_named(start)?)?;
        let widths = MlpConfig {
            input: encoder.feature_dim(),
            hidden: Vec::new(),
            output: n_classes,
            final_norm: false,
        };
        let head = Mlp::new("classifier", &widths, key, dtype, &device)?;
        let groups = [encoder.parameters(), head.parameters()].concat();
        let mask = mask.map(|m| m.detach().to_device(&device)).transpose()?;
        Ok(Self { encoder, head, mask, groups })
    }

    /// W (m ⊙ f(x)) + b, `[batch, n_classes]`, of views that may come from the CPU.
    fn scores(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Tensor> {
        let (theta_f, theta_g) = theta.split_at(self.encoder.parameters().len());
        let views = views.to_device(theta[0].device())?;
        let h = self.encoder.forward(&views, theta_f, stats)?; // [B, D]
        let h = match &self.mask {
            Some(m) => h.broadcast_mul(m)?,
            None => h,
        };
        self.head.forward(&h, theta_g, stats)
    }

    /// L and its gradient by each group, on images normalised by their own batch.
    fn loss_and_gradient(&self, views: &Tensor, labels: &[u32]) -> Result<(f64, Vec<Tensor>)> {
        let theta: Vec<Tensor> = self.groups.iter().map(|group| group.tensor().clone()).collect();
        let scores = self.scores(views, &theta, BatchStats::BatchAndUpdate)?;
        let loss = cross_entropy(&scores, labels)?;
        let mut gradients = loss.backward()?;
        let gradient = |theta: &Tensor| match gradients.remove(theta) {
            Some(gradient) => Ok(gradient),
            None => theta.zeros_like(),
        };
        let gradient = theta.iter().map(gradient).collect::<Result<_>>()?;
        Ok((loss.to_dtype(DType::F64)?.to_scalar()?, gradient))
    }

    /// The class of the highest score of each image, the lowest of equal ones.
    fn predict(&self, images: &Labelled, size: usize) -> Result<Vec<u32>> {
        let theta: Vec<Tensor> = self.groups.iter().map(|group| group.tensor().detach()).collect();
        let scores = in_batches(&images.images, None, size, |views| {
            self.scores(&views, &theta, BatchStats::Running)?.detach().to_device(&Device::Cpu)
        })?;
        let best = |row: &Vec<f64>| {
            (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
        };
        let rows = scores.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        Ok(rows.iter().map(|row| best(row) as u32).collect())
    }
}

/// Mean over the batch of −ln softmax(s)_y, a scalar joined to autograd.
fn cross_entropy(scores: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (batch, n_classes) = scores.dims2()?;
    let mut of_label = vec![0f32; batch * n_classes];
    for (row, &label) in of_label.chunks_exact_mut(n_classes).zip(labels) {
        row[label as usize] = 1.0;
    }
    let of_label = Tensor::from_vec(of_label, (batch, n_classes), scores.device())?;
    let own = (scores * of_label.to_dtype(scores.dtype())?)?.sum_all()?;
    (log_sum_exp(scores, 1)?.sum_all()? - own)?.affine(1.0 / batch as f64, 0.0)
}

/// Fine-tunes a copy of an encoder; its accuracy on the test images, in percent.
///
/// `what` is what is fine-tuned, for whoever watches; `step` is where the run stands.
///
/// # Errors
/// If a shape does not fit, the loss is lost, or the observer interrupts.
pub(crate) fn fine_tune(
    config: &Config,
    start: (&dyn Encoder, Option<&Tensor>),
    recipe: &Recipe,
    (train, test): (&Labelled, &Labelled),
    (what, step): (&str, u64),
    observer: &mut dyn Observer,
) -> anyhow::Result<f64> {
    let size = config.augmentation.size;
    let Recipe { seed, epochs, batch_size, learning_rate, .. } = *recipe;
    let pipeline = recipe.pipeline(size)?;
    let (height, width) = (train.images.height(), train.images.width());
    let images = ImageBatch::new(train.images.bytes(), height, width)?;
    let first = key(seed, Draw::Classifier);
    let classifier = Classifier::new(config, start, train.n_classes(), first, DType::F32)?;
    let mut sgd = Sgd::new(&classifier.groups, MOMENTUM, 0.0)?;
    let schedule =
        ScheduleConfig { stepping: Stepping::Step, ..ScheduleConfig::new(Schedule::Cosine) };
    let steps_per_epoch = recipe.images.len() / batch_size;
    let n_steps = epochs * steps_per_epoch;
    let mut done = 0;
    for epoch in 0..epochs as u32 {
        let order = key(seed, Draw::Order).epoch(epoch).stream();
        let order = { order }.permutation(recipe.images.len() as u32);
        let samples: Vec<u32> = order.iter().map(|&i| recipe.images[i as usize]).collect();
        for samples in Batches::new(&samples, batch_size) {
            if observer.is_interrupted() {
                return Err(Interrupted { step }.into());
            }
            let pixels = views(&pipeline, images, samples, seed, epoch, VIEW)?;
            let pixels = to_tensor(pixels, (size, size), &Device::Cpu)?;
            train.images.looked_at(samples.len());
            let labels: Vec<u32> = samples.iter().map(|&i| train.labels[i as usize]).collect();
            let (loss, gradient) = classifier.loss_and_gradient(&pixels, &labels)?;
            if !loss.is_finite() {
                let message = format!("fine-tuning {what}: the loss is {loss} in epoch {epoch}");
                return Err(Failure::new(Code::NotFinite, message)
                    .help("lower --learning-rate")
                    .into());
            }
            let at = Progress { step: done, steps_per_epoch, epochs };
            let rate = schedule.learning_rate(learning_rate, at);
            sgd.step(&classifier.groups, &gradient, rate)?;
            done += 1;
            observer.fine_tuning(what, (done, n_steps), loss);
        }
    }
    let predictions = classifier.predict(test, size)?;
    Ok(accuracy_percent(&predictions, &test.labels)?)
}

#[cfg(test)]
mod tests {
    use metamask_data::{DatasetSpec, LoadOptions, load};

    use super::*;
    use crate::{learner::Learner, observer::Silent};

    fn config(overrides: &[&str]) -> Config {
        let small = ["augmentation.size=16", "encoder.width=4", "engine.precision=exact"];
        let set: Vec<String> = small.iter().chain(overrides).map(|&set| set.to_owned()).collect();
        Config::read("", "test", &set).expect("valid")
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        tensor.flatten_all().and_then(|x| x.to_dtype(DType::F64)?.to_vec1()).expect("numbers")
    }

    fn normal(shape: &[usize], view: u16) -> Tensor {
        let mut stream = Key::new(0, Purpose::Test).view(view).stream();
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor")
    }

    const LABELS: [u32; 6] = [2, 0, 1, 1, 2, 2];

    /// A classifier of three classes in f64, with a mask.
    fn classifier() -> Result<(Classifier, Tensor)> {
        let config = config(&["augmentation.size=8", "encoder.width=2"]);
        let start = seeded_encoder(&config, DType::F64, &Device::Cpu)?;
        let mask = normal(&[start.feature_dim()], 1).abs()?;
        let key = key(0, Draw::Classifier);
        let classifier = Classifier::new(&config, (&*start, Some(&mask)), 3, key, DType::F64)?;
        Ok((classifier, normal(&[LABELS.len(), 8, 8, 3], 2)))
    }

    #[test]
    fn the_gradient_equals_central_differences_through_encoder_and_classifier() -> Result<()> {
        const STEP: f64 = 1e-6;
        // Rounding 1e-16 / STEP, and STEP² times the third derivative.
        const TOLERANCE: f64 = 1e-7;
        let (classifier, views) = classifier()?;
        let (_, gradient) = classifier.loss_and_gradient(&views, &LABELS)?;
        let theta: Vec<Tensor> =
            classifier.groups.iter().map(|group| group.tensor().detach()).collect();
        for (i, gradient) in gradient.iter().enumerate() {
            let (start, shape) = (numbers(&theta[i]), theta[i].shape().clone());
            let gradient = numbers(gradient);
            let largest = gradient.iter().fold(0f64, |max, g| max.max(g.abs()));
            // Every number of the classifier, some of the encoder's.
            let stride = (start.len() / 40).max(1);
            for at in (0..start.len()).step_by(stride) {
                let loss = |shift: f64| -> Result<f64> {
                    let mut moved = start.clone();
                    moved[at] += shift;
                    let mut theta = theta.clone();
                    theta[i] = Tensor::from_vec(moved, &shape, &Device::Cpu)?;
                    let scores = classifier.scores(&views, &theta, BatchStats::BatchOnly)?;
                    cross_entropy(&scores, &LABELS)?.to_scalar()
                };
                let difference = (loss(STEP)? - loss(-STEP)?) / (2.0 * STEP);
                let apart = (gradient[at] - difference).abs();
                assert!(apart < TOLERANCE * largest.max(1e-2), "group {i}, {at}: {apart:e}");
            }
        }
        Ok(())
    }

    #[test]
    fn loss_and_classifier_s_gradient_are_those_written_out() -> Result<()> {
        let (classifier, views) = classifier()?;
        let (loss, gradient) = classifier.loss_and_gradient(&views, &LABELS)?;
        let theta: Vec<Tensor> =
            classifier.groups.iter().map(|group| group.tensor().detach()).collect();
        let n = classifier.encoder.parameters().len();
        let h = classifier.encoder.forward(&views, &theta[..n], BatchStats::BatchOnly)?;
        let (h, m) = (h.to_vec2::<f64>()?, numbers(classifier.mask.as_ref().expect("a mask")));
        let (w, b) = (theta[n].to_vec2::<f64>()?, numbers(&theta[n + 1]));
        let (batch, dim) = (h.len(), m.len());
        let mut expected_loss = 0.0;
        let mut expected_w = vec![vec![0.0; dim]; 3];
        for (h, label) in h.iter().zip(LABELS) {
            let score = |c: usize| (0..dim).map(|k| w[c][k] * m[k] * h[k]).sum::<f64>() + b[c];
            let scores = [score(0), score(1), score(2)];
            let sum: f64 = scores.iter().map(|s| s.exp()).sum();
            expected_loss -= (scores[label as usize].exp() / sum).ln() / batch as f64;
            for (c, row) in expected_w.iter_mut().enumerate() {
                let residual = scores[c].exp() / sum - f64::from(u8::from(c == label as usize));
                for k in 0..dim {
                    row[k] += residual * m[k] * h[k] / batch as f64;
                }
            }
        }
        assert!((loss - expected_loss).abs() < 1e-12, "{loss} {expected_loss}");
        for (found, expected) in numbers(&gradient[n]).iter().zip(expected_w.concat()) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        Ok(())
    }

    #[test]
    fn it_learns_twice_alike_and_leaves_its_start_alone() -> anyhow::Result<()> {
        let config = config(&["encoder.architecture=conv", "encoder.width=8"]);
        let some = LoadOptions { train: Some(800), test: Some(300), ..LoadOptions::default() };
        let data = load(&DatasetSpec::GarmentsPlain, &some)?;
        let learner = Learner::new(&config, DType::F32)?;
        let mask = (learner.mask.values()?.ones_like()? * 0.5)?;
        let before = encoder_to_named(&*learner.encoder)?;
        let wanted = FineTune { epochs: Some(20), ..FineTune::of_labels(0.5) };
        let recipe = Recipe::new(&config, &TrainingImages::of(&data)?, wanted)?;
        assert_eq!(recipe.images.len(), 400);
        let accuracy = |recipe: &Recipe| {
            let start = (&*learner.encoder, Some(&mask));
            let images = (&data.train, &data.test);
            fine_tune(&config, start, recipe, images, ("a test", 0), &mut Silent)
        };
        let reached = accuracy(&recipe)?;
        assert!(reached > 45.0, "{reached} %, chance is 10");
        assert_eq!(accuracy(&recipe)?, reached, "drawn by place and seed");
        let untrained = Recipe { learning_rate: 0.0, ..recipe };
        let untrained = accuracy(&untrained)?;
        assert!(untrained < 25.0, "{untrained} % without a step");
        for (name, tensor) in encoder_to_named(&*learner.encoder)? {
            assert_eq!(numbers(&tensor), numbers(&before[&name]), "{name}");
        }
        Ok(())
    }

    #[test]
    fn every_choice_is_in_the_protocol_line_and_bad_ones_are_refused() -> anyhow::Result<()> {
        let some = LoadOptions { train: Some(400), test: Some(10), ..LoadOptions::default() };
        let data = load(&DatasetSpec::GarmentsPlain, &some)?;
        let train = TrainingImages::of(&data)?;
        let config = config(&["augmentation.flip_probability=0", "run.seed=3"]);
        let recipe = |wanted| Recipe::new(&config, &train, wanted);
        let few = recipe(FineTune::of_labels(0.05))?.to_string();
        for words in [
            "5 % of labels: 20 of 400 training images",
            "rate 0.009375 on a cosine",
            "30 epochs of batch 8",
            "crop 0.2 to 1 and flip 0,",
            "seed 3, last epoch",
        ] {
            assert!(few.contains(words), "`{few}` lacks `{words}`");
        }
        assert_eq!(recipe(FineTune::of_labels(0.01))?.epochs, 60);
        let all = recipe(FineTune { seed: Some(9), ..FineTune::of_labels(1.0) })?;
        assert_eq!((all.images.len(), all.batch_size, all.seed), (400, 50, 9));
        let of = FineTune::of_labels;
        for (wanted, words) in [
            (of(0.0), "share of labels"),
            (of(1.5), "share of labels"),
            (of(f64::NAN), "share of labels"),
            (FineTune { epochs: Some(0), ..of(1.0) }, "epochs"),
            (FineTune { batch_size: Some(401), ..of(1.0) }, "from 2 to the 400"),
            (FineTune { batch_size: Some(1), ..of(1.0) }, "from 2 to the 400"),
            (FineTune { learning_rate: Some(f64::INFINITY), ..of(1.0) }, "learning rate"),
        ] {
            let error = recipe(wanted).expect_err(words).downcast::<Failure>()?;
            assert_eq!(error.code, Code::Usage);
            assert!(error.message.contains(words), "{error}");
        }
        Ok(())
    }
}

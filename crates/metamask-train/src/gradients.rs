//! The gradient of a run's losses by the features, dimension by dimension: under the
//! learned mask, under none, and under the learned values in other orders.
//!
//! What the numbers say about the dimensions is `metamask_eval`'s; here they are measured.
//! Nothing moves: every pass normalises by its batch, and target and queue stay.

use candle_core::{DType, Result, Tensor, Var, bail};
use metamask_augment::TwoViews;
use metamask_data::{Batches, Unlabelled};
use metamask_ops::{BatchStats, ParameterKind};
use metamask_optim::{
    DimensionMask, HeadGradient, MaskForm, MaskShape, encoder_gradient, head_gradient,
};
use metamask_random::{Key, Purpose};

use crate::{
    checkpoint::State,
    config::{Config, MaskPlace},
    failure::{Code, Failure},
    learner::Learner,
    moment::Moment,
    views,
};

/// Something for each mask that the losses are looked at under.
#[derive(Clone, Debug)]
pub struct ByMask<T> {
    /// As it was learned; none where no mask lies over the features.
    pub learned: Option<T>,
    /// Ones.
    pub none: T,
    /// The learned values in random orders.
    pub shuffled: Vec<T>,
}

impl<T> ByMask<T> {
    /// The learned mask's first, then that of none, then the shuffled ones'.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.learned.iter().chain([&self.none]).chain(&self.shuffled)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.learned.iter_mut().chain([&mut self.none]).chain(&mut self.shuffled)
    }

    /// What a function makes of each.
    fn map<U>(&self, f: impl Fn(&T) -> Result<U>) -> Result<ByMask<U>> {
        Ok(ByMask {
            learned: self.learned.as_ref().map(&f).transpose()?,
            none: f(&self.none)?,
            shuffled: self.shuffled.iter().map(&f).collect::<Result<_>>()?,
        })
    }
}

/// The masks of a learner: its own, ones, and as many random orders of its values.
///
/// # Errors
/// If a tensor cannot be made.
pub fn masks(learner: &Learner, orders: u16, seed: u64) -> Result<ByMask<DimensionMask>> {
    let own = &learner.mask;
    let free = |values: &Tensor| -> Result<DimensionMask> {
        let logits = Var::from_tensor(values)?;
        Ok(DimensionMask { logits, form: MaskForm::Free, shape: MaskShape::Soft })
    };
    let m = own.values()?.detach();
    let none = free(&m.ones_like()?)?;
    let is_over_features = learner.experimental.place == MaskPlace::Representation;
    if learner.meta.is_none() || !is_over_features {
        return Ok(ByMask { learned: None, none, shuffled: Vec::new() });
    }
    let key = Key::new(seed, Purpose::Gradients).view(ORDERS);
    let dim = m.dim(0)?;
    let shuffled = (0..u32::from(orders)).map(|draw| {
        let order = key.sample(draw).stream().permutation(dim as u32);
        free(&m.index_select(&Tensor::from_vec(order, dim, m.device())?, 0)?)
    });
    Ok(ByMask { learned: Some(own.copy()?), none, shuffled: shuffled.collect::<Result<_>>()? })
}

/// What a number is drawn for, the view of a [`Purpose::Gradients`] key.
const SAMPLES: u16 = 0;
const VIEWS: u16 = 1;
const ORDERS: u16 = 2;
/// The view of the key that permutation tests of these gradients take.
pub const TESTS: u16 = 3;

/// A loss and its gradient by the features, over batches.
#[derive(Clone, Debug, PartialEq)]
pub struct LossGradient {
    /// The loss, mean over the batches.
    pub loss: f64,
    /// g, a value for each dimension.
    pub rms: Vec<f64>,
}

/// What is measured under one mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// m
    pub mask: Vec<f64>,
    /// Of B.
    pub base: LossGradient,
    /// Of B by m ⊙ h, where the factor m is not in it; of the learned mask alone.
    pub behind: Option<LossGradient>,
    /// Of L_drr, where it has a weight beside B.
    pub redundancy: Option<LossGradient>,
    /// ‖∂B/∂W_k‖ of the encoder's [`last_layer`], root mean square over the batches, for
    /// each dimension k; none for the shuffled masks, as a pass through the encoder each
    /// would cost.
    pub last_layer: Option<Vec<f64>>,
}

/// The gradient of the losses by h, before the mask, for each dimension.
///
/// ```text
/// g_k = √( 1/(2NM) Σ_batches Σ_views Σ_i (∂B/∂h_ik)² )        B(h, m) of a batch
/// ```
/// M batches of N samples in two views; h = f(x) ∈ R^D. The loss sees m ⊙ h, so that
/// ∂B/∂h_k = m_k ∂B/∂(m_k h_k): what a mask closes gets less by construction. Weights,
/// queue and BYOL's target network are the same under every mask; the target's features
/// go through the mask that the online ones go through.
///
/// # Shapes
/// Each batch: two views `[N, height, width, 3]`, all of one N.
/// # Errors
/// If there is no batch, or a shape or dtype does not fit.
pub fn gradients(
    learner: &Learner,
    batches: impl IntoIterator<Item = Result<[Tensor; 2]>>,
    masks: &ByMask<DimensionMask>,
    beta: f64,
) -> Result<ByMask<Gradients>> {
    let (theta, stats) = (learner.theta(), BatchStats::BatchOnly);
    let layer = last_layer(learner);
    let mut sums = masks.map(|mask| {
        let mask = mask.values()?.to_dtype(DType::F64)?.to_vec1()?;
        Ok(Sums { mask, ..Sums::default() })
    })?;
    let n_learned = masks.learned.iter().count();
    for views in batches {
        let views = views?;
        let h = learner.features(&views, &theta.encoder, stats)?;
        let target = learner.target_features(&views)?;
        for (i, (mask, sums)) in masks.iter().zip(sums.iter_mut()).enumerate() {
            let given = learner.given_under(mask, target.as_ref(), beta)?;
            let loss = learner.base_loss(stats, &given, None);
            let base = head_gradient(&loss, &h, &theta.head, mask)?;
            sums.base.add(&base)?;
            if i < n_learned {
                let m = mask.values()?.detach();
                let masked: Vec<Tensor> =
                    h.iter().map(|h| h.detach().broadcast_mul(&m)).collect::<Result<_>>()?;
                let found = head_gradient(&loss, &masked, &theta.head, &masks.none)?;
                sums.behind.get_or_insert_default().add(&found)?;
            }
            if let Some(head) = &learner.redundancy_head {
                let loss = learner.redundancy_loss(head, stats);
                let found = head_gradient(&loss, &h, &theta.redundancy, mask)?;
                sums.redundancy.get_or_insert_default().add(&found)?;
            }
            if let (Some(layer), true) = (&layer, i <= n_learned) {
                let theta_f = encoder_gradient(&h, &theta.encoder, &base.features)?;
                let sum = sums.last_layer.get_or_insert_default();
                add(sum, &layer.squared_norms(&theta_f)?);
            }
        }
    }
    if sums.none.base.batches == 0 {
        bail!("gradients: expected a batch, got none");
    }
    sums.map(|sums| Ok(sums.means()))
}

/// Sums over batches under one mask.
#[derive(Default)]
struct Sums {
    mask: Vec<f64>,
    base: LossSum,
    behind: Option<LossSum>,
    redundancy: Option<LossSum>,
    /// Of squared norms.
    last_layer: Option<Vec<f64>>,
}

impl Sums {
    fn means(&self) -> Gradients {
        let batches = self.base.batches as f64;
        let norms = |sum: &Vec<f64>| sum.iter().map(|square| (square / batches).sqrt()).collect();
        Gradients {
            mask: self.mask.clone(),
            base: self.base.mean(),
            behind: self.behind.as_ref().map(LossSum::mean),
            redundancy: self.redundancy.as_ref().map(LossSum::mean),
            last_layer: self.last_layer.as_ref().map(norms),
        }
    }
}

/// Of one loss.
#[derive(Default)]
struct LossSum {
    batches: usize,
    /// Features of one dimension: N samples in two views, of all batches.
    features: usize,
    loss: f64,
    squares: Vec<f64>,
}

impl LossSum {
    fn add(&mut self, found: &HeadGradient) -> Result<()> {
        self.batches += 1;
        self.loss += found.loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        for u in &found.features {
            self.features += u.dim(0)?;
            // Squares of gradients of a large batch are small numbers for an f32.
            let squares = u.to_dtype(DType::F64)?.sqr()?.sum(0)?;
            add(&mut self.squares, &squares.to_vec1()?);
        }
        Ok(())
    }

    fn mean(&self) -> LossGradient {
        let rms = |square: &f64| (square / self.features as f64).sqrt();
        LossGradient {
            loss: self.loss / self.batches as f64,
            rms: self.squares.iter().map(rms).collect(),
        }
    }
}

/// Adds a vector to a sum that is empty at the start.
fn add(sum: &mut Vec<f64>, values: &[f64]) {
    sum.resize(values.len(), 0.0);
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// The weights of an encoder that make its features: a slice for each dimension.
#[derive(Clone, Debug)]
pub struct LastLayer {
    /// PyTorch's name of the weights.
    pub name: String,
    group: usize,
    span: std::ops::Range<usize>,
    shape: Vec<usize>,
    kind: ParameterKind,
}

/// The last convolution or linear layer with an output for each dimension, if there is one.
pub fn last_layer(learner: &Learner) -> Option<LastLayer> {
    let dim = learner.encoder.feature_dim();
    let groups = learner.encoder.parameters().iter().enumerate();
    let mut entries =
        groups.flat_map(|(i, group)| group.entries.iter().map(move |entry| (i, entry)));
    let (group, entry) = entries.rfind(|(_, entry)| match entry.kind {
        ParameterKind::Convolution => entry.shape.last() == Some(&dim),
        ParameterKind::Linear => entry.shape.first() == Some(&dim),
        _ => false,
    })?;
    let (name, span, shape) = (entry.name.clone(), entry.span.clone(), entry.shape.clone());
    Some(LastLayer { name, group, span, shape, kind: entry.kind })
}

impl LastLayer {
    /// ‖∂B/∂W_k‖² for each dimension k.
    fn squared_norms(&self, theta_f: &[Tensor]) -> Result<Vec<f64>> {
        let flat = theta_f[self.group].flatten_all()?.to_dtype(DType::F64)?;
        let squares = flat.narrow(0, self.span.start, self.span.len())?.sqr()?;
        let dim = match self.kind {
            ParameterKind::Linear => self.shape[0],
            _ => self.shape[self.shape.len() - 1],
        };
        let rest = self.span.len() / dim;
        match self.kind {
            ParameterKind::Linear => squares.reshape((dim, rest))?.sum(1)?.to_vec1(),
            _ => squares.reshape((rest, dim))?.sum(0)?.to_vec1(),
        }
    }
}

/// The gradients of a run at its checkpoint, over `n_batches` batches of the images it was
/// trained on, with its augmentation and batch size, and `orders` random orders.
///
/// Samples and views are drawn by the run's seed and for this alone: no batch is one of
/// training. HCL's β is that of the last step.
///
/// # Errors
/// If the images do not suit the run, or a gradient is not finite.
pub fn measure(
    (config, learner, state): (&Config, &Learner, State),
    images: &Unlabelled,
    (n_batches, orders): (usize, u16),
    watch: &mut dyn FnMut(usize),
) -> anyhow::Result<ByMask<Gradients>> {
    let (seed, batch_size) = (config.run.seed, config.training.batch_size);
    let recipe = views::recipe(&config.augmentation)?;
    let steps_per_epoch = (images.len() / batch_size) as u64;
    let beta = Moment::of(config, state.step.max(1) - 1, steps_per_epoch).beta;
    let batches = (0..n_batches).map(|i| {
        watch(i);
        batch(images, &recipe, seed, batch_size, i)
    });
    let found = gradients(learner, batches, &masks(learner, orders, seed)?, beta)?;
    let is_finite = |found: &Gradients| {
        let losses = [Some(&found.base), found.redundancy.as_ref()];
        losses.into_iter().flatten().all(|loss| loss.rms.iter().all(|g| g.is_finite()))
    };
    let all_finite = found.iter().all(is_finite);
    if !all_finite {
        let message = "a gradient is NaN or infinite, expected finite ones";
        return Err(Failure::new(Code::NotFinite, message).help("did training diverge?").into());
    }
    Ok(found)
}

/// The views of the i-th batch of this diagnosis.
fn batch(
    images: &Unlabelled,
    recipe: &TwoViews,
    seed: u64,
    batch_size: usize,
    i: usize,
) -> Result<[Tensor; 2]> {
    let key = Key::new(seed, Purpose::Gradients);
    let per_epoch = images.len() / batch_size;
    if per_epoch == 0 {
        let n = images.len();
        bail!("gradients: expected a batch of {batch_size} images at least, got {n}");
    }
    let epoch = (i / per_epoch) as u32;
    let order = key.view(SAMPLES).epoch(epoch).stream().permutation(images.len() as u32);
    let samples = Batches::new(&order, batch_size).nth(i % per_epoch).expect("below per_epoch");
    // Views know no purpose, so they get a seed of their own.
    let views_seed = key.view(VIEWS).stream().next_u64();
    views::make(images, recipe, samples, views_seed, epoch)
}

#[cfg(test)]
mod tests {
    use metamask_data::Images;

    use super::*;

    fn run(settings: &[&str]) -> (Config, Learner) {
        let tiny = ["augmentation.size=8", "encoder.width=2", "training.batch_size=4"];
        let settings: Vec<String> =
            tiny.iter().chain(settings).map(|&set| set.to_owned()).collect();
        let config = Config::read("", "test", &settings).expect("valid");
        let learner = Learner::new(&config, DType::F32).expect("a learner");
        (config, learner)
    }

    fn images(n: usize) -> Unlabelled {
        let bytes: Vec<u8> = (0..n * 8 * 8 * 3).map(|i| (i * 7 % 251) as u8).collect();
        Unlabelled::from(Images::new(bytes, 8, 8).expect("images"))
    }

    #[test]
    fn batches_are_none_of_training_s_and_go_on_after_an_epoch() -> Result<()> {
        let (config, _) = run(&[]);
        let (recipe, images) = (views::recipe(&config.augmentation)?, images(10));
        let numbers =
            |[a, b]: [Tensor; 2]| Tensor::cat(&[a, b], 0)?.flatten_all()?.to_vec1::<f32>();
        let mut seen = Vec::new();
        // Two full batches an epoch.
        for i in 0..5 {
            seen.push(numbers(batch(&images, &recipe, 0, 4, i)?)?);
            assert_eq!(seen[i], numbers(batch(&images, &recipe, 0, 4, i)?)?, "the same again");
        }
        for epoch in 0..3 {
            for i in 0..2 {
                seen.push(numbers(views::batch_of(&images, &recipe, 0, 4, (epoch, i))?)?);
            }
        }
        for (i, one) in seen.iter().enumerate() {
            assert!(seen[i + 1..].iter().all(|other| other != one), "batch {i} comes twice");
        }
        let error = batch(&images, &recipe, 0, 11, 0).expect_err("too few").to_string();
        assert!(error.contains("a batch of 11 images at least, got 10"), "{error}");
        Ok(())
    }

    #[test]
    fn measuring_again_gives_the_same_and_leaves_the_learner_as_it_is() -> anyhow::Result<()> {
        for method in ["simclr", "byol", "nnclr"] {
            let (config, learner) = run(&[&format!("objective.method={method}"), "queue.size=16"]);
            let state = State { step: 3, epoch: 1, ..State::default() };
            let statistics = || -> Vec<Vec<f32>> {
                let kept = learner.encoder.running_statistics().iter().chain(&learner.groups);
                kept.map(|group| group.tensor().flatten_all()?.to_vec1())
                    .collect::<Result<_>>()
                    .expect("numbers")
            };
            let before = statistics();
            let again = || {
                let mut heard = 0;
                let found = measure((&config, &learner, state), &images(10), (3, 2), &mut |_| {
                    heard += 1;
                });
                assert_eq!(heard, 3);
                found
            };
            let (one, two) = (again()?, again()?);
            assert!(one.iter().eq(two.iter()), "{method}");
            assert_eq!((one.shuffled.len(), one.learned.is_some()), (2, true));
            assert_eq!(statistics(), before, "{method}");
        }
        Ok(())
    }

    #[test]
    fn a_mask_that_lies_elsewhere_is_none_over_the_features() -> anyhow::Result<()> {
        let (_, learner) = run(&["mask.experimental.place=embedding"]);
        let masks = masks(&learner, 2, 0)?;
        assert!(masks.learned.is_none() && masks.shuffled.is_empty());
        assert_eq!(masks.none.values()?.dims(), learner.mask.values()?.dims());
        Ok(())
    }
}

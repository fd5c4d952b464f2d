//! Which way does the mask move? Dimensions of known worth before a linear encoder.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use metamask_encoders::{BatchStats, Encoder};
use metamask_ops::{Linearized, ParameterGroup, ParameterKind};
use metamask_random::{Key, Purpose};
use metamask_train::{Config, Learner, Moment, algorithm::iteration};

/// Dimensions of each kind.
const EACH: usize = 8;
const DIM: usize = 3 * EACH;
const BATCH: usize = 64;
const STEPS: u32 = 80;

/// h_k = a_k x_k, a = 1 at the start: dimension k of h is what was planted in pixel k.
struct Diagonal(Vec<ParameterGroup>);

impl Diagonal {
    fn new() -> Result<Self> {
        let a = Var::ones(DIM, DType::F64, &Device::Cpu)?;
        Ok(Self(vec![ParameterGroup::single("a", ParameterKind::NormScale, a)]))
    }
}

impl Encoder for Diagonal {
    fn feature_dim(&self) -> usize {
        DIM
    }
    fn parameters(&self) -> &[ParameterGroup] {
        &self.0
    }
    fn running_statistics(&self) -> &[ParameterGroup] {
        &[]
    }
    fn forward(&self, views: &Tensor, theta: &[Tensor], _: BatchStats) -> Result<Tensor> {
        views.flatten_from(1)?.broadcast_mul(&theta[0])
    }
    fn linearize(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Linearized> {
        let x = views.flatten_from(1)?;
        let value = self.forward(views, theta, stats)?;
        Ok(Linearized::new(value, move |direction| x.broadcast_mul(&direction[0])))
    }
}

/// Two views of a batch: what both share, what is another noise in each, and what hardly
/// varies.
fn views(step: u32) -> Result<[Tensor; 2]> {
    let key = Key::new(5, Purpose::Test).sample(step);
    let mut shared = key.stream();
    let signal: Vec<f64> = (0..BATCH * EACH).map(|_| shared.normal()).collect();
    let view = |view: u16| {
        let mut own = key.view(view).stream();
        let mut pixels = Vec::with_capacity(BATCH * DIM);
        for signal in signal.chunks_exact(EACH) {
            pixels.extend(signal.iter().map(|s| s + 0.3 * own.normal()));
            pixels.extend((0..EACH).map(|_| own.normal()));
            pixels.extend((0..EACH).map(|_| 3.0 + 1e-4 * own.normal()));
        }
        Tensor::from_vec(pixels, (BATCH, 1, DIM, 1), &Device::Cpu)
    };
    Ok([view(1)?, view(2)?])
}

/// A learner after some steps.
fn learner_after(settings: &[&str]) -> anyhow::Result<Learner> {
    let fixed = [
        "contrastive_head.hidden=[32]",
        "contrastive_head.output=16",
        "training.batch_size=64",
        "training.epochs=1",
        "optimizer.learning_rate=0.02",
        "optimizer.schedule=constant",
        "mask.schedule=constant",
        "mask.learning_rate=3",
    ];
    let settings: Vec<String> = fixed.iter().chain(settings).map(|&s| s.to_owned()).collect();
    let config = Config::read("", "test", &settings)?;
    let mut learner = Learner::with_encoder(&config, Box::new(Diagonal::new()?), DType::F64)?;
    for step in 0..STEPS {
        let moment = Moment::of(&config, step.into(), STEPS.into());
        iteration(&mut learner, &views(step)?, &moment)?;
    }
    Ok(learner)
}

/// The mask's mean over each kind of dimension, and the mask, after some steps.
fn trained(settings: &[&str]) -> anyhow::Result<([f64; 3], Vec<f64>)> {
    let mask = learner_after(settings)?.mask.values()?;
    let means = mask.reshape((3, EACH))?.mean(D::Minus1)?.to_vec1::<f64>()?;
    Ok((means.try_into().expect("three kinds"), mask.to_vec1()?))
}

#[test]
fn it_opens_for_what_the_views_share_and_shuts_out_what_is_each_views_own() -> anyhow::Result<()> {
    for settings in [
        ["meta.virtual_step=shared", "meta.hypergradient=exact"],
        ["meta.virtual_step=after-regular", "meta.hypergradient=exact"],
        ["meta.virtual_step=after-regular", "meta.hypergradient=finite-difference"],
        ["meta.virtual_step=lookahead", "meta.hypergradient=exact"],
        ["meta.virtual_step=lookahead", "meta.hypergradient=first-order"],
    ] {
        let ([shared, own, still], mask) = trained(&settings)?;
        assert!(shared > own + 0.3, "{settings:?}: {shared:.3} {own:.3} {still:.3}");
        // One by one, too: every signal above every noise.
        let lowest = mask[..EACH].iter().copied().fold(1.0, f64::min);
        let highest = mask[EACH..2 * EACH].iter().copied().fold(0.0, f64::max);
        assert!(lowest > highest, "{settings:?}: {lowest:.3} {highest:.3}");
        // What does not vary the head's batch norm takes away: there is nothing to move it.
        assert!((still - 0.5).abs() < 0.01, "{settings:?}: {still:.3}");
    }
    Ok(())
}

#[test]
fn a_mask_beside_the_network_finds_the_same_and_leaves_the_network_alone() -> anyhow::Result<()> {
    let beside = [
        "meta.virtual_step=lookahead",
        "meta.hypergradient=first-order",
        "mask.experimental.beside=true",
    ];
    let ([shared, own, still], _) = trained(&beside)?;
    assert!(shared > own + 0.3, "{shared:.3} {own:.3}");
    assert!((still - 0.5).abs() < 0.01, "{still:.3}");
    // The same bits as without a mask.
    let weights = |settings: &[&str]| -> anyhow::Result<Vec<Vec<f64>>> {
        let learner = learner_after(settings)?;
        let flat = |group: &ParameterGroup| group.tensor().flatten_all()?.to_vec1::<f64>();
        Ok(learner.groups.iter().map(flat).collect::<Result<_>>()?)
    };
    assert_eq!(weights(&beside)?, weights(&["mask.mode=off"])?);
    let exact = Config::read("", "test", &["mask.experimental.beside=true".to_owned()]);
    let failure = exact.expect_err("a step that does not see the mask").message;
    assert!(failure.contains("`mask.experimental.beside`"), "{failure}");
    Ok(())
}

#[test]
fn shuffled_hypergradients_move_it_as_far_but_not_there() -> anyhow::Result<()> {
    let settings = ["meta.virtual_step=lookahead", "meta.hypergradient=first-order"];
    let spread = |mask: &[f64]| mask.iter().map(|m| (m - 0.5).abs()).sum::<f64>() / DIM as f64;
    let (_, learned) = trained(&settings)?;
    let shuffled = [&settings[..], &["mask.experimental.shuffled=true"]].concat();
    let (_, mask) = trained(&shuffled)?;
    assert!(spread(&mask) > 0.5 * spread(&learned), "{mask:?} {learned:?}");
    // Each dimension gets another's gradient: what tells the kinds apart is where that is.
    let moved: Vec<usize> = (2 * EACH..DIM).filter(|&k| (mask[k] - 0.5).abs() > 0.05).collect();
    assert!(moved.len() >= 3, "dimensions that do not vary move by others' gradients: {mask:?}");
    Ok(())
}

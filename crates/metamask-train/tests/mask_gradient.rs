//! What may move the mask and what may not, and which encoders it can be learned with.

use candle_core::{DType, Device, Result, Tensor};
use metamask_encoders::{BatchStats, ConvNet, ConvNetConfig, Encoder, FiniteDifferenceTangent};
use metamask_ops::ParameterGroup;
use metamask_random::{Key, Purpose};
use metamask_train::{Config, Learner, Moment, algorithm::iteration};

const SETTINGS: [&str; 7] = [
    "encoder.architecture=conv",
    "encoder.width=4",
    "contrastive_head.hidden=[8]",
    "contrastive_head.output=8",
    "redundancy_head.hidden=[8]",
    "redundancy_head.output=8",
    "training.batch_size=6",
];

fn config(settings: &[&str]) -> anyhow::Result<Config> {
    let settings: Vec<String> =
        SETTINGS.iter().chain(settings).map(|&set| set.to_owned()).collect();
    Ok(Config::read("", "test", &settings)?)
}

fn views(sample: u32) -> Result<[Tensor; 2]> {
    let view = |view: u16| {
        let mut stream = Key::new(0, Purpose::Test).sample(sample).view(view).stream();
        let pixels: Vec<f64> = (0..6 * 8 * 8 * 3).map(|_| stream.normal()).collect();
        Tensor::from_vec(pixels, (6, 8, 8, 3), &Device::Cpu)
    };
    Ok([view(0)?, view(1)?])
}

/// An encoder without a tangent, such as a user's own.
struct NoTangent(ConvNet);

impl Encoder for NoTangent {
    fn feature_dim(&self) -> usize {
        self.0.feature_dim()
    }
    fn parameters(&self) -> &[ParameterGroup] {
        self.0.parameters()
    }
    fn running_statistics(&self) -> &[ParameterGroup] {
        self.0.running_statistics()
    }
    fn forward(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Tensor> {
        Encoder::forward(&self.0, views, theta, stats)
    }
}

fn no_tangent() -> Result<NoTangent> {
    let key = Key::new(0, Purpose::Initialisation);
    Ok(NoTangent(ConvNet::new(
        &ConvNetConfig { width: 4, ..Default::default() },
        key,
        DType::F64,
        &Device::Cpu,
    )?))
}

#[test]
fn the_redundancy_loss_gives_the_mask_no_direct_gradient() -> anyhow::Result<()> {
    // In the first iteration θ is the same: d must not see the weight of L_drr.
    let direct = |settings: &[&str], weight: f64| -> anyhow::Result<Vec<f64>> {
        let weight = format!("objective.redundancy_weight={weight}");
        let config = config(&[settings, &[&weight]].concat())?;
        let mut learner = Learner::new(&config, DType::F64)?;
        let found = iteration(&mut learner, &views(0)?, &Moment::of(&config, 0, 10))?;
        Ok(found.meta.expect("the mask moves").direct.to_vec1()?)
    };
    for settings in [
        ["meta.virtual_step=lookahead", "meta.hypergradient=first-order"],
        ["meta.virtual_step=shared", "meta.hypergradient=exact"],
    ] {
        let without = direct(&settings, 0.0)?;
        assert!(without.iter().any(|&d| d != 0.0));
        assert_eq!(without, direct(&settings, 1.0)?, "{settings:?}");
    }
    Ok(())
}

#[test]
fn exact_with_an_encoder_that_brings_no_tangent_says_what_to_do() -> anyhow::Result<()> {
    let config = config(&["meta.hypergradient=exact"])?;
    let mut learner = Learner::with_encoder(&config, Box::new(no_tangent()?), DType::F64)?;
    let moment = Moment::of(&config, 0, 10);
    let error = iteration(&mut learner, &views(0)?, &moment).expect_err("it has none").to_string();
    assert!(error.contains("tangent") && error.contains("finite"), "{error}");
    Ok(())
}

#[test]
fn a_tangent_by_finite_differences_can_be_asked_for() -> anyhow::Result<()> {
    let config = config(&["meta.hypergradient=exact", "optimizer.learning_rate=0.5"])?;
    let total = |encoder: Box<dyn Encoder>| -> anyhow::Result<Tensor> {
        let mut learner = Learner::with_encoder(&config, encoder, DType::F64)?;
        let found = iteration(&mut learner, &views(0)?, &Moment::of(&config, 0, 10))?;
        Ok(found.meta.expect("the mask moves").second_order.expect("exact has one"))
    };
    // A radius at which hardly a ReLU changes side; rounding is 1e-16 over it.
    let wrapped = FiniteDifferenceTangent::with_radius(no_tangent()?, 1e-6)?;
    let (by_difference, exact) = (total(Box::new(wrapped))?, total(Box::new(no_tangent()?.0))?);
    let norm =
        |x: &Tensor| Ok::<_, candle_core::Error>(x.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt());
    let error = norm(&(by_difference - &exact)?)? / norm(&exact)?;
    assert!(error < 1e-4, "{error:e}");
    Ok(())
}

#[test]
fn the_direct_gradient_is_one_that_the_head_gets_too() -> anyhow::Result<()> {
    // B sees the head's first layer W and the mask as W (m ⊙ h) alone, so that
    // m_k ∂B/∂m_k = Σ_j W_jk ∂B/∂W_jk.
    for method in ["simclr", "barlow-twins", "byol", "dcl", "hcl"] {
        let method = format!("objective.method={method}");
        let settings = ["meta.virtual_step=lookahead", "meta.hypergradient=first-order", &method];
        let config = config(&settings)?;
        let mut learner = Learner::new(&config, DType::F64)?;
        let dim = learner.encoder.feature_dim();
        let logits: Vec<f64> = (0..dim).map(|k| (k as f64 * 0.7).sin()).collect();
        learner.mask.logits.set(&Tensor::from_slice(&logits, dim, &Device::Cpu)?)?;
        let m = learner.mask.values()?.to_vec1::<f64>()?;
        let first = learner.encoder.parameters().len();
        let weight = learner.groups[first].tensor().copy()?; // [out, D]; the step moves the learner's
        let found = iteration(&mut learner, &views(0)?, &Moment::of(&config, 0, 10))?;
        // L is B here: alpha is 1, and L_drr has no weight.
        let own = (weight.detach() * &found.gradient[first])?.sum(0)?.to_vec1::<f64>()?;
        // d = m (1 − m) ∂B/∂m through the sigmoid.
        let direct = found.meta.expect("the mask moves").direct.to_vec1::<f64>()?;
        let size = own.iter().fold(0.0, |size: f64, x| size.max(x.abs()));
        assert!(size > 1e-3, "{method}: {size}");
        for ((own, d), m) in own.iter().zip(&direct).zip(&m) {
            assert!((d / (1.0 - m) - own).abs() < 1e-12 * size.max(1.0), "{method}: {own} {d}");
        }
    }
    Ok(())
}

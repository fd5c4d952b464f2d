//! The gradient of the losses by each dimension, against central differences and against
//! the loss's derivative written out.

use candle_core::{DType, Device, Result, Tensor};
use metamask_ops::{BatchStats, Differentiable as _, Dual};
use metamask_random::{Key, Purpose};
use metamask_train::{
    Config, Learner, Moment,
    algorithm::iteration,
    gradients::{ByMask, Gradients, gradients, last_layer, masks},
};

const SAMPLES: usize = 4;
const SETTINGS: [&str; 10] = [
    "encoder.architecture=conv",
    "encoder.width=2",
    "augmentation.size=8",
    "contrastive_head.hidden=[8]",
    "contrastive_head.output=8",
    "predictor.hidden=[8]",
    "redundancy_head.hidden=[8]",
    "redundancy_head.output=8",
    "queue.size=32",
    "training.batch_size=4",
];

/// A learner at its start, whose mask sets the dimensions apart.
fn learner(settings: &[&str]) -> anyhow::Result<Learner> {
    let settings: Vec<String> =
        SETTINGS.iter().chain(settings).map(|&set| set.to_owned()).collect();
    let learner = Learner::new(&Config::read("", "test", &settings)?, DType::F64)?;
    if learner.meta.is_some() {
        let dim = learner.encoder.feature_dim();
        let logits: Vec<f64> = (0..dim).map(|k| 2.0 * (k as f64 * 0.7).sin()).collect();
        learner.mask.logits.set(&Tensor::from_vec(logits, dim, &Device::Cpu)?)?;
    }
    Ok(learner)
}

fn views(sample: u32) -> Result<[Tensor; 2]> {
    let view = |view: u16| {
        let mut stream = Key::new(0, Purpose::Test).sample(sample).view(view).stream();
        let pixels: Vec<f64> = (0..SAMPLES * 8 * 8 * 3).map(|_| stream.normal()).collect();
        Tensor::from_vec(pixels, (SAMPLES, 8, 8, 3), &Device::Cpu)
    };
    Ok([view(0)?, view(1)?])
}

/// Over these batches, with three random orders.
fn measured(learner: &Learner, samples: &[u32]) -> Result<ByMask<Gradients>> {
    let batches = samples.iter().map(|&sample| views(sample));
    gradients(learner, batches, &masks(learner, 3, 0)?, 1.0)
}

fn assert_close(got: &[f64], expected: &[f64], relative: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let size = expected.iter().copied().fold(0.0, f64::max);
    assert!(size > 1e-6, "{what}: {size}");
    for (k, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() < relative * size, "{what}, {k}: {got} {expected}");
    }
}

/// √(1/2N Σ_views Σ_i (∂loss/∂h_ik)²) by central differences of a loss of both views' features.
fn by_differences(h: &[Tensor], loss: &dyn Fn(&[Tensor]) -> Result<f64>) -> Result<Vec<f64>> {
    /// Rounding gives 1e-16 / 1e-6 of the loss, the third derivative 1e-12.
    const STEP: f64 = 1e-6;
    let (n, dim) = h[0].dims2()?;
    let mut squares = vec![0.0; dim];
    for view in 0..2 {
        let values = h[view].flatten_all()?.to_vec1::<f64>()?;
        for at in 0..values.len() {
            let moved = |by: f64| -> Result<f64> {
                let mut values = values.clone();
                values[at] += by;
                let mut h = h.to_vec();
                h[view] = Tensor::from_vec(values, (n, dim), &Device::Cpu)?;
                loss(&h)
            };
            squares[at % dim] += ((moved(STEP)? - moved(-STEP)?) / (2.0 * STEP)).powi(2);
        }
    }
    Ok(squares.iter().map(|square| (square / (2 * n) as f64).sqrt()).collect())
}

fn duals(tensors: &[Tensor]) -> Vec<Dual> {
    tensors.iter().map(|x| Dual::constant(x.detach())).collect()
}

#[test]
fn every_method_s_gradient_is_that_of_central_differences() -> anyhow::Result<()> {
    for method in ["simclr", "barlow-twins", "byol", "dcl", "hcl", "nnclr"] {
        let method = format!("objective.method={method}");
        // L_drr knows nothing of the method beside it: once is enough.
        let weight = match method.ends_with("simclr") {
            true => "objective.redundancy_weight=0.1",
            false => "objective.redundancy_weight=0",
        };
        let learner = learner(&[&method, weight])?;
        let found = measured(&learner, &[0])?.learned.expect("a mask");
        let (views, stats) = (views(0)?, BatchStats::BatchOnly);
        let theta = learner.theta();
        let h = learner.features(&views, &theta.encoder, stats)?;
        let h: Vec<Tensor> = h.iter().map(Tensor::detach).collect();
        let m = Dual::constant(learner.mask.values()?.detach());

        let given = learner.given(&views, 1.0)?;
        let base = learner.base_loss(stats, &given, None);
        let base = |h: &[Tensor]| base(&duals(h), &duals(&theta.head), &m)?.value.to_scalar();
        assert_close(&found.base.rms, &by_differences(&h, &base)?, 1e-6, &method);
        assert!((found.base.loss - base(&h)?).abs() < 1e-12, "{method}");

        let Some(head) = &learner.redundancy_head else {
            assert!(found.redundancy.is_none(), "{method}");
            continue;
        };
        let drr = learner.redundancy_loss(head, stats);
        let drr = |h: &[Tensor]| drr(&duals(h), &duals(&theta.redundancy), &m)?.value.to_scalar();
        let redundancy = found.redundancy.expect("it has a weight");
        assert_close(&redundancy.rms, &by_differences(&h, &drr)?, 1e-6, "L_drr");
    }
    Ok(())
}

/// ∂NT-Xent/∂z of 2N embeddings, the two views behind one another, written out.
///
/// ```text
/// ∂L/∂u_i = 1/(2Nτ) (Σ_{j≠i} (P_ij + P_ji) u_j − 2 u_p(i))      P_ij = exp(s_ij/τ) / Σ_{l≠i} exp(s_il/τ)
/// ∂L/∂z_i = (∂L/∂u_i − u_i ⟨u_i, ∂L/∂u_i⟩) / ‖z_i‖
/// ```
fn nt_xent_derivative(z: &[Vec<f64>], tau: f64) -> Vec<Vec<f64>> {
    let n = z.len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms: Vec<f64> = z.iter().map(|z| dot(z, z).sqrt()).collect();
    let u: Vec<Vec<f64>> =
        z.iter().zip(&norms).map(|(z, norm)| z.iter().map(|z| z / norm).collect()).collect();
    let e = |i: usize, j: usize| (dot(&u[i], &u[j]) / tau).exp();
    let p = |i: usize, j: usize| e(i, j) / (0..n).filter(|&l| l != i).map(|l| e(i, l)).sum::<f64>();
    (0..n)
        .map(|i| {
            let partner = (i + n / 2) % n;
            let along = |c: usize| {
                let others = (0..n).filter(|&j| j != i);
                let pulled: f64 = others.map(|j| (p(i, j) + p(j, i)) * u[j][c]).sum();
                (pulled - 2.0 * u[partner][c]) / (n as f64 * tau)
            };
            let du: Vec<f64> = (0..u[i].len()).map(along).collect();
            let radial = dot(&u[i], &du);
            du.iter().zip(&u[i]).map(|(du, u)| (du - u * radial) / norms[i]).collect()
        })
        .collect()
}

#[test]
fn behind_a_linear_head_it_is_the_mask_times_the_weights_times_nt_xent_s_own() -> anyhow::Result<()>
{
    let learner = learner(&["contrastive_head.hidden=[]", "contrastive_head.final_norm=false"])?;
    let found = measured(&learner, &[0, 1])?;
    let theta = learner.theta();
    let (weight, bias) = (theta.head[0].to_vec2::<f64>()?, theta.head[1].to_vec1::<f64>()?);
    let dim = learner.encoder.feature_dim();
    let learned = learner.mask.values()?.to_vec1::<f64>()?;
    let found = [(&learned, found.learned.expect("a mask")), (&vec![1.0; dim], found.none)];
    for (m, found) in found {
        assert_eq!(&found.mask, m);
        // z = W (m ⊙ h) + b, so ∂B/∂h_ik = m_k Σ_j W_jk ∂B/∂z_ij.
        let (mut squares, mut behind) = (vec![0.0; dim], vec![0.0; dim]);
        for sample in [0, 1] {
            let h = learner.features(&views(sample)?, &theta.encoder, BatchStats::BatchOnly)?;
            let h: Vec<Vec<f64>> = [h[0].to_vec2()?, h[1].to_vec2()?].concat();
            let z = |h: &Vec<f64>| -> Vec<f64> {
                let of_row = |(w, b): (&Vec<f64>, &f64)| {
                    b + (0..dim).map(|k| w[k] * m[k] * h[k]).sum::<f64>()
                };
                weight.iter().zip(&bias).map(of_row).collect()
            };
            let z: Vec<Vec<f64>> = h.iter().map(z).collect();
            for dz in nt_xent_derivative(&z, learner.objective.temperature) {
                for k in 0..dim {
                    let along: f64 = weight.iter().zip(&dz).map(|(w, dz)| w[k] * dz).sum();
                    squares[k] += (m[k] * along).powi(2);
                    behind[k] += along.powi(2);
                }
            }
        }
        let features = (2 * 2 * SAMPLES) as f64;
        let root = |sum: &f64| (sum / features).sqrt();
        let expected: Vec<f64> = squares.iter().map(root).collect();
        assert_close(&found.base.rms, &expected, 1e-10, "two batches");
        match &found.behind {
            // By m ⊙ h the factor m_k is gone.
            Some(found) => {
                let expected: Vec<f64> = behind.iter().map(root).collect();
                assert_close(&found.rms, &expected, 1e-10, "behind the mask");
            }
            None => assert_eq!(m, &vec![1.0; dim], "the learned mask's alone is measured"),
        }
    }
    Ok(())
}

#[test]
fn the_mask_off_is_a_learner_that_never_had_one() -> anyhow::Result<()> {
    // BYOL: its target, too, must not see the mask. The weights at the start are the seed's.
    for method in ["objective.method=byol", "objective.method=simclr"] {
        let weight = "objective.redundancy_weight=0.1";
        let masked = measured(&learner(&[method, weight])?, &[0])?;
        let plain = measured(&learner(&[method, weight, "mask.mode=off"])?, &[0])?;
        assert_eq!(masked.none, plain.none, "{method}");
        assert!(plain.learned.is_none() && plain.shuffled.is_empty());
        let learned = masked.learned.expect("a mask");
        assert_ne!(learned.base, masked.none.base);
        // The same values in other orders, another gradient each.
        let sorted = |mask: &[f64]| {
            let mut mask = mask.to_vec();
            mask.sort_by(f64::total_cmp);
            mask
        };
        assert_eq!(masked.shuffled.len(), 3);
        for other in &masked.shuffled {
            assert_eq!(sorted(&other.mask), sorted(&learned.mask));
            assert_ne!(other.mask, learned.mask);
            assert_ne!(other.base.rms, learned.base.rms);
        }
        assert_ne!(masked.shuffled[0].mask, masked.shuffled[1].mask);
    }
    Ok(())
}

#[test]
fn the_last_layer_s_norms_are_those_of_the_step_s_gradient() -> anyhow::Result<()> {
    for (architecture, name) in [("conv", "features.9.weight"), ("fc", "features.6.weight")] {
        let settings = [
            &format!("encoder.architecture={architecture}"),
            "meta.virtual_step=lookahead",
            "meta.hypergradient=first-order",
        ];
        let mut learner = learner(&settings)?;
        let found = measured(&learner, &[0])?.learned.expect("a mask").last_layer;
        let found = found.expect("a layer makes the features");
        assert_eq!(last_layer(&learner).expect("the same").name, name);

        let entries = learner.encoder.parameters()[0].entries.clone();
        let entry = entries.iter().find(|entry| entry.name == name).expect("there");
        // L is B here, and its gradient is taken before the step moves anything.
        let moment = Moment::of(&Config::default(), 0, 10);
        let step = iteration(&mut learner, &views(0)?, &moment)?;
        let flat = step.gradient[0].flatten_all()?.to_vec1::<f64>()?;
        let dim = found.len();
        let mut squares = vec![0.0; dim];
        for (i, g) in flat[entry.span.clone()].iter().enumerate() {
            // [kh, kw, in, out] of a convolution, [out, in] of a linear layer.
            let k = if architecture == "conv" { i % dim } else { i / entry.shape[1] };
            squares[k] += g * g;
        }
        let expected: Vec<f64> = squares.iter().map(|square| square.sqrt()).collect();
        assert_close(&found, &expected, 1e-12, architecture);
    }
    Ok(())
}

#[test]
fn without_a_batch_there_is_no_gradient() -> anyhow::Result<()> {
    let learner = learner(&[])?;
    let error = measured(&learner, &[]).expect_err("no batch").to_string();
    assert!(error.contains("expected a batch, got none"), "{error}");
    Ok(())
}

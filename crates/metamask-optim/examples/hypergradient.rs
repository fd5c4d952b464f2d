//! The mask's hypergradient on a closure of one's own: no encoder of this
//! workspace, only Candle, a loss and two linear maps.
//!
//! Half of the features carry what the two views share, half carry noise. No
//! label is used; the meta step alone opens the first half and shuts the second.
//!
//! ```text
//! cargo run --release -p metamask-optim --example hypergradient
//! ```

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_ops::{
    Differentiable, Dual, Linearized, ParameterGroup, ParameterKind, l2_normalize, log_sum_exp,
};
use metamask_optim::{
    Activations, DimensionMask, Hypergradient, MaskForm, MetaLoss, Point, Sgd, encoder_gradient,
    head_gradient, meta_gradient,
};

const BATCH: usize = 64;
const SHARED: usize = 4;
const DIM: usize = 8;

/// Deterministic numbers, spread like noise.
fn noise(rows: usize, columns: usize, seed: f64) -> Result<Tensor> {
    let numbers = (0..rows * columns).map(|i| {
        let x = ((i as f64 + seed) * 12.9898).sin() * 43758.5453;
        2.0 * (x - x.floor()) - 1.0
    });
    Tensor::from_vec(numbers.collect::<Vec<f64>>(), (rows, columns), &Device::Cpu)
}

/// Each sample of view a has to find its partner in view b; masked before the head.
fn contrast(features: &[Dual], theta_g: &[Dual], m: &Dual) -> Result<Dual> {
    let embed = |h: &Dual| l2_normalize(&h.mul(m)?.matmul(&theta_g[0])?);
    let (u_a, u_b) = (embed(&features[0])?, embed(&features[1])?);
    let similarity = u_a.matmul(&u_b.t()?)?.affine(5.0, 0.0)?;
    let partner = u_a.mul(&u_b)?.sum_all()?.affine(5.0, 0.0)?;
    log_sum_exp(&similarity, 1)?.sum_all()?.sub(&partner)?.affine(1.0 / BATCH as f64, 0.0)
}

fn main() -> Result<()> {
    let content = noise(BATCH, SHARED, 1.0)?;
    let view = |seed| Tensor::cat(&[&content, &noise(BATCH, DIM - SHARED, seed)?], 1);
    let views = [view(5000.0)?, view(9000.0)?];

    // The encoder is a scale for each input, the head a matrix.
    let group = |name: &str, start: Tensor| -> Result<ParameterGroup> {
        Ok(ParameterGroup::single(name, ParameterKind::Linear, Var::from_tensor(&start)?))
    };
    let scale = group("scale", Tensor::ones((1, DIM), DType::F64, &Device::Cpu)?)?;
    let groups = [scale, group("head", noise(DIM, DIM, 77.0)?)?];
    let mask = DimensionMask::new(MaskForm::Sigmoid, DIM, DType::F64, &Device::Cpu)?;
    let mask_group = [mask.parameter_group()];
    let mut sgd = Sgd::new(&groups, 0.9, 5e-4)?;
    let mut mask_sgd = Sgd::new(&mask_group, 0.9, 5e-4)?;
    let learning_rate = 0.05;

    let features = |theta_f: &[Tensor]| -> Result<Vec<Tensor>> {
        views.iter().map(|x| x.broadcast_mul(&theta_f[0])).collect()
    };
    let linearize = |theta_f: &[Tensor]| -> Result<Vec<Linearized>> {
        let linearized = |(x, h): (&Tensor, Tensor)| {
            let x = x.clone();
            Linearized::new(h, move |direction| x.broadcast_mul(&direction[0]))
        };
        Ok(views.iter().zip(features(theta_f)?).map(linearized).collect())
    };
    let loss =
        MetaLoss { features: &features, linearize: &linearize, head: &contrast, mask: &mask };
    let exact = (Hypergradient::Exact, Activations::Keep);

    for step in 0..=60 {
        // Regular step: theta learns, the mask does not.
        let theta: Vec<Tensor> = groups.iter().map(|group| group.tensor().clone()).collect();
        let h = features(&theta[..1])?;
        let regular = head_gradient(&contrast, &h, &theta[1..], &mask)?;
        let mut gradients = encoder_gradient(&h, &theta[..1], &regular.features)?;
        gradients.extend(regular.theta_g);
        sgd.step(&groups, &gradients, learning_rate)?;

        // Meta step, at the new theta: the mask learns, theta does not.
        let at = Point {
            theta_f: &theta[..1],
            theta_g: &theta[1..],
            velocity_f: &sgd.velocity()[..1],
            velocity_g: &sgd.velocity()[1..],
            features: linearize(&theta[..1])?,
        };
        let meta = meta_gradient(&loss, at, None, &sgd, learning_rate, exact)?;
        if step % 20 == 0 {
            let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
            println!(
                "step {step:2}  loss {:.4}  |G| {:.2e}, of it second order {:.2e}  mask {:.2?}",
                meta.loss.to_scalar::<f64>()?,
                norm(&meta.total)?,
                norm(meta.second_order.as_ref().expect("exact has one"))?,
                mask.values()?.to_vec1::<f64>()?
            );
        }
        mask_sgd.step(&mask_group, &[meta.total], 1.0)?;
    }
    Ok(())
}

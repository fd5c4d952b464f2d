//! An encoder of your own, in plain Candle operations: it trains like the built-in
//! ones, and where a tangent is needed, `FiniteDifferenceTangent` gives it one.
//!
//! (If it can be written as a graph of convolutions, normalisations and linear
//! layers, `GraphEncoder` is shorter and its tangent is exact.)
//!
//! ```text
//! cargo run --release -p metamask-encoders --example own_encoder
//! ```

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_encoders::{BatchStats, Encoder, FiniteDifferenceTangent, initial_parameters};
use metamask_ops::{ParameterGroup, ParameterKind, standardize};
use metamask_random::{Key, Purpose};

const BATCH: usize = 64;
const SIZE: usize = 8;
const N_PIXELS: usize = SIZE * SIZE * 3;
const HIDDEN: usize = 32;
const DIM: usize = 16;
const LEARNING_RATE: f64 = 0.01;

/// h = tanh(x W₁ᵀ) W₂ᵀ on the pixels x of an image.
struct TwoLayers {
    parameters: Vec<ParameterGroup>,
}

impl TwoLayers {
    fn new(key: Key) -> Result<Self> {
        let weight = |sample: u32, name: &str, n_out: usize, n_in: usize| {
            let var = Var::zeros((n_out, n_in), DType::F32, &Device::Cpu)?;
            let group = ParameterGroup::single(name, ParameterKind::Linear, var);
            // PyTorch's defaults, from a stream that belongs to this weight alone.
            let key = key.sample(sample);
            let start = initial_parameters(&group.entries, key, DType::F32, &Device::Cpu)?;
            group.var.set(&start.reshape((n_out, n_in))?)?;
            Ok::<_, candle_core::Error>(group)
        };
        let first = weight(0, "layer1.weight", HIDDEN, N_PIXELS)?;
        let second = weight(1, "layer2.weight", DIM, HIDDEN)?;
        Ok(Self { parameters: vec![first, second] })
    }
}

impl Encoder for TwoLayers {
    fn feature_dim(&self) -> usize {
        DIM
    }

    fn parameters(&self) -> &[ParameterGroup] {
        &self.parameters
    }

    fn running_statistics(&self) -> &[ParameterGroup] {
        &[] // no batch normalisation
    }

    fn forward(&self, views: &Tensor, theta: &[Tensor], _stats: BatchStats) -> Result<Tensor> {
        // The parameters that are passed in, not its own: meta passes bring others.
        let [w1, w2] = theta else { candle_core::bail!("two_layers: expected 2 parameters") };
        let hidden = views.flatten_from(1)?.matmul(&w1.t()?)?.tanh()?; // [B, HIDDEN]
        hidden.matmul(&w2.t()?) // [B, D]
    }
}

fn main() -> Result<()> {
    let encoder = TwoLayers::new(Key::new(0, Purpose::Initialisation))?;
    println!("{} parameters, features of {DIM}", encoder.parameter_count());

    for step in 0..40 {
        let (view_a, view_b) = two_views(step)?;
        let theta = theta(&encoder);
        let h_a = encoder.forward(&view_a, &theta, BatchStats::BatchAndUpdate)?;
        let h_b = encoder.forward(&view_b, &theta, BatchStats::BatchAndUpdate)?;
        let loss = redundancy(&h_a, &h_b)?;
        let gradients = loss.backward()?;
        for group in encoder.parameters() {
            let gradient = gradients.get(group.tensor()).expect("each takes part in the loss");
            group.var.set(&(group.tensor().detach() - gradient * LEARNING_RATE)?)?;
        }
        if step % 8 == 0 {
            println!("step {step:2}  loss {:.3}", loss.to_scalar::<f32>()?);
        }
    }

    // An exact hypergradient needs J_f v. This encoder has no tangent and says so ...
    let (views, _) = two_views(1000)?;
    let theta = theta(&encoder);
    if let Err(error) = encoder.linearize(&views, &theta, BatchStats::BatchOnly) {
        // With RUST_BACKTRACE=1 Candle appends one.
        println!("{}", error.to_string().lines().next().unwrap_or_default());
    }
    // ... unless it is asked for by name.
    let encoder = FiniteDifferenceTangent::new(encoder);
    let linearized = encoder.linearize(&views, &theta, BatchStats::BatchOnly)?;
    let direction: Vec<Tensor> = theta.iter().map(Tensor::cos).collect::<Result<_>>()?;
    let got = linearized.tangent(&direction)?;

    let exact = closed_form(&views, &theta, &direction)?;
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
    let error = norm(&(got - &exact)?)? / norm(&exact)?;
    println!("tangent by finite differences: relative error {error:.1e}");
    assert!(error < 1e-2);
    Ok(())
}

fn theta(encoder: &dyn Encoder) -> Vec<Tensor> {
    encoder.parameters().iter().map(|group| group.tensor().clone()).collect()
}

/// J v: ((1 − t²) ⊙ x V₁ᵀ) W₂ᵀ + t V₂ᵀ with t = tanh(x W₁ᵀ).
fn closed_form(views: &Tensor, theta: &[Tensor], v: &[Tensor]) -> Result<Tensor> {
    let x = views.flatten_from(1)?;
    let t = x.matmul(&theta[0].t()?)?.tanh()?;
    let t_dot = ((1.0 - t.sqr()?)? * x.matmul(&v[0].t()?)?)?;
    t_dot.matmul(&theta[1].t()?)? + t.matmul(&v[1].t()?)?
}

/// ‖C − I‖² of the correlations C between the dimensions of two views.
fn redundancy(h_a: &Tensor, h_b: &Tensor) -> Result<Tensor> {
    let correlation = (standardize(h_a)?.t()?.matmul(&standardize(h_b)?)? / BATCH as f64)?; // [D, D]
    (correlation - Tensor::eye(DIM, DType::F32, &Device::Cpu)?)?.sqr()?.sum_all()
}

/// Two noisy views `[batch, size, size, 3]` of the same random colours.
fn two_views(batch: u32) -> Result<(Tensor, Tensor)> {
    let noise = |sample: u32, n: usize| {
        let mut stream = Key::new(0, Purpose::Test).epoch(batch).sample(sample).stream();
        (0..n).map(|_| stream.normal() as f32).collect::<Vec<_>>()
    };
    let colours = noise(0, BATCH * N_PIXELS);
    let view = |sample: u32| {
        let pixels = noise(sample, colours.len());
        let pixels = pixels.iter().zip(&colours).map(|(noise, colour)| colour + 0.5 * noise);
        Tensor::from_vec(pixels.collect(), (BATCH, SIZE, SIZE, 3), &Device::Cpu)
    };
    Ok((view(1)?, view(2)?))
}

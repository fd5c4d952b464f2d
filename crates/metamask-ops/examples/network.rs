//! Trains a small convolutional network in a plain Candle loop.
//!
//! ```text
//! cargo run --release -p metamask-ops --example network
//! ```
//!
//! The images are noise with a bright bar that stands or lies; the network, one
//! operation of Candle's graph, has to say which.

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_ops::{BatchStats, Conv2d, Network, ParameterKind, Pool, log_sum_exp};
use metamask_random::{Key, Purpose, Stream};

const SIZE: usize = 12;
const BATCH: usize = 32;
const LEARNING_RATE: f64 = 0.5;

fn main() -> Result<()> {
    metamask_ops::keep_freed_memory();
    let network = bar_network()?;
    let mut random = Key::new(1, Purpose::Test).stream();
    let theta = initial_parameters(&network, &mut random)?;
    let running = initial_statistics(&network)?;
    println!(
        "{} parameters, {} multiply-adds an image",
        network.parameter_count(),
        network.multiply_adds(&[1, SIZE, SIZE, 1])?
    );

    for step in 0..100 {
        let (images, lies) = bars(&mut random)?;
        let logits = network.forward(&images, &theta, &running, BatchStats::BatchAndUpdate)?;
        let loss = cross_entropy(&logits, &lies)?;
        let gradients = loss.backward()?;
        let gradient = gradients.get(&theta).expect("the loss depends on theta");
        theta.set(&(theta.as_tensor() - (gradient * LEARNING_RATE)?)?)?;
        if step % 20 == 19 {
            println!("step {:3}  loss {:.3}", step + 1, loss.to_scalar::<f32>()?);
        }
    }

    // Without gradient and by the running statistics no activation is kept.
    let (images, lies) = bars(&mut random)?;
    let logits = network.forward(&images, &theta.detach(), &running, BatchStats::Running)?;
    let correct = logits.argmax(1)?.eq(&lies.argmax(1)?)?.to_dtype(DType::F32)?;
    println!("accuracy on new bars: {:.0} %", correct.mean_all()?.to_scalar::<f32>()? * 100.0);
    Ok(())
}

fn bar_network() -> Result<Network> {
    let conv = |out_channels| Conv2d { out_channels, kernel: 3, stride: 1, padding: 1 };
    let mut b = Network::builder(1);
    let x = b.conv2d("conv1", b.input(), conv(8));
    let x = b.batch_norm("bn1", x);
    let x = b.relu(x);
    let x = b.max_pool2d(x, Pool { kernel: 3, stride: 2, padding: 1 });
    let y = b.conv2d("conv2", x, conv(8));
    let y = b.batch_norm("bn2", y);
    let y = b.add(y, x);
    let y = b.relu(y);
    let y = b.global_avg_pool(y);
    let y = b.linear("fc", y, 2, true);
    b.finish(y)
}

/// Weights uniform in ± 1/√(inputs of a neuron), normalisations the identity.
fn initial_parameters(network: &Network, random: &mut Stream) -> Result<Var> {
    let mut theta = Vec::with_capacity(network.parameter_count());
    for entry in network.parameters() {
        let out = match entry.kind {
            ParameterKind::Convolution => entry.shape[3],
            _ => entry.shape[0],
        };
        let bound = (out as f32 / entry.span.len() as f32).sqrt();
        theta.extend(entry.span.clone().map(|_| match entry.kind {
            ParameterKind::NormScale => 1.0,
            ParameterKind::NormShift | ParameterKind::Bias => 0.0,
            _ => random.uniform_in(-bound, bound),
        }));
    }
    Var::from_vec(theta, network.parameter_count(), &Device::Cpu)
}

/// Means 0, variances 1.
fn initial_statistics(network: &Network) -> Result<Var> {
    let values = network.running_statistics().iter().flat_map(|entry| {
        let start = f32::from(entry.kind == ParameterKind::RunningVariance);
        entry.span.clone().map(move |_| start)
    });
    Var::from_vec(values.collect(), network.running_count(), &Device::Cpu)
}

/// Images `[BATCH, SIZE, SIZE, 1]` and one-hot labels `[BATCH, 2]`: does the bar lie?
fn bars(random: &mut Stream) -> Result<(Tensor, Tensor)> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for _ in 0..BATCH {
        let lies = random.below(2) == 1;
        let place = random.below(SIZE as u32) as usize;
        for (row, column) in (0..SIZE).flat_map(|row| (0..SIZE).map(move |column| (row, column))) {
            let in_bar = place == if lies { row } else { column };
            images.push(random.uniform_in(-1.0, 1.0) + if in_bar { 1.0 } else { 0.0 });
        }
        labels.extend([f32::from(!lies), f32::from(lies)]);
    }
    let images = Tensor::from_vec(images, (BATCH, SIZE, SIZE, 1), &Device::Cpu)?;
    Ok((images, Tensor::from_vec(labels, (BATCH, 2), &Device::Cpu)?))
}

fn cross_entropy(logits: &Tensor, one_hot: &Tensor) -> Result<Tensor> {
    let log_probability = logits.broadcast_sub(&log_sum_exp(logits, 1)?)?;
    (log_probability * one_hot)?.sum(1)?.mean_all()?.neg()
}

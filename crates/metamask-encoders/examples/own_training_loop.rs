//! The encoder as a plain Candle `Module` inside somebody's own training loop:
//! here supervised, with a linear classifier and hand-written gradient descent,
//! on stripes that run across or down.
//!
//! ```text
//! cargo run --release -p metamask-encoders --example own_training_loop
//! ```

use candle_core::{DType, Device, Result, Tensor};
use metamask_encoders::{BatchStats, Encoder, Mlp, MlpConfig, ResNet, ResNetConfig};
use metamask_ops::log_sum_exp;
use metamask_random::{Key, Purpose};

const BATCH: usize = 32;
const SIZE: usize = 16;
const LEARNING_RATE: f64 = 0.1;

fn main() -> Result<()> {
    let device = Device::Cpu;
    let key = Key::new(0, Purpose::Initialisation);
    let config = ResNetConfig { width: 8, ..Default::default() };
    let encoder = ResNet::new(&config, key, DType::F32, &device)?;
    let config =
        MlpConfig { input: encoder.feature_dim(), hidden: vec![], output: 2, final_norm: false };
    let classifier = Mlp::new("fc", &config, key.sample(1), DType::F32, &device)?;

    for step in 0..40 {
        let (images, labels) = stripes(step)?;
        // Reads its own variables, normalises by the batch, moves the running statistics.
        let features = encoder.forward_nchw(&images, BatchStats::BatchAndUpdate)?; // [B, D]
        let scores = classify(&classifier, &features)?; // [B, 2]
        let correct = scores.gather(&labels.unsqueeze(1)?, 1)?; // [B, 1]
        let loss = (log_sum_exp(&scores, 1)? - correct)?.mean_all()?;

        let gradients = loss.backward()?;
        for group in encoder.parameters().iter().chain(classifier.parameters()) {
            let gradient = gradients.get(group.tensor()).expect("each takes part in the loss");
            group.var.set(&(group.tensor().detach() - gradient * LEARNING_RATE)?)?;
        }
        println!("step {step:2}  loss {:.4}", loss.to_scalar::<f32>()?);
    }

    // As a `Module`: NHWC images, running statistics.
    let (images, labels) = stripes(1000)?;
    let features = images.permute((0, 2, 3, 1))?.contiguous()?.apply(&encoder)?;
    let predictions = classify(&classifier, &features)?.argmax(1)?;
    let correct = predictions.eq(&labels)?.to_dtype(DType::F32)?.mean_all()?;
    println!("new images: {:.0} % correct", 100.0 * correct.to_scalar::<f32>()?);
    Ok(())
}

/// Class scores `[batch, 2]` of features.
fn classify(classifier: &Mlp, features: &Tensor) -> Result<Tensor> {
    let theta: Vec<Tensor> =
        classifier.parameters().iter().map(|group| group.tensor().clone()).collect();
    classifier.forward(features, &theta, BatchStats::Running)
}

/// Noisy stripes `[batch, 3, size, size]`, across (0) or down (1), and their labels.
fn stripes(batch: u32) -> Result<(Tensor, Tensor)> {
    let mut stream = Key::new(0, Purpose::Test).epoch(batch).stream();
    let mut pixels = Vec::with_capacity(BATCH * 3 * SIZE * SIZE);
    let mut labels = Vec::with_capacity(BATCH);
    for _ in 0..BATCH {
        let label = stream.below(2);
        labels.push(label);
        let phase = stream.below(4) as usize;
        for place in 0..3 * SIZE * SIZE {
            let (row, column) = (place / SIZE % SIZE, place % SIZE);
            let along = if label == 0 { row } else { column };
            let stripe = if (along + phase) % 4 < 2 { 1.0 } else { -1.0 };
            pixels.push((stripe + 2.0 * stream.normal()) as f32);
        }
    }
    let pixels = Tensor::from_vec(pixels, (BATCH, 3, SIZE, SIZE), &Device::Cpu)?;
    Ok((pixels, Tensor::from_vec(labels, BATCH, &Device::Cpu)?))
}

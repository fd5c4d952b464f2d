//! Evaluates features that come from anywhere, here ten noisy clusters: kNN,
//! linear probe and what the dimensions do.
//!
//! ```text
//! cargo run --release -p metamask-eval --example knn_on_clusters
//! ```

use candle_core::{Device, Result, Tensor};
use metamask_eval::{
    Knn, LinearProbe, MeanStd, Protocol, dead_dimensions, effective_rank, embedding_spread,
};
use metamask_random::{Key, Purpose};

const N_CLASSES: usize = 10;
const DIM: usize = 64;

fn main() -> Result<()> {
    for protocol in [Protocol::Knn(Knn::default()), Protocol::LinearProbe(LinearProbe::default())] {
        let mut accuracies = Vec::new();
        for seed in 0..3 {
            let (train, train_labels) = clusters(2000, Key::new(seed, Purpose::Test))?;
            let (test, test_labels) = clusters(500, Key::new(seed, Purpose::Test).view(1))?;
            accuracies.push(protocol.accuracy_percent(
                (&train, &train_labels),
                (&test, &test_labels),
                N_CLASSES,
            )?);
        }
        println!("{} %   {protocol}", MeanStd::of(&accuracies)?);
    }

    let (features, _) = clusters(2000, Key::new(0, Purpose::Test))?;
    let spread = embedding_spread(&features)?;
    println!("effective rank {:.1} of {DIM}", effective_rank(&features)?);
    println!("dead dimensions {}", dead_dimensions(&features, 0.01)?);
    println!("embedding std {:.3} (evenly spread: {:.3})", spread.std, spread.even);
    Ok(())
}

/// `n` features of `DIM` dimensions scattered around their classes' centres, and
/// their labels.
fn clusters(n: usize, key: Key) -> Result<(Tensor, Vec<u32>)> {
    let mut stream = key.stream();
    let mut features = Vec::with_capacity(n * DIM);
    let mut labels = Vec::with_capacity(n);
    for _ in 0..n {
        let label = stream.below(N_CLASSES as u32);
        labels.push(label);
        for d in 0..DIM {
            let centre = if d % N_CLASSES == label as usize { 1.0 } else { 0.0 };
            features.push((centre + 1.5 * stream.normal()) as f32);
        }
    }
    Ok((Tensor::from_vec(features, (n, DIM), &Device::Cpu)?, labels))
}

//! MetaMask's iteration in somebody's own loop, on images that come from
//! anywhere: no data set, no run folder, no command line.
//!
//! ```text
//! cargo run --release -p metamask-train --example own_loop
//! ```

use candle_core::{DType, Device, Tensor};
use metamask_augment::{ImageBatch, Pipeline, Transform, TwoViews, two_views};
use metamask_random::{Key, Purpose};
use metamask_train::algorithm::iteration;
use metamask_train::{Config, Learner, Moment};

const SIDE: usize = 16;
const BATCH: u32 = 16;

fn main() -> anyhow::Result<()> {
    let settings = [
        "encoder.width=8",
        "training.epochs=10",
        "optimizer.learning_rate=0.02",
        "mask.learning_rate=0.1",
    ];
    let config = Config::read("", "own_loop", &settings.map(str::to_owned))?;
    let mut learner = Learner::new(&config, DType::F32)?;
    let pixels = blobs(4 * BATCH);
    let images = ImageBatch::new(&pixels, SIDE, SIDE)?;
    let crop =
        Transform::RandomResizedCrop { size: SIDE, scale: [0.5, 1.0], ratio: [0.75, 4.0 / 3.0] };
    let normalize = Transform::Normalize { mean: [0.5; 3], std: [0.25; 3] };
    let flip = Transform::HorizontalFlip { p: 0.5 };
    let recipe = TwoViews::same(Pipeline::new(vec![crop, flip, normalize])?);

    for step in 0..40 {
        let samples: Vec<u32> = (0..BATCH).map(|i| step % 4 * BATCH + i).collect();
        let (view_a, view_b) = two_views(&recipe, images, &samples, 0, step / 4)?;
        let tensor = |view| Tensor::from_vec(view, (BATCH as usize, SIDE, SIDE, 3), &Device::Cpu);
        let views = [tensor(view_a)?, tensor(view_b)?];

        let moment = Moment::of(&config, u64::from(step), 4);
        let found = iteration(&mut learner, &views, &moment)?;
        let mask = learner.mask.values()?;
        let (low, high) = (mask.min(0)?.to_scalar::<f32>()?, mask.max(0)?.to_scalar::<f32>()?);
        println!("step {step:2}  loss {:.3}  mask {low:.3} to {high:.3}", found.loss);
    }
    Ok(())
}

/// `n` images, each a soft blob of one colour somewhere on grey.
fn blobs(n: u32) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(n as usize * SIDE * SIDE * 3);
    for sample in 0..n {
        let mut stream = Key::new(0, Purpose::Test).sample(sample).stream();
        let mut place = || stream.uniform_in(3.0, SIDE as f32 - 3.0);
        let (row, column) = (place(), place());
        let colour = [stream.uniform(), stream.uniform(), stream.uniform()];
        for i in 0..SIDE * SIDE {
            let (y, x) = ((i / SIDE) as f32 - row, (i % SIDE) as f32 - column);
            let weight = (-(x * x + y * y) / 8.0).exp();
            pixels.extend(colour.map(|c| (255.0 * (0.5 + weight * (c - 0.5))) as u8));
        }
    }
    pixels
}

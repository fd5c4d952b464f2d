//! One iteration of a full-width ResNet-18 (CIFAR stem) with the authors' heads,
//! batch 64 (two views), on fixed random views, under any settings.
//!
//! Prints one JSON object: the median and the smallest time of an iteration in ms
//! (of `meta.every` iterations together, divided by their number), and the peak of
//! the resident memory. xtask/bench/torch_meta_step.py does the same in PyTorch;
//! `cargo xtask bench meta` alternates them.
//!
//! ```text
//! cargo bench -p metamask-train --bench meta_step -- --set meta.virtual_step=lookahead
//! ```

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use metamask_random::{Key, Purpose};
use metamask_train::{Config, Learner, Moment, algorithm::iteration};

const SIZE: usize = 32;
/// The network of the cell SimCLR + MetaMask, CIFAR-10, at batch 64.
const SETTINGS: &str = "
    [encoder]
    width = 64
    [contrastive_head]
    hidden = [2048]
    output = 256
    [redundancy_head]
    hidden = [2048, 2048]
    output = 2048
    [objective]
    alpha = 10.0
    temperature = 0.07
    [training]
    batch_size = 64
    [optimizer]
    learning_rate = 1e-3
    [mask]
    learning_rate = 1e-3
";

fn main() -> anyhow::Result<()> {
    metamask_ops::keep_freed_memory();
    metamask_ops::keep_candle_on_one_thread();
    metamask_ops::set_threads(option("--threads", 2)?)?;
    let steps = option("--steps", 3)?;
    let config = Config::read(SETTINGS, "meta_step", &overrides())?;
    let (batch, every) = (config.training.batch_size, config.meta.every as u64);

    let mut learner = Learner::new(&config, DType::F32)?;
    let views = [views(batch, 0)?, views(batch, 1)?];
    let mut times_ms = Vec::new();
    let mut step = 0;
    // The first round allocates, and a lookahead has nothing to judge in it yet.
    for round in 0..=steps {
        let start = Instant::now();
        for _ in 0..every {
            iteration(&mut learner, &views, &Moment::of(&config, step, u64::MAX >> 32))?;
            step += 1;
        }
        if round > 0 {
            times_ms.push(start.elapsed().as_secs_f64() * 1e3 / every as f64);
        }
    }
    times_ms.sort_by(f64::total_cmp);
    println!(
        "{}",
        serde_json::json!({
            "median_ms": times_ms[times_ms.len() / 2],
            "min_ms": times_ms[0],
            "peak_kib": peak_kib(),
            "threads": metamask_ops::threads(),
            "kernel": format!("{:?}", metamask_ops::Kernel::current()).to_lowercase(),
        })
    );
    Ok(())
}

/// Standard normal pixels, NHWC.
fn views(batch: usize, view: u16) -> Result<Tensor> {
    let mut stream = Key::new(0, Purpose::Test).view(view).stream();
    let pixels = (0..batch * SIZE * SIZE * 3).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec::<_, f32>(pixels, (batch, SIZE, SIZE, 3), &Device::Cpu)
}

/// The peak of this process's resident memory, where the system tells it.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The words behind each `--set`.
fn overrides() -> Vec<String> {
    let words: Vec<String> = std::env::args().collect();
    words.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].clone()).collect()
}

/// The count behind `name` among the arguments, at least 1.
fn option(name: &str, default: usize) -> anyhow::Result<usize> {
    let mut words = std::env::args().skip_while(|word| word != name).skip(1);
    let value = words.next().map_or(Ok(default), |word| word.parse())?;
    anyhow::ensure!(value > 0, "{name} must be positive");
    Ok(value)
}

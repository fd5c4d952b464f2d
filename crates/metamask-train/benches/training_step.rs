//! One training step of a ResNet (CIFAR stem): forward, backward and SGD with
//! momentum on a fixed random batch, f32; or feature extraction, the forward pass
//! by running statistics (`--task extract`).
//!
//! Prints one JSON object with the median and the smallest time, in ms, and the
//! peak of the resident memory. xtask/bench/torch_step.py is the same in PyTorch;
//! `cargo xtask bench --peer torch` alternates the two.
//!
//! ```text
//! cargo bench -p metamask-train --bench training_step -- --threads 2
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use metamask_encoders::{Encoder, Mlp, MlpConfig, ResNet, ResNetConfig};
use metamask_ops::{BatchStats, ParameterGroup, Phase, Precision, StepView, Watcher};
use metamask_optim::Sgd;
use metamask_random::{Key, Purpose};

const WARMUP: usize = 2;

fn main() -> anyhow::Result<()> {
    metamask_ops::keep_freed_memory();
    metamask_ops::keep_candle_on_one_thread();
    metamask_ops::set_threads(option("--threads", 2)?)?;
    let batch = option("--batch", 64)?;
    let steps = option("--steps", 7)?;
    let size = option("--size", 32)?;
    let precision = match word("--precision").as_deref() {
        Some("exact") => Precision::Exact,
        None | Some("fast") => Precision::Fast,
        Some("bf16") => Precision::Bf16,
        Some(other) => anyhow::bail!("--precision: expected exact, fast or bf16, got `{other}`"),
    };

    let key = Key::new(0, Purpose::Initialisation);
    let config = ResNetConfig {
        depth: option("--depth", 18)?,
        width: option("--width", 64)?,
        precision,
        ..Default::default()
    };
    let encoder = ResNet::new(&config, key, DType::F32, &Device::Cpu)?;
    let input = encoder.feature_dim();
    let config = MlpConfig { input, hidden: vec![], output: 128, final_norm: false };
    let head = Mlp::new("fc", &config, key.sample(1), DType::F32, &Device::Cpu)?;
    let groups: Vec<ParameterGroup> =
        encoder.parameters().iter().chain(head.parameters()).cloned().collect();
    let mut optimizer = Sgd::new(&groups, 0.9, 5e-4)?;
    let images = images(batch, size)?;

    let extract = word("--task").is_some_and(|task| task == "extract");
    let theta_f = encoder.parameters();
    let profile = Arc::new(Profile::default());
    if std::env::args().any(|word| word == "--profile") {
        encoder.network().set_watcher(Some(profile.clone()));
    }

    let mut times_ms = Vec::new();
    for _ in 0..WARMUP + steps {
        let start = Instant::now();
        if extract {
            let theta: Vec<Tensor> = theta_f.iter().map(|group| group.tensor().detach()).collect();
            encoder.forward(&images, &theta, BatchStats::Running)?;
        } else {
            step(&encoder, &head, &groups, &mut optimizer, &images)?;
        }
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times_ms.drain(..WARMUP);
    times_ms.sort_by(f64::total_cmp);
    let kernel = format!("{:?}", metamask_ops::Kernel::current()).to_lowercase();
    println!(
        "{}",
        serde_json::json!({
            "median_ms": times_ms[times_ms.len() / 2],
            "min_ms": times_ms[0],
            "precision": format!("{precision:?}").to_lowercase(),
            "peak_mib": peak_mib(),
            "batch": batch,
            "threads": metamask_ops::threads(),
            "kernel": kernel,
        })
    );
    print(&profile);
    Ok(())
}

/// Smallest time of each step of the network, for `--profile`.
#[derive(Default)]
struct Profile(Mutex<Times>);

#[derive(Default)]
struct Times {
    running: Option<(String, Phase, u64, u64, Instant)>,
    /// Name and phase: milliseconds, multiply-adds, bytes.
    steps: BTreeMap<(String, Phase), (f64, u64, u64)>,
}

impl Watcher for Profile {
    fn begin(&self, step: &StepView<'_>) {
        self.0.lock().expect("no panic inside").running =
            Some((step.name.into(), step.phase, step.multiply_adds, step.bytes, Instant::now()));
    }

    fn end(&self) {
        let mut times = self.0.lock().expect("no panic inside");
        let (name, phase, multiply_adds, bytes, start) = times.running.take().expect("begun");
        let ms = start.elapsed().as_secs_f64() * 1e3;
        let entry = times.steps.entry((name, phase)).or_insert((ms, multiply_adds, bytes));
        entry.0 = entry.0.min(ms);
    }
}

fn print(profile: &Profile) {
    let times = profile.0.lock().expect("no panic inside");
    let mut sums: BTreeMap<(bool, Phase), f64> = BTreeMap::new();
    for ((name, phase), (ms, multiply_adds, bytes)) in &times.steps {
        let rate = 2e-6 * *multiply_adds as f64 / ms;
        let bandwidth = 1e-6 * *bytes as f64 / ms;
        eprintln!("{name:24} {phase:15?} {ms:8.2} ms {rate:6.0} GFLOP/s {bandwidth:6.1} GB/s");
        *sums.entry((*multiply_adds > 0, *phase)).or_default() += ms;
    }
    for ((has_products, phase), ms) in sums {
        eprintln!("products: {has_products:5} {phase:15?} {ms:8.1} ms");
    }
}

fn step(
    encoder: &ResNet,
    head: &Mlp,
    groups: &[ParameterGroup],
    optimizer: &mut Sgd,
    images: &Tensor,
) -> Result<()> {
    let theta: Vec<Tensor> = groups.iter().map(|group| group.tensor().clone()).collect();
    let (theta_f, theta_g) = theta.split_at(encoder.parameters().len());
    let features = encoder.forward(images, theta_f, BatchStats::BatchAndUpdate)?; // [B, 512]
    let outputs = head.forward(&features, theta_g, BatchStats::BatchAndUpdate)?; // [B, 128]
    let gradients = outputs.sqr()?.mean_all()?.backward()?;
    let gradients: Vec<Tensor> = theta
        .iter()
        .map(|theta| gradients.get(theta).cloned().expect("each takes part in the loss"))
        .collect();
    optimizer.step(groups, &gradients, 0.01)
}

/// Standard normal pixels, NHWC.
fn images(batch: usize, size: usize) -> Result<Tensor> {
    let mut stream = Key::new(0, Purpose::Test).stream();
    let pixels = (0..batch * size * size * 3).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec::<_, f32>(pixels, (batch, size, size, 3), &Device::Cpu)
}

/// The count behind `name` among the arguments, at least 1.
fn option(name: &str, default: usize) -> anyhow::Result<usize> {
    let value = word(name).map_or(Ok(default), |word| word.parse())?;
    anyhow::ensure!(value > 0, "{name} must be positive");
    Ok(value)
}

/// The word behind `name` among the arguments.
fn word(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

/// Peak of the resident memory, where the system tells it.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

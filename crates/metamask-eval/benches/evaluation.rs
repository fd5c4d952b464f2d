//! kNN and linear probe on random features, timed.
//!
//! Prints one JSON object with the median and the smallest time, in ms.
//! xtask/bench/torch_eval.py does the same in PyTorch and FAISS.
//!
//! ```text
//! cargo bench -p metamask-eval --bench evaluation -- --task knn --threads 2
//! ```

use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use metamask_eval::{Knn, LinearProbe, knn_predict};
use metamask_random::{Key, Purpose};

const BANK: usize = 50_000;
const QUERIES: usize = 10_000;
const DIM: usize = 512;
const CLASSES: usize = 10;
const STEPS: usize = 3;

fn main() -> Result<()> {
    let threads = word("--threads").map_or(2, |word| word.parse().expect("a count"));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("one pool");
    let key = Key::new(0, Purpose::Test);
    let bank = normal(BANK, key)?;
    let mut stream = key.view(1).stream();
    let labels: Vec<u32> = (0..BANK).map(|_| stream.below(CLASSES as u32)).collect();
    match word("--task").as_deref() {
        Some("knn") => {
            let queries = normal(QUERIES, key.sample(1))?;
            let knn = Knn { k: 200, temperature: 0.1 };
            time(|| knn_predict(&bank, &labels, &queries, knn, CLASSES).map(|_| ()))
        }
        Some("probe") => {
            let probe = LinearProbe { penalty: 1e-4, max_iterations: 100, gradient_tolerance: 0.0 };
            time(|| probe.fit(&bank, &labels, CLASSES).map(|_| ()))
        }
        // `cargo test --benches` asks for nothing.
        _ => Ok(()),
    }
}

fn time(mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let mut times_ms = Vec::new();
    for _ in 0..STEPS {
        let start = Instant::now();
        work()?;
        times_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    println!("{{\"median_ms\": {}, \"min_ms\": {}}}", times_ms[STEPS / 2], times_ms[0]);
    Ok(())
}

fn normal(rows: usize, key: Key) -> Result<Tensor> {
    let mut stream = key.stream();
    let values: Vec<f32> = (0..rows * DIM).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, (rows, DIM), &Device::Cpu)
}

/// The word behind `name` among the arguments.
fn word(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

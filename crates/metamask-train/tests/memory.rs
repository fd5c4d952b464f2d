//! Memory over a thousand meta steps. A file of its own: other tests in the same
//! process would be measured too.

use std::fs;

use candle_core::{DType, Device, Tensor};
use metamask_random::{Key, Purpose};
use metamask_train::{Config, Learner, Moment, algorithm::iteration};

const BATCH: usize = 8;
const SIZE: usize = 8;
/// Steps after which everything that is ever needed has been allocated.
const WARM_UP: u64 = 100;
const STEPS: u64 = 1000;
/// What the allocator may come to hold more: less than a byte a step for each weight.
const SLACK_KIB: u64 = 2048;

/// Resident memory of this process in KiB, where the system tells.
fn resident_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn views(sample: u32) -> candle_core::Result<[Tensor; 2]> {
    let view = |view: u16| {
        let mut stream = Key::new(0, Purpose::Test).sample(sample).view(view).stream();
        let pixels: Vec<f32> =
            (0..BATCH * SIZE * SIZE * 3).map(|_| stream.normal() as f32).collect();
        Tensor::from_vec(pixels, (BATCH, SIZE, SIZE, 3), &Device::Cpu)
    };
    Ok([view(0)?, view(1)?])
}

#[test]
fn memory_is_constant_over_a_thousand_meta_steps() -> anyhow::Result<()> {
    if resident_kib().is_none() {
        eprintln!("skipped: memory_is_constant_over_a_thousand_meta_steps: no /proc/self/status");
        return Ok(());
    }
    for mode in [
        ["meta.virtual_step=shared", "meta.hypergradient=exact", "objective.method=simclr"],
        ["meta.virtual_step=lookahead", "meta.hypergradient=exact", "objective.method=nnclr"],
        [
            "meta.virtual_step=after-regular",
            "meta.hypergradient=finite-difference",
            "objective.method=byol",
        ],
    ] {
        let rest = [
            "encoder.architecture=conv",
            "encoder.width=2",
            "contrastive_head.hidden=[8]",
            "contrastive_head.output=8",
            "predictor.hidden=[8]",
            "queue.size=64",
            "optimizer.learning_rate=0.001",
            "training.batch_size=8",
        ];
        let settings: Vec<String> = mode.iter().chain(&rest).map(|&set| set.to_owned()).collect();
        let config = Config::read("", "memory", &settings)?;
        let mut learner = Learner::new(&config, DType::F32)?;
        let batches = [views(0)?, views(1)?];
        let mut after_warm_up = 0;
        for step in 0..WARM_UP + STEPS {
            if step == WARM_UP {
                after_warm_up = resident_kib().expect("it was there before");
            }
            let moment = Moment::of(&config, step, WARM_UP + STEPS);
            iteration(&mut learner, &batches[step as usize % 2], &moment)?;
        }
        let growth = resident_kib().expect("it was there before").saturating_sub(after_warm_up);
        assert!(growth < SLACK_KIB, "{mode:?}: grew by {growth} KiB in {STEPS} steps");
    }
    Ok(())
}

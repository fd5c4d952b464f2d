//! Schedules against `torch.optim.lr_scheduler` (`xtask/golden/optimisers.py`).

use std::path::Path;

use candle_core::{Device, Result};
use metamask_optim::{Progress, Schedule, ScheduleConfig, Stepping};

/// PyTorch multiplies from rate to rate, so rounding adds up.
const ATOL: f64 = 1e-12;

#[test]
fn schedules_equal_pytorch_s() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let fixture =
        candle_core::safetensors::load(folder.join("optimisers.safetensors"), &Device::Cpu)?;
    let of = |schedule, stepping| ScheduleConfig { stepping, ..ScheduleConfig::new(schedule) };
    for (name, config) in [
        ("cosine-epochs", of(Schedule::Cosine, Stepping::Epoch)),
        (
            "cosine-steps",
            ScheduleConfig { minimum_rate: 0.01, ..of(Schedule::Cosine, Stepping::Step) },
        ),
        (
            "warmup-cosine-steps",
            ScheduleConfig {
                warmup_epochs: 3,
                warmup_start: 0.1,
                minimum_rate: 0.01,
                ..of(Schedule::WarmupCosine, Stepping::Step)
            },
        ),
        (
            "warmup-cosine-epochs",
            ScheduleConfig {
                warmup_epochs: 3,
                warmup_start: 0.25,
                ..of(Schedule::WarmupCosine, Stepping::Epoch)
            },
        ),
        (
            "step-epochs",
            ScheduleConfig {
                milestones: vec![6, 9],
                factor: 0.2,
                ..of(Schedule::Step, Stepping::Epoch)
            },
        ),
    ] {
        config.check(0.4, 12)?;
        let expected = fixture[&format!("schedule.{name}")].to_vec1::<f64>()?;
        let steps_a_tick = 60 / expected.len();
        for step in 0..60 {
            let at = Progress { step, steps_per_epoch: 5, epochs: 12 };
            let (got, expected) = (config.learning_rate(0.4, at), expected[step / steps_a_tick]);
            assert!((got - expected).abs() < ATOL, "{name} {step}: {got} {expected}");
        }
    }
    Ok(())
}

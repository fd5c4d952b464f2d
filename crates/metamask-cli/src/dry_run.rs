//! `metamask pretrain --dry-run`: what a run will take, before it is started.

use std::{fmt::Write as _, path::Path};

use metamask_train::{Config, forecast::Forecast, machine, shown};

use crate::data_places::bytes;

/// The forecast beside what the machine has.
pub(crate) fn table(config: &Config, out: &Path, forecast: &Forecast) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "{what:10}{value}");
    };
    line(
        "steps",
        format!(
            "{} epochs of {} at batch {}, {} in all",
            config.training.epochs,
            forecast.steps_per_epoch,
            config.training.batch_size,
            forecast.steps
        ),
    );
    line(
        "time",
        format!(
            "about {} ({} to train, {:.3} s a step; {} to evaluate)",
            duration(forecast.training_s + forecast.evaluation_s),
            duration(forecast.training_s),
            forecast.step_s,
            duration(forecast.evaluation_s)
        ),
    );
    line(
        "FLOPs",
        format!(
            "{:.2e} in all, {:.2e} a step: the encoder's passes, the meta step's among them",
            forecast.flops, forecast.step_flops as f64
        ),
    );
    let has = |free: Option<u64>, word: &str| {
        free.map_or_else(String::new, |free| format!("; {} {word}", bytes(free)))
    };
    line(
        "memory",
        match forecast.memory_bytes {
            Some(memory) => {
                format!("{}{}", bytes(memory), has(machine::available_memory(), "are available"))
            }
            None => "unknown: the system does not tell".to_owned(),
        },
    );
    line(
        "disk",
        format!(
            "{} in {}, at most {} ({} a checkpoint){}",
            bytes(forecast.disk_in_the_end_bytes),
            shown(out),
            bytes(forecast.disk_bytes),
            bytes(forecast.checkpoint_bytes),
            has(machine::free_disk(out), "are free")
        ),
    );
    if !forecast.at_full_batch {
        text += "\nnote: the full batch does not fit in memory; figures are from a quarter of it\n";
    }
    text
}

/// A time for people.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.1} s"),
        60.0..3600.0 => format!("{:.0} min", seconds / 60.0),
        3600.0..172_800.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

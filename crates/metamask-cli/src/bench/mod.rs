//! `metamask bench`: what this machine does, of how much it could.

mod augment;
mod growth;
mod knn;
mod peak;
mod profile;
mod step;

use std::time::Instant;

use clap::{Args, Subcommand};
use metamask_ops::{Kernel, threads};
use metamask_train::{Config, presets};

use crate::arguments::WorkersArguments;
use crate::commands::set_threads;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask bench step --profile
  metamask bench augment
  metamask bench knn")]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Time a training step, its phases and its layers
    Step(step::BenchStepArguments),
    /// Time the making of views
    Augment(augment::BenchAugmentArguments),
    /// Time a k-nearest-neighbour evaluation
    Knn(knn::BenchKnnArguments),
}

pub(crate) fn run(arguments: &BenchArguments) -> anyhow::Result<()> {
    match &arguments.command {
        BenchCommand::Step(arguments) => step::run(arguments),
        BenchCommand::Augment(arguments) => augment::run(arguments),
        BenchCommand::Knn(arguments) => knn::run(arguments),
    }
}

/// What is common to all of them.
#[derive(Args, Debug)]
struct Common {
    #[command(flatten)]
    workers: WorkersArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Whose settings are timed.
#[derive(Args, Debug)]
struct Settings {
    /// Preset whose settings are timed
    #[arg(long, value_name = "NAME", default_value = presets::DEFAULT)]
    preset: String,
    /// Override a setting, such as `training.batch_size=128`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

impl Settings {
    fn config(&self) -> anyhow::Result<Config> {
        Ok(presets::Preset::named(&self.preset)?.config(&self.overrides)?)
    }
}

/// Sets the threads and says with what the machine computes.
fn machine(common: &Common) -> anyhow::Result<String> {
    set_threads(common.workers.threads)?;
    let kernel = format!("{:?}", Kernel::current()).to_lowercase();
    let n = threads();
    Ok(format!("{n} {}, {kernel}", if n == 1 { "thread" } else { "threads" }))
}

/// Milliseconds of each of `rounds` calls, in ascending order. One call before them
/// makes what the others find made.
fn times(rounds: usize, mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    call()?;
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        call()?;
        times.push(milliseconds(start));
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Of numbers in ascending order, which there must be.
fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// 12345.6 as `12,346`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0.4, 999.0, 1000.0, 12_345.6, 1_234_567.0].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "12,346", "1,234,567"]);
    }

    #[test]
    fn the_first_call_is_not_timed() -> anyhow::Result<()> {
        let mut calls = 0;
        let times = times(3, || {
            calls += 1;
            Ok(())
        })?;
        assert_eq!((calls, times.len()), (4, 3));
        assert!(times.is_sorted());
        Ok(())
    }
}

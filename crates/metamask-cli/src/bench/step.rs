//! `metamask bench step`: an iteration as `pretrain` takes it, on random images.

use std::{fmt::Write as _, path::PathBuf, sync::Arc, time::Instant};

use candle_core::{DType, Device};
use clap::Args;
use metamask_data::{Images, Unlabelled};
use metamask_random::{Key, Purpose};
use metamask_train::{
    Code, Config, Failure, Learner, Moment,
    algorithm::iteration,
    config::MaskMode,
    expect_new, machine, shown,
    views::{ViewStream, recipe},
    write_new,
};
use serde_json::json;

use super::profile::{Profile, Sum, percent};
use super::{Common, Settings, grouped, growth, machine, median, milliseconds, peak};
use crate::device::{DeviceArgument, peak_mib_of};
use crate::print;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask bench step
  metamask bench step --set encoder.width=64 --profile
  metamask bench step --preset cifar10-simclr-metamask-authors --trace step.json
  metamask bench step --growth
  metamask bench step --device cuda:0 --set engine.precision=bf16 --set training.batch_size=512

Times a whole iteration: views, both passes, the heads, the mask's step, the optimisers;
on random images of the size that the settings train on, with weights at random. GFLOP/s
count a multiplication and an addition as two, as the definition of each layer has them.
Winograd's convolutions (`engine.precision` fast and bf16) do fewer, so they can pass 100 %
of the peak, which is measured before. A trace opens in chrome://tracing or ui.perfetto.dev.")]
pub(super) struct BenchStepArguments {
    #[command(flatten)]
    settings: Settings,
    /// Iterations that are timed
    #[arg(long, value_name = "N", default_value_t = 10,
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    steps: u16,
    /// The time of every phase and every layer
    #[arg(long)]
    profile: bool,
    /// Write every step of every layer, for the trace viewer of a browser
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// How the cost grows with batch, width, side of the images and width of the embedding
    #[arg(long, conflicts_with_all = ["profile", "trace"])]
    growth: bool,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &BenchStepArguments) -> anyhow::Result<()> {
    let config = arguments.settings.config()?;
    expect_new(arguments.trace.as_deref())?;
    let device = arguments.device.open()?;
    if !device.is_cpu() {
        return on_gpu(arguments, &config, &device);
    }
    let machine = machine(&arguments.common)?;
    if arguments.growth {
        return growth::run(&config, &machine, &arguments.common);
    }
    let profile = Arc::new(Profile::new());
    let steps = usize::from(arguments.steps);
    let taken = measure(&config, steps, Some(&profile), &device)?;
    let peaks = (peak::gflops(config.engine.precision.into()), peak::copied_gigabytes());
    let totals = profile.totals();
    if let Some(path) = &arguments.trace {
        write_new(path, profile.trace().to_string().as_bytes())?;
    }
    let steps = taken.steps;
    if arguments.common.json {
        let value = json!({
            "settings": arguments.settings.preset,
            "description": describe(&config),
            "machine": machine,
            "steps": steps,
            "median_ms": taken.median_ms,
            "min_ms": taken.min_ms,
            "views_per_second": taken.views_per_second,
            "encoder_ms": totals.all.ms / steps as f64,
            "encoder_gflops": totals.all.gflops(),
            "peak_gflops": peaks.0,
            "copy_gigabytes_per_second": peaks.1,
            "waiting_ms": taken.waiting_ms,
            "peak_mib": machine::peak_mib(),
            "profile": arguments.profile.then(|| totals.json(steps)),
        });
        return print::to_stdout(&format!("{value}\n"));
    }
    let mut text = format!("{}: {}\n", arguments.settings.preset, describe(&config));
    let _ = writeln!(text, "{machine}, {steps} steps on random images\n");
    text += &summary(&taken, &totals.all, peaks);
    if arguments.profile {
        text += &totals.table(steps, peaks);
    }
    if let Some(path) = &arguments.trace {
        let _ = writeln!(text, "\ntrace: {}", shown(path));
    }
    print::to_stdout(&text)
}

/// The same of a GPU, which works while the program goes on: an iteration ends when its losses are
/// back, but what a layer took is not to be seen from here.
fn on_gpu(arguments: &BenchStepArguments, config: &Config, device: &Device) -> anyhow::Result<()> {
    if arguments.profile || arguments.trace.is_some() || arguments.growth {
        let message =
            "`--device`: a GPU's layers are not timed, expected no --profile, --trace or --growth";
        return Err(Failure::new(Code::Usage, message).into());
    }
    let taken = measure(config, usize::from(arguments.steps), None, device)?;
    let peak_mib = peak_mib_of(device);
    if arguments.common.json {
        let value = json!({
            "settings": arguments.settings.preset,
            "description": describe(config),
            "steps": taken.steps,
            "median_ms": taken.median_ms,
            "min_ms": taken.min_ms,
            "views_per_second": taken.views_per_second,
            "waiting_ms": taken.waiting_ms,
            "peak_mib": peak_mib,
        });
        return print::to_stdout(&format!("{value}\n"));
    }
    let mut text = format!("{}: {}\n", arguments.settings.preset, describe(config));
    let _ = writeln!(
        text,
        "{} steps on random images, views made on the GPU\n\n\
         step                         {:>8.1} ms   smallest {:.1}, {} views/s\n  \
         waiting for views          {:>8.1} ms   {}",
        taken.steps,
        taken.median_ms,
        taken.min_ms,
        grouped(taken.views_per_second),
        taken.waiting_ms,
        percent(taken.waiting_ms / taken.mean_ms)
    );
    if let Some(mib) = peak_mib {
        let _ = writeln!(text, "memory of the GPU at most    {mib:>8.0} MiB");
    }
    print::to_stdout(&text)
}

fn summary(taken: &Taken, encoder: &Sum, (peak, copy): (f64, f64)) -> String {
    let encoder_ms = encoder.ms / taken.steps as f64;
    let rest = (taken.mean_ms - encoder_ms - taken.waiting_ms).max(0.0);
    let share = |ms: f64| percent(ms / taken.mean_ms);
    let rate = encoder.gflops();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "step                         {:>8.1} ms   smallest {:.1}, {} views/s",
        taken.median_ms,
        taken.min_ms,
        grouped(taken.views_per_second)
    );
    let _ = writeln!(
        text,
        "  encoder                    {encoder_ms:>8.1} ms   {}, {rate:.0} GFLOP/s, {} of the peak",
        share(encoder_ms),
        percent(rate / peak)
    );
    let _ = writeln!(text, "  heads, losses, optimisers  {rest:>8.1} ms   {}", share(rest));
    let _ = writeln!(
        text,
        "  waiting for views          {:>8.1} ms   {}",
        taken.waiting_ms,
        share(taken.waiting_ms)
    );
    let _ = writeln!(text, "peak of this machine         {peak:>8.0} GFLOP/s, copy {copy:.0} GB/s");
    if let Some(mib) = machine::peak_mib() {
        let _ = writeln!(text, "memory at most               {mib:>8.0} MiB");
    }
    text
}

/// The settings that a time depends on.
pub(super) fn describe(config: &Config) -> String {
    let (encoder, size) = (&config.encoder, config.augmentation.size);
    let word = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let mask = match config.mask.mode {
        MaskMode::Off => "no mask".to_owned(),
        MaskMode::On => format!(
            "mask {} {}, every {}",
            kebab(&config.meta.virtual_step),
            kebab(&config.meta.hypergradient),
            config.meta.every
        ),
    };
    format!(
        "{} on {} of depth {}, width {}, {size} px, batch {} of two views, {mask}, precision {}",
        word(&config.objective.method),
        word(&encoder.architecture),
        encoder.depth,
        encoder.width,
        config.training.batch_size,
        word(&config.engine.precision),
    )
}

/// The word of the configuration.
fn kebab(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// What some iterations took, of which the first is not counted.
pub(super) struct Taken {
    /// Iterations counted: whole turns of `meta.every`.
    pub(super) steps: usize,
    /// Of an iteration, over a turn of `meta.every`.
    pub(super) median_ms: f64,
    min_ms: f64,
    mean_ms: f64,
    /// For its views.
    waiting_ms: f64,
    pub(super) views_per_second: f64,
}

/// Takes about `steps` iterations; `profile` sees the encoder's steps.
pub(super) fn measure(
    config: &Config,
    steps: usize,
    profile: Option<&Arc<Profile>>,
    device: &Device,
) -> anyhow::Result<Taken> {
    let (batch, every) = (config.training.batch_size, config.meta.every);
    let turns = steps.div_ceil(every);
    let mut learner = Learner::on(device, config, DType::F32)?;
    let images = random_images(2 * batch, config.augmentation.size)?;
    let recipe = recipe(&config.augmentation)?;
    let epochs = 0..(((turns + 1) * every).div_ceil(2) as u64 + 1);
    let mut views = ViewStream::start(images, recipe, 0, batch, epochs, 0, device)?;
    if let Some(profile) = profile {
        let profile: Arc<Profile> = Arc::clone(profile);
        learner.encoder.watch(Some(profile));
    }
    let (mut times_ms, mut waiting_ms, mut step) = (Vec::new(), 0.0, 0);
    // The first turn allocates, and a lookahead has nothing to judge in it yet.
    for turn in 0..=turns {
        if let (0 | 1, Some(profile)) = (turn, profile) {
            profile.clear();
        }
        let mut ms = 0.0;
        for _ in 0..every {
            let start = Instant::now();
            let pair = views.next_batch()?;
            let waited = milliseconds(start);
            iteration(&mut learner, &pair, &Moment::of(config, step, u64::MAX >> 32))?;
            ms += milliseconds(start);
            step += 1;
            if turn > 0 {
                waiting_ms += waited;
            }
            if let Some(profile) = profile {
                profile.add("iteration", start);
            }
        }
        if turn > 0 {
            times_ms.push(ms / every as f64);
        }
    }
    times_ms.sort_by(f64::total_cmp);
    let median_ms = median(&times_ms);
    Ok(Taken {
        steps: turns * every,
        median_ms,
        min_ms: times_ms[0],
        mean_ms: times_ms.iter().sum::<f64>() / turns as f64,
        waiting_ms: waiting_ms / (turns * every) as f64,
        views_per_second: 2e3 * batch as f64 / median_ms,
    })
}

pub(super) fn random_images(n: usize, side: usize) -> anyhow::Result<Unlabelled> {
    let mut stream = Key::new(0, Purpose::Test).stream();
    let bytes: Vec<u8> =
        (0..n * side * side * Images::CHANNELS).map(|_| stream.below(256) as u8).collect();
    Ok(Unlabelled::from(Images::new(bytes, side, side)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(overrides: &[&str]) -> Config {
        let mut words = vec!["encoder.width=4", "training.batch_size=8", "augmentation.size=16"];
        words.extend(overrides);
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        Config::read("", "test", &words).expect("a configuration")
    }

    #[test]
    fn every_iteration_and_every_pass_of_the_encoder_is_seen() -> anyhow::Result<()> {
        let config = tiny(&["mask.mode=off"]);
        let profile = Arc::new(Profile::new());
        let taken = measure(&config, 3, Some(&profile), &Device::Cpu)?;
        assert_eq!(taken.steps, 3);
        // Forward, and twice as much backward but for the stem, whose input wants none.
        let totals = profile.totals();
        let json = totals.json(3);
        let count = |phase: &str| json["phases"][phase]["multiply_adds"].as_u64().expect("there");
        assert_eq!(count("forward"), count("backward, weights"));
        assert!(count("backward, data") < count("forward"));
        assert!(totals.all.ms / 3.0 < taken.mean_ms, "the encoder is a part of the step");
        Ok(())
    }

    #[test]
    fn turns_of_the_mask_are_whole() -> anyhow::Result<()> {
        let config = tiny(&["mask.mode=on", "meta.every=2"]);
        assert_eq!(measure(&config, 3, None, &Device::Cpu)?.steps, 4);
        Ok(())
    }
}

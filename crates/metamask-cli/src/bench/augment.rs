//! `metamask bench augment`: how many views a second, and which transform takes how long.

use std::fmt::Write as _;

use clap::Args;
use metamask_augment::{ImageBatch, Pipeline, TwoViews, two_views};
use metamask_ops::threads;
use metamask_train::views::recipe;
use serde_json::json;

use super::profile::percent;
use super::step::random_images;
use super::{Common, Settings, grouped, machine, median, times};
use crate::print;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask bench augment
  metamask bench augment --preset cifar10-simclr-authors --threads 1
  metamask bench augment --set augmentation.size=96 --images 200

Makes two views each of random images of the size that the settings train on, by their
recipe. What a transform costs is the difference between the recipe up to it and the recipe
before it.")]
pub(super) struct BenchAugmentArguments {
    #[command(flatten)]
    settings: Settings,
    /// Images, of two views each
    #[arg(long, value_name = "N", default_value_t = 500,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    images: u32,
    #[command(flatten)]
    common: Common,
}

const ROUNDS: usize = 9;

pub(super) fn run(arguments: &BenchAugmentArguments) -> anyhow::Result<()> {
    let config = arguments.settings.config()?;
    let machine = machine(&arguments.common)?;
    let (n, size) = (arguments.images, config.augmentation.size);
    let images = random_images(n as usize, size)?;
    let bytes = images.images().bytes();
    let batch = ImageBatch::new(bytes, size, size)?;
    let samples: Vec<u32> = (0..n).collect();
    let views = f64::from(2 * n);
    let time = |recipe: &TwoViews| -> anyhow::Result<f64> {
        let make = || two_views(recipe, batch, &samples, 0, 0).map(|_| ()).map_err(Into::into);
        Ok(median(&times(ROUNDS, make)?))
    };

    let recipe = recipe(&config.augmentation)?;
    let whole = time(&recipe)?;
    let (mut before, mut parts) = (0.0, Vec::new());
    let transforms = recipe.a.transforms();
    for end in 1..=transforms.len() {
        let up_to = |pipeline: &Pipeline| {
            Pipeline::new(pipeline.transforms().iter().take(end).cloned().collect())
        };
        let ms = time(&TwoViews { a: up_to(&recipe.a)?, b: up_to(&recipe.a)? })?;
        parts.push((name(&transforms[end - 1]), (ms - before).max(0.0)));
        before = ms;
    }
    let rate = 1e3 * views / whole;
    let per_core = rate / threads() as f64;
    if arguments.common.json {
        let parts: Vec<_> =
            parts.iter().map(|(name, ms)| json!({"transform": name, "ms": ms})).collect();
        let value = json!({
            "settings": arguments.settings.preset,
            "machine": machine,
            "views": views,
            "side": size,
            "median_ms": whole,
            "views_per_second": rate,
            "views_per_second_a_core": per_core,
            "transforms": parts,
        });
        return print::to_stdout(&format!("{value}\n"));
    }
    let mut text = format!(
        "{}: {} views of {size} px\n{machine}, median of {ROUNDS}\n\n",
        arguments.settings.preset,
        grouped(views)
    );
    let _ =
        writeln!(text, "{whole:.1} ms, {} views/s, {} a core\n", grouped(rate), grouped(per_core));
    let _ = writeln!(text, "{:22}  {:>8}  {:>6}", "transform of view a", "us/view", "share");
    let sum: f64 = parts.iter().map(|part| part.1).sum();
    for (name, ms) in &parts {
        let _ = writeln!(text, "{name:22}  {:>8.2}  {:>6}", 1e3 * ms / views, percent(ms / sum));
    }
    print::to_stdout(&text)
}

/// A transform's word in configuration files.
fn name(transform: &metamask_augment::Transform) -> String {
    let value = serde_json::to_value(transform).unwrap_or_default();
    value["kind"].as_str().unwrap_or("transform").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_have_their_words() {
        let names: Vec<String> =
            metamask_augment::simclr(32).a.transforms().iter().map(name).collect();
        assert_eq!(names[..2], ["random-resized-crop", "horizontal-flip"]);
    }
}

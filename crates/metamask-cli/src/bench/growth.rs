//! `metamask bench step --growth`: the cost of a step against what it should grow with.

use std::fmt::Write as _;

use candle_core::Device;
use metamask_train::Config;
use serde_json::{Value, json};

use super::step::{describe, measure};
use super::{Common, grouped};
use crate::{print, progress::Spinner};

const STEPS: usize = 5;

/// A setting that is varied.
struct Axis {
    name: &'static str,
    /// How its multiplications grow.
    law: &'static str,
    power: i32,
    value: fn(&Config) -> usize,
    set: fn(&mut Config, usize),
    /// Of the setting's own value.
    factors: &'static [(usize, usize)],
    why: &'static str,
}

const AXES: [Axis; 4] = [
    Axis {
        name: "batch",
        law: "n",
        power: 1,
        value: |config| config.training.batch_size,
        set: |config, value| config.training.batch_size = value,
        factors: &[(1, 4), (1, 2), (1, 1), (2, 1)],
        why: "linear but for what a step costs whatever its batch: the optimiser, the weights' way \
              to Winograd's points; the similarities of a contrastive loss grow with n², and are few",
    },
    Axis {
        name: "width",
        law: "w²",
        power: 2,
        value: |config| config.encoder.width,
        set: |config, value| config.encoder.width = value,
        factors: &[(1, 2), (1, 1), (2, 1)],
        why: "products grow with w², normalisation, ReLU and the transforms of Winograd's method \
              with w: a narrow network is bound by memory, not by arithmetic",
    },
    Axis {
        name: "side of the images",
        law: "s²",
        power: 2,
        value: |config| config.augmentation.size,
        set: |config, value| config.augmentation.size = value,
        factors: &[(1, 2), (1, 1), (2, 1)],
        why: "as pixels, but for the optimiser and the heads; small images leave tiles and vectors \
              of the last stages half empty",
    },
    Axis {
        name: "embedding",
        law: "p",
        power: 1,
        value: |config| config.contrastive_head.output,
        set: |config, value| {
            config.contrastive_head.output = value;
            config.redundancy_head.output = value;
        },
        factors: &[(1, 1), (4, 1), (16, 1)],
        why: "only the heads' last layers and the losses see it; L_drr's matrix has min(batch, p)² \
              elements",
    },
];

pub(super) fn run(config: &Config, machine: &str, common: &Common) -> anyhow::Result<()> {
    let mut text = format!("{}\n{machine}, {STEPS} steps each\n", describe(config));
    let mut values = Vec::new();
    let spinner = Spinner::new(AXES.iter().map(|axis| axis.factors.len() as u64).sum());
    for axis in &AXES {
        let base = (axis.value)(config);
        let mut lines: Vec<(usize, f64, f64)> = Vec::new();
        for &(times, over) in axis.factors {
            let value = base * times / over;
            if value * over != base * times || value < 2 {
                continue; // not a whole number, or none to train with
            }
            let mut config = config.clone();
            (axis.set)(&mut config, value);
            let taken = measure(&config, STEPS, None, &Device::Cpu)?;
            spinner.advance();
            lines.push((value, taken.median_ms, taken.views_per_second));
        }
        values.extend(write(&mut text, axis, &lines));
    }
    spinner.finish();
    match common.json {
        true => print::to_stdout(&format!("{}\n", json!({"machine": machine, "growth": values}))),
        false => print::to_stdout(&text),
    }
}

/// One axis; the first line is what the others are measured by.
fn write(text: &mut String, axis: &Axis, lines: &[(usize, f64, f64)]) -> Vec<Value> {
    let Axis { name, law, power, why, .. } = axis;
    let title = format!("as {law}");
    let _ = writeln!(
        text,
        "\n{name:>18}  {:>10}  {:>9}  {:>7}  {title:>7}",
        "ms a step", "views/s", "grows"
    );
    let mut values = Vec::new();
    for &(value, ms, rate) in lines {
        let (first, first_ms, _) = lines[0];
        let law = (value as f64 / first as f64).powi(*power);
        let grows = ms / first_ms;
        let rate = grouped(rate);
        let _ = writeln!(text, "{value:>18}  {ms:>10.1}  {rate:>9}  {grows:>7.2}  {law:>7.2}");
        values.push(json!({"axis": name, "value": value, "ms": ms, "grows": grows, "law": law}));
    }
    let _ = writeln!(text, "  {why}");
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_against_the_first_line() {
        let mut text = String::new();
        let values = write(&mut text, &AXES[1], &[(8, 10.0, 800.0), (16, 35.0, 230.0)]);
        assert_eq!(values[1]["grows"], 3.5);
        assert_eq!(values[1]["law"], 4.0);
        assert!(text.contains("3.50"), "{text}");
    }

    #[test]
    fn every_axis_sets_what_it_reads() {
        for axis in &AXES {
            let mut config = Config::default();
            (axis.set)(&mut config, 24);
            assert_eq!((axis.value)(&config), 24, "{}", axis.name);
        }
    }
}

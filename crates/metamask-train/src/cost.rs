//! What an iteration costs, counted, and for how long the base method may train at
//! equal compute.

use metamask_optim::{Activations, Hypergradient, VirtualStep};

use crate::config::{Config, MaskMode, MaskPlace};

/// A plain iteration: one forward pass of both views (F) and one backward (2F).
pub const PLAIN: f64 = 3.0;

/// The cost of an iteration of this configuration, in units of F, a forward pass of both
/// views; a backward or tangent pass counts 2F. Without L_drr the gradient of B is that of the
/// regular step, and what stands in brackets counts.
///
/// ```text
///                  first-order   finite-difference   exact    exact, recomputed
/// after-regular    7             11                  11       12
/// shared           6 (4)         10 (8)              10 (8)   11 (9)
/// lookahead        3             7 (5)               7 (5)    8 (6)
/// ```
/// What is beyond 3F is divided by `meta.every`, and counts only from
/// `mask.experimental.start_epoch` on. The source is docs/method.md, where the counts stand beside
/// what was measured.
///
/// `None` for the forms under study that nobody has counted: a part of the batch, a mask on
/// the embedding.
pub fn counted_cost(config: &Config) -> Option<f64> {
    let (mask, meta) = (&config.mask, &config.meta);
    if mask.mode == MaskMode::Off {
        return Some(PLAIN);
    }
    let experimental = &mask.experimental;
    if experimental.batch_fraction < 1.0 || experimental.place != MaskPlace::Representation {
        return None;
    }
    // The gradient of B apart from L's, by a backward pass of its own.
    let own_gradient = if config.objective.redundancy_weight > 0.0 { 2.0 } else { 0.0 };
    let first_order = match meta.virtual_step {
        VirtualStep::AfterRegular => 7.0,
        VirtualStep::Shared => 4.0 + own_gradient,
        VirtualStep::Lookahead => PLAIN,
    };
    let (second_order, recomputed) = match meta.hypergradient {
        Hypergradient::FirstOrder => (0.0, 0.0),
        Hypergradient::FiniteDifference => (4.0, 0.0),
        Hypergradient::Exact => (4.0, 1.0),
    };
    // Ahead of the step v costs a backward pass of its own only beside L_drr; in `second_order`
    // of 4 it is in.
    let second_order = match meta.virtual_step {
        VirtualStep::Lookahead if second_order > 0.0 => 2.0 + own_gradient,
        _ => second_order,
    };
    let recomputed = match meta.activations {
        Activations::Keep => 0.0,
        Activations::Recompute => recomputed,
    };
    let (epochs, start) = (config.training.epochs as f64, experimental.start_epoch as f64);
    let share = (1.0 - start / epochs).max(0.0) / meta.every as f64;
    Some(PLAIN + share * (first_order + second_order + recomputed - PLAIN))
}

/// Epochs of the base method that cost as much as this configuration does: rounded
/// up, so that the base never gets less.
pub fn equal_compute_epochs(config: &Config) -> Option<usize> {
    // 6 · 7 / 3 is 14, whatever f64 makes of it.
    const ROUNDING: f64 = 1e-9;
    let ratio = counted_cost(config)? / PLAIN;
    Some((config.training.epochs as f64 * ratio - ROUNDING).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(set: &[&str]) -> Config {
        let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
        Config::read("", "", &set).expect("valid")
    }

    #[test]
    fn costs_are_those_of_the_table_in_the_document() {
        // docs/method.md: | row | a | b (c) | …, brackets without L_drr.
        let page = include_str!("../../../docs/method.md");
        let columns = [
            ("first-order", "keep"),
            ("finite-difference", "keep"),
            ("exact", "keep"),
            ("exact", "recompute"),
        ];
        for row in ["after-regular", "shared", "lookahead"] {
            let line = page.lines().find(|line| line.starts_with(&format!("| {row} |")));
            let cells: Vec<&str> = line.expect("a row").split('|').skip(2).map(str::trim).collect();
            for ((hypergradient, activations), cell) in columns.into_iter().zip(cells) {
                let number = |text: &str| text.parse::<f64>().expect("a number");
                let (with, without) = match cell.split_once(" (") {
                    Some((with, without)) => (number(with), number(without.trim_matches(')'))),
                    None => (number(cell), number(cell)),
                };
                for (weight, expected) in [(1.0, with), (0.0, without)] {
                    let found = counted_cost(&config(&[
                        &format!("objective.redundancy_weight={weight:?}"),
                        &format!("meta.virtual_step={row}"),
                        &format!("meta.hypergradient={hypergradient}"),
                        &format!("meta.activations={activations}"),
                    ]));
                    assert_eq!(found, Some(expected), "{row} {hypergradient} {weight}");
                }
            }
        }
    }

    #[test]
    fn rare_and_late_meta_steps_count_less_and_the_uncounted_is_said_so() {
        assert_eq!(counted_cost(&config(&["mask.mode=off"])), Some(3.0));
        // Shared exact is 8: 5 beyond the plain step, in every 5th one.
        assert_eq!(counted_cost(&config(&["meta.every=5"])), Some(4.0));
        let late = ["mask.experimental.start_epoch=9", "training.epochs=12"];
        assert_eq!(counted_cost(&config(&late)), Some(3.0 + 5.0 / 4.0));
        assert_eq!(counted_cost(&config(&["mask.experimental.batch_fraction=0.5"])), None);
    }

    #[test]
    fn the_base_never_trains_for_less_than_the_same_compute() {
        let epochs = |epochs: usize, more: &[&str]| {
            let own = format!("training.epochs={epochs}");
            equal_compute_epochs(&config(&[&[own.as_str()], more].concat()))
        };
        let lookahead = ["meta.virtual_step=lookahead", "objective.redundancy_weight=1.0"];
        assert_eq!(epochs(6, &lookahead), Some(14)); // 6 · 7/3
        assert_eq!(epochs(7, &lookahead), Some(17)); // 16.33
        assert_eq!(epochs(10, &["meta.virtual_step=lookahead"]), Some(17)); // 16.67
        assert_eq!(epochs(800, &["mask.mode=off"]), Some(800));
    }
}

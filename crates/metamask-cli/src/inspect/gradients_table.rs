//! What `metamask inspect gradients` prints without `--json`.

use std::fmt::Write as _;

use metamask_eval::GradientProfile;
use metamask_train::{
    config::Method,
    gradient_report::{LayerReport, LossReport},
};

use super::gradients::{InspectedGradients, MEASURES};

/// A column of a block: its name, the loss where it has one, the profile.
type Column<'a> = (&'static str, Option<f64>, &'a GradientProfile);

pub(super) fn table(protocol: &str, method: Method, found: &InspectedGradients) -> String {
    let InspectedGradients { batches, batch_size, orders, split, report, .. } = found;
    let mut text = format!(
        "{protocol}\ngradients by h, {} dimensions, {batches} batches of {batch_size} training images\n\n",
        report.dimensions.len(),
    );
    let means = |measure: &str| report.mean_measures.get(measure).copied();
    block(&mut text, &format!("B, the loss of {}", method.title()), &of_loss(&report.base), &means);
    if let Some(redundancy) = &report.redundancy {
        text.push('\n');
        block(&mut text, "L_drr", &of_loss(redundancy), &means);
    }
    if let Some(LayerReport { name, learned, none }) = &report.last_layer {
        text.push('\n');
        let learned = learned.iter().map(|profile| ("learned", None, profile));
        let columns: Vec<Column<'_>> = learned.chain([("mask off", None, none)]).collect();
        block(&mut text, &format!("B by the weights {name}"), &columns, &means);
    }
    text.push_str(
        "\nnorm      root of the sum over dimensions of the mean square\n\
         effective 1 / sum of the squared shares; a share is of the sum of squares\n",
    );
    if report.base.learned.is_some() {
        let _ = writeln!(
            text,
            "learned   with the mask; mask off: ones, the same weights; random: its values in {orders} random orders, mean
behind    by m * h, with the mask: the factor m that any mask puts on a gradient is not in it
closed    the half of the dimensions with the lowest mask values; of a random order, its own"
        );
    }
    if let Some(split) = split {
        let _ = writeln!(
            text,
            "%         mean over the dimensions of the share of variance ({split}) that the class or the
          factors explain, weighted by the gradient; evenly: every dimension alike;
          upper half: the dimensions in which it is above the median
rho, p    Spearman's rank correlation of gradient and share (or standard deviation) over the
          dimensions and its two-sided permutation test; dimensions that copy one another
          make p too small"
        );
    }
    text
}

fn of_loss(report: &LossReport) -> Vec<Column<'_>> {
    let LossReport { learned, behind, none, shuffled } = report;
    let learned = learned.iter().map(|found| ("learned", Some(found.loss), &found.profile));
    let shuffled = shuffled.iter().map(|found| ("random", Some(found.loss), &found.profile));
    let behind = behind.iter().map(|profile| ("behind", None, profile));
    let none = ("mask off", Some(none.loss), &none.profile);
    learned.chain([none]).chain(shuffled).chain(behind).collect()
}

fn block(
    text: &mut String,
    title: &str,
    columns: &[Column<'_>],
    mean: &dyn Fn(&str) -> Option<f64>,
) {
    let mut line = |name: &str, evenly: &str, cell: &dyn Fn(&Column<'_>) -> String| {
        let cells: String = columns.iter().map(|column| format!("{:>11}", cell(column))).collect();
        let line = format!("{name:<34}{evenly:>8}{cells}");
        let _ = writeln!(text, "{}", line.trim_end());
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    line(title, if mean("class_share").is_some() { "evenly" } else { "" }, &|(name, ..)| {
        (*name).to_owned()
    });
    if columns.iter().any(|(_, loss, _)| loss.is_some()) {
        line("  loss", "", &|(_, loss, _)| or_dash(loss.map(|loss| format!("{loss:.4}"))));
    }
    line("  norm", "", &|(.., profile)| length(profile.norm));
    line("  effective dimensions", "", &|(.., profile)| {
        format!("{:.1}", profile.effective_dimensions)
    });
    if columns.iter().any(|(.., profile)| profile.closed_half_share.is_some()) {
        line("  in the closed half, %", "50.0", &|(.., profile)| {
            or_dash(profile.closed_half_share.map(|share| format!("{:.1}", 100.0 * share)))
        });
    }
    for (i, alignment) in columns[0].2.alignments.iter().enumerate() {
        let share = MEASURES.iter().find(|(measure, _)| *measure == alignment.measure);
        let name = match share {
            Some((_, name)) => format!("  {name}, %"),
            None => "  standard deviation".to_owned(),
        };
        let value = |value: f64| match share {
            Some(_) => format!("{:.1}", 100.0 * value),
            None => format!("{value:.3}"),
        };
        line(&name, &or_dash(mean(&alignment.measure).map(value)), &|(.., profile)| {
            value(profile.alignments[i].weighted_mean)
        });
        line("    norm of the upper half", "", &|(.., profile)| {
            length(profile.alignments[i].upper_half_norm)
        });
        line("    rho", "", &|(.., profile)| {
            or_dash(profile.alignments[i].rho.map(|rho| format!("{rho:+.2}")))
        });
        line("    p", "", &|(.., profile)| {
            or_dash(profile.alignments[i].p_value.map(|p| format!("{p:.4}")))
        });
    }
}

/// A norm, which may be small.
fn length(norm: f64) -> String {
    match (1e-3..1e4).contains(&norm) {
        true => format!("{norm:.4}"),
        false => format!("{norm:.3e}"),
    }
}

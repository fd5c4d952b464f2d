//! Text for the terminal. A closed pipe is no error: the reader has seen enough.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Write as _},
    path::Path,
};

use metamask_report::MaskSummary;
use metamask_train::{Config, Failure, Results, config::MaskMode, shown};

/// Writes a result.
pub(crate) fn to_stdout(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::io(Path::new("stdout"), "write", &error).into())
        }
        _ => Ok(()),
    }
}

/// Writes a line for whoever watches; there is nobody to tell if that fails.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The accuracies of a run with their protocols.
pub(crate) fn results_table(results: &Results) -> String {
    let mut text = String::new();
    let name_width = results.rows.iter().map(|row| row.representation.len()).max().unwrap_or(0);
    let has = |value: fn(&metamask_train::evaluate::Row) -> Option<f64>| {
        results.rows.iter().any(|row| value(row).is_some())
    };
    let (knn, linear) = (has(|row| row.knn_percent), has(|row| row.linear_percent));
    let mut line = |name: &str, cells: [(bool, String); 2]| {
        let _ = write!(text, "{name:name_width$}");
        for (_, cell) in cells.iter().filter(|(shown, _)| *shown) {
            let _ = write!(text, "  {cell:>8}");
        }
        text.push('\n');
    };
    if !results.rows.is_empty() {
        line("accuracy in percent", [(knn, "kNN".to_owned()), (linear, "linear".to_owned())]);
    }
    for row in &results.rows {
        let cell =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
        line(
            &row.representation,
            [(knn, cell(row.knn_percent)), (linear, cell(row.linear_percent))],
        );
    }
    if !results.rows.is_empty() {
        let chance = format!("{:.1}", results.chance_percent);
        line("chance", [(knn, chance.clone()), (linear, chance)]);
        text.push('\n');
    }
    if let Some(mask) = &results.mask {
        let _ = writeln!(
            text,
            "mask      {:.3} to {:.3}, mean {:.3}, {} dimensions",
            mask.min, mask.max, mask.mean, mask.dimensions
        );
    }
    let _ = writeln!(text, "data      {}", results.split);
    let _ = writeln!(text, "trained   {} epochs, {} steps", results.epoch, results.step);
    for protocol in &results.protocols {
        let _ = writeln!(text, "protocol  {protocol}");
    }
    text
}

/// Where a mask's values lie.
pub(crate) fn mask_table(summary: &MaskSummary, (step, epoch): (u64, u64), start: f64) -> String {
    let MaskSummary { dimensions, min, lower_quartile, median, upper_quartile, max, mean, .. } =
        summary;
    let (below, above) = (summary.below_0_1, summary.above_0_9);
    format!(
        "\
mask value m      start {start}
  min             {min:.3}
  lower quartile  {lower_quartile:.3}
  median          {median:.3}
  upper quartile  {upper_quartile:.3}
  max             {max:.3}
  mean            {mean:.3}

dimensions        {dimensions}
  below 0.1       {below}
  above 0.9       {above}

trained           {epoch} epochs, {step} steps
"
    )
}

/// The table of a finished run, where it lies, and what to try next.
pub(crate) fn run_report(config: &Config, name: &str, out: &Path, results: &Results) -> String {
    let mut text = results_table(results);
    let out = shown(out);
    let _ = writeln!(text, "run       {out}");
    text.push('\n');
    let mut next = |command: &str, what: &str| {
        let _ = writeln!(text, "next      {command:<44}{what}");
    };
    if config.mask.mode == MaskMode::On && name == metamask_train::presets::DEFAULT {
        next("metamask pretrain --set mask.mode=off", "the same without the mask");
    }
    next(&format!("metamask evaluate {out}"), "these numbers again");
    next("metamask pretrain --print-config", "every setting, explained");
    text
}

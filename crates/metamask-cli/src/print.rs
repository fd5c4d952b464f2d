//! Text for the terminal. A closed pipe is no error: the reader has seen enough.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Write as _},
    path::Path,
};

use metamask_report::{MaskSummary, Table};
use metamask_train::{
    Config, DimensionUse, Failure, Results, config::MaskMode, evaluate::Row,
    fine_tune::percent as percent_of_labels, shown,
};

use crate::mask_controls;

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

/// A column of a table: what it is called, and its number in a row where there is one.
type Column<'a> = (String, Box<dyn Fn(&Row) -> Option<String> + 'a>);

/// The representations' numbers, and a guess's; columns that no row has are left out.
pub(crate) fn numbers(results: &Results) -> Table {
    let rows = &results.rows;
    let percent = |value: Option<f64>| value.map(|value| format!("{value:.1}"));
    let mut columns: Vec<Column<'_>> = vec![
        ("kNN".to_owned(), Box::new(|row| percent(row.knn_percent))),
        ("linear".to_owned(), Box::new(|row| percent(row.linear_percent))),
    ];
    let shares = rows.iter().map(|row| &row.fine_tuned).max_by_key(|tuned| tuned.len());
    for (i, tuned) in shares.into_iter().flatten().enumerate() {
        let name = format!("tuned {}", percent_of_labels(tuned.labels));
        let value = move |row: &Row| percent(row.fine_tuned.get(i).map(|t| t.accuracy_percent));
        columns.push((name, Box::new(value)));
    }
    let is_used = |(_, value): &Column<'_>| rows.iter().any(|row| value(row).is_some());
    columns.retain(is_used);
    let has_accuracies = !columns.is_empty();
    let of_use = |value: fn(&DimensionUse) -> Option<f64>, digits: usize| {
        move |row: &Row| {
            let value = row.dimensions.as_ref().and_then(value)?;
            Some(format!("{value:.digits$}"))
        }
    };
    columns.extend::<[Column<'_>; 4]>([
        ("effective rank".to_owned(), Box::new(of_use(|d| Some(d.effective_rank), 1))),
        ("RankMe".to_owned(), Box::new(of_use(|d| Some(d.rank_me), 1))),
        ("alpha-ReQ".to_owned(), Box::new(of_use(|d| d.alpha_req, 2))),
        ("R²".to_owned(), Box::new(of_use(|d| d.alpha_req_r_squared, 2))),
    ]);
    columns.retain(is_used);
    let title = if has_accuracies { "accuracy in percent" } else { "use of the dimensions" };
    let line = |name: &str, cell: &dyn Fn(&Column<'_>) -> String| {
        std::iter::once(name.to_owned()).chain(columns.iter().map(cell)).collect()
    };
    let of_row =
        |row: &Row| line(&row.representation, &|(_, value)| value(row).unwrap_or_default());
    let chance =
        has_accuracies.then(|| line("chance", &|_| format!("{:.1}", results.chance_percent)));
    Table {
        head: line(title, &|(name, _)| name.clone()),
        rows: rows.iter().map(of_row).chain(chance).collect(),
        ..Table::default()
    }
}

/// A table for the terminal: the first column from the left, numbers from the right.
pub(crate) fn table_text(Table { head, rows, .. }: &Table) -> String {
    /// Numbers stand apart even below short names.
    const LEAST: usize = 8;
    let names = rows.iter().chain([head]).map(|row| row[0].chars().count());
    let name_width = names.max().unwrap_or(0);
    let mut text = String::new();
    for row in std::iter::once(head).chain(rows) {
        let _ = write!(text, "{:name_width$}", row[0]);
        for (cell, name) in row.iter().zip(head).skip(1) {
            let width = name.chars().count().max(LEAST);
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// The numbers of a run with their protocols.
pub(crate) fn results_table(results: &Results) -> String {
    let mut text = String::new();
    if !results.rows.is_empty() {
        text += &(table_text(&numbers(results)) + "\n");
    }
    if let Some(mask) = &results.mask {
        let _ = writeln!(
            text,
            "mask      {:.3} to {:.3}, mean {:.3}, {} dimensions",
            mask.min, mask.max, mask.mean, mask.dimensions
        );
    }
    if let Some(controls) = &results.mask_controls {
        for table in mask_controls::tables(controls).iter().filter(|table| !table.rows.is_empty()) {
            text += &format!("\n{}", table_text(table));
        }
        text.push('\n');
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
        let _ = writeln!(text, "next      {command:<45}  {what}");
    };
    if config.mask.mode == MaskMode::On && name == metamask_train::presets::DEFAULT {
        next("metamask pretrain --set mask.mode=off", "the same without the mask");
    }
    next(&format!("metamask evaluate {out}"), "these numbers again");
    if results.rows.iter().any(|row| row.dimensions.is_some()) {
        let command = format!("metamask inspect neighbours {out} --out neighbours.png");
        next(&command, "what it takes for alike");
    }
    next("metamask pretrain --print-config", "every setting, explained");
    text
}

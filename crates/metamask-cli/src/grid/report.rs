//! `metamask grid report`: a grid as one page that needs nothing but a browser.

use std::{collections::BTreeSet, path::Path};

use metamask_eval::PairedDifference;
use metamask_report::{
    GridColumn, GridLine, GridPart, GridReport, GridRuns, IntervalMark, Log, Table, Verdict,
    grid_page, html_page,
};
use metamask_train::{
    Failure, expect_new,
    grid::{
        Arm, GridFile, Record, Table as Numbers, mask_controls,
        page::{baselines, column_table, minutes, overview_cell, planned_on},
        table::{ColumnOfTable, Line, PlannedTest, Section},
        text_table::Words,
    },
    shown, write_new,
};
use serde_json::{Map, Value};

use super::{added_up, arguments::ReportArguments};
use crate::{print, report::verdict_lines};

pub(super) fn report(arguments: &ReportArguments) -> anyhow::Result<()> {
    let out = &arguments.out;
    expect_new(Some(out))?;
    let grid = GridFile::read(&arguments.which.grid)?;
    let (numbers, records) = added_up(&grid, &arguments.which)?;
    let found = gather(&grid, &numbers, &records)?;
    let written_by = format!("metamask {}", env!("CARGO_PKG_VERSION"));
    write_new(out, html_page(&grid_page(&found, &written_by)).as_bytes())?;
    let text = format!("{}\n{}\n\n", found.title, found.subtitle);
    let verdicts = verdict_lines(&found.verdicts);
    print::to_stdout(&format!("{text}{verdicts}\npage      {}\n", shown(out)))
}

/// All that a page says of a grid.
fn gather(grid: &GridFile, numbers: &Numbers, records: &Path) -> Result<GridReport, Failure> {
    let measure = numbers.measure;
    let mut parts = Vec::new();
    for section in &numbers.sections {
        let column = |column| gather_column(grid, section, column, measure, records);
        parts.push(GridPart {
            title: match (section.budget.as_str(), section.recipe.as_str()) {
                ("default", "default") => "Cells".to_owned(),
                (budget, recipe) => format!("Budget {budget}, recipe {recipe}"),
            },
            about: about(section),
            columns: section.columns.iter().map(column).collect::<Result<_, _>>()?,
        });
    }
    let version = match &numbers.version {
        Some(version) => format!("all numbers by version {version}"),
        None => "nothing has run yet".to_owned(),
    };
    Ok(GridReport {
        title: numbers.title.clone(),
        subtitle: format!("{measure} top-1 in percent, after the last epoch; {version}"),
        verdicts: verdicts(numbers),
        about: vec![
            "A cell is the mean ± standard deviation (n − 1) over its seeds, of the last epoch, \
             never the best. Over its base: the mean difference over paired seeds with its 95 % \
             interval, d̄ ± t(0.975, n − 1) s/√n. At equal compute the base was trained for the \
             counted cost of the row; measured time and memory stand beside it, since a count is \
             not a clock. A number leads to its runs."
                .to_owned(),
        ],
        planned: planned(&numbers.planned_tests),
        parts,
        notes: numbers.notes.iter().map(|note| unmarked(note)).collect(),
        distrust: DISTRUST.map(str::to_owned).to_vec(),
    })
}

const DISTRUST: [&str; 8] = [
    "Compare only what has the same k, T, images and epoch. Within a column anything else is \
     refused; to the paper's numbers you have to look yourself: theirs are of the best epoch on the \
     test images.",
    "A gain over a base that is badly tuned is no gain: ask how many settings were tried for each \
     row.",
    "One interval in twenty leaves out 0 by chance. Only planned comparisons are corrected for their \
     number.",
    "Three seeds say little about the spread, and the interval supposes normal differences.",
    "A row near raw pixels or the untrained encoder has learned little, whatever its order among \
     the rows.",
    "Times are of a machine that does other things: jobs beside each other make them longer. Memory \
     is not affected.",
    "A reproducible cell is not a reproduced one: files in the format of its data train an epoch of \
     it. Nobody knows its number.",
    "A smoke test counts for nothing.",
];

/// What a section is, and how far it has come.
fn about(section: &Section) -> Vec<String> {
    let [open, reproducible, reproduced] = section.counts();
    let cells = || section.columns.iter().flat_map(|column| &column.lines);
    let ran = |line: &&Line| line.arm == Arm::Own && line.seeds.len() == section.seeds.len();
    let state = match section.reproduces {
        true => format!("{reproduced} cells reproduced, {reproducible} reproducible, {open} open"),
        false => format!(
            "{} of {} cells ran with every seed; none counts as reproduced",
            cells().filter(ran).count(),
            open + reproducible + reproduced
        ),
    };
    let seeds: Vec<String> = section.seeds.iter().map(u64::to_string).collect();
    let about = section.about.trim().replace('\n', " ");
    let state = format!("{state}. Seeds: {}.", seeds.join(", "));
    let place = planned_on(section).unwrap_or_default();
    [about, state, place].into_iter().filter(|text| !text.is_empty()).collect()
}

/// What the grid found, in sentences.
fn verdicts(numbers: &Numbers) -> Vec<Verdict> {
    let mut found = Vec::new();
    for test in &numbers.planned_tests {
        let PlannedTest { column, row, difference, p_value, holm_p_value, .. } = test;
        let text = format!(
            "Planned: {row} on {column} gains {difference:.2} points over its base (n = {}), p = \
             {p_value:.3}, among all planned comparisons {holm_p_value:.3}.",
            difference.n
        );
        let good = (*holm_p_value < 0.05).then_some(difference.mean > 0.0);
        found.push(Verdict { good, text });
    }
    for section in &numbers.sections {
        for column in &section.columns {
            let what = format!("{}{}", column.title, in_budget(section));
            let sentences = gains(column);
            found.extend(
                sentences
                    .into_iter()
                    .map(|text| Verdict { good: None, text: format!("{what}, {text}") }),
            );
        }
    }
    let mut totals = [0; 3];
    for section in numbers.sections.iter().filter(|section| section.reproduces) {
        totals.iter_mut().zip(section.counts()).for_each(|(total, count)| *total += count);
    }
    let [open, reproducible, reproduced] = totals;
    if totals != [0; 3] {
        let text = format!(
            "Cells of budgets that count: {reproduced} reproduced (real data, every seed), \
             {reproducible} reproducible, {open} open."
        );
        found.push(Verdict { good: None, text });
    }
    found
}

/// How many rows of a column gain over their base and lose, at equal epochs and at equal compute:
/// once where that is the same.
fn gains(column: &ColumnOfTable) -> Vec<String> {
    type Over = fn(&Line) -> Option<PairedDifference>;
    let at_epochs: Over = |line| line.over_base;
    let at_compute: Over = |line| line.over_base_at_equal_compute;
    let is_same = column.lines.iter().all(|line| at_epochs(line) == at_compute(line));
    let both = match is_same {
        true => vec![("at equal epochs, which are equal compute", at_epochs)],
        false => vec![("at equal epochs", at_epochs), ("at equal compute", at_compute)],
    };
    let sentences = both.into_iter().filter_map(|(at, over)| {
        let compared = column.lines.iter().filter_map(|line| Some((line, over(line)?)));
        let compared: Vec<(&Line, PairedDifference)> = compared.collect();
        let told = |is_gain: bool| {
            let told = compared
                .iter()
                .filter(|(_, d)| d.excludes_zero() && (d.mean > 0.0) == is_gain)
                .map(|(line, d)| format!("{} {d:.1}", line.title));
            told.collect::<Vec<String>>()
        };
        let listed = |names: Vec<String>| match &names[..] {
            [] => "none".to_owned(),
            _ => format!("{} ({})", names.len(), names.join("; ")),
        };
        let single = compared.iter().filter(|(_, d)| d.interval.is_none()).count();
        let single = match single {
            0 => String::new(),
            n => format!(" {n} ran with a single seed, which has no interval."),
        };
        (!compared.is_empty()).then(|| {
            format!(
                "{at}: {} compared with their base; {} better, {} worse, by an interval that \
                 leaves out 0.{single}",
                compared.len(),
                listed(told(true)),
                listed(told(false))
            )
        })
    });
    sentences.collect()
}

/// The budget, unless the grid has but one without a name.
fn in_budget(section: &Section) -> String {
    match section.budget.as_str() {
        "default" => String::new(),
        budget => format!(", budget {budget}"),
    }
}

fn planned(tests: &[PlannedTest]) -> Table {
    let head = ["row", "column", "budget", "over its base", "n", "p", "p by Holm"];
    let row = |test: &PlannedTest| {
        let PlannedTest { budget, column, row, difference, p_value, holm_p_value } = test;
        vec![
            row.clone(),
            column.clone(),
            budget.clone(),
            format!("{difference:.2}"),
            difference.n.to_string(),
            format!("{p_value:.4}"),
            format!("{holm_p_value:.4}"),
        ]
    };
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows: tests.iter().map(row).collect(),
        ..Table::default()
    }
}

fn gather_column(
    grid: &GridFile,
    section: &Section,
    column: &ColumnOfTable,
    measure: &'static str,
    records: &Path,
) -> Result<GridColumn, Failure> {
    let words = column_table(column, measure);
    let mut head = words.head;
    let mut rows: Vec<Vec<String>> = words.rows.into_iter().map(plain).collect();
    if column.lines.iter().any(|line| line.paper.is_some()) {
        head.insert(2, "paper".to_owned());
        for (row, line) in rows.iter_mut().zip(&column.lines) {
            let paper = line.paper.map_or_else(String::new, |paper| format!("{paper:.2}"));
            row.insert(2, paper);
        }
    }
    let mut lines = Vec::new();
    let mut data = BTreeSet::new();
    for (line, numbers) in column.lines.iter().zip(rows) {
        let found = line
            .seeds
            .iter()
            .filter_map(|seed| Record::read(&Record::path(records, &seed.id)).transpose())
            .collect::<Result<Vec<Record>, Failure>>()?;
        data.extend(found.iter().map(|record| record.data_sha256.clone()));
        let notes: String = line.notes.iter().map(|note| format!(" [{note}]")).collect();
        lines.push(GridLine {
            row: line.row.clone(),
            title: line.title.clone(),
            overview: (line.arm == Arm::Own).then(|| overview_cell(line, section) + &notes),
            numbers,
            gains: gains_of(grid, column, line),
            mask_gains: mask_gains(line),
            runs: runs(line, &found, measure),
        });
    }
    let tables = mask_controls::tables(column).into_iter().map(|table| {
        let note = unmarked(&table.note);
        let rows = table.rows.into_iter().map(plain).collect();
        (table.title, Table { head: table.head, rows, ..Table::default() }, note)
    });
    Ok(GridColumn {
        title: column.title.clone(),
        head,
        lines,
        protocol: protocol(column, &data),
        tables: tables.collect(),
    })
}

/// Text without the lines and marks of Markdown.
fn unmarked(text: &str) -> String {
    text.trim().replace('\n', " ").replace(['*', '`'], "")
}

/// What stands out gets a star.
fn plain(row: Vec<Words>) -> Vec<String> {
    let cell = |Words { text, is_strong }| if is_strong { text + " *" } else { text };
    row.into_iter().map(cell).collect()
}

fn protocol(column: &ColumnOfTable, data: &BTreeSet<String>) -> Vec<String> {
    let other = column.other_protocol.as_ref().and_then(|protocol| protocol.split(';').next());
    let protocols: Vec<&str> = column.protocol.as_deref().into_iter().chain(other).collect();
    let data: Vec<&str> = data.iter().map(String::as_str).collect();
    vec![
        format!("{}.", protocols.join(". ")),
        format!("By the same protocol: {}.", baselines(column)),
        format!(
            "*: the interval leaves out 0. Cost of a step: counted, in plain ones. Training: mean \
             wall time of a run. Peak: of resident memory. Made on: {}. Data, SHA-256: {}.",
            column.machines.join("; "),
            data.join(", ")
        ),
    ]
}

/// What a line gains over its base, and over its base at equal compute where that is another run.
fn gains_of(grid: &GridFile, column: &ColumnOfTable, line: &Line) -> Vec<IntervalMark> {
    let base = grid.rows.iter().find(|row| row.name == line.row).and_then(|row| row.base.as_ref());
    let of = |row: &str, arm: Arm| column.lines.iter().find(|l| l.row == row && l.arm == arm);
    let Some(base) = base.filter(|_| line.arm == Arm::Own) else { return Vec::new() };
    let pairs = [
        (line.over_base, of(base, Arm::Own)),
        (line.over_base_at_equal_compute, of(&line.row, Arm::BaseAtEqualCompute)),
    ];
    let marks = pairs.into_iter().enumerate().filter_map(|(kind, (difference, other))| {
        let (difference, other) = (difference?, other?);
        let pair = |own: &metamask_train::grid::table::SeedValue| {
            let other = other.seeds.iter().find(|other| other.seed == own.seed)?;
            Some(own.percent - other.percent)
        };
        Some(mark(kind, &difference, line.seeds.iter().filter_map(pair).collect()))
    });
    marks.collect()
}

fn mask_gains(line: &Line) -> Vec<IntervalMark> {
    let gains = line.mask_controls.as_ref().and_then(|controls| controls.learned_over.as_ref());
    let marks = gains.map(|over| [over.random, over.none, over.oracle]);
    let marks = marks.into_iter().flatten().enumerate();
    marks.map(|(kind, difference)| mark(kind, &difference, Vec::new())).collect()
}

fn mark(kind: usize, difference: &PairedDifference, parts: Vec<f64>) -> IntervalMark {
    IntervalMark {
        kind,
        value: difference.mean,
        interval: difference.interval,
        parts,
        text: format!("{difference:.1}"),
    }
}

/// A line's records; none without any.
fn runs(line: &Line, records: &[Record], measure: &'static str) -> Option<GridRuns> {
    let first = records.first()?;
    let other = if measure == "kNN" { "linear probe" } else { "kNN" };
    let head =
        ["seed", measure, other, "training", "evaluation", "peak", "threads", "jobs", "version"];
    let rows = records.iter().filter_map(|record| {
        let value = line.seeds.iter().find(|value| value.seed == record.seed)?;
        let Record { cost, version, source, .. } = record;
        let source = source.iter().map(|source| format!(", {source}")).collect::<String>();
        Some(vec![
            value.seed.to_string(),
            format!("{:.2}", value.percent),
            value.other_percent.map_or_else(|| "–".to_owned(), |percent| format!("{percent:.2}")),
            minutes(cost.training_s),
            minutes(cost.evaluation_s),
            cost.peak_mib.map_or_else(|| "–".to_owned(), |mib| format!("{mib:.0} MiB")),
            cost.threads.to_string(),
            cost.jobs.to_string(),
            format!("{version}{source}"),
        ])
    });
    let settings = first.config.iter().filter(|(key, _)| *key != "run.seed");
    Some(GridRuns {
        table: Table {
            head: head.map(str::to_owned).to_vec(),
            rows: rows.collect(),
            ..Table::default()
        },
        records: records.iter().map(|record| format!("{}.json", record.id)).collect(),
        curves: records
            .iter()
            .filter(|record| !record.curve.is_empty())
            .map(|record| (format!("seed {}", record.seed), curve(&record.curve)))
            .collect(),
        settings: settings.map(|(key, value)| format!("{key} = {value}\n")).collect(),
    })
}

/// The epochs of a record, as a log has them.
fn curve(epochs: &[Map<String, Value>]) -> Log {
    let line = |epoch: &Map<String, Value>| {
        let mut line = epoch.clone();
        line.insert("kind".to_owned(), "epoch".into());
        Value::Object(line).to_string() + "\n"
    };
    Log::of(&epochs.iter().map(line).collect::<String>())
}

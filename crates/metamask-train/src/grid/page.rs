//! A table as text: Markdown for readers, CSV and JSON for programs.

use std::{
    fmt::Write as _,
    path::{Component, Path},
};

use metamask_eval::PairedDifference;
use serde::Serialize;

use super::{
    jobs::Arm,
    mask_controls,
    table::{CellState, ColumnOfTable, Line, PlannedTest, Section, Table},
    text_table::{TextTable, Words},
};

/// How a page begins that this program may replace.
pub const MARK: &str = "<!-- written by `metamask grid table`; changes are lost -->";

/// The page.
///
/// `records` is where the records lie, as a link from the page.
pub fn markdown(table: &Table, records: &str) -> String {
    let mut text = format!("{MARK}\n# {}\n\n", table.title);
    let mut totals = [0; 3];
    for section in table.sections.iter().filter(|section| section.reproduces) {
        for (total, count) in totals.iter_mut().zip(section.counts()) {
            *total += count;
        }
    }
    let [open, reproducible, reproduced] = totals;
    let _ = writeln!(
        text,
        "Of the cells below **{reproduced} are reproduced** (real data, every seed), {reproducible} \
         reproducible (files in the\nset's exact format train an epoch of the cell's own settings, \
         what it costs is planned), {open} open. Ours is {} top-1 in\npercent after the last epoch, mean ± \
         standard deviation (n − 1) over seeds; a difference is the mean over paired seeds\nwith its \
         95 % interval, d̄ ± t(0.975, n − 1) s/√n.",
        table.measure
    );
    if let Some(version) = &table.version {
        let _ = writeln!(text, "All numbers are of version {version}.");
    }
    text += &planned_tests(table);
    for section in &table.sections {
        text += "\n";
        text += &section_text(section, table.measure, records);
    }
    if !table.notes.is_empty() {
        text += "\n## Notes\n\n";
        for (i, note) in table.notes.iter().enumerate() {
            let _ = writeln!(text, "{}. {}", i + 1, note.trim().replace('\n', "\n   "));
        }
    }
    text
}

/// What the grid was made to test; empty if it was not made for that, or has not run.
fn planned_tests(table: &Table) -> String {
    if table.planned_tests.is_empty() {
        return String::new();
    }
    let mut text = "\n## The comparisons that were planned\n\n\
                    | budget | column | row | over its base | n | p | p among all of these (Holm) |\n\
                    |---|---|---|---|---|---|---|\n"
        .to_owned();
    for PlannedTest { budget, column, row, difference, p_value, holm_p_value } in
        &table.planned_tests
    {
        let n = difference.n;
        let _ = writeln!(
            text,
            "| {budget} | {column} | {row} | {difference:.2} | {n} | {p_value:.4} | {holm_p_value:.4} |"
        );
    }
    text += "\nPaired over the seeds, at equal compute where the table has that; Student's two-sided test.\n";
    text
}

fn section_text(section: &Section, measure: &str, records: &str) -> String {
    let mut text = format!("## Budget {}, recipe {}\n\n", section.budget, section.recipe);
    if !section.about.is_empty() {
        let _ = writeln!(text, "{}\n", section.about.trim());
    }
    let [open, reproducible, reproduced] = section.counts();
    let _ = match section.reproduces {
        true => writeln!(
            text,
            "{reproduced} cells reproduced, {reproducible} reproducible, {open} open.\n"
        ),
        false => {
            let cells = section.columns.iter().flat_map(|column| &column.lines);
            let cells: Vec<&Line> = cells.filter(|line| line.arm == Arm::Own).collect();
            let ran = cells.iter().filter(|line| line.seeds.len() == section.seeds.len()).count();
            writeln!(text, "{ran} of {} cells ran; none counts as reproduced.\n", cells.len())
        }
    };
    text += &overview(section);
    for column in section.columns.iter().filter(|column| column.protocol.is_some()) {
        text += "\n";
        text += &column_text(section, column, measure, records);
    }
    text
}

/// Every cell of a section, with the published number beside it.
fn overview(section: &Section) -> String {
    let titles: Vec<&str> = section.columns.iter().map(|column| column.title.as_str()).collect();
    let mut text = format!("| | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
    let rows = section.columns.first().map_or(&[][..], |column| &column.lines);
    for row in rows.iter().filter(|line| line.arm == Arm::Own) {
        let _ = write!(text, "| {} |", row.title);
        for column in &section.columns {
            let line = column.lines.iter().find(|line| line.arm == Arm::Own && line.row == row.row);
            let mut cell = line.map_or_else(String::new, |line| overview_cell(line, section));
            for note in line.iter().flat_map(|line| &line.notes) {
                let _ = write!(cell, " <sup>{note}</sup>");
            }
            let _ = write!(text, " {cell} |");
        }
        text += "\n";
    }
    if let Some(place) = planned_on(section) {
        let _ = writeln!(text, "\n{place}");
    }
    text
}

/// What the times of the reproducible cells are of; none if there is no such cell.
pub fn planned_on(section: &Section) -> Option<String> {
    let mut lines = section.columns.iter().flat_map(|column| &column.lines);
    let place = section.planned_on.as_ref()?;
    lines
        .any(|line| line.arm == Arm::Own && line.state == CellState::Reproducible)
        .then(|| format!("A run's time: four steps of each cell on {place}, multiplied out."))
}

/// What the overview says of a line, but for its notes.
pub fn overview_cell(line: &Line, section: &Section) -> String {
    let mut cell = match (&line.ours, line.state) {
        (Some(ours), _) => format!("{ours:.1}"),
        (None, CellState::Reproducible) => {
            let hours = line.estimate.map(|estimate| estimate.total_s / 3600.0);
            hours.map_or_else(
                || "reproducible".to_owned(),
                |h| format!("reproducible, {}", spell(h)),
            )
        }
        (None, _) => "open".to_owned(),
    };
    if let Some(paper) = line.paper {
        let _ = write!(cell, "; paper {paper:.2}");
        if let (Some(ours), Some(tolerance)) = (&line.ours, section.tolerance) {
            let off = ours.mean - paper;
            let verdict = if off.abs() <= tolerance { "within" } else { "off by more than" };
            let _ = write!(cell, ", {verdict} {tolerance}");
        }
    }
    cell
}

fn spell(hours: f64) -> String {
    match hours {
        h if h < 1.0 => format!("{:.0} min a run", 60.0 * h),
        h if h < 100.0 => format!("{h:.1} h a run"),
        h => format!("{:.0} days a run", h / 24.0),
    }
}

/// A column with numbers, line by line.
fn column_text(section: &Section, column: &ColumnOfTable, measure: &str, records: &str) -> String {
    let mut text = format!("### {}, budget {}\n\n", column.title, section.budget);
    let mut table = column_table(column, measure);
    table.head.push("records".to_owned());
    for (row, line) in table.rows.iter_mut().zip(&column.lines) {
        let links: Vec<String> =
            line.seeds.iter().map(|v| format!("[{}]({records}/{}.json)", v.seed, v.id)).collect();
        row.push(links.join(" ").into());
    }
    text += &table.markdown();
    text += "\n";
    if let Some(protocol) = &column.protocol {
        let _ = writeln!(text, "{protocol}.");
    }
    if let Some(protocol) = &column.other_protocol {
        let protocol = protocol.split(';').next().unwrap_or_default();
        let _ = writeln!(text, "{protocol}.");
    }
    let _ = writeln!(text, "By the same protocol: {}.", baselines(column));
    let _ = writeln!(
        text,
        "Cost of a step: counted, in plain ones. Training: mean wall time of a run. Peak: of resident \
         memory. Bold: the interval\nleaves out 0. Made on: {}.",
        column.machines.join("; ")
    );
    for table in mask_controls::tables(column) {
        let _ =
            writeln!(text, "\n#### {} {}, budget {}\n", table.title, column.title, section.budget);
        text += &table.markdown();
        let _ = writeln!(text, "\n{}", table.note);
    }
    text
}

/// A column's lines in numbers; differences whose interval leaves out 0 stand out.
pub fn column_table(column: &ColumnOfTable, measure: &str) -> TextTable {
    let other = if measure == "kNN" { "linear probe" } else { "kNN" };
    let percent = |value: &Option<metamask_eval::MeanStd>| {
        value.map_or_else(
            || "–".to_owned(),
            |value| match value.std {
                Some(std) => format!("{:.1} ± {std:.1}", value.mean),
                None => format!("{:.1}", value.mean),
            },
        )
    };
    let difference = |value: &Option<PairedDifference>| match value {
        None => String::new().into(),
        Some(value) => Words { text: format!("{value:.1}"), is_strong: value.excludes_zero() },
    };
    let row = |line: &Line| -> Vec<Words> {
        vec![
            line.title.clone().into(),
            percent(&line.ours).into(),
            line.seeds.len().to_string().into(),
            line.epochs.to_string().into(),
            difference(&line.over_base),
            difference(&line.over_base_at_equal_compute),
            percent(&line.other).into(),
            line.counted_cost.map_or_else(|| "?".to_owned(), |cost| format!("{cost:.2}")).into(),
            line.training_s.map_or_else(|| "–".to_owned(), minutes).into(),
            line.peak_mib.map_or_else(|| "–".to_owned(), |mib| format!("{mib:.0} MiB")).into(),
        ]
    };
    let head = [
        "row",
        measure,
        "n",
        "epochs",
        "over base",
        "over base at equal compute",
        other,
        "cost of a step",
        "training",
        "peak",
    ];
    TextTable {
        title: String::new(),
        head: head.map(str::to_owned).to_vec(),
        rows: column.lines.iter().map(row).collect(),
        note: String::new(),
    }
}

/// What knows nothing reaches in a column, in words.
pub fn baselines(column: &ColumnOfTable) -> String {
    let mut baselines = Vec::new();
    if let Some(pixels) = column.pixels_percent {
        baselines.push(format!("raw pixels {pixels:.1}"));
    }
    if let Some(untrained) = column.untrained {
        baselines.push(format!("untrained encoder {untrained:.1}"));
    }
    if let Some(chance) = column.chance_percent {
        baselines.push(format!("chance {chance:.1}"));
    }
    baselines.join(", ")
}

/// A time in its unit.
pub fn minutes(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// The lines of all sections, every digit.
pub fn csv(table: &Table) -> String {
    let mut text = "budget,recipe,column,row,arm,state,n,mean_percent,std_percent,epochs,\
                    other_mean_percent,other_std_percent,paper_percent,over_base,over_base_low,\
                    over_base_high,over_equal_compute,over_equal_compute_low,over_equal_compute_high,\
                    counted_cost,training_s,peak_mib,protocol,version\n"
        .to_owned();
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for section in &table.sections {
        for column in &section.columns {
            for line in &column.lines {
                let mut cells = vec![
                    section.budget.clone(),
                    section.recipe.clone(),
                    column.name.clone(),
                    line.row.clone(),
                    word(&line.arm),
                    word(&line.state),
                    line.seeds.len().to_string(),
                    number(line.ours.map(|ours| ours.mean)),
                    number(line.ours.and_then(|ours| ours.std)),
                    line.epochs.to_string(),
                    number(line.other.map(|other| other.mean)),
                    number(line.other.and_then(|other| other.std)),
                    number(line.paper),
                ];
                for over in [line.over_base, line.over_base_at_equal_compute] {
                    cells.push(number(over.map(|over| over.mean)));
                    let interval = over.and_then(|over| over.interval);
                    cells.push(number(interval.map(|[low, _]| low)));
                    cells.push(number(interval.map(|[_, high]| high)));
                }
                cells.extend([line.counted_cost, line.training_s, line.peak_mib].map(number));
                cells.push(quoted(column.protocol.as_deref().unwrap_or_default()));
                cells.push(table.version.clone().unwrap_or_default());
                text += &(cells.join(",") + "\n");
            }
        }
    }
    text
}

/// A field of CSV that may hold commas.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A word of an enumeration as it stands in a file.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("a word");
    value.as_str().expect("a word").to_owned()
}

/// Everything, as JSON.
pub fn json(table: &Table) -> String {
    serde_json::to_string_pretty(table).expect("a table is plain JSON") + "\n"
}

/// `to` as seen from the folder `from`, with `/`.
pub fn link(from: &Path, to: &Path) -> String {
    let parts = |path: &Path| -> Vec<String> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let part = |part: Component<'_>| part.as_os_str().to_string_lossy().into_owned();
        absolute.components().map(part).collect()
    };
    let (from, to) = (parts(from), parts(to));
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..".to_owned(), from.len() - shared);
    let words: Vec<String> = up.chain(to[shared..].iter().cloned()).collect();
    if words.is_empty() { ".".to_owned() } else { words.join("/") }
}

#[cfg(test)]
mod tests {
    use super::super::{jobs::Selection, table::tests::written};
    use super::*;

    fn table() -> Table {
        let (grid, folder) = written(&[[50.0, 53.0, 54.0], [52.0, 54.0, 55.0]], |_| ());
        Table::of(&grid, folder.path(), &Selection::default()).expect("it adds up")
    }

    #[test]
    fn the_page_shows_each_number_with_what_belongs_to_it() {
        let page = markdown(&table(), "records");
        for expected in [
            "**2 are reproduced**",
            "51.0 ± 1.4 (n = 2); paper 50.00 |",
            "| SimCLR + MetaMask | 54.5 ± 0.7 | 2 | 3 | +3.5 [-2.9, +9.9] | **+1.0 [+1.0, +1.0]** |",
            "| SimCLR, as long as + MetaMask costs | 53.5 ± 0.7 | 2 | 7 |",
            "kNN: k = 5; garments: 60 training images, 20 test images, 10 classes; last epoch.",
            "raw pixels 30.0, untrained encoder 20.0 ± 0.0 (n = 2), chance 10.0",
            "](records/garments-simclr-metamask-default-s1-",
            "| 2.33 | 1.0 min | 100 MiB |",
        ] {
            assert!(page.contains(expected), "`{expected}` in\n{page}");
        }
    }

    #[test]
    fn csv_has_as_many_fields_in_each_line() {
        let csv = csv(&table());
        // Protocols hold commas: they stand in quotes, and count as one field.
        let fields = |line: &str| {
            let mut outside = true;
            line.chars()
                .filter(|&c| {
                    outside ^= c == '"';
                    c == ',' && outside
                })
                .count()
        };
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 1 + 3);
        assert!(lines.iter().all(|line| fields(line) == fields(lines[0])), "{csv}");
        assert!(
            lines[3].starts_with("default,default,garments,simclr-metamask,own,reproduced,2,54.5,")
        );
    }

    #[test]
    fn json_reads_back() {
        let value: serde_json::Value = serde_json::from_str(&json(&table())).expect("JSON");
        let line = &value["sections"][0]["columns"][0]["lines"][2];
        assert_eq!(line["over_base"]["mean"], 3.5);
        assert_eq!(line["seeds"][1]["percent"], 55.0);
    }

    #[test]
    fn a_link_leads_from_the_page_to_the_records() {
        let check = |from: &str, to: &str, expected: &str| {
            assert_eq!(link(Path::new(from), Path::new(to)), expected);
        };
        check("docs/results", "docs/results/records/a", "records/a");
        check("docs/results", "runs/records", "../../runs/records");
        check("a", "a", ".");
    }
}

//! What a page says of a grid: its cells, what they gain over their base, and their runs.

use crate::{
    curves_figure::{CurvePanel, CurvesFigure, curves_figure},
    intervals_figure::{IntervalMark, IntervalRow, IntervalsFigure, intervals_figure},
    log::Log,
    page::{Block, Page, Section, Table, Verdict},
};

/// All that is known of a grid.
#[derive(Clone, Debug, Default)]
pub struct GridReport {
    /// Its title.
    pub title: String,
    /// What its numbers are, in a line.
    pub subtitle: String,
    /// What it found, in sentences.
    pub verdicts: Vec<Verdict>,
    /// How its numbers are to be read.
    pub about: Vec<String>,
    /// The comparisons that were planned before it ran; without rows if there are none.
    pub planned: Table,
    /// Its parts: a budget with a recipe each.
    pub parts: Vec<GridPart>,
    /// What a reader should know of some cells, from 1.
    pub notes: Vec<String>,
    /// When not to believe it.
    pub distrust: Vec<String>,
}

/// Cells that belong together.
#[derive(Clone, Debug, Default)]
pub struct GridPart {
    /// Its title.
    pub title: String,
    /// What it is, and how far it has come.
    pub about: Vec<String>,
    /// Its columns, each with the same rows.
    pub columns: Vec<GridColumn>,
}

/// A column: as a rule a data set.
#[derive(Clone, Debug, Default)]
pub struct GridColumn {
    /// Its title.
    pub title: String,
    /// What the numbers of its lines are; the first names the line, the second is its own number.
    pub head: Vec<String>,
    /// Its lines: cells, and bases at equal compute.
    pub lines: Vec<GridLine>,
    /// How its numbers were measured, and what they are to be held against.
    pub protocol: Vec<String>,
    /// More tables, each with its title and what it shows.
    pub tables: Vec<(String, Table, String)>,
}

/// A cell, or a base at equal compute.
#[derive(Clone, Debug, Default)]
pub struct GridLine {
    /// Its row, the same in every column.
    pub row: String,
    /// Its title.
    pub title: String,
    /// What the overview says of it; none if it is no cell.
    pub overview: Option<String>,
    /// Its numbers, as many as the column's head has names.
    pub numbers: Vec<String>,
    /// What it gains over its base, of the kinds of [`GAINS`].
    pub gains: Vec<IntervalMark>,
    /// What its learned mask gains, of the kinds of [`MASK_GAINS`].
    pub mask_gains: Vec<IntervalMark>,
    /// The runs that it is the mean of.
    pub runs: Option<GridRuns>,
}

/// The runs of a line, one a seed.
#[derive(Clone, Debug, Default)]
pub struct GridRuns {
    /// What each ended with, took, and was made by.
    pub table: Table,
    /// The names of their records.
    pub records: Vec<String>,
    /// What each keeps of its epochs, with its name.
    pub curves: Vec<(String, Log)>,
    /// Every setting, as text.
    pub settings: String,
}

/// What a gain over a base is, in the order of the kinds.
pub const GAINS: [&str; 2] =
    ["over its base, equal epochs", "over its base trained for as long as the row costs"];

/// What a learned order gains, in the order of the kinds.
pub const MASK_GAINS: [&str; 3] = [
    "over the same values in random orders",
    "over no mask",
    "over the oracle's order, which takes labels and factors",
];

/// The page of a grid.
pub fn grid_page(grid: &GridReport, written_by: &str) -> Page {
    let mut sections = Vec::new();
    let mut add = |title: &str, blocks: Vec<Block>| {
        let title = title.to_owned();
        sections.push(Section { in_contents: Some(title.clone()), title, blocks });
    };
    let mut summary = vec![Block::Verdicts(grid.verdicts.clone())];
    if !grid.planned.rows.is_empty() {
        let about = "The comparisons that were planned before they ran; Holm's p is among all of \
                     them.";
        summary.extend([Block::Text(about.to_owned()), Block::Table(grid.planned.clone())]);
    }
    summary.extend(grid.about.iter().cloned().map(Block::Text));
    add("Summary", summary);
    for (p, part) in grid.parts.iter().enumerate() {
        let mut blocks: Vec<Block> = part.about.iter().cloned().map(Block::Text).collect();
        blocks.push(Block::Table(overview(p, part)));
        add(&part.title, blocks);
        for (c, column) in part.columns.iter().enumerate().filter(|(_, column)| has_run(column)) {
            add(&in_part(grid, part, &column.title), column_blocks((p, c), column));
        }
    }
    add("When to distrust it", vec![Block::List(grid.distrust.clone())]);
    if !grid.notes.is_empty() {
        let notes = (1..).zip(&grid.notes).map(|(i, note)| Block::Text(format!("{i}. {note}")));
        add("Notes", notes.collect());
    }
    for (p, part) in grid.parts.iter().enumerate() {
        for (c, column) in part.columns.iter().enumerate().filter(|(_, column)| has_run(column)) {
            let title = in_part(grid, part, &format!("Runs: {}", column.title));
            add(&title, run_blocks((p, c), column));
        }
    }
    Page {
        title: grid.title.clone(),
        subtitle: grid.subtitle.clone(),
        sections,
        written_by: written_by.to_owned(),
    }
}

fn has_run(column: &GridColumn) -> bool {
    column.lines.iter().any(|line| line.runs.is_some())
}

/// A title, with its part's where several have run.
fn in_part(grid: &GridReport, part: &GridPart, title: &str) -> String {
    let n = grid.parts.iter().filter(|part| part.columns.iter().any(has_run)).count();
    if n > 1 { format!("{title}, {}", part.title) } else { title.to_owned() }
}

/// What links call the runs of a line.
fn id((p, c): (usize, usize), l: usize) -> String {
    format!("r{p}-{c}-{l}")
}

fn overview(p: usize, part: &GridPart) -> Table {
    let head = std::iter::once(String::new());
    let head = head.chain(part.columns.iter().map(|column| column.title.clone())).collect();
    let mut table = Table { head, ..Table::default() };
    let rows = part.columns.first().map_or(&[][..], |column| &column.lines);
    for line in rows.iter().filter(|line| line.overview.is_some()) {
        let mut row = vec![line.title.clone()];
        for (c, column) in part.columns.iter().enumerate() {
            let is_it =
                |(_, other): &(usize, &GridLine)| other.overview.is_some() && other.row == line.row;
            let found = column.lines.iter().enumerate().find(is_it);
            if let Some((l, _)) = found.filter(|(_, line)| line.runs.is_some()) {
                table.links.insert((table.rows.len(), row.len()), id((p, c), l));
            }
            row.push(found.and_then(|(_, line)| line.overview.clone()).unwrap_or_default());
        }
        table.rows.push(row);
    }
    table
}

fn column_blocks(place: (usize, usize), column: &GridColumn) -> Vec<Block> {
    let mut table = Table {
        head: column.head.clone(),
        rows: column.lines.iter().map(|line| line.numbers.clone()).collect(),
        ..Table::default()
    };
    for (l, _) in column.lines.iter().enumerate().filter(|(_, line)| line.runs.is_some()) {
        table.links.insert((l, 1), id(place, l));
    }
    let mut blocks = vec![Block::Table(table)];
    blocks.extend(column.protocol.iter().cloned().map(Block::Text));
    let gains = gains_figure(column, &GAINS, |line| &line.gains);
    if let Some(figure) = gains {
        let caption = "What each row gains over its base, seed by seed: the mean difference with \
                       its 95 % interval, and each seed's difference, faint. An interval that \
                       crosses the dashed line does not tell the row from its base.";
        blocks.push(Block::Figure(Box::new(figure), caption.to_owned()));
    }
    let of_masks = gains_figure(column, &MASK_GAINS, |line| &line.mask_gains);
    if let Some(figure) = of_masks {
        let caption = "What the order of each row's learned mask is worth on its own encoders: kNN \
                       with the mask less kNN with something else, over the seeds, with the 95 % \
                       interval. Only the gain over random orders is evidence of an order worth \
                       having.";
        blocks.push(Block::Figure(Box::new(figure), caption.to_owned()));
    }
    for (title, table, note) in &column.tables {
        let heading = Block::Text(format!("{title} {note}"));
        blocks.extend([heading, Block::Table(table.clone())]);
    }
    blocks
}

/// The lines that gain or lose something; none if no line does.
fn gains_figure(
    column: &GridColumn,
    kinds: &[&str],
    of: fn(&GridLine) -> &Vec<IntervalMark>,
) -> Option<crate::Drawing> {
    let compared = column.lines.iter().filter(|line| !of(line).is_empty());
    let rows: Vec<IntervalRow> = compared
        .map(|line| IntervalRow { title: line.title.clone(), marks: of(line).clone() })
        .collect();
    let n_kinds = 1 + rows.iter().flat_map(|row| &row.marks).map(|mark| mark.kind).max()?;
    Some(intervals_figure(&IntervalsFigure {
        title: &column.title,
        subtitle: "",
        measure: &format!("{}, difference in points", column.head.get(1)?),
        kinds: &kinds[..n_kinds.min(kinds.len())],
        level: ("no difference", 0.0),
        band: None,
        rows: &rows,
    }))
}

/// What a record keeps of the epochs, by its names.
const CURVES: [(&str, &str); 7] = [
    ("base_loss", "base loss B"),
    ("redundancy_loss", "L_drr"),
    ("effective_rank", "effective rank of the features"),
    ("embedding_std", "spread of the embeddings: std of a coordinate"),
    ("mask_min", "lowest value of the mask"),
    ("mask_max", "highest value of the mask"),
    ("second_order_ratio", "second order over direct term"),
];

fn run_blocks(place: (usize, usize), column: &GridColumn) -> Vec<Block> {
    let about = "What the records keep of each run: what it ended with, what it took, by which \
                 version, and its epochs in brief, 40 points at most. A run's folder holds more; \
                 a report of the run shows it.";
    let mut blocks = vec![Block::Text(about.to_owned())];
    for (l, line) in column.lines.iter().enumerate() {
        let Some(GridRuns { table, records, curves, settings }) = &line.runs else { continue };
        blocks.push(Block::Heading(line.title.clone(), id(place, l)));
        blocks.push(Block::Table(table.clone()));
        blocks.push(Block::Text(format!("Records: {}.", records.join(", "))));
        let panels: Vec<CurvePanel> = CURVES
            .iter()
            .map(|(name, title)| CurvePanel {
                title: (*title).to_owned(),
                curves: curves.iter().map(|(_, log)| log.series("epoch", "epoch", name)).collect(),
                level: None,
            })
            .filter(|panel| panel.curves.iter().any(|curve| !curve.is_empty()))
            .collect();
        if panels.is_empty() {
            blocks.push(Block::Text("Its records keep no curve.".to_owned()));
        } else {
            let runs: Vec<&str> = curves.iter().map(|(name, _)| name.as_str()).collect();
            let figure = curves_figure(&CurvesFigure {
                title: &line.title,
                subtitle: "",
                x_name: "epoch",
                runs: &runs,
                panels: &panels,
            });
            let caption = "Over the epochs, a curve for each seed.".to_owned();
            blocks.push(Block::Figure(Box::new(figure), caption));
        }
        blocks.push(Block::Folded("Every setting, but for the seed".to_owned(), settings.clone()));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::html_page;

    fn line(row: &str, gain: Option<f64>, has_run: bool) -> GridLine {
        let text = |text: &str| text.to_owned();
        GridLine {
            row: text(row),
            title: format!("Title of {row}"),
            overview: Some(if has_run { text("51.5 ± 0.7; paper 50.0") } else { text("open") }),
            numbers: vec![format!("Title of {row}"), text("51.5 ± 0.7")],
            gains: gain
                .map(|value| IntervalMark { value, ..IntervalMark::default() })
                .into_iter()
                .collect(),
            mask_gains: Vec::new(),
            runs: has_run.then(|| GridRuns {
                table: Table {
                    head: vec![text("seed")],
                    rows: vec![vec![text("7")]],
                    ..Table::default()
                },
                records: vec![text("a-s7.json")],
                curves: vec![(
                    text("seed 7"),
                    Log::of("{\"kind\":\"epoch\",\"epoch\":1,\"base_loss\":3}"),
                )],
                settings: text("training.epochs = 3"),
            }),
        }
    }

    fn grid() -> GridReport {
        let column = |title: &str, lines: Vec<GridLine>| GridColumn {
            title: title.to_owned(),
            head: vec!["row".to_owned(), "kNN".to_owned()],
            lines,
            ..GridColumn::default()
        };
        let equal = GridLine { overview: None, ..line("masked", None, true) };
        let columns = vec![
            column("A<b>", vec![line("base", None, true), equal, line("masked", Some(1.5), true)]),
            column("B", vec![line("base", None, false), line("masked", None, false)]),
        ];
        let part = GridPart { title: "Budget short".to_owned(), columns, ..GridPart::default() };
        GridReport { title: "A table".to_owned(), parts: vec![part], ..GridReport::default() }
    }

    #[test]
    fn every_cell_that_has_run_leads_to_its_runs_and_no_other() {
        let page = grid_page(&grid(), "metamask");
        let titles: Vec<&str> = page.sections.iter().map(|s| s.title.as_str()).collect();
        let expected = ["Summary", "Budget short", "A<b>", "When to distrust it", "Runs: A<b>"];
        assert_eq!(titles, expected);
        let Some(Block::Table(overview)) = page.sections[1].blocks.last() else {
            panic!("a table")
        };
        assert_eq!(overview.rows.len(), 2, "the base at equal compute is no cell");
        assert_eq!(overview.rows[1], ["Title of masked", "51.5 ± 0.7; paper 50.0", "open"]);
        let links: Vec<_> = overview.links.iter().map(|(at, id)| (*at, id.as_str())).collect();
        assert_eq!(links, [((0, 1), "r0-0-0"), ((1, 1), "r0-0-2")]);
        let html = html_page(&page);
        for id in ["r0-0-0", "r0-0-1", "r0-0-2"] {
            assert_eq!(html.matches(&format!("<h3 id=\"{id}\">")).count(), 1, "{id}");
            assert!(html.contains(&format!("<a href=\"#{id}\">")), "{id}");
        }
        assert!(!html.contains("r0-1-0") && !html.contains("A<b>"));
        assert!(html.contains("training.epochs = 3") && html.contains("base loss B"));
    }

    #[test]
    fn the_picture_holds_what_is_compared_and_nothing_else() {
        let grid = grid();
        let figure = gains_figure(&grid.parts[0].columns[0], &GAINS, |line| &line.gains);
        let svg = figure.expect("one line gains").standalone();
        assert!(svg.contains("Title of masked") && !svg.contains("Title of base"), "{svg}");
        assert!(!svg.contains("trained for as long"), "a single kind needs no key: {svg}");
        assert!(gains_figure(&grid.parts[0].columns[1], &GAINS, |line| &line.gains).is_none());
    }

    #[test]
    fn runs_without_a_curve_say_so() {
        let mut grid = grid();
        for line in &mut grid.parts[0].columns[0].lines {
            line.runs.as_mut().expect("it has run").curves.clear();
        }
        let html = html_page(&grid_page(&grid, ""));
        assert_eq!(html.matches("Its records keep no curve.").count(), 3);
    }
}

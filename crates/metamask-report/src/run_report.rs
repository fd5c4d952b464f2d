//! What a page says of runs: one in full, several side by side.

use crate::{
    confusion_figure::{ConfusionFigure, confusion_figure},
    controls_report::{ControlsReport, controls_blocks},
    curves_figure::{CurvePanel, CurvesFigure, curves_figure},
    drawing::Drawing,
    duration::duration,
    log::Log,
    mask_course_figure::{MaskCourseFigure, mask_course_figure},
    page::{Block, Page, Picture, Section, Table},
    points_figure::{PointsFigure, points_figure},
    verdicts::verdicts,
};

/// All that is known of a run. What is not there is left out of its page.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    /// Its name.
    pub name: String,
    /// What was trained, in a line.
    pub trained: String,
    /// Epochs done, and wanted.
    pub epochs: (u64, u64),
    /// Its log of results.
    pub metrics: Log,
    /// Its log of clocks.
    pub timings: Log,
    /// What its representation is worth.
    pub accuracies: Option<Accuracies>,
    /// Its mask.
    pub mask: Option<MaskReport>,
    /// The mask among masks of the same values in other orders.
    pub controls: Option<ControlsReport>,
    /// Its dimensions: the figure, and some of them in numbers.
    pub dimensions: Option<(Drawing, Table)>,
    /// What theorem 5.1 says at its checkpoints: the figure, and on which images.
    pub bounds: Option<(Drawing, String)>,
    /// Its images as points.
    pub points: Option<Points>,
    /// Which classes its neighbours take for which: by what, names, counts.
    pub confusion: Option<(String, Vec<String>, Vec<Vec<u64>>)>,
    /// Images with their neighbours, and what the sheet shows.
    pub neighbours: Option<(Picture, String)>,
    /// Images with their views, and what the sheet shows.
    pub views: Option<(Picture, String)>,
    /// What could not be looked at, and why.
    pub missing: Vec<String>,
    /// Where it comes from: names and values.
    pub provenance: Vec<(String, String)>,
    /// Its settings, as text.
    pub config: String,
}

/// Accuracies in percent, or other numbers that stand for them.
#[derive(Clone, Debug, Default)]
pub struct Accuracies {
    /// What was trained on and tested on.
    pub split: String,
    /// The protocols in full.
    pub protocols: Vec<String>,
    /// The representations with their numbers.
    pub table: Table,
    /// Which row is the run's own number.
    pub own: Option<usize>,
    /// What it is held against, if it is an accuracy.
    pub comparison: Option<Comparison>,
}

/// One accuracy of a run beside those that it is held against, in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What measured them: `kNN`, for example.
    pub measure: &'static str,
    /// The run's own.
    pub own: f64,
    /// The encoder's before training.
    pub untrained: Option<f64>,
    /// The images' themselves.
    pub pixels: Option<f64>,
    /// A guess's.
    pub chance: f64,
    /// The run's own encoder's with the mask, and without.
    pub with_and_without_mask: Option<(f64, f64)>,
}

/// A mask at the end of a run.
#[derive(Clone, Debug)]
pub struct MaskReport {
    /// The figure.
    pub figure: Drawing,
    /// m of every dimension.
    pub values: Vec<f64>,
    /// The value at which they all began.
    pub start: f64,
}

/// Images as points in the plane.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Ways to lay them out, one or two, each with its name.
    pub layouts: Vec<(String, Vec<[f64; 2]>)>,
    /// A class for each, or none at all.
    pub classes: Vec<u32>,
    /// The classes' names.
    pub names: Vec<String>,
    /// Which images they are and how they were laid out.
    pub caption: String,
}

/// The page of some runs: each in full, after all of them side by side if there are several.
pub fn report_page(runs: &[RunReport], written_by: &str) -> Page {
    let (title, subtitle) = match runs {
        [run] => (run.name.clone(), run.trained.clone()),
        _ => (format!("{} runs", runs.len()), "side by side, then one by one".to_owned()),
    };
    let sections = match runs {
        [run] => sections_of(run, ""),
        _ => std::iter::once(side_by_side(runs))
            .chain(runs.iter().flat_map(|run| sections_of(run, &format!("{}: ", run.name))))
            .collect(),
    };
    Page { title, subtitle, sections, written_by: written_by.to_owned() }
}

fn side_by_side(runs: &[RunReport]) -> Section {
    let mut columns: Vec<&str> = Vec::new();
    let tables = runs.iter().flat_map(|run| &run.accuracies).map(|found| &found.table);
    for name in tables.flat_map(|table| table.head.iter().skip(1)) {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let head = std::iter::once("run").chain(columns.iter().copied());
    let head = head.chain(["epochs", "effective rank", "time", "images/s"]).map(str::to_owned);
    let row = |run: &RunReport| {
        let own = |column: &&str| {
            let found = run.accuracies.as_ref()?;
            let i = found.table.head.iter().position(|name| name == column)?;
            found.table.rows.get(found.own?)?.get(i).cloned()
        };
        let rank = run.metrics.series("epoch", "epoch", "effective_rank");
        let (time, rate) = time_and_rate(&run.timings);
        let numbers = columns.iter().map(|column| own(column).unwrap_or_default());
        std::iter::once(run.name.clone())
            .chain(numbers)
            .chain([
                format!("{} of {}", run.epochs.0, run.epochs.1),
                rank.last().map_or_else(String::new, |(_, rank)| format!("{rank:.1}")),
                time,
                rate,
            ])
            .collect()
    };
    let table =
        Table { head: head.collect(), rows: runs.iter().map(row).collect(), ..Table::default() };
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let about = "Each run's own number: of its last epoch, never the best. Numbers of different \
                 protocols or data stand side by side and cannot be compared; each run's section \
                 says which it is.";
    let mut blocks = vec![Block::Text(about.to_owned()), Block::Table(table)];
    let (x_name, panels) = curve_panels(runs);
    if !panels.is_empty() {
        let figure =
            CurvesFigure { title: "All runs", subtitle: "", x_name, runs: &names, panels: &panels };
        blocks.push(Block::Figure(Box::new(curves_figure(&figure)), CURVES.to_owned()));
    }
    let title = "Side by side".to_owned();
    Section { in_contents: Some(title.clone()), title, blocks }
}

const CURVES: &str = "Means over each epoch, but for effective rank, spread, dead dimensions and \
                      correlation, which are of its last batch. The dashed line of the base loss is a guess's, \
                      that of the spread is what coordinates have that share it evenly.";

const BOUNDS_DISTRUST: [&str; 4] = [
    "A side in the shade promises nothing: the upper one allows a guess, the lower one no error at \
     all. At the temperatures that people train with both lie there as a rule, and the picture is \
     one of the variance and no guarantee.",
    "A square is a side that fails. It proves nothing by itself: O(M^-1/2) is left out, and the \
     lower side needs scores that are near to normal.",
    "Theorem 5.2 says that the mask leaves the variance and lowers the sum over dimensions: compare \
     the two lines of the last row. Without the mask means through the head that was trained \
     behind it.",
    "The theorem is one of contrastive losses: for Barlow Twins and BYOL tau is only a setting.",
];

fn sections_of(run: &RunReport, before: &str) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut add = |title: &str, blocks: Vec<Block>| {
        if !blocks.is_empty() {
            let in_contents = match (before.is_empty(), title) {
                (true, _) => Some(title.to_owned()),
                (false, "Summary") => Some(run.name.clone()),
                (false, _) => None,
            };
            sections.push(Section { in_contents, title: format!("{before}{title}"), blocks });
        }
    };
    let protocol = run.trained.clone();
    let mut summary = vec![Block::Verdicts(verdicts(run))];
    if !before.is_empty() {
        summary.insert(0, Block::Text(protocol.clone()));
    }
    if let Some(found) = &run.accuracies {
        summary.push(Block::Table(found.table.clone()));
        summary.push(Block::Text(format!("Data: {}.", found.split)));
        summary.extend(found.protocols.iter().map(|line| Block::Text(format!("Protocol: {line}"))));
    }
    if !run.missing.is_empty() {
        let missing = run.missing.join("; ");
        summary.push(Block::Text(format!("Not looked at: {missing}.")));
    }
    add("Summary", summary);

    let (x_name, panels) = curve_panels(std::slice::from_ref(run));
    if !panels.is_empty() {
        let names = [run.name.as_str()];
        let figure = CurvesFigure {
            title: &run.name,
            subtitle: &protocol,
            x_name,
            runs: &names,
            panels: &panels,
        };
        let (time, rate) = time_and_rate(&run.timings);
        let caption = match time.is_empty() {
            true => CURVES.to_owned(),
            false => format!("{CURVES} Training took {time} at {rate} images a second."),
        };
        add("Training", vec![Block::Figure(Box::new(curves_figure(&figure)), caption)]);
    }
    if let Some(table) = timing_table(&run.timings) {
        let about = "By the clock of the machine that trained it, which may have done other things \
                     at the same time.";
        add("Time and memory", vec![Block::Table(table), Block::Text(about.to_owned())]);
    }
    if let Some(mask) = &run.mask {
        let about = "Left: the mask's values, sorted. Right: the lowest and the highest of each \
                     epoch. The dashed line is where all began.";
        let mut blocks = vec![Block::Figure(Box::new(mask.figure.clone()), about.to_owned())];
        let histograms = run.metrics.counts("epoch", "mask_histogram");
        if histograms.len() > 1 {
            let figure =
                MaskCourseFigure { title: &run.name, subtitle: &protocol, histograms: &histograms };
            let caption = "The distribution of the values at the end of each epoch.";
            let figure = Box::new(mask_course_figure(&figure));
            blocks.push(Block::Figure(figure, caption.to_owned()));
        }
        add("Mask", blocks);
    }
    if let Some(controls) = &run.controls {
        add("Mask controls", controls_blocks((&run.name, &protocol), controls));
    }
    if let Some((figure, table)) = &run.dimensions {
        let about = "How the variance is spread over directions, which dimensions say the same, \
                     and what each one is about. Labels are used here, of which training knew \
                     nothing.";
        let caption = "The dimensions with the largest and the smallest share of variance that \
                       the class explains.";
        add(
            "Dimensions",
            vec![
                Block::Figure(Box::new(figure.clone()), about.to_owned()),
                Block::Text(caption.to_owned()),
                Block::Table(table.clone()),
            ],
        );
    }
    if let Some((figure, images)) = &run.bounds {
        let caption = format!(
            "Theorem 5.1 at the run's checkpoints, for scores cos / tau, on {images}; its \
             O(M^-1/2), whose constant nobody knows, is left out. What metamask \
             inspect bounds prints has every term."
        );
        let figure = Block::Figure(Box::new(figure.clone()), caption);
        let distrust = BOUNDS_DISTRUST.map(str::to_owned).to_vec();
        let when = Block::Text("When to distrust it:".to_owned());
        add("Bounds", vec![figure, when, Block::List(distrust)]);
    }
    if let Some(points) = &run.points {
        let layouts: Vec<(&str, &[[f64; 2]])> =
            points.layouts.iter().map(|(name, points)| (name.as_str(), &points[..])).collect();
        let figure = points_figure(&PointsFigure {
            title: &run.name,
            subtitle: &protocol,
            layouts: &layouts,
            classes: &points.classes,
            names: &points.names,
        });
        add("Images as points", vec![Block::Figure(Box::new(figure), points.caption.clone())]);
    }
    if let Some((picture, caption)) = &run.neighbours {
        add("Neighbours", vec![Block::Picture(picture.clone(), caption.clone())]);
    }
    if let Some((subtitle, names, counts)) = &run.confusion {
        let figure =
            confusion_figure(&ConfusionFigure { title: &run.name, subtitle, names, counts });
        add("Confusion", vec![Block::Figure(Box::new(figure), subtitle.clone())]);
    }
    if let Some((picture, caption)) = &run.views {
        add("Views", vec![Block::Picture(picture.clone(), caption.clone())]);
    }
    let rows = run.provenance.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
    let head = vec![String::new(); 2];
    let provenance = Table { head, rows: rows.collect(), ..Table::default() };
    add(
        "Where it comes from",
        vec![
            Block::Table(provenance),
            Block::Folded("Every setting".to_owned(), run.config.clone()),
        ],
    );
    sections
}

/// The time of all epochs together, and the images a second over it.
fn time_and_rate(timings: &Log) -> (String, String) {
    let epochs = timings.series("epoch", "duration_s", "images_per_s");
    let seconds: f64 = epochs.iter().map(|(duration, _)| duration).sum();
    if seconds <= 0.0 {
        return (String::new(), String::new());
    }
    let images: f64 = epochs.iter().map(|(duration, rate)| duration * rate).sum();
    (duration(seconds), format!("{:.0}", images / seconds))
}

/// What the clocks of a run say; none if they say nothing yet.
fn timing_table(timings: &Log) -> Option<Table> {
    let epochs = timings.series("epoch", "duration_s", "images_per_s");
    let rate = |(_, rate): &(f64, f64)| *rate;
    let slowest = epochs.iter().map(rate).fold(f64::INFINITY, f64::min);
    let fastest = epochs.iter().map(rate).fold(f64::NEG_INFINITY, f64::max);
    let (time, mean) = time_and_rate(timings);
    let evaluation =
        |name: &str| timings.series("evaluation", "step", name).last().map(|&(_, value)| value);
    let rows = [
        ("training", (!time.is_empty()).then_some(time)),
        ("images a second", (!mean.is_empty()).then_some(mean)),
        (
            "images a second, by epoch",
            (epochs.len() > 1).then(|| format!("{slowest:.0} to {fastest:.0}")),
        ),
        ("evaluation, with its baselines", evaluation("duration_s").map(duration)),
        (
            "highest resident memory",
            evaluation("peak_memory_bytes").map(|bytes| format!("{:.0} MiB", bytes / 1048576.0)),
        ),
    ];
    let rows = rows.into_iter().filter_map(|(name, value)| Some(vec![name.to_owned(), value?]));
    let rows: Vec<Vec<String>> = rows.collect();
    (!rows.is_empty()).then(|| Table { head: vec![String::new(); 2], rows, ..Table::default() })
}

/// Which numbers are drawn over training, and what they are.
const CURVE_NAMES: [(&str, &str); 10] = [
    ("base_loss", "base loss B"),
    ("loss", "loss L, all terms"),
    ("redundancy_loss", "L_drr"),
    ("effective_rank", "effective rank of the features"),
    ("embedding_std", "spread of the embeddings: std of a coordinate"),
    ("dead_dimensions", "dead dimensions of the features"),
    ("mean_correlation", "mean correlation of two features"),
    ("gradient_norm", "norm of the gradient"),
    ("second_order_ratio", "second order over direct term"),
    ("learning_rate", "learning rate"),
];

/// The panels that any of the runs has points for, and what runs along them: epochs, or steps
/// where there is no second epoch yet.
fn curve_panels(runs: &[RunReport]) -> (&'static str, Vec<CurvePanel>) {
    let n_epochs = |run: &RunReport| run.metrics.series("epoch", "epoch", "loss").len();
    let x_name = if runs.iter().any(|run| n_epochs(run) > 1) { "epoch" } else { "step" };
    let level = |name: &str| {
        let of = |key: &str| {
            let values = runs.iter().flat_map(|run| run.metrics.series("epoch", "epoch", key));
            let mut values: Vec<f64> = values.map(|(_, value)| value).collect();
            values.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
            // Runs that differ in it have no common one.
            (values.len() == 1).then(|| values[0])
        };
        match name {
            "base_loss" => of("chance_level").map(|value| ("a guess".to_owned(), value)),
            "embedding_std" => of("embedding_std_even").map(|value| ("even".to_owned(), value)),
            _ => None,
        }
    };
    let of_metrics = CURVE_NAMES.iter().map(|(name, title)| CurvePanel {
        title: (*title).to_owned(),
        curves: runs.iter().map(|run| run.metrics.series(x_name, x_name, name)).collect(),
        level: level(name),
    });
    let rate = CurvePanel {
        title: "images a second".to_owned(),
        curves: runs
            .iter()
            .map(|run| run.timings.series("epoch", "epoch", "images_per_s"))
            .collect(),
        level: None,
    };
    let rate = std::iter::once(rate).filter(|_| x_name == "epoch");
    let panels = of_metrics.chain(rate).filter(|p| p.curves.iter().any(|curve| !curve.is_empty()));
    (x_name, panels.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::html_page;

    fn run(name: &str) -> RunReport {
        let metrics = "{\"kind\":\"epoch\",\"step\":4,\"epoch\":1,\"loss\":3,\"chance_level\":5}
{\"kind\":\"epoch\",\"step\":8,\"epoch\":2,\"loss\":2,\"base_loss\":2,\"chance_level\":5,\"effective_rank\":7.25}";
        let timings = "{\"kind\":\"epoch\",\"epoch\":1,\"duration_s\":60,\"images_per_s\":100}
{\"kind\":\"epoch\",\"epoch\":2,\"duration_s\":20,\"images_per_s\":200}
{\"kind\":\"evaluation\",\"step\":8,\"duration_s\":7,\"peak_memory_bytes\":3145728}";
        let cells = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let table = Table {
            head: cells(["percent", "kNN", "linear"]),
            rows: vec![cells(["raw pixels", "20.0", ""]), cells(["trained", "61.2", "70.0"])],
            ..Table::default()
        };
        RunReport {
            name: name.to_owned(),
            trained: "SimCLR".to_owned(),
            epochs: (2, 2),
            metrics: Log::of(metrics),
            timings: Log::of(timings),
            accuracies: Some(Accuracies { table, own: Some(1), ..Accuracies::default() }),
            config: "a = 1\n".to_owned(),
            ..RunReport::default()
        }
    }

    #[test]
    fn one_run_is_told_in_full_and_what_is_not_there_is_left_out() {
        let page = report_page(&[run("a")], "metamask");
        let titles: Vec<&str> = page.sections.iter().map(|s| s.title.as_str()).collect();
        assert_eq!(titles, ["Summary", "Training", "Time and memory", "Where it comes from"]);
        let html = html_page(&page);
        for text in [
            "61.2</td>",
            "1 min 20 s at 125 images a second",
            "a guess",
            "100 to 200<",
            "7 s<",
            "3 MiB",
        ] {
            assert!(html.contains(text), "{text}");
        }
    }

    #[test]
    fn several_runs_stand_side_by_side_first() {
        let page = report_page(&[run("a"), run("b")], "metamask");
        assert_eq!(page.sections.len(), 1 + 2 * 4);
        let Block::Table(table) = &page.sections[0].blocks[1] else { panic!("a table") };
        let head = ["run", "kNN", "linear", "epochs", "effective rank", "time", "images/s"];
        assert_eq!(table.head, head);
        let row = ["b", "61.2", "70.0", "2 of 2", "7.2", "1 min 20 s", "125"];
        assert_eq!(table.rows[1], row);
        assert_eq!(page.sections[5].title, "b: Summary");
    }

    #[test]
    fn a_run_that_has_only_begun_is_drawn_by_its_steps() {
        let metrics = Log::of("{\"kind\":\"step\",\"step\":1,\"epoch\":1,\"loss\":3}");
        let begun = RunReport { metrics, ..RunReport::default() };
        let (x_name, panels) = curve_panels(&[begun]);
        assert_eq!((x_name, panels.len()), ("step", 1));
        assert!(!report_page(&[RunReport::default()], "").sections.is_empty());
    }
}

//! `metamask report`: runs as one page that needs nothing but a browser.

mod gather;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use metamask_report::{
    Logged, RunReport, Verdict, html_page, report_page, tensorboard_events, verdicts,
};
use metamask_train::{Code, Failure, expect_new, shown, write_new};

use crate::{
    arguments::{PlacesArguments, WorkersArguments},
    commands::set_threads,
    csv::Csv,
    print,
    progress::Progress,
};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask report runs/RUN                            runs/RUN/report.html
  metamask report runs/A runs/B --out compare.html    side by side
  metamask report runs/RUN --logs-only                no features: curves, results, mask
  metamask report runs/RUN --tensorboard events --csv numbers.csv
  metamask grid report my.toml --out my.html          the page of a grid of runs

One file without scripts, fonts or links: verdict, accuracies with their protocols, curves,
mask over training and among its controls, dimensions, theorem 5.1, images as points (PCA and
t-SNE), neighbours, confusion, views, timing, settings. What is not there is left out, and the page says so. A run that is being
trained may be reported on. Prints the verdict here, too. Overwrites nothing.")]
pub(crate) struct ReportArguments {
    /// The runs' folders
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page to write; never overwrites a file [default: report.html in the run's folder]
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
    /// Read what the run has written and compute nothing: needs no data
    #[arg(long)]
    pub logs_only: bool,
    /// Write the logs for TensorBoard, too: a folder with one for each run
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
    /// Write the numbers of the logs, too, one a line
    #[arg(long, value_name = "FILE.csv")]
    pub csv: Option<PathBuf>,
    #[command(flatten)]
    pub places: PlacesArguments,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

/// Runs on a page at most: every one has its own figures.
const MOST_RUNS: usize = 12;

pub(crate) fn report(arguments: &ReportArguments) -> anyhow::Result<()> {
    set_threads(arguments.workers.threads)?;
    let ReportArguments { runs, out, tensorboard, csv, .. } = arguments;
    if runs.len() > MOST_RUNS {
        let message = format!("{} runs, expected at most {MOST_RUNS} on a page", runs.len());
        return Err(Failure::new(Code::Usage, message).into());
    }
    if let Some(file) = runs.iter().find(|run| run.is_file()) {
        let failure = Failure::at(Code::Usage, file, "is a file, expected a run's folder");
        return Err(failure
            .help("of a grid: metamask grid report FILE.toml --out FILE.html")
            .into());
    }
    let out = match (out, &runs[..]) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.join("report.html"),
        (None, _) => {
            let failure = Failure::new(Code::Usage, "several runs have no folder in common");
            return Err(failure.help("say where the page goes with --out FILE.html").into());
        }
    };
    expect_new(Some(&out))?;
    expect_new(csv.as_deref())?;
    let mut progress = Progress::new();
    let found: anyhow::Result<Vec<RunReport>> =
        runs.iter().map(|run| gather::gather(run, arguments, &mut progress)).collect();
    progress.finish();
    let found = found?;

    let written_by = format!("metamask {}", env!("CARGO_PKG_VERSION"));
    write_new(&out, html_page(&report_page(&found, &written_by)).as_bytes())?;
    let mut text = String::new();
    for run in &found {
        summarise(&mut text, run);
    }
    let _ = writeln!(text, "page      {}", shown(&out));
    if let Some(folder) = tensorboard {
        write_events(folder, &found)?;
        let _ = writeln!(text, "events    {}", shown(folder));
    }
    if let Some(csv) = csv {
        write_new(csv, numbers(&found).text().as_bytes())?;
        let _ = writeln!(text, "numbers   {}", shown(csv));
    }
    print::to_stdout(&text)
}

/// What those without a browser want to know.
fn summarise(text: &mut String, run: &RunReport) {
    let _ = writeln!(text, "{}\n{}\n", run.name, run.trained);
    text.push_str(&verdict_lines(&verdicts(run)));
    if let Some(found) = &run.accuracies {
        text.push('\n');
        text.push_str(&print::table_text(&found.table));
        let _ = writeln!(text, "\ndata      {}", found.split);
        for protocol in &found.protocols {
            let _ = writeln!(text, "protocol  {protocol}");
        }
    }
    for missing in &run.missing {
        let _ = writeln!(text, "missing   {missing}");
    }
    text.push('\n');
}

/// Sentences that judge, a line each, with a sign before good and bad news.
pub(crate) fn verdict_lines(verdicts: &[Verdict]) -> String {
    let line = |Verdict { good, text }: &Verdict| {
        let sign = match good {
            Some(true) => "+",
            Some(false) => "!",
            None => " ",
        };
        format!("{sign} {text}\n")
    };
    verdicts.iter().map(line).collect()
}

/// A folder for each run, as TensorBoard tells runs apart.
fn write_events(folder: &Path, runs: &[RunReport]) -> Result<(), Failure> {
    for run in runs {
        let folder = folder.join(&run.name);
        std::fs::create_dir_all(&folder).map_err(|error| Failure::io(&folder, "create", &error))?;
        let file = folder.join("events.out.tfevents.0.metamask");
        write_new(&file, &tensorboard_events(&run.metrics, &run.timings))?;
    }
    Ok(())
}

/// The logs' numbers, one a line.
fn numbers(runs: &[RunReport]) -> Csv {
    let mut csv = Csv::new(&["run", "kind", "step", "name", "value"]);
    for run in runs {
        for Logged { kind, step, name, value, .. } in
            run.metrics.numbers().chain(run.timings.numbers())
        {
            csv.row(&[&run.name, kind, &step.to_string(), name, &value.to_string()]);
        }
    }
    csv
}

//! The words of `metamask grid`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  metamask grid plan my.toml                  what it will take, before it takes it
  metamask grid run my.toml -j 2              run what is not finished, two jobs at a time
  metamask grid status my.toml                finished, interrupted, failed, waiting
  metamask grid table my.toml --out tables    mean ± std over seeds, paired differences
  metamask grid figure my.toml --out figures  the same as a picture
  metamask grid report my.toml --out my.html  the same as a page, each cell with its runs

A grid is a TOML file of rows, columns, seeds and budgets; docs/grid.md explains it.")]
pub(crate) struct GridArguments {
    #[command(subcommand)]
    pub command: GridCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GridCommand {
    /// Train a few steps of each cell and say what all of it will take
    #[command(after_help = "\
Examples:
  metamask grid plan my.toml -j 2
  metamask grid plan my.toml --rows simclr,simclr-metamask --json
  metamask grid plan my.toml --records records --save

Each cell trains an epoch of four steps. Sets that lie in files are stood in for by small
files in their exact format, so that the data need not be here. With --save what was
found is kept beside the records: those cells then count as `reproducible`.")]
    Plan(PlanArguments),
    /// Run what is not finished
    #[command(after_help = "\
Examples:
  metamask grid run my.toml
  metamask grid run my.toml -j 2 --data fashion-mnist --seeds 0,1
  metamask grid run my.toml --retry                 those that failed, too

Each job is a process of its own. Stopped or killed at any instant, the same command goes on
where it was: finished jobs are skipped, those that had begun resume. A data set that is
not here is named, its cells stay open, the others run. Exit status: 0 everything that can
run is finished, 70 a job failed, 128 + N ended by signal N.")]
    Run(RunArguments),
    /// Say where each job stands
    #[command(after_help = "\
Examples:
  metamask grid status my.toml
  metamask grid status my.toml --json")]
    Status(StatusArguments),
    /// Add the records up: Markdown, CSV and JSON
    #[command(after_help = "\
Examples:
  metamask grid table my.toml                             the page on stdout
  metamask grid table my.toml --records records --out docs/results
  metamask grid table my.toml --records records --out docs/results --check

Writes table.md, table.csv and table.json into the folder. A file there that this command
did not write is not overwritten. With --check nothing is written: it is an error if what is
there differs from what the records say.")]
    Table(TableArguments),
    /// Draw the records: a line for each row over the columns
    #[command(after_help = "\
Examples:
  metamask grid figure my.toml --out figures
  metamask grid figure my.toml --rows simclr,simclr-metamask --out figures

Means with a bar of one standard deviation over the seeds to either side, columns evenly along
the axis. Writes GRID.svg, GRID.png and GRID.csv into the folder, and overwrites nothing.")]
    Figure(FigureArguments),
    /// Show the records as a page that needs nothing but a browser
    #[command(after_help = "\
Examples:
  metamask grid report my.toml --out my.html
  metamask grid report my.toml --records records --budget short --out short.html

One file without scripts, fonts or links to anywhere: what the grid found, every cell with the
published number beside it, a picture of what each row gains over its base with its interval, and
over the base at equal compute; each number leads to its runs: seed, time, memory, version,
curves, settings. Prints what it found here, too. Overwrites nothing.")]
    Report(ReportArguments),
    /// One job; this is how jobs are started
    #[command(hide = true, after_help = "Example:\n  metamask grid job --config FILE --out DIR")]
    Job(JobArguments),
    /// One measurement; this is how they are started
    #[command(hide = true, after_help = "Example:\n  metamask grid measure --config FILE")]
    Measure(JobArguments),
}

/// Which jobs of which grid.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// The grid (TOML)
    pub grid: PathBuf,
    /// The budget, where the grid has several
    #[arg(long, value_name = "NAME")]
    pub budget: Option<String>,
    /// Recipes, with commas between [default: the budget's]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub recipes: Vec<String>,
    /// Rows, with commas between [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Columns, with commas between [default: the budget's]
    #[arg(long = "data", value_name = "NAMES", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Seeds, with commas between [default: all]
    #[arg(long, value_name = "SEEDS", value_delimiter = ',')]
    pub seeds: Vec<u64>,
    /// The grid's folder, with a run for each job [default: runs/grid-GRID-BUDGET]
    #[arg(long, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Folder of the records, a small file for each finished job [default: `records` in that folder]
    #[arg(long, value_name = "DIR")]
    pub records: Option<PathBuf>,
    /// Folder with the data sets' files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// How many at a time.
#[derive(Args, Clone, Debug)]
pub(crate) struct Together {
    /// Jobs at a time; results do not depend on it
    #[arg(short = 'j', long = "jobs", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: u16,
    /// Threads that they share; results do not depend on it [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Args, Debug)]
pub(crate) struct PlanArguments {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub together: Together,
    /// Keep what was found beside the records
    #[arg(long)]
    pub save: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub together: Together,
    /// Try those again that failed
    #[arg(long)]
    pub retry: bool,
    /// What the program was built from, such as a commit; it is kept in the records
    #[arg(long, value_name = "TEXT")]
    pub source: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub which: Which,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which records of which grid.
#[derive(Args, Debug)]
pub(crate) struct Recorded {
    /// The grid (TOML)
    pub grid: PathBuf,
    /// The budget [default: every one that there are records or plans of]
    #[arg(long, value_name = "NAME")]
    pub budget: Option<String>,
    /// Recipes, with commas between [default: likewise]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub recipes: Vec<String>,
    /// Folder of the records [default: runs/grid-GRID-BUDGET/records]
    #[arg(long, value_name = "DIR")]
    pub records: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct FigureArguments {
    #[command(flatten)]
    pub which: Recorded,
    /// Rows, with commas between; ten lines can be told apart [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Folder to write GRID.svg, GRID.png and GRID.csv into
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArguments {
    #[command(flatten)]
    pub which: Recorded,
    /// The page to write; never overwrites a file
    #[arg(long, value_name = "FILE.html")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct TableArguments {
    #[command(flatten)]
    pub which: Recorded,
    /// Folder to write table.md, table.csv and table.json into
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write nothing: fail if what is there differs
    #[arg(long, requires = "out")]
    pub check: bool,
}

#[derive(Args, Debug)]
pub(crate) struct JobArguments {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The run's folder, or an empty one to measure in
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Worker threads
    #[arg(long, value_name = "N")]
    pub threads: Option<u16>,
    /// Jobs at a time, this one among them; for the record
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub beside: usize,
    /// Folder with the data sets' files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

//! `metamask grid`: plan, run, resume and add up a table of runs.
//!
//! The grid itself is in metamask-train; here are arguments, processes' edges and printing.

mod arguments;
mod figure;
mod job;
mod plan;
mod report;
mod watch;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use metamask_train::{
    Code, Failure,
    grid::{
        self, GridFile, Job, Selection, Table, page,
        run::{RunOptions, State, states},
    },
    shown,
};

pub(crate) use arguments::GridArguments;
use arguments::{
    GridCommand, Recorded, RunArguments, StatusArguments, TableArguments, Together, Which,
};

use crate::{data_places, print, signals::Signals};

pub(crate) fn grid(arguments: &GridArguments) -> anyhow::Result<ExitCode> {
    let done = match &arguments.command {
        GridCommand::Plan(arguments) => plan::plan(arguments),
        GridCommand::Run(arguments) => return run(arguments),
        GridCommand::Status(arguments) => status(arguments),
        GridCommand::Table(arguments) => table(arguments),
        GridCommand::Figure(arguments) => figure::figure(arguments),
        GridCommand::Report(arguments) => report::report(arguments),
        GridCommand::Job(arguments) => return job::job(arguments),
        GridCommand::Measure(arguments) => job::measure(arguments),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// A grid, the jobs that are meant, and where they lie.
struct Meant {
    grid: GridFile,
    budget: String,
    jobs: Vec<Job>,
    runs: PathBuf,
    records: PathBuf,
}

fn meant(which: &Which) -> anyhow::Result<Meant> {
    let grid = GridFile::read(&which.grid)?;
    let budget = grid.budget(which.budget.as_deref())?.0.to_owned();
    let selection = Selection {
        budget: Some(budget.clone()),
        recipes: which.recipes.clone(),
        rows: which.rows.clone(),
        columns: which.columns.clone(),
        seeds: which.seeds.clone(),
    };
    let jobs = grid::jobs(&grid, &selection)?;
    if jobs.is_empty() {
        let message = "no job is left: the budget has none of these columns or recipes";
        return Err(Failure::new(Code::Usage, message).into());
    }
    let runs = which.runs.clone().unwrap_or_else(|| default_runs(&grid, &budget));
    let records = which.records.clone().unwrap_or_else(|| runs.join("records"));
    Ok(Meant { grid, budget, jobs, runs, records })
}

fn default_runs(grid: &GridFile, budget: &str) -> PathBuf {
    PathBuf::from("runs").join(format!("grid-{}-{budget}", grid.name))
}

fn threads(together: &Together) -> usize {
    match together.threads {
        Some(threads) => threads.into(),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

/// What each job's process is told of where the data are.
fn data_arguments(which: &Which) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let Some(data_dir) = &which.data_dir else { return Ok(Vec::new()) };
    let data_dir = std::path::absolute(data_dir).context("failed to find the data folder")?;
    Ok(vec!["--data-dir".into(), data_dir.into()])
}

fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let which = &arguments.which;
    let Meant { grid, jobs, runs, records, .. } = meant(which)?;
    let options = RunOptions {
        out: runs.clone(),
        records: records.clone(),
        parallel: arguments.together.jobs.into(),
        threads: threads(&arguments.together),
        retry: arguments.retry,
        source: arguments.source.clone(),
        program: std::env::current_exe().context("failed to find this program")?,
        arguments: data_arguments(which)?,
    };
    let signals = Signals::listen()?;
    let mut watch = watch::Watch::new(signals.clone(), grid.protocol.measure());
    // Data are fetched by `metamask data fetch`, not by fifty jobs at once.
    let places = data_places::of(which.data_dir.clone(), true)?;
    let summary = grid::run::run(&grid, &jobs, &options, &places, &mut watch);
    watch.finish();
    let summary = summary?;

    let waiting: usize = summary.no_data.values().sum();
    let mut text = format!(
        "finished {} of {} jobs; failed {}; without data {waiting}\n",
        summary.finished,
        jobs.len(),
        summary.failed.len()
    );
    for (id, failed) in &summary.failed {
        text += &format!("failed   {id}, {} times: {}\n", failed.attempts, failed.message);
        text += &format!("         log: {}\n", shown(&runs.join("jobs").join(format!("{id}.log"))));
    }
    for (name, n) in &summary.no_data {
        text += &format!(
            "no data  {name}: {n} jobs wait; `metamask data fetch {name}`, or --data-dir\n"
        );
    }
    text += &format!("records  {}\n", shown(&records));
    let file = shown(&which.grid);
    text += &format!("next     metamask grid table {file} --records {}\n", shown(&records));
    print::to_stdout(&text)?;
    if summary.interrupted {
        print::to_stderr("interrupted; running jobs are saved\n  help: the same command goes on");
        return Ok(ExitCode::from(signals.exit_status()));
    }
    match summary.failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => {
            let message = format!("{} jobs failed", summary.failed.len());
            Err(Failure::new(Code::Internal, message)
                .help("look at their logs; `metamask grid run --retry` tries them again")
                .into())
        }
    }
}

/// The word for a state, and what belongs to it.
fn word(state: &State) -> (&'static str, String) {
    match state {
        State::Finished => ("finished", String::new()),
        State::Interrupted => ("interrupted", String::new()),
        State::Failed(failed) => ("failed", failed.message.clone()),
        State::Open => ("to do", String::new()),
        State::NoData => ("no data", String::new()),
    }
}

fn status(arguments: &StatusArguments) -> anyhow::Result<()> {
    let Meant { grid, jobs, runs, records, .. } = meant(&arguments.which)?;
    let places = data_places::of(arguments.which.data_dir.clone(), true)?;
    let states = states(&grid, &jobs, (&runs, &records), &places)?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for state in &states {
        *counts.entry(word(state).0).or_default() += 1;
    }
    if arguments.json {
        let jobs: Vec<serde_json::Value> = jobs
            .iter()
            .zip(&states)
            .map(|(job, state)| {
                let (state, message) = word(state);
                serde_json::json!({ "id": job.id, "state": state, "message": message })
            })
            .collect();
        let object = serde_json::json!({ "counts": counts, "jobs": jobs });
        return print::to_stdout(&(object.to_string() + "\n"));
    }
    let mut text = String::new();
    for (job, state) in jobs.iter().zip(&states) {
        let (word, message) = word(state);
        text += &format!("{word:12}{job}{}{message}\n", if message.is_empty() { "" } else { ": " });
    }
    let counts: Vec<String> = counts.iter().map(|(word, n)| format!("{n} {word}")).collect();
    print::to_stdout(&format!("{text}\n{}\n", counts.join(", ")))
}

/// The records of a grid, added up, and their folder.
fn added_up(grid: &GridFile, which: &Recorded) -> anyhow::Result<(Table, PathBuf)> {
    let records = match &which.records {
        Some(records) => records.clone(),
        None => {
            let (budget, _) = grid.budget(which.budget.as_deref())?;
            default_runs(grid, budget).join("records")
        }
    };
    let selection = Selection {
        budget: which.budget.clone(),
        recipes: which.recipes.clone(),
        ..Selection::default()
    };
    if let Some(budget) = &selection.budget {
        grid.budget(Some(budget))?;
    }
    Ok((Table::of(grid, &records, &selection)?, records))
}

fn table(arguments: &TableArguments) -> anyhow::Result<()> {
    let grid = GridFile::read(&arguments.which.grid)?;
    let (table, records) = added_up(&grid, &arguments.which)?;
    let Some(out) = &arguments.out else {
        return print::to_stdout(&page::markdown(&table, &shown(&records)));
    };
    let link = page::link(out, &records);
    let files = [
        ("table.md", page::markdown(&table, &link)),
        ("table.csv", page::csv(&table)),
        ("table.json", page::json(&table)),
    ];
    match arguments.check {
        true => check(out, &files),
        false => write(out, &files),
    }
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io(path, "read", &error)),
    }
}

fn check(out: &Path, files: &[(&str, String)]) -> anyhow::Result<()> {
    for (name, expected) in files {
        let path = out.join(name);
        let Some(found) = read(&path)? else {
            return Err(Failure::at(Code::Missing, &path, "is not there").into());
        };
        if found != *expected {
            let line = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count() + 1;
            let message = format!("line {line} is not what the records say");
            return Err(Failure::at(Code::Data, &path, message)
                .help("the same command without --check writes it again")
                .into());
        }
    }
    print::to_stdout("the table agrees with its records\n")
}

fn write(out: &Path, files: &[(&str, String)]) -> anyhow::Result<()> {
    let page = out.join("table.md");
    let ours = match read(&page)? {
        Some(text) => text.starts_with(page::MARK),
        None => files.iter().all(|(name, _)| !out.join(name).exists()),
    };
    if !ours {
        let message = "holds a table that this command did not write, expected none";
        return Err(Failure::at(Code::OutDir, out, message).help("choose another --out").into());
    }
    std::fs::create_dir_all(out)
        .map_err(|error| Failure::at(Code::OutDir, out, format!("cannot be created: {error}")))?;
    for (name, text) in files {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|error| Failure::io(&path, "write", &error))?;
    }
    let names: Vec<String> = files.iter().map(|(name, _)| shown(&out.join(name))).collect();
    print::to_stdout(&format!("written  {}\n", names.join(", ")))
}

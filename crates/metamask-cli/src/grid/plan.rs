//! `metamask grid plan`: measures each cell and multiplies it out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use metamask_report::duration;
use metamask_train::{
    Code, Failure,
    config::Config,
    grid::{
        Arm, Job,
        plan::{Measured, Planned, PlannedCell},
        run::{State, data_is_here, states},
    },
    shown,
};
use serde::Serialize;

use super::{Meant, arguments::PlanArguments, data_arguments, meant, threads};
use crate::{
    data_places::{self, bytes},
    print,
    progress::Spinner,
};

/// A line of the plan: a cell, or the base at equal compute.
#[derive(Serialize)]
struct Line {
    column: String,
    row: String,
    arm: Arm,
    recipe: String,
    epochs: usize,
    steps: u64,
    /// Of a job.
    total_s: f64,
    evaluation_s: f64,
    disk_bytes: u64,
    peak_mib: Option<f64>,
    jobs: usize,
    to_do: usize,
    data_is_here: bool,
}

pub(super) fn plan(arguments: &PlanArguments) -> anyhow::Result<()> {
    let Meant { grid, budget, jobs, runs, records } = meant(&arguments.which)?;
    let places = data_places::of(arguments.which.data_dir.clone(), true)?;
    let states = states(&grid, &jobs, (&runs, &records), &places)?;
    let (parallel, threads) = (usize::from(arguments.together.jobs), threads(&arguments.together));

    // Seeds cost the same, and so does a base that only trains longer.
    let mut cells: BTreeMap<(usize, String), (&Job, Config)> = BTreeMap::new();
    for (i, job) in jobs.iter().enumerate() {
        let key = key(&job.config);
        if !cells.iter().any(|((_, known), _)| *known == key) {
            cells.insert((i, key), (job, job.config.clone()));
        }
    }
    // Of each cell the first seed.
    let cell = |job: &Job| (job.column.clone(), job.row.clone(), job.recipe.clone());
    let mut seen = BTreeSet::new();
    let own = jobs.iter().filter(|job| job.arm == Arm::Own);
    let to_keep: Vec<&Job> = own.filter(|job| seen.insert(cell(job))).collect();
    let mut kept: BTreeSet<PathBuf> = BTreeSet::new();
    let measured = measure_all(arguments, &cells, (parallel, threads), |of, measured| {
        if !arguments.save {
            return Ok(());
        }
        // As soon as it is there: all of them may take an hour.
        for job in to_keep.iter().filter(|job| key(&job.config) == of) {
            let (threads, which) = ((threads / parallel).max(1), (&*budget, &*job.recipe));
            let mut planned = Planned::new(&grid.name, which, threads, parallel);
            planned.cells.push(PlannedCell {
                column: job.column.clone(),
                row: job.row.clone(),
                hash: job.cell_hash(),
                measured: measured.clone(),
                estimate: measured.estimate(&job.config),
            });
            kept.insert(planned.write(&records)?);
        }
        Ok(())
    })?;

    let mut lines: Vec<Line> = Vec::new();
    for (job, state) in jobs.iter().zip(&states) {
        let measured = &measured[&key(&job.config)];
        let estimate = measured.estimate(&job.config);
        let is_to_do = !matches!(state, State::Finished);
        let known = lines.iter_mut().find(|line| {
            (&line.column, &line.row, line.arm, &line.recipe)
                == (&job.column, &job.row, job.arm, &job.recipe)
        });
        match known {
            Some(line) => {
                line.jobs += 1;
                line.to_do += usize::from(is_to_do);
            }
            None => lines.push(Line {
                column: job.column.clone(),
                row: job.row.clone(),
                arm: job.arm,
                recipe: job.recipe.clone(),
                epochs: job.config.training.epochs,
                steps: estimate.steps,
                total_s: estimate.total_s,
                evaluation_s: estimate.evaluation_s,
                disk_bytes: estimate.disk_bytes,
                peak_mib: estimate.peak_mib,
                jobs: 1,
                to_do: usize::from(is_to_do),
                data_is_here: data_is_here(&job.config.data.dataset, &places)?,
            }),
        }
    }
    for path in kept {
        print::to_stderr(&format!("kept: {}", shown(&path)));
    }
    match arguments.json {
        true => {
            let object = serde_json::json!({
                "grid": grid.name, "budget": budget, "jobs_at_a_time": parallel,
                "threads": threads, "lines": lines,
            });
            print::to_stdout(&(object.to_string() + "\n"))
        }
        false => print::to_stdout(&text(&lines, (parallel, threads))),
    }
}

/// What configurations share that cost the same, step by step.
fn key(config: &Config) -> String {
    let mut config = config.clone();
    config.run.seed = 0;
    config.training.epochs = 1;
    let settings = config.settings();
    let different = settings.into_iter().filter(|(key, _)| key != "optimizer.milestones");
    different.map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// Measures each in a process of its own, as many at a time as jobs will be; `keep` gets each with
/// its key as soon as it is there.
fn measure_all(
    arguments: &PlanArguments,
    cells: &BTreeMap<(usize, String), (&Job, Config)>,
    (parallel, threads): (usize, usize),
    mut keep: impl FnMut(&str, &Measured) -> anyhow::Result<()>,
) -> anyhow::Result<BTreeMap<String, Measured>> {
    let program = std::env::current_exe().context("failed to find this program")?;
    let scratch = Scratch::new()?;
    let spinner = Spinner::new(cells.len() as u64);
    let mut waiting: VecDeque<_> = cells.iter().collect();
    let mut running: VecDeque<(&String, &Job, PathBuf, Child)> = VecDeque::new();
    let mut measured = BTreeMap::new();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < parallel {
            let Some(((i, key), (job, config))) = waiting.pop_front() else { break };
            let folder = scratch.path.join(i.to_string());
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("failed to create `{}`", folder.display()))?;
            let file = folder.join("config.toml");
            std::fs::write(&file, config.to_annotated_toml())
                .with_context(|| format!("failed to write `{}`", file.display()))?;
            let mut command = Command::new(&program);
            command.args(["grid", "measure", "--config"]).arg(&file);
            command.arg("--out").arg(folder.join("measured"));
            command.args(["--threads", &(threads / parallel).max(1).to_string()]);
            command.args(data_arguments(&arguments.which)?);
            // The pipe closes when this process ends, however it ends, and the child with it.
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = command.spawn().context("failed to start this program")?;
            running.push_back((key, job, folder, child));
        }
        let Some((key, job, folder, mut child)) = running.pop_front() else { break };
        // `wait_with_output` would close the pipe.
        let stdin = child.stdin.take();
        let output = child.wait_with_output().context("failed to wait for a measurement")?;
        drop(stdin);
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let line = message.lines().rev().find(|line| line.starts_with("error["));
            let line = line.or_else(|| message.lines().last()).unwrap_or("it said nothing");
            let line = line.split_once("]: ").map_or(line, |(_, text)| text);
            let message = format!("{job}: cannot be planned: {line}");
            return Err(Failure::new(Code::Internal, message).into());
        }
        let found = serde_json::from_slice(&output.stdout);
        let found = found.context("failed to read a measurement")?;
        keep(key, &found)?;
        measured.insert(key.clone(), found);
        // Checkpoints of many cells add up.
        let _ = std::fs::remove_dir_all(folder);
        spinner.advance();
    }
    spinner.finish();
    Ok(measured)
}

/// A folder that goes when it is dropped.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("metamask-plan-{}", std::process::id()));
        std::fs::create_dir(&path)
            .with_context(|| format!("failed to create `{}`", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Temporary files that cannot be removed are the system's to remove.
        let _ = std::fs::remove_dir_all(Path::new(&self.path));
    }
}

fn text(lines: &[Line], (parallel, threads): (usize, usize)) -> String {
    let width = |what: fn(&Line) -> &str, least: usize| {
        lines.iter().map(|line| what(line).len()).max().unwrap_or(0).max(least)
    };
    let (column, recipe) = (width(|line| &line.column, 6), width(|line| &line.recipe, 6));
    let names: Vec<String> = lines
        .iter()
        .map(|line| match line.arm {
            Arm::Own => line.row.clone(),
            Arm::BaseAtEqualCompute => format!("base at cost of {}", line.row),
        })
        .collect();
    let row = names.iter().map(String::len).max().unwrap_or(0).max(3);
    let mut text = format!(
        "{:column$}  {:row$}  {:recipe$}  {:>6}  {:>9}  {:>14}  {:>12}  {:>9}  {:>10}  {:>5}\n",
        "column",
        "row",
        "recipe",
        "epochs",
        "steps",
        "time of a job",
        "evaluation",
        "peak",
        "disk",
        "to do"
    );
    for (line, name) in lines.iter().zip(&names) {
        let peak = line.peak_mib.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.0} MiB"));
        let _ = writeln!(
            text,
            "{:column$}  {name:row$}  {:recipe$}  {:>6}  {:>9}  {:>14}  {:>12}  {peak:>9}  {:>10}  {:>2}/{}{}",
            line.column,
            line.recipe,
            line.epochs,
            line.steps,
            duration(line.total_s),
            duration(line.evaluation_s),
            bytes(line.disk_bytes),
            line.to_do,
            line.jobs,
            if line.data_is_here { "" } else { "  data not here" },
        );
    }
    let sum = |is_meant: &dyn Fn(&Line) -> bool, of: &dyn Fn(&Line) -> f64| -> f64 {
        // The empty sum of f64 is -0.
        lines.iter().filter(|line| is_meant(line)).map(of).fold(0.0, |sum, x| sum + x)
    };
    let total = |is_meant: &dyn Fn(&Line) -> bool| {
        let jobs = sum(is_meant, &|line| line.to_do as f64);
        let time = sum(is_meant, &|line| line.to_do as f64 * line.total_s) / parallel as f64;
        let disk = sum(is_meant, &|line| (line.to_do as u64 * line.disk_bytes) as f64);
        format!("{jobs} runs, {}, {} on the disk", duration(time), bytes(disk as u64))
    };
    let _ = writeln!(
        text,
        "\nto do      {}; {parallel} at a time on {threads} threads",
        total(&|line| line.data_is_here)
    );
    if lines.iter().any(|line| !line.data_is_here) {
        let _ =
            writeln!(text, "with data  {}, if the sets that are not here were", total(&|_| true));
    }
    text + "\nTimes are of a few measured steps, multiplied out; memory of a large batch is at most that.\n"
}

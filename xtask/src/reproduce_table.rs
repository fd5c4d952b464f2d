//! `cargo xtask reproduce-table`: the paper's table, by `metamask grid`.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::arguments::Arguments;
use crate::{shell, studies};

pub(crate) const HELP: &str = "\
Usage: cargo xtask reproduce-table [--budget smoke|short|paper] [--plan] [--check] [options]

Runs the paper's table (xtask/tables/paper-table.toml) and writes docs/results/table.md,
.csv and .json. What is finished is skipped, what was interrupted goes on, a data set that
is not here is named and its cells stay open. A job that has a committed record is
finished: give --records a folder of your own to run it again.

Budgets:
  smoke  embedded images, every row and recipe, a minute; the page goes to stdout (default)
  short  Fashion-MNIST (Debian's dataset-fashion-mnist), 3 seeds, some hours on two cores
  paper  the paper's sets, 800 epochs; plan it first

Options:
  --plan          say what it will take, measured by a few steps of each cell
  --save          with --plan: keep it, so that those cells count as reproducible
  --check         only: does the committed table agree with the committed records?
  --records DIR   where records are kept (default docs/results/records/paper-table); with
                  another folder the table goes there, too
  --rows, --data, --recipes, --seeds LIST
                  some of the table, with commas between
  -j N            jobs at a time (default: one a core)
  --threads N     threads that they share (default: one a core)
  --data-dir DIR  folder with the data sets' files
  --retry         try those again that failed

Example:
  cargo xtask reproduce-table --budget short --plan
";

const GRID: &str = "xtask/tables/paper-table.toml";
const RECORDS: &str = "docs/results/records/paper-table";
const RESULTS: &str = "docs/results";
const BUDGETS: [&str; 3] = ["smoke", "short", "paper"];

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let budget = arguments.option("--budget")?.unwrap_or_else(|| "smoke".to_owned());
    anyhow::ensure!(
        BUDGETS.contains(&budget.as_str()),
        "unknown budget `{budget}`, expected one of {}",
        BUDGETS.join(", ")
    );
    let (plan, save) = (arguments.flag("--plan"), arguments.flag("--save"));
    let (check, retry) = (arguments.flag("--check"), arguments.flag("--retry"));
    anyhow::ensure!(plan || !save, "`--save` belongs to `--plan`");
    let own_records = arguments.option("--records")?;
    let mut passed = Vec::new();
    for name in ["--rows", "--data", "--recipes", "--seeds", "--data-dir", "--threads"] {
        if let Some(value) = arguments.option(name)? {
            passed.extend([name.to_owned(), value]);
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let together = arguments.option("-j")?.unwrap_or_else(|| cores.to_string());
    arguments.finish()?;

    build()?;
    if check {
        return check_committed();
    }
    let records = own_records.as_deref().unwrap_or(RECORDS);
    let which = |command: &str| {
        let mut grid = metamask()?;
        grid.args(["grid", command, GRID, "--budget", &budget, "-j", &together]).args(&passed);
        anyhow::Ok(grid)
    };
    if plan {
        let mut plan = which("plan")?;
        plan.args(["--records", records]).args(save.then_some("--save"));
        return shell::run(&mut plan);
    }
    if budget == "smoke" {
        return smoke(which("run")?);
    }
    let mut run = which("run")?;
    run.args(["--records", records, "--source", &source()?]).args(retry.then_some("--retry"));
    let ran = shell::run(&mut run);
    // What has been finished counts, even if something failed.
    let out = if own_records.is_some() { records } else { RESULTS };
    let mut table = metamask()?;
    shell::run(table.args(["grid", "table", GRID, "--records", records, "--out", out]))?;
    ran
}

/// What the gate asks of the table: the committed one agrees with its records, and all rows
/// run to a page.
///
/// # Errors
/// If one does not.
pub(crate) fn gate() -> anyhow::Result<()> {
    build()?;
    check_committed()?;
    studies::check_committed()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let mut run = metamask()?;
    run.args(["grid", "run", GRID, "--budget", "smoke", "-j", &cores]);
    smoke(run)
}

/// Runs all of the smoke table anew and shows its page.
fn smoke(mut run: Command) -> anyhow::Result<()> {
    let runs = shell::target_dir()?.join("reproduce-table/smoke");
    remove(&runs)?;
    run.arg("--runs").arg(&runs);
    shell::run(&mut run)?;
    let mut table = metamask()?;
    table.args(["grid", "table", GRID, "--budget", "smoke", "--records"]);
    let page = shell::output(table.arg(runs.join("records")))?;
    println!("{page}");
    anyhow::ensure!(page.contains("12 of 12 cells ran"), "the page does not show twelve rows");
    remove(&runs)
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}

fn check_committed() -> anyhow::Result<()> {
    let mut table = metamask()?;
    table.args(["grid", "table", GRID, "--records", RECORDS, "--out", RESULTS, "--check"]);
    shell::run(&mut table)
}

pub(crate) fn build() -> anyhow::Result<()> {
    let mut build = shell::cargo();
    // As `test` builds it: other packages would be other features, and all of it compiled again.
    let what = ["build", "--locked", "--release", "--quiet", "--workspace", "--bins"];
    shell::run(build.args(what))
}

pub(crate) fn metamask() -> anyhow::Result<Command> {
    Ok(shell::command(shell::target_dir()?.join("release/metamask")))
}

/// The commit that the program is built from.
pub(crate) fn source() -> anyhow::Result<String> {
    let git = |words: &[&str]| {
        let mut git = shell::command("git");
        shell::output(git.args(["-c", "safe.directory=*"]).args(words))
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?.trim().to_owned();
    // Records that are being made are no change of the program.
    let changed = git(&["status", "--porcelain", "--", "crates", "Cargo.toml", "Cargo.lock"])?;
    Ok(format!("commit {commit}{}", if changed.trim().is_empty() { "" } else { ", changed" }))
}

//! `cargo xtask bench`: our programs beside the peers', alternated in one run.
//!
//! The clocks are in the programs; here they are only started in turn, so that
//! a machine that slows down slows all. [`rows`] says which, [`report`] writes
//! the table.

mod report;
mod rows;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::{Value, json};

use self::rows::{Ours, Quantity, ROWS, Row, Theirs};
use crate::arguments::Arguments;
use crate::{peers, shell};

pub(crate) const HELP: &str = "\
Usage: cargo xtask bench --peer torch [--only ID[,ID]...] [--rounds N] [--json] [--python PATH]

Runs every row of docs/results/cpu.md: our program, then PyTorch's (eager,
channels_last, torch.compile, both) or another peer's, one after the other,
round by round, 2 threads each. Prints the median of the rounds' medians, and
ours over the best of theirs as ratio (below 1: we are better), and writes the
rows that ran to docs/results/cpu.md. Nothing else should run on the machine.

Options:
  --peer torch   whom to stand beside
  --only IDS     only these rows, such as step_f32_b64,extract
  --rounds N     rounds of all contenders (default 5)
  --json         one object on stdout: {id: {ours, theirs, ratio}}
  --python PATH  use this interpreter, which has the peers already
                 (default: a virtual environment under the target folder)

Example:
  cargo xtask bench --peer torch --only step_f32_b64 --rounds 3
";

const THREADS: &str = "2";
const DEFAULT_ROUNDS: usize = 5;

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let peer = arguments.option("--peer")?;
    let json = arguments.flag("--json");
    let rounds = match arguments.option("--rounds")? {
        Some(word) => word.parse().context("`--rounds` needs a count")?,
        None => DEFAULT_ROUNDS,
    };
    let only = arguments.option("--only")?;
    let python = arguments.option("--python")?;
    arguments.finish()?;
    anyhow::ensure!(peer.as_deref() == Some("torch"), "`--peer torch` is the only peer there is");
    anyhow::ensure!(rounds > 0, "`--rounds` must be positive");
    let rows = chosen(only.as_deref())?;

    let python = peers::python(python)?;
    let mut results = BTreeMap::new();
    for row in rows {
        shell::run(bench(&row.ours).arg("--no-run"))?;
        let result = measure(row, rounds, &python)?;
        eprintln!(
            "{}: ours {:.1}, theirs {:.1} ({}), ratio {:.2} (target {})",
            row.id,
            result.ours.median,
            result.theirs.median,
            result.best,
            result.ratio(),
            row.target,
        );
        report::add(row, &result, &python)?;
        results.insert(row.id, result);
    }
    if json {
        let object: serde_json::Map<String, Value> = results
            .iter()
            .map(|(id, result)| {
                let (ours, theirs) = (result.ours.median, result.theirs.median);
                ((*id).into(), json!({ "ours": ours, "theirs": theirs, "ratio": result.ratio() }))
            })
            .collect();
        println!("{}", Value::Object(object));
    } else {
        for (id, result) in &results {
            let (ours, theirs) = (result.ours.median, result.theirs.median);
            println!(
                "{id}: ours {ours:.1}, {} {theirs:.1}, ratio {:.2}",
                result.best,
                result.ratio()
            );
        }
    }
    Ok(())
}

fn chosen(only: Option<&str>) -> anyhow::Result<Vec<&'static Row>> {
    let Some(only) = only else { return Ok(ROWS.iter().collect()) };
    only.split(',')
        .map(|id| {
            let ids = || ROWS.iter().map(|row| row.id).collect::<Vec<_>>().join(", ");
            let row = ROWS.iter().find(|row| row.id == id);
            row.with_context(|| format!("no row `{id}`; there are {}", ids()))
        })
        .collect()
}

/// Of one contender over all rounds.
#[derive(Clone, Copy)]
struct Figures {
    /// Median of the rounds' medians.
    median: f64,
    /// Smallest of all.
    smallest: f64,
}

/// A row that was measured.
struct Measured {
    ours: Figures,
    theirs: Figures,
    /// Whose figures `theirs` are.
    best: &'static str,
    /// Every contender of theirs; `None` could not run here.
    all: Vec<(&'static str, Option<Figures>)>,
    rounds: usize,
}

impl Measured {
    fn ratio(&self) -> f64 {
        self.ours.median / self.theirs.median
    }
}

fn measure(row: &Row, rounds: usize, python: &Path) -> anyhow::Result<Measured> {
    let mut ours = Vec::new();
    let mut theirs: Vec<Option<Vec<(f64, f64)>>> = vec![Some(Vec::new()); row.theirs.len()];
    for round in 1..=rounds {
        let mut command = bench(&row.ours);
        command.arg("--").args(row.ours.arguments.split_whitespace());
        command.args(["--threads", THREADS]);
        ours.push(figures(&shell::output(&mut command)?, row.quantity)?);
        for (contender, taken) in row.theirs.iter().zip(&mut theirs) {
            let Some(taken_now) = taken else { continue };
            let printed = shell::output(&mut their_command(contender, python));
            match printed.and_then(|printed| figures(&printed, row.quantity)) {
                Ok(figures) => taken_now.push(figures),
                Err(error) => {
                    eprintln!("{}: {}: left out: {error:#}", row.id, contender.name);
                    *taken = None;
                }
            }
        }
        eprintln!("{}: round {round} of {rounds}: ours {:.1}", row.id, ours[round - 1].0);
    }
    let all: Vec<_> = row
        .theirs
        .iter()
        .zip(theirs)
        .map(|(contender, taken)| (contender.name, taken.map(|taken| summary(&taken))))
        .collect();
    let best = all.iter().filter_map(|(name, figures)| figures.map(|figures| (*name, figures)));
    let (best, theirs) = best
        .min_by(|a, b| a.1.median.total_cmp(&b.1.median))
        .with_context(|| format!("{}: no peer could run", row.id))?;
    Ok(Measured { ours: summary(&ours), theirs, best, all, rounds })
}

fn bench(ours: &Ours) -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--locked", "--quiet", "--package", ours.package]);
    cargo.args(["--bench", ours.bench]).envs(ours.environment.iter().copied());
    cargo
}

fn their_command(theirs: &Theirs, python: &Path) -> Command {
    let mut command = shell::command(python);
    command.arg(format!("xtask/bench/{}", theirs.script));
    command.args(theirs.arguments.split_whitespace()).args(["--threads", THREADS]);
    command.envs(theirs.environment.iter().copied());
    // Set on some machines to keep OpenBLAS to an older processor's kernels: FAISS
    // multiplies with OpenBLAS and is to be as fast as it can.
    command.env_remove("OPENBLAS_CORETYPE").env_remove("OPENBLAS_L2_SIZE");
    command
}

/// Median and smallest value in the JSON object that a program prints last.
fn figures(printed: &str, quantity: Quantity) -> anyhow::Result<(f64, f64)> {
    let line = printed.lines().last().unwrap_or_default();
    let object: Value = serde_json::from_str(line)
        .with_context(|| format!("expected one JSON object, got `{printed}`"))?;
    let field =
        |name: &str| object[name].as_f64().with_context(|| format!("no `{name}` in {object}"));
    match quantity {
        Quantity::Time => Ok((field("median_ms")?, field("min_ms")?)),
        Quantity::Memory => Ok((field("peak_mib")?, field("peak_mib")?)),
    }
}

fn summary(rounds: &[(f64, f64)]) -> Figures {
    Figures {
        median: median(rounds.iter().map(|round| round.0).collect()),
        smallest: rounds.iter().map(|round| round.1).fold(f64::INFINITY, f64::min),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn figures_are_read_from_the_last_line() {
        let printed = "a warning\n{\"median_ms\": 12.5, \"min_ms\": 11, \"peak_mib\": 7}\n";
        assert_eq!(figures(printed, Quantity::Time).unwrap(), (12.5, 11.0));
        assert_eq!(figures(printed, Quantity::Memory).unwrap(), (7.0, 7.0));
        assert!(figures("{}", Quantity::Time).is_err());
        assert!(figures("12.5", Quantity::Time).is_err());
    }

    #[test]
    fn rows_are_chosen_by_their_ids_which_differ() {
        assert_eq!(chosen(None).unwrap().len(), ROWS.len());
        assert_eq!(chosen(Some("knn,extract")).unwrap()[1].id, "extract");
        let error = chosen(Some("kn")).err().unwrap().to_string();
        assert!(error.contains("`kn`") && error.contains("step_f32_b64"), "{error}");
        let ids: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), ROWS.len());
    }
}

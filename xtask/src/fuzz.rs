//! `cargo xtask fuzz`: libFuzzer on every parser of untrusted bytes, and the page that says how far.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context;

use crate::arguments::Arguments;
use crate::faults::{machine, rows_of};
use crate::shell;

pub(crate) const HELP: &str = "\
Usage: cargo xtask fuzz [--only TARGET] [--runs N]

Builds the targets of fuzz/ with coverage (stable Rust, no cargo-fuzz) and runs each from
its seeds. Writes docs/results/fuzzing.md: executions, speed, coverage, memory, and what was
found. What a run grows or finds lies under target/fuzz/found. On two cores the build takes
ten minutes and a million executions of all targets an hour and a half.

Options:
  --only TARGET  one target; the other rows stay as they are
  --runs N       executions of each (default 1000000)

Example:
  cargo xtask fuzz --only parquet --runs 10000
";

const PAGE: &str = "docs/results/fuzzing.md";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Coverage as libFuzzer wants it. They need a `--target`, so that build scripts have none.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table";

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let only = arguments.option("--only")?;
    let runs = arguments.option("--runs")?.unwrap_or_else(|| "1000000".to_owned());
    runs.parse::<u64>().with_context(|| format!("`--runs {runs}`, expected a number"))?;
    arguments.finish()?;
    let seeds = shell::root().join("fuzz/corpus");
    let mut targets: Vec<String> = std::fs::read_dir(&seeds)
        .context("fuzz/corpus")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<anyhow::Result<_>>()?;
    targets.sort();
    targets.retain(|target| only.as_ref().is_none_or(|only| only == target));
    anyhow::ensure!(!targets.is_empty(), "no such target; fuzz/corpus has a folder for each");

    let work = shell::target_dir()?.join("fuzz");
    let mut build = shell::cargo();
    build.args(["build", "--release", "--target", TRIPLE, "--manifest-path", "fuzz/Cargo.toml"]);
    shell::run(build.env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &work))?;

    let date = shell::output(shell::command("date").args(["-u", "+%Y-%m-%d"]))?;
    let machine = machine()?;
    let mut failed = Vec::new();
    for target in targets {
        let program = work.join(TRIPLE).join("release").join(&target);
        let found = work.join("found").join(&target);
        let (cells, whole) = fuzz(&program, &found, &seeds.join(&target), &runs)?;
        eprintln!("{target}: {cells}");
        keep(&target, &format!("{cells} | {} | {machine}", date.trim()))?;
        if !whole {
            failed.push(target);
        }
    }
    anyhow::ensure!(failed.is_empty(), "{}: see target/fuzz/found", failed.join(", "));
    Ok(())
}

/// Puts a target's row into the page, at once: the next one takes minutes.
fn keep(target: &str, cells: &str) -> anyhow::Result<()> {
    let page = shell::root().join(PAGE);
    let mut rows = rows_of(&std::fs::read_to_string(&page).unwrap_or_default());
    rows.insert(target.to_owned(), cells.to_owned());
    let mut text = "\
# Fuzzing

Written by `cargo xtask fuzz`: libFuzzer on every parser of
untrusted bytes, from the seeds in `fuzz/corpus`. *Found* counts panics, aborts, inputs that took longer than
5 s and those that took more than 2 GB. *Memory* is the highest of the process, the fuzzer's own corpus with it.

| target | executions | a second | edges reached | memory, MiB | found | date | machine |
|---|---|---|---|---|---|---|---|
"
    .to_owned();
    rows.iter().for_each(|(target, cells)| text += &format!("| {target} | {cells} |\n"));
    std::fs::write(&page, text).context(PAGE)
}

/// Runs a target; returns the cells of its row, and whether nothing was found.
fn fuzz(program: &Path, found: &Path, seeds: &Path, runs: &str) -> anyhow::Result<(String, bool)> {
    std::fs::create_dir_all(found)?;
    let mut command = shell::command(program);
    command.arg(found).arg(seeds).arg(format!("-runs={runs}"));
    command.args(["-timeout=5", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=1"]);
    command.arg(format!("-artifact_prefix={}/", found.display())).env("RAYON_NUM_THREADS", "1");
    let start = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    let seconds = start.elapsed().as_secs().max(1);
    let log = String::from_utf8_lossy(&output.stderr);
    let Some((cells, whole)) = cells(&log, seconds, output.status.success()) else {
        anyhow::bail!("{}: {}", program.display(), log.lines().last().unwrap_or("said nothing"));
    };
    Ok((cells, whole))
}

/// What libFuzzer's log comes to.
fn cells(log: &str, seconds: u64, whole: bool) -> Option<(String, bool)> {
    let last = |begin: &str| -> Option<u64> {
        let after = log.rmatch_indices(begin).next()?.0 + begin.len();
        log[after..].split_whitespace().next()?.parse().ok()
    };
    let n = last("stat::number_of_executed_units:")?;
    let (edges, memory) = (last(" cov:")?, last("stat::peak_rss_mb:")?);
    let found = u8::from(!whole);
    Some((format!("{n} | {} | {edges} | {memory} | {found}", n / seconds), whole))
}

#[cfg(test)]
mod tests {
    use super::cells;

    #[test]
    fn a_log_of_libfuzzer_becomes_a_row() {
        let log = "#2 INITED cov: 10 ft: 11\n#1000 DONE   cov: 2804 ft: 5628 corp: 3/1Kb rss: 66Mb\n\
                   stat::number_of_executed_units: 1000\nstat::peak_rss_mb:              66\n";
        let expected = "1000 | 100 | 2804 | 66 | 0".to_owned();
        assert_eq!(cells(log, 10, true), Some((expected, true)));
        assert_eq!(cells("Killed", 10, false), None);
    }
}

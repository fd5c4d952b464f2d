//! `cargo xtask faults`: the tests of faults in full, and the page that says what came of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{ExitStatus, Stdio};

use anyhow::Context;

use crate::arguments::Arguments;
use crate::reproduce_table::build;
use crate::shell;

pub(crate) const HELP: &str = "\
Usage: cargo xtask faults [--only WORD]

Tries every fault that tests/it knows, all of each and not a sample: SIGKILL and
errors at every system call of a run in its folder, full disks, limits, odd folders,
flipped bits, kills and signals at random instants, wrong clocks, too little memory, a
long run, mutations of what the parsers read. Writes docs/results/reliability.md with
the counts, the date and the machine. Needs strace and faketime, and root for the disks;
about half an hour on two cores.

Options:
  --only WORD  tests whose names hold the word; the other rows stay as they are

Example:
  cargo xtask faults
  cargo xtask faults --only syscalls
";

const PAGE: &str = "docs/results/reliability.md";
const TRIED: &str = "tried: ";
/// The tests that print what they tried; each filter is given to libtest.
const TESTS: [(&str, &[&str]); 3] =
    [("it", &["faults::", "resume::", "data::killed"]), ("hostile", &[]), ("readers", &[])];

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let only = arguments.option("--only")?;
    arguments.finish()?;
    build()?;
    let page = shell::root().join(PAGE);
    let old = std::fs::read_to_string(&page).unwrap_or_default();
    let mut rows = match only {
        Some(_) => rows_of(&old),
        None => BTreeMap::new(),
    };
    let date = shell::output(shell::command("date").args(["-u", "+%Y-%m-%d"]))?;
    let machine = machine()?;
    let mut failed = Vec::new();
    for (test, filters) in TESTS {
        let (tried, status) = tried(test, filters, only.as_deref())?;
        for row in tried {
            let cells: Vec<&str> = row.split(" | ").collect();
            let [what, tried, survived] = cells[..] else {
                anyhow::bail!("a test printed `{row}`, expected WHAT | TRIED | SURVIVED");
            };
            let cells = format!("{tried} | {survived} | {} | {machine}", date.trim());
            rows.insert(what.to_owned(), cells);
        }
        if !status.success() {
            failed.push(format!("the tests `{test}` ended with {status}"));
        }
        // What was tried stays true, whatever comes of the others.
        std::fs::write(&page, text(&rows)).with_context(|| PAGE.to_owned())?;
        eprintln!("{PAGE}: {} rows", rows.len());
    }
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Runs tests in full and returns what they say they tried, and how they ended.
fn tried(
    test: &str,
    filters: &[&str],
    only: Option<&str>,
) -> anyhow::Result<(Vec<String>, ExitStatus)> {
    let mut command = shell::cargo();
    // The whole workspace, as `test` builds it: other packages would be other features.
    command.args(["test", "--locked", "--release", "--workspace", "--test", test, "--"]);
    match only {
        None => command.args(filters),
        Some(word) => command.arg(word),
    };
    command.env("METAMASK_BIN", shell::target_dir()?.join("release/metamask"));
    command.env("METAMASK_FAULTS", "full");
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let stderr = BufReader::new(child.stderr.take().context("cargo test has no stderr")?);
    let mut rows = Vec::new();
    for line in stderr.lines() {
        let line = line?;
        eprintln!("{line}");
        rows.extend(line.strip_prefix(TRIED).map(str::to_owned));
    }
    Ok((rows, child.wait()?))
}

/// The rows of a page as it is, by their first cells.
pub(crate) fn rows_of(page: &str) -> BTreeMap<String, String> {
    let below_head = page.lines().skip_while(|line| !line.starts_with("|---"));
    let rows = below_head.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.filter_map(|row| row.split_once(" | "));
    rows.map(|(what, cells)| (what.to_owned(), cells.to_owned())).collect()
}

pub(crate) fn machine() -> anyhow::Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism()?;
    let kernel = shell::output(shell::command("uname").args(["-sr"]))?;
    let model = model.map_or("an unknown CPU", |(_, model)| model);
    Ok(format!("{model}, {cores} cores, {}", kernel.trim()))
}

fn text(rows: &BTreeMap<String, String>) -> String {
    let mut text = "\
# Faults: tried and survived

Written by `cargo xtask faults`. *Survived* means: one documented line or
none, no panic, nothing that was saved is lost, and the run, resumed, ends with the same bits as one that nothing
happened to; for a parser: no panic, no abort, within its bounds of time and memory. `cargo xtask test` tries a
sample of each.

| what was tried | tried | survived | date | machine |
|---|---|---|---|---|
"
    .to_owned();
    for (what, cells) in rows {
        text += &format!("| {what} | {cells} |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{rows_of, text};

    #[test]
    fn the_rows_of_a_page_are_read_as_they_were_written() {
        let rows =
            [("kills", "3 | 3 | 2026-11-25 | one"), ("disks", "2 | 2 | 2026-11-24 | another")];
        let rows = rows.map(|(what, cells)| (what.to_owned(), cells.to_owned())).into();
        assert_eq!(rows_of(&text(&rows)), rows);
    }
}

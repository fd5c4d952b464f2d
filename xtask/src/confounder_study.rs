//! `cargo xtask confounder-study`: does the mask find the confounders? By `metamask grid`.

use std::path::Path;
use std::process::Command;

use crate::arguments::Arguments;
use crate::reproduce_table::{build, metamask, source};
use crate::shell;

pub(crate) const HELP: &str = "\
Usage: cargo xtask confounder-study [--only NAME] [--plan] [--check] [options]

Runs what docs/results/confounders.md reports, and writes its tables to
docs/results/confounders/NAME. A job that has a committed record is finished: give
--records a folder of your own to run it again.

Parts, each a grid in xtask/tables/confounders:
  search-network  the network's settings, on a validation cut
  search-arms     mask, L_drr, both, and the base with as many trials, on the same cut
  search-beside   a mask beside the network, on the same cut
  comparison      what the search chose, fresh seeds, test images, two data sets
  comparison-beside
                  the same of a mask beside the network
  study           forms of the mask, controls, six methods, on garments
  causal          four arms where the background gives the class away
  authors         the authors' recipe verbatim, at two lengths

Options:
  --only NAME    one part (default: all but the search, which is finished as it was run)
  --plan         say what it will take, measured by a few steps of each cell
  --check        only: do the committed tables agree with the committed records?
  --records DIR  where records are kept; the tables go there, too
  -j N           jobs at a time (default: one a core)

Example:
  cargo xtask confounder-study --only comparison --plan
";

const PARTS: [&str; 8] = [
    "search-network",
    "search-arms",
    "search-beside",
    "comparison",
    "comparison-beside",
    "study",
    "causal",
    "authors",
];
const RECORDS: &str = "docs/results/records/confounders";
const RESULTS: &str = "docs/results/confounders";

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let (plan, check) = (arguments.flag("--plan"), arguments.flag("--check"));
    let only = arguments.option("--only")?;
    let own_records = arguments.option("--records")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let together = arguments.option("-j")?.unwrap_or_else(|| cores.to_string());
    arguments.finish()?;
    if let Some(name) = &only {
        let parts = PARTS.join(", ");
        anyhow::ensure!(PARTS.contains(&&**name), "unknown part `{name}`, expected one of {parts}");
    }
    build()?;
    if check {
        return check_committed();
    }
    let parts = PARTS.into_iter().filter(|part| match &only {
        Some(name) => name == part,
        None => !part.starts_with("search"),
    });
    for part in parts {
        let records = format!("{}/{part}", own_records.as_deref().unwrap_or(RECORDS));
        let command = if plan { "plan" } else { "run" };
        let mut grid = metamask()?;
        grid.args(["grid", command, &file(part), "--records", &records, "-j", &together]);
        if plan {
            shell::run(&mut grid)?;
            continue;
        }
        let runs = format!("runs/confounders/{part}");
        let ran = shell::run(grid.args(["--runs", &runs, "--source", &source()?]));
        // What has been finished counts, even if something failed.
        let out = match own_records {
            Some(_) => records.clone(),
            None => format!("{RESULTS}/{part}"),
        };
        shell::run(table(part, &records)?.args(["--out", &out]))?;
        ran?;
    }
    Ok(())
}

/// Whether the committed tables are those of the committed records.
///
/// # Errors
/// If one is not.
pub(crate) fn check_committed() -> anyhow::Result<()> {
    for part in PARTS {
        let out = format!("{RESULTS}/{part}");
        shell::run(table(part, &format!("{RECORDS}/{part}"))?.args(["--out", &out, "--check"]))?;
    }
    Ok(())
}

fn table(part: &str, records: &str) -> anyhow::Result<Command> {
    let mut table = metamask()?;
    table.args(["grid", "table", &file(part), "--records", records]);
    Ok(table)
}

fn file(part: &str) -> String {
    Path::new("xtask/tables/confounders").join(format!("{part}.toml")).display().to_string()
}

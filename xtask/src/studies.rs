//! `cargo xtask confounder-study` and `cargo xtask claims`: grids whose records are committed, and
//! the tables that are made of them. By `metamask grid`.

use std::process::Command;

use crate::arguments::Arguments;
use crate::reproduce_table::{build, metamask, source};
use crate::shell;

pub(crate) const CONFOUNDERS_HELP: &str = "\
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
  comparison-rate the same of the study's best mask, and of one that does not move
  study           forms of the mask, controls, six methods, on garments
  forms           what the mask lies on, its shape, optimiser and objective
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

pub(crate) const CLAIMS_HELP: &str = "\
Usage: cargo xtask claims [--only NAME] [--plan] [--check] [options]

Runs what docs/claims.md and docs/knobs.md report beside the confounder study, and
writes its tables to docs/results/claims/NAME. A job that has a committed record is
finished: give --records a folder of your own to run it again.

Parts, each a grid in xtask/tables/claims:
  images     SimCLR and its mask on 1, 5, 10, 25 and 100 % of the images
  schedules  a fixed learning rate against a cosine, with and without the mask
  knobs      one setting at a time around SimCLR + L_drr + mask
  widths     Barlow Twins over the width of its projector (figure 1b)

Options:
  --only NAME    one part (default: all)
  --plan         say what it will take, measured by a few steps of each cell
  --check        only: do the committed tables agree with the committed records?
  --records DIR  where records are kept; the tables go there, too
  -j N           jobs at a time (default: one a core)

Example:
  cargo xtask claims --only images --plan
";

/// Grids that belong together: `xtask/tables/NAME/PART.toml`.
struct Study {
    name: &'static str,
    parts: &'static [&'static str],
}

const CONFOUNDERS: Study = Study {
    name: "confounders",
    parts: &[
        "search-network",
        "search-arms",
        "search-beside",
        "comparison",
        "comparison-beside",
        "comparison-rate",
        "study",
        "forms",
        "causal",
        "authors",
    ],
};

const CLAIMS: Study = Study { name: "claims", parts: &["images", "schedules", "knobs", "widths"] };

/// What is committed of a grid that has several budgets.
fn budget(part: &str) -> &'static [&'static str] {
    match part {
        "widths" => &["--budget", "garments"],
        _ => &[],
    }
}

pub(crate) fn run_confounders(arguments: Arguments) -> anyhow::Result<()> {
    CONFOUNDERS.run(arguments)
}

pub(crate) fn run_claims(arguments: Arguments) -> anyhow::Result<()> {
    CLAIMS.run(arguments)
}

/// Whether the committed tables are those of the committed records.
///
/// # Errors
/// If one is not.
pub(crate) fn check_committed() -> anyhow::Result<()> {
    CONFOUNDERS.check()?;
    CLAIMS.check()
}

impl Study {
    fn run(&self, mut arguments: Arguments) -> anyhow::Result<()> {
        let (plan, check) = (arguments.flag("--plan"), arguments.flag("--check"));
        let only = arguments.option("--only")?;
        let own_records = arguments.option("--records")?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let together = arguments.option("-j")?.unwrap_or_else(|| cores.to_string());
        arguments.finish()?;
        if let Some(name) = &only {
            let parts = self.parts.join(", ");
            anyhow::ensure!(
                self.parts.contains(&&**name),
                "unknown part `{name}`, expected one of {parts}"
            );
        }
        build()?;
        if check {
            return self.check();
        }
        let parts = self.parts.iter().filter(|part| match &only {
            Some(name) => name == *part,
            None => !part.starts_with("search"),
        });
        for part in parts {
            let records = match &own_records {
                Some(records) => format!("{records}/{part}"),
                None => self.records(part),
            };
            let command = if plan { "plan" } else { "run" };
            let mut grid = metamask()?;
            grid.args(["grid", command, &self.file(part), "--records", &records, "-j", &together]);
            grid.args(budget(part));
            if plan {
                shell::run(&mut grid)?;
                continue;
            }
            let runs = format!("runs/{}/{part}", self.name);
            let ran = shell::run(grid.args(["--runs", &runs, "--source", &source()?]));
            // What has been finished counts, even if something failed.
            let out = match own_records {
                Some(_) => records.clone(),
                None => self.results(part),
            };
            shell::run(self.table(part, &records)?.args(["--out", &out]))?;
            ran?;
        }
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        for part in self.parts {
            let table = &mut self.table(part, &self.records(part))?;
            shell::run(table.args(["--out", &self.results(part), "--check"]))?;
        }
        Ok(())
    }

    fn table(&self, part: &str, records: &str) -> anyhow::Result<Command> {
        let mut table = metamask()?;
        table.args(["grid", "table", &self.file(part), "--records", records]).args(budget(part));
        Ok(table)
    }

    fn file(&self, part: &str) -> String {
        format!("xtask/tables/{}/{part}.toml", self.name)
    }

    fn records(&self, part: &str) -> String {
        format!("docs/results/records/{}/{part}", self.name)
    }

    fn results(&self, part: &str) -> String {
        format!("docs/results/{}/{part}", self.name)
    }
}

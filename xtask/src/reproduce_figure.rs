//! `cargo xtask reproduce-figure`: the paper's figures, by `metamask`.

use anyhow::Context;

use crate::arguments::Arguments;
use crate::reproduce_table::{build, metamask};
use crate::shell;

pub(crate) const HELP: &str = "\
Usage: cargo xtask reproduce-figure 1a|1b|2|5 [--data NAME] [options]

Trains what the figure shows, at the settings of the recipe `tuned`, and draws it: an SVG,
a PNG and a CSV with every number in it. docs/figures.md says what each shows. Runs lie in
runs/figures-DATA; finished ones are not run again, and one that was interrupted goes on.

  1a  SimCLR and Barlow Twins
  1b  Barlow Twins over the width of its projector, a grid (xtask/tables/claims/widths.toml)
  2   Barlow Twins
  5   SimCLR + MetaMask

Options:
  --data NAME     a data set of the presets (default garments)
  --out DIR       folder of the pictures (default runs/figures-DATA)
  --data-dir DIR  folder with the data set's files
  -j N            1b: jobs at a time (default: one a core)

Example:
  cargo xtask reproduce-figure 2
";

const GRID: &str = "xtask/tables/claims/widths.toml";

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let data = arguments.option("--data")?.unwrap_or_else(|| "garments".to_owned());
    let runs = format!("runs/figures-{data}");
    let out = arguments.option("--out")?.unwrap_or_else(|| runs.clone());
    let data_dir = arguments.option("--data-dir")?;
    let data_dir: Vec<&str> = data_dir.iter().flat_map(|dir| ["--data-dir", dir]).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let together = arguments.option("-j")?.unwrap_or_else(|| cores.to_string());
    let figure = arguments.word().context("expected a figure: 1a, 1b, 2 or 5")?;
    arguments.finish()?;
    let methods: &[&str] = match &*figure {
        "1a" => &["simclr", "barlow-twins"],
        "2" => &["barlow-twins"],
        "5" => &["simclr-metamask"],
        "1b" => &[],
        _ => anyhow::bail!("there is no figure `{figure}`, expected 1a, 1b, 2 or 5"),
    };
    build()?;
    if methods.is_empty() {
        let (which, grid) = ([GRID, "--budget", &data], format!("{runs}/1b"));
        let mut run = metamask()?;
        run.args(["grid", "run"]).args(which).args(["--runs", &grid, "-j", &together]);
        shell::run(run.args(&data_dir))?;
        let mut draw = metamask()?;
        draw.args(["grid", "figure"]).args(which).args(["--records", &format!("{grid}/records")]);
        return shell::run(draw.args(["--out", &out]));
    }
    let trained: Vec<String> = methods.iter().map(|method| format!("{runs}/{method}")).collect();
    for (method, run) in methods.iter().zip(&trained) {
        let mut train = metamask()?;
        let preset = format!("{data}-{method}-tuned");
        train.args(["pretrain", "--preset", &preset, "--resume", "--out", run]).args(&data_dir);
        shell::run(&mut train)?;
    }
    let mut draw = metamask()?;
    shell::run(draw.args(["figure", &figure]).args(trained).args(["--out", &out]).args(&data_dir))
}

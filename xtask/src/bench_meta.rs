//! `cargo xtask bench-meta`: what each form of the meta step costs, beside the plain
//! step and beside PyTorch programs of the same algorithm, alternated in one run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::{peers, shell};

pub(crate) const HELP: &str = "\
Usage: cargo xtask bench-meta [--rounds N] [--steps N] [--threads N] [--no-peer] [--json] [--out FILE] [--python PATH]

Times an iteration of SimCLR + MetaMask (full-width ResNet-18 with CIFAR stem, the
authors' heads, batch 64, f32) under every form of the meta step, with L_drr and
without, as multiples of the plain step (`mask.mode = off`, same losses): each cell
stands between two plain steps of the same round, and the median of the rounds'
ratios counts. Beside them the counted cost (docs/method.md) and the peak memory.
Then PyTorch's authors' step, its double back-propagation (create_graph) and its
tangent (jvp), the better of contiguous and channels-last. Nothing else should run
on the machine.

Options:
  --rounds N     rounds over all cells (default 3)
  --steps N      timed iterations of a cell in a round (default 2)
  --threads N    threads of both sides (default 2)
  --no-peer      ours alone
  --json         one object on stdout
  --out FILE     write the table as Markdown
  --python PATH  use this interpreter, which has PyTorch already

Example:
  cargo xtask bench-meta --out docs/results/meta-step.md
";

/// The cost of a plain step in units of F, one forward pass of both views.
const PLAIN: f64 = 3.0;
/// What a cell may cost of its count.
const ALLOWED: f64 = 1.08;

/// A form of the meta step.
struct Cell {
    name: &'static str,
    settings: &'static [&'static str],
    /// Its count in F, with L_drr and without.
    counts: [f64; 2],
}

const AFTER: &str = "meta.virtual_step=after-regular";
const SHARED: &str = "meta.virtual_step=shared";
const LOOKAHEAD: &str = "meta.virtual_step=lookahead";
const FIRST: &str = "meta.hypergradient=first-order";
const DIFFERENCE: &str = "meta.hypergradient=finite-difference";
const EXACT: &str = "meta.hypergradient=exact";
const RECOMPUTE: &str = "meta.activations=recompute";

const CELLS: [Cell; 13] = [
    Cell { name: "after-regular, first-order", settings: &[AFTER, FIRST], counts: [7.0, 7.0] },
    Cell {
        name: "after-regular, finite-difference (the authors')",
        settings: &[AFTER, DIFFERENCE],
        counts: [11.0, 11.0],
    },
    Cell { name: "after-regular, exact", settings: &[AFTER, EXACT], counts: [11.0, 11.0] },
    Cell {
        name: "after-regular, exact, recomputed",
        settings: &[AFTER, EXACT, RECOMPUTE],
        counts: [12.0, 12.0],
    },
    Cell { name: "shared, first-order", settings: &[SHARED, FIRST], counts: [6.0, 4.0] },
    Cell {
        name: "shared, finite-difference",
        settings: &[SHARED, DIFFERENCE],
        counts: [10.0, 8.0],
    },
    Cell { name: "shared, exact", settings: &[SHARED, EXACT], counts: [10.0, 8.0] },
    Cell {
        name: "shared, exact, recomputed",
        settings: &[SHARED, EXACT, RECOMPUTE],
        counts: [11.0, 9.0],
    },
    Cell { name: "lookahead, first-order", settings: &[LOOKAHEAD, FIRST], counts: [3.0, 3.0] },
    Cell {
        name: "lookahead, finite-difference",
        settings: &[LOOKAHEAD, DIFFERENCE],
        counts: [7.0, 5.0],
    },
    Cell { name: "lookahead, exact", settings: &[LOOKAHEAD, EXACT], counts: [7.0, 5.0] },
    Cell {
        name: "lookahead, exact, recomputed",
        settings: &[LOOKAHEAD, EXACT, RECOMPUTE],
        counts: [8.0, 6.0],
    },
    Cell {
        name: "lookahead, exact, every 4th",
        settings: &[LOOKAHEAD, EXACT, "meta.every=4"],
        counts: [4.0, 3.5],
    },
];

/// What of ours stands beside which mode of PyTorch's program.
const PEERS: [(&str, &str, &[&str]); 3] = [
    ("metamask_authors", "authors", &[AFTER, DIFFERENCE]),
    ("metamask_shared_exact", "create-graph", &[SHARED, EXACT]),
    ("metamask_shared_exact_jvp", "jvp", &[SHARED, EXACT]),
];

/// One program's answer.
#[derive(Clone, Copy)]
struct Measured {
    ms: f64,
    peak_mib: f64,
}

struct Bench {
    threads: String,
    steps: String,
    python: Option<std::path::PathBuf>,
}

impl Bench {
    fn ours(&self, settings: &[&str], drr: bool) -> anyhow::Result<Measured> {
        let mut cargo = program();
        cargo.args(["--", "--threads", &self.threads, "--steps", &self.steps]);
        let weight =
            if drr { "objective.redundancy_weight=1" } else { "objective.redundancy_weight=0" };
        for set in settings.iter().chain([&weight]) {
            cargo.args(["--set", set]);
        }
        measured(&shell::output(&mut cargo)?)
    }

    /// The better of PyTorch's two layouts.
    fn theirs(&self, mode: &str) -> anyhow::Result<Option<Measured>> {
        let Some(python) = &self.python else { return Ok(None) };
        let run = |layout: &[&str]| {
            let mut command = shell::command(python);
            command.args(["-W", "ignore", "xtask/bench/torch_meta_step.py", "--mode", mode]);
            command.args(["--drr", "--threads", &self.threads, "--steps", &self.steps]);
            measured(&shell::output(command.args(layout))?)
        };
        let (contiguous, channels_last) = (run(&[])?, run(&["--channels-last"])?);
        Ok(Some(if contiguous.ms < channels_last.ms { contiguous } else { channels_last }))
    }
}

fn program() -> std::process::Command {
    let mut cargo = shell::cargo();
    cargo.args(["bench", "--locked", "--quiet", "--package", "metamask-train"]);
    cargo.args(["--bench", "meta_step"]);
    cargo
}

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let mut count = |name: &str, default: usize| -> anyhow::Result<usize> {
        let word = arguments.option(name)?;
        let count = word.map_or(Ok(default), |word| word.parse());
        let count = count.with_context(|| format!("`{name}` needs a count"))?;
        anyhow::ensure!(count > 0, "`{name}` must be positive");
        Ok(count)
    };
    let (rounds, steps, threads) =
        (count("--rounds", 3)?, count("--steps", 2)?, count("--threads", 2)?);
    let (alone, as_json) = (arguments.flag("--no-peer"), arguments.flag("--json"));
    let (out, python) = (arguments.option("--out")?, arguments.option("--python")?);
    arguments.finish()?;

    let python = if alone { None } else { Some(peers::python(python)?) };
    let bench = Bench { threads: threads.to_string(), steps: steps.to_string(), python };
    shell::run(program().arg("--no-run"))?;

    // Ratios and memory of each (cell, whether L_drr is on), a number a round.
    let mut ratios: BTreeMap<(usize, bool), Vec<(f64, f64)>> = BTreeMap::new();
    let mut plain_ms: BTreeMap<bool, Vec<Measured>> = BTreeMap::new();
    let mut peers: BTreeMap<usize, Vec<(Measured, Measured)>> = BTreeMap::new();
    for round in 1..=rounds {
        for drr in [true, false] {
            let mut before = bench.ours(&["mask.mode=off"], drr)?;
            for (i, cell) in CELLS.iter().enumerate() {
                let found = bench.ours(cell.settings, drr)?;
                let after = bench.ours(&["mask.mode=off"], drr)?;
                let plain = (before.ms + after.ms) / 2.0;
                let ratio = found.ms / plain;
                ratios.entry((i, drr)).or_default().push((ratio, found.peak_mib / before.peak_mib));
                plain_ms.entry(drr).or_default().push(after);
                let with = if drr { "with" } else { "without" };
                eprintln!(
                    "round {round} of {rounds}, {with} L_drr, {}: {:.0} ms, {ratio:.2} of plain",
                    cell.name, found.ms
                );
                before = after;
            }
        }
        for (i, (id, mode, settings)) in PEERS.iter().enumerate() {
            let ours = bench.ours(settings, true)?;
            if let Some(theirs) = bench.theirs(mode)? {
                eprintln!(
                    "round {round} of {rounds}, {id}: {:.0} and {:.0} ms",
                    ours.ms, theirs.ms
                );
                peers.entry(i).or_default().push((ours, theirs));
            }
        }
    }

    let mut text = String::new();
    let _ = writeln!(
        text,
        "| form of the meta step | L_drr | counted / plain | measured / plain | of its count | peak memory / plain |\n|---|---|---|---|---|---|"
    );
    let mut object = serde_json::Map::new();
    for ((i, drr), found) in &ratios {
        let cell = &CELLS[*i];
        let counted = cell.counts[usize::from(!drr)] / PLAIN;
        let ratio = median(found.iter().map(|(ratio, _)| *ratio).collect());
        let memory = median(found.iter().map(|(_, memory)| *memory).collect());
        let of_count = ratio / counted;
        let over = if of_count > ALLOWED { " (over)" } else { "" };
        let with = if *drr { "on" } else { "off" };
        let _ = writeln!(
            text,
            "| {} | {with} | {counted:.2} | {ratio:.2} | {of_count:.2}{over} | {memory:.2} |",
            cell.name
        );
        let id = format!("{}, L_drr {with}", cell.name);
        object.insert(id, json!({ "counted": counted, "ratio": ratio, "memory": memory }));
    }
    for (drr, plain) in &plain_ms {
        let ms = median(plain.iter().map(|plain| plain.ms).collect());
        let peak = median(plain.iter().map(|plain| plain.peak_mib).collect());
        let with = if *drr { "with" } else { "without" };
        let _ = writeln!(text, "\nPlain step {with} L_drr: {ms:.0} ms, {peak:.0} MiB at the peak.");
    }
    if !peers.is_empty() {
        let _ = writeln!(
            text,
            "\n| id | ours, ms | PyTorch, ms | ours / theirs | ours, MiB | PyTorch, MiB |\n|---|---|---|---|---|---|"
        );
    }
    for (i, found) in &peers {
        let (id, mode, _) = PEERS[*i];
        let side = |of: fn(&(Measured, Measured)) -> f64| median(found.iter().map(of).collect());
        let (ours, theirs) = (side(|pair| pair.0.ms), side(|pair| pair.1.ms));
        let (our_peak, their_peak) = (side(|pair| pair.0.peak_mib), side(|pair| pair.1.peak_mib));
        let ratio = ours / theirs;
        let _ = writeln!(
            text,
            "| `{id}` ({mode}) | {ours:.0} | {theirs:.0} | {ratio:.2} | {our_peak:.0} | {their_peak:.0} |"
        );
        object.insert(id.to_owned(), json!({ "ours": ours, "theirs": theirs, "ratio": ratio }));
    }
    if let Some(out) = out {
        let header = format!(
            "# Cost of the meta step\n\nWritten by `cargo xtask bench-meta --rounds {rounds} --steps {steps} --threads {threads} \
             --out {out}`; `cargo xtask bench-meta --help` says how it is measured. A count is in\n\
             units of a plain step (docs/method.md); `(over)` marks what takes more than {ALLOWED} of its count.\n\n"
        );
        std::fs::write(shell::root().join(&out), header + &text)
            .with_context(|| format!("failed to write `{out}`"))?;
    }
    match as_json {
        true => println!("{}", Value::Object(object)),
        false => print!("{text}"),
    }
    Ok(())
}

/// Time and memory from the one JSON object that a program prints.
fn measured(printed: &str) -> anyhow::Result<Measured> {
    let object: Value = serde_json::from_str(printed)
        .with_context(|| format!("expected one JSON object, got `{printed}`"))?;
    let number =
        |key: &str| object[key].as_f64().with_context(|| format!("no `{key}` in {object}"));
    Ok(Measured { ms: number("median_ms")?, peak_mib: number("peak_kib")? / 1024.0 })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::{CELLS, PLAIN, measured, median};

    #[test]
    fn the_counts_are_the_table_s() {
        // docs/method.md: with L_drr and without, in units of a plain step.
        let cost = |name: &str| CELLS.iter().find(|cell| cell.name == name).unwrap().counts;
        assert_eq!(cost("shared, exact").map(|f| (100.0 * f / PLAIN).round()), [333.0, 267.0]);
        assert_eq!(cost("lookahead, exact").map(|f| (100.0 * f / PLAIN).round()), [233.0, 167.0]);
        assert_eq!(cost("lookahead, first-order"), [PLAIN, PLAIN]);
    }

    #[test]
    fn time_and_memory_are_read_and_the_median_is_in_the_middle() {
        let found = measured("{\"median_ms\": 12.5, \"peak_kib\": 2048}").unwrap();
        assert_eq!((found.ms, found.peak_mib), (12.5, 2.0));
        assert!(measured("{\"median_ms\": 12.5}").is_err());
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}

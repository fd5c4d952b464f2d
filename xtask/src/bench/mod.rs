//! `cargo xtask bench`: our training step beside PyTorch's, alternated in one run.
//!
//! The clocks are in the two programs; here they are only started in turn, so
//! that a machine that slows down slows both.

use anyhow::Context;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::{peers, shell};

pub(crate) const HELP: &str = "\
Usage: cargo xtask bench --peer torch [--json] [--rounds N] [--python PATH]

Times one training step (forward, backward, SGD) of ResNet-18 with CIFAR stem,
full width, batch 64, f32, 2 threads: ours (`cargo bench -p metamask-train --bench
training_step`) and PyTorch's in eager mode (xtask/bench/torch_step.py), one after
the other, round by round. Prints the median of the rounds' medians in
milliseconds, and ours over theirs as ratio (below 1: we are faster). Nothing else
should run on the machine.

Options:
  --peer torch   whom to stand beside
  --json         one object on stdout: {id: {ours, theirs, ratio}}
  --rounds N     rounds of both (default 5)
  --python PATH  use this interpreter, which has PyTorch already

Example:
  cargo xtask bench --peer torch --json
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
    let python = arguments.option("--python")?;
    arguments.finish()?;
    anyhow::ensure!(peer.as_deref() == Some("torch"), "`--peer torch` is the only peer there is");
    anyhow::ensure!(rounds > 0, "`--rounds` must be positive");

    let python = peers::python(python)?;
    let bench = || {
        let mut cargo = shell::cargo();
        cargo.args(["bench", "--locked", "--quiet", "--package", "metamask-train"]);
        cargo.args(["--bench", "training_step"]);
        cargo
    };
    shell::run(bench().arg("--no-run"))?;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let mut step = bench();
        step.args(["--", "--threads", THREADS]);
        ours.push(median_ms(&shell::output(&mut step)?)?);

        let mut step = shell::command(&python);
        step.args(["xtask/bench/torch_step.py", "--threads", THREADS]);
        theirs.push(median_ms(&shell::output(&mut step)?)?);
        let last = (ours[round - 1], theirs[round - 1]);
        eprintln!("round {round} of {rounds}: ours {:.1} ms, theirs {:.1} ms", last.0, last.1);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours / theirs;
    if json {
        let id = "step_f32_b64";
        println!("{}", json!({ id: { "ours": ours, "theirs": theirs, "ratio": ratio } }));
    } else {
        println!("training step, ms: ours {ours:.1}, PyTorch eager {theirs:.1}, ratio {ratio:.2}");
    }
    Ok(())
}

/// The field `median_ms` of the one JSON object that a step's program prints.
fn median_ms(printed: &str) -> anyhow::Result<f64> {
    let object: Value = serde_json::from_str(printed)
        .with_context(|| format!("expected one JSON object, got `{printed}`"))?;
    object["median_ms"].as_f64().with_context(|| format!("no `median_ms` in {object}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::{median, median_ms};

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_time_is_read_from_the_object() {
        assert_eq!(median_ms("{\"median_ms\": 12.5, \"steps\": 7}\n").unwrap(), 12.5);
        assert!(median_ms("{}").is_err());
        assert!(median_ms("12.5").is_err());
    }
}

//! docs/results/cpu.md, made again from all rows that were ever measured here.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::rows::{Quantity, ROWS, Row};
use super::{Figures, Measured};
use crate::shell;

const DOCUMENT: &str = "docs/results/cpu.md";

/// What stands above the table and below it is written by hand, between the
/// document's start, this line, and the next one.
const BEGIN: &str = "<!-- rows: written by `cargo xtask bench` -->";
const END: &str = "<!-- end of rows -->";

/// Keeps a row's result, and writes the table of all kept ones.
pub(super) fn add(row: &Row, result: &Measured, python: &Path) -> anyhow::Result<()> {
    let path = kept()?;
    let mut all: Map<String, Value> = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .with_context(|| format!("failed to read `{}`", path.display()))?,
        Err(_) => Map::new(),
    };
    let figures = |figures: Figures| json!([figures.median, figures.smallest]);
    let theirs: Map<String, Value> = result
        .all
        .iter()
        .filter_map(|(name, taken)| taken.map(|taken| ((*name).into(), figures(taken))))
        .collect();
    all.insert(
        row.id.into(),
        json!({
            "ours": figures(result.ours),
            "theirs": theirs,
            "best": result.best,
            "ratio": result.ratio(),
            "rounds": result.rounds,
            "machine": machine(),
            "versions": versions(python)?,
        }),
    );
    std::fs::create_dir_all(path.parent().expect("a file in a folder"))?;
    std::fs::write(&path, serde_json::to_string_pretty(&all)?)?;

    let document = shell::root().join(DOCUMENT);
    let text = std::fs::read_to_string(&document)
        .with_context(|| format!("failed to read `{}`", document.display()))?;
    std::fs::write(&document, with_rows(&text, &all)?)?;
    Ok(())
}

fn kept() -> anyhow::Result<PathBuf> {
    Ok(shell::target_dir()?.join("bench").join("results.json"))
}

/// `text` with the part between the two lines replaced.
fn with_rows(text: &str, all: &Map<String, Value>) -> anyhow::Result<String> {
    let (head, rest) = text.split_once(BEGIN).with_context(|| format!("no `{BEGIN}`"))?;
    let (_, tail) = rest.split_once(END).with_context(|| format!("no `{END}`"))?;
    let mut table = String::from(
        "| id | work | unit | ours | theirs, the best | ratio | target | all of theirs |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let mut conditions = std::collections::BTreeSet::new();
    for row in ROWS {
        let Some(result) = all.get(row.id) else { continue };
        let pair = |value: &Value| {
            let [median, smallest] = [0, 1].map(|i| value[i].as_f64().unwrap_or(f64::NAN));
            format!("{median:.0} ({smallest:.0})")
        };
        let theirs = result["theirs"].as_object().context("kept results: no `theirs`")?;
        let best = result["best"].as_str().unwrap_or_default();
        let others: Vec<_> =
            theirs.iter().map(|(name, figures)| format!("{name} {}", pair(figures))).collect();
        let unit = match row.quantity {
            Quantity::Time => "ms",
            Quantity::Memory => "MiB",
        };
        writeln!(
            table,
            "| `{}` | {} | {unit} | {} | {best} {} | {:.2} | {} | {} |",
            row.id,
            row.what,
            pair(&result["ours"]),
            pair(&theirs[best]),
            result["ratio"].as_f64().unwrap_or(f64::NAN),
            row.target,
            others.join(", "),
        )?;
        conditions.insert(format!(
            "{}; {}; {} rounds.",
            result["machine"].as_str().unwrap_or_default(),
            result["versions"].as_str().unwrap_or_default(),
            result["rounds"]
        ));
    }
    let conditions: Vec<_> = conditions.into_iter().collect();
    Ok(format!(
        "{head}{BEGIN}\n\n{table}\nMedians of the rounds' medians, the smallest of all in \
         parentheses. {}\n\n{END}{tail}",
        conditions.join("\n")
    ))
}

/// Processor and number of threads it runs at a time.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let name = name.map_or("unknown processor", |name| name.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{name}, {cores} cores")
}

fn versions(python: &Path) -> anyhow::Result<String> {
    let mut command = shell::command(python);
    command.args(["-c", "import torch; print(torch.__version__.split('+')[0])"]);
    let torch = shell::output(&mut command)?;
    let rustc = shell::output(shell::command("rustc").arg("--version"))?;
    let rustc = rustc.split_whitespace().nth(1).unwrap_or("unknown").to_owned();
    Ok(format!("rustc {rustc}, PyTorch {}", torch.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_what_is_between_its_two_lines() {
        let all = json!({
            "extract": {
                "ours": [10.0, 9.0], "theirs": { "eager": [20.0, 19.0] }, "best": "eager",
                "ratio": 0.5, "rounds": 3, "machine": "M", "versions": "V"
            }
        });
        let text = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let written = with_rows(&text, all.as_object().unwrap()).unwrap();
        assert!(written.starts_with("head\n") && written.ends_with("tail\n"), "{written}");
        assert!(written.contains("| `extract` |") && !written.contains("old"), "{written}");
        assert!(written.contains("10 (9) | eager 20 (19) | 0.50"), "{written}");
        assert_eq!(with_rows(&written, all.as_object().unwrap()).unwrap(), written);
        assert!(with_rows("no lines", all.as_object().unwrap()).is_err());
    }
}

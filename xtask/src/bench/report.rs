//! docs/results/cpu.json, what was measured on which machine, and the tables of docs/results/cpu.md
//! that are made of it.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::rows::{Quantity, ROWS, Row};
use super::{Figures, Measured};
use crate::shell;

const DOCUMENT: &str = "docs/results/cpu.md";

/// `{machine: {id: result}}`
const RESULTS: &str = "docs/results/cpu.json";

/// What stands above the tables and below them is written by hand, between the
/// document's start, this line, and the next one.
const BEGIN: &str = "<!-- rows: written by `cargo xtask bench` -->";
const END: &str = "<!-- end of rows -->";

/// Keeps a row's result among those of this machine, and writes the tables of all machines.
pub(super) fn add(row: &Row, result: &Measured, python: &Path) -> anyhow::Result<()> {
    let path = shell::root().join(RESULTS);
    let mut all: Map<String, Value> = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .with_context(|| format!("failed to read `{}`", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(error) => {
            return Err(error).with_context(|| format!("failed to read `{}`", path.display()));
        }
    };
    let figures = |figures: Figures| json!([figures.median, figures.smallest]);
    let theirs: Map<String, Value> = result
        .all
        .iter()
        .filter_map(|(name, taken)| taken.map(|taken| ((*name).into(), figures(taken))))
        .collect();
    let rows = all.entry(machine()).or_insert_with(|| json!({}));
    rows.as_object_mut().with_context(|| format!("`{RESULTS}`: rows must be an object"))?.insert(
        row.id.into(),
        json!({
            "ours": figures(result.ours),
            "theirs": theirs,
            "best": result.best,
            "ratio": result.ratio(),
            "rounds": result.rounds,
            "versions": versions(python)?,
        }),
    );
    std::fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")?;

    let document = shell::root().join(DOCUMENT);
    let text = std::fs::read_to_string(&document)
        .with_context(|| format!("failed to read `{}`", document.display()))?;
    std::fs::write(&document, with_tables(&text, &all)?)?;
    Ok(())
}

/// `text` with the part between the two lines replaced.
fn with_tables(text: &str, all: &Map<String, Value>) -> anyhow::Result<String> {
    let (head, rest) = text.split_once(BEGIN).with_context(|| format!("no `{BEGIN}`"))?;
    let (_, tail) = rest.split_once(END).with_context(|| format!("no `{END}`"))?;
    let mut tables = String::new();
    for (machine, rows) in all {
        let rows = rows.as_object().with_context(|| format!("`{machine}`: no rows"))?;
        tables += &table(machine, rows)?;
    }
    Ok(format!("{head}{BEGIN}\n{tables}\n{END}{tail}"))
}

/// One machine's rows.
fn table(machine: &str, rows: &Map<String, Value>) -> anyhow::Result<String> {
    let mut table = format!(
        "\n### {machine}\n\n\
         | id | work | unit | ours | theirs, the best | ratio | target | all of theirs |\n\
         |---|---|---|---|---|---|---|---|\n"
    );
    let mut conditions = std::collections::BTreeSet::new();
    for row in ROWS {
        let Some(result) = rows.get(row.id) else { continue };
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
        let (versions, rounds) = (&result["versions"], &result["rounds"]);
        conditions.insert(format!("{}, rounds: {rounds}.", versions.as_str().unwrap_or_default()));
    }
    let conditions: Vec<_> = conditions.into_iter().collect();
    writeln!(
        table,
        "\nMedians of the rounds' medians, the smallest of all in parentheses. {}",
        conditions.join("\n")
    )?;
    Ok(table)
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
    fn each_machine_has_a_table_between_the_two_lines() {
        let result = |ours: f64| {
            json!({ "extract": {
                "ours": [ours, 9.0], "theirs": { "eager": [20.0, 19.0] }, "best": "eager",
                "ratio": ours / 20.0, "rounds": 3, "versions": "V"
            } })
        };
        let all = json!({ "M": result(10.0), "N": result(5.0) });
        let text = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let written = with_tables(&text, all.as_object().unwrap()).unwrap();
        assert!(written.starts_with("head\n") && written.ends_with("tail\n"), "{written}");
        assert!(written.contains("### M\n") && written.contains("### N\n"), "{written}");
        assert_eq!(written.matches("| `extract` |").count(), 2);
        assert!(!written.contains("old"), "{written}");
        assert!(written.contains("10 (9) | eager 20 (19) | 0.50"), "{written}");
        assert!(written.contains("5 (9) | eager 20 (19) | 0.25"), "{written}");
        assert_eq!(with_tables(&written, all.as_object().unwrap()).unwrap(), written);
        assert!(with_tables("no lines", all.as_object().unwrap()).is_err());
    }

    #[test]
    fn the_committed_tables_are_those_of_the_committed_figures() {
        let read = |name: &str| std::fs::read_to_string(shell::root().join(name)).unwrap();
        let all: Map<String, Value> = serde_json::from_str(&read(RESULTS)).unwrap();
        let text = read(DOCUMENT);
        assert_eq!(with_tables(&text, &all).unwrap(), text);
    }
}

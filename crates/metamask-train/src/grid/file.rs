//! The file that declares a grid: rows, columns, recipes, budgets, and what a cell is
//! to be held against.
//!
//! TOML, untrusted as every configuration is: bounded, unknown keys refused. A
//! cell's settings are those of its preset (or configuration file), then the overrides of
//! the grid, the column, the row, the budget, and of each `[[override]]` that names it, the
//! last one winning.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    config::Config,
    durable,
    evaluate::Measure,
    failure::{Code, Failure, shown},
    presets::Preset,
};

/// A grid as its file declares it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridFile {
    /// One word: it is in the names of folders.
    pub name: String,
    /// One line.
    pub title: String,
    /// The accuracy that is a cell's number: `knn` or `linear`.
    pub protocol: ProtocolWord,
    /// Words that stand for `{recipe}` in the rows' presets.
    #[serde(default = "only_default")]
    pub recipes: Vec<String>,
    /// What the columns are, along the axis of a figure.
    #[serde(default)]
    pub axis: String,
    /// Seeds of every cell.
    pub seeds: Vec<u64>,
    /// Whether each row with a base gets a further arm: the base at equal compute.
    #[serde(default = "yes")]
    pub equal_compute: bool,
    /// Rows whose gain over their base is what the grid was planned to test, before it ran. Their
    /// tests in all columns are corrected together.
    #[serde(default)]
    pub planned_tests: Vec<String>,
    /// Overrides, `KEY=VALUE`, of every cell.
    #[serde(default)]
    pub set: Vec<String>,
    /// Columns: as a rule data sets.
    #[serde(rename = "column")]
    pub columns: Vec<Column>,
    /// Rows: as a rule methods.
    #[serde(rename = "row")]
    pub rows: Vec<Row>,
    /// Budgets, of which one is run at a time.
    #[serde(default, rename = "budget")]
    pub budgets: BTreeMap<String, Budget>,
    /// Overrides of some cells.
    #[serde(default, rename = "override")]
    pub overrides: Vec<Override>,
    /// What a reader should know of some cells.
    #[serde(default, rename = "note")]
    pub notes: Vec<Note>,
    /// Where the file lies: configuration files are named from there.
    #[serde(skip)]
    folder: PathBuf,
}

/// A protocol by its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProtocolWord {
    /// k nearest neighbours.
    Knn,
    /// Linear probe.
    Linear,
}

impl ProtocolWord {
    /// What it measures.
    pub fn measure(self) -> Measure {
        match self {
            Self::Knn => Measure::Knn,
            Self::Linear => Measure::Linear,
        }
    }
}

/// A column.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// One word, which stands for `{column}` in the rows' presets.
    pub name: String,
    /// As it is printed.
    pub title: String,
    /// Overrides.
    #[serde(default)]
    pub set: Vec<String>,
}

/// A row.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// One word.
    pub name: String,
    /// As it is printed.
    pub title: String,
    /// The preset it starts from; `{column}` and `{recipe}` are filled in.
    #[serde(default)]
    pub preset: Option<String>,
    /// Or the configuration file, from the grid's folder.
    #[serde(default)]
    pub config: Option<String>,
    /// The row that it is compared with, seed by seed.
    #[serde(default)]
    pub base: Option<String>,
    /// Overrides.
    #[serde(default)]
    pub set: Vec<String>,
    /// Published numbers in percent, by column.
    #[serde(default)]
    pub paper: BTreeMap<String, f64>,
}

/// How much is spent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// One line.
    #[serde(default)]
    pub about: String,
    /// The columns that it is for, all if empty.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The recipes that it is for, all if empty.
    #[serde(default)]
    pub recipes: Vec<String>,
    /// Its seeds, the grid's if empty.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Overrides.
    #[serde(default)]
    pub set: Vec<String>,
    /// Whether its cells count as reproduced once they have run; a smoke test's do not.
    #[serde(default = "yes")]
    pub reproduces: bool,
    /// Points that a cell may lie from the published number; no verdict without.
    #[serde(default)]
    pub tolerance: Option<f64>,
}

/// Overrides of the cells that it names; what it does not name it leaves open.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Columns.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Rows.
    #[serde(default)]
    pub rows: Vec<String>,
    /// Recipes.
    #[serde(default)]
    pub recipes: Vec<String>,
    /// Budgets.
    #[serde(default)]
    pub budgets: Vec<String>,
    /// `KEY=VALUE` each.
    pub set: Vec<String>,
}

/// A footnote.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Rows, all if empty.
    #[serde(default)]
    pub rows: Vec<String>,
    /// Columns, all if empty.
    #[serde(default)]
    pub columns: Vec<String>,
    /// What it says.
    pub text: String,
}

/// The budget of a grid that declares none.
pub const DEFAULT: &str = "default";

fn only_default() -> Vec<String> {
    vec![DEFAULT.to_owned()]
}

fn yes() -> bool {
    true
}

impl GridFile {
    /// Reads a grid's file.
    ///
    /// # Errors
    /// If it is not there, does not parse, or names what there is not.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        const MAX_BYTES: u64 = 1 << 20;
        let bytes = durable::read_at_most(path, MAX_BYTES).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::at(Code::Missing, path, "is not there, expected a grid (TOML)")
            }
            _ => Failure::io(path, "read", &error),
        })?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
            Failure::at(Code::Config, path, "is no text of at most 1 MiB, expected TOML")
        })?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(&text, &shown(path), folder)
    }

    /// Reads a grid's text; `origin` names it in messages.
    ///
    /// # Errors
    /// If it does not parse or names what there is not.
    pub fn parse(text: &str, origin: &str, folder: PathBuf) -> Result<Self, Failure> {
        let mut grid: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            let line = 1 + text.as_bytes()[..start].iter().filter(|&&b| b == b'\n').count();
            let message = error.message().lines().collect::<Vec<_>>().join(" ");
            Failure::new(Code::Config, format!("{origin}:{line}: {message}"))
        })?;
        grid.folder = folder;
        if grid.budgets.is_empty() {
            let budget = Budget { reproduces: true, ..Budget::default() };
            grid.budgets.insert(DEFAULT.to_owned(), budget);
        }
        grid.check()
            .map_err(|message| Failure::new(Code::Config, format!("{origin}: {message}")))?;
        Ok(grid)
    }

    fn check(&self) -> Result<(), String> {
        let words = |what: &str, words: Vec<&String>| {
            let mut seen = BTreeSet::new();
            for word in &words {
                let fits = !word.is_empty()
                    && word.len() <= 64
                    && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
                if !fits {
                    return Err(format!("{what} `{word}`: expected letters, digits, `-` and `_`"));
                }
                if !seen.insert(*word) {
                    return Err(format!("{what} `{word}`: declared twice"));
                }
            }
            match words.is_empty() {
                true => Err(format!("{what}: expected at least one, got none")),
                false => Ok(()),
            }
        };
        words("name", vec![&self.name])?;
        words("recipe", self.recipes.iter().collect())?;
        words("column", self.columns.iter().map(|column| &column.name).collect())?;
        words("row", self.rows.iter().map(|row| &row.name).collect())?;
        words("budget", self.budgets.keys().collect())?;
        let known = Known {
            rows: self.rows.iter().map(|row| row.name.as_str()).collect(),
            columns: self.columns.iter().map(|column| column.name.as_str()).collect(),
            recipes: self.recipes.iter().map(String::as_str).collect(),
            budgets: self.budgets.keys().map(String::as_str).collect(),
        };
        if self.rows.len() * self.columns.len() > 10_000 {
            return Err("more than 10,000 cells".to_owned());
        }
        seeds("seeds", &self.seeds)?;
        for row in &self.rows {
            let at = format!("row `{}`", row.name);
            if row.preset.is_some() == row.config.is_some() {
                return Err(format!("{at}: expected `preset` or `config`"));
            }
            if let Some(base) = &row.base {
                let base = self.rows.iter().find(|other| other.name == *base);
                let base = base.ok_or_else(|| format!("{at}: `base` names no row"))?;
                if base.name == row.name || base.base.is_some() {
                    return Err(format!("{at}: `base` must be another row without a base"));
                }
            }
            named(&at, row.paper.keys(), &known.columns)?;
            if let Some(percent) = row.paper.values().find(|x| !(0.0..=100.0).contains(*x)) {
                return Err(format!("{at}: `paper` is in percent, got {percent}"));
            }
        }
        for planned in &self.planned_tests {
            let row = self.rows.iter().find(|row| row.name == *planned);
            if row.is_none_or(|row| row.base.is_none()) {
                return Err(format!("`planned_tests`: `{planned}` names no row with a base"));
            }
        }
        for (name, budget) in &self.budgets {
            let at = format!("budget `{name}`");
            named(&at, budget.columns.iter(), &known.columns)?;
            named(&at, budget.recipes.iter(), &known.recipes)?;
            if !budget.seeds.is_empty() {
                seeds(&at, &budget.seeds)?;
            }
            if budget.tolerance.is_some_and(|points| !(0.0..=100.0).contains(&points)) {
                return Err(format!("{at}: `tolerance` is in points, within 0 to 100"));
            }
        }
        for Override { columns, rows, recipes, budgets, .. } in &self.overrides {
            named("override", columns.iter(), &known.columns)?;
            named("override", rows.iter(), &known.rows)?;
            named("override", recipes.iter(), &known.recipes)?;
            named("override", budgets.iter(), &known.budgets)?;
        }
        for Note { rows, columns, .. } in &self.notes {
            named("note", columns.iter(), &known.columns)?;
            named("note", rows.iter(), &known.rows)?;
        }
        Ok(())
    }

    /// The budget of a name; without a name the only one.
    ///
    /// # Errors
    /// If there is none, or several and no name.
    pub fn budget(&self, name: Option<&str>) -> Result<(&str, &Budget), Failure> {
        let names = || self.budgets.keys().cloned().collect::<Vec<_>>().join(", ");
        let found = match name {
            Some(name) => self.budgets.get_key_value(name),
            None if self.budgets.len() == 1 => self.budgets.first_key_value(),
            None => {
                let message = format!("grid `{}` has several budgets: {}", self.name, names());
                return Err(Failure::new(Code::Usage, message).help("choose one with --budget"));
            }
        };
        match found {
            Some((name, budget)) => Ok((name, budget)),
            None => {
                let name = name.unwrap_or_default();
                let message = format!("unknown budget `{name}`, expected one of {}", names());
                Err(Failure::new(Code::Usage, message))
            }
        }
    }

    /// The settings of a cell, with seed 0.
    ///
    /// # Errors
    /// If the preset or file is not there, or an override does not fit.
    pub fn cell_config(
        &self,
        (budget_name, budget): (&str, &Budget),
        recipe: &str,
        column: &Column,
        row: &Row,
    ) -> Result<Config, Failure> {
        let holds =
            |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
        let more = self.overrides.iter().filter(|over| {
            holds(&over.columns, &column.name)
                && holds(&over.rows, &row.name)
                && holds(&over.recipes, recipe)
                && holds(&over.budgets, budget_name)
        });
        let sets = [&self.set, &column.set, &row.set, &budget.set];
        let set: Vec<String> =
            sets.into_iter().chain(more.map(|over| &over.set)).flatten().cloned().collect();
        let fill = |text: &str| text.replace("{column}", &column.name).replace("{recipe}", recipe);
        let at = |failure: Failure| Failure {
            message: format!("cell {}, {}: {}", row.name, column.name, failure.message),
            ..failure
        };
        match (&row.preset, &row.config) {
            (Some(preset), _) => Preset::named(&fill(preset))?.config(&set).map_err(at),
            (None, Some(file)) => {
                let path = self.folder.join(fill(file));
                let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        let message = "is not there, expected a configuration file";
                        Failure::at(Code::Missing, &path, message)
                    }
                    _ => Failure::io(&path, "read", &error),
                })?;
                Config::read(&text, &shown(&path), &set).map_err(at)
            }
            (None, None) => unreachable!("checked when the file was read"),
        }
    }
}

struct Known<'a> {
    rows: Vec<&'a str>,
    columns: Vec<&'a str>,
    recipes: Vec<&'a str>,
    budgets: Vec<&'a str>,
}

fn named<'a>(
    at: &str,
    mut names: impl Iterator<Item = &'a String>,
    known: &[&str],
) -> Result<(), String> {
    match names.find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(format!("{at}: `{name}` is none of {}", known.join(", "))),
    }
}

fn seeds(at: &str, seeds: &[u64]) -> Result<(), String> {
    let distinct: BTreeSet<_> = seeds.iter().collect();
    match seeds.is_empty() || distinct.len() < seeds.len() {
        true => Err(format!("{at}: expected seeds, each once")),
        false => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two methods on the embedded garments, in seconds.
    pub(in crate::grid) const SMALL: &str = r#"
name = "small"
title = "two arms"
protocol = "knn"
seeds = [0, 1]
set = ["training.epochs=3", "encoder.width=4"]
[[column]]
name = "garments"
title = "Garments"
[[row]]
name = "simclr"
title = "SimCLR"
preset = "{column}-simclr-tuned"
paper = { garments = 50.0 }
[[row]]
name = "simclr-metamask"
title = "SimCLR + MetaMask"
preset = "{column}-simclr-metamask-tuned"
base = "simclr"
"#;

    pub(in crate::grid) fn parse(text: &str) -> Result<GridFile, Failure> {
        GridFile::parse(text, "small.toml", PathBuf::new())
    }

    #[test]
    fn what_does_not_fit_is_said_with_its_place() {
        let check = |from: &str, to: &str, expected: &str| {
            assert!(SMALL.contains(from), "{from}");
            let failure = parse(&SMALL.replace(from, to)).expect_err(expected);
            assert_eq!(failure.code, Code::Config);
            assert!(failure.message.contains(expected), "{failure}");
        };
        check("seeds = [0, 1]", "seeds = []", "expected seeds, each once");
        check("seeds = [0, 1]", "seeds = [1, 1]", "expected seeds, each once");
        check("base = \"simclr\"", "base = \"simclr2\"", "`base` names no row");
        let planned = "seeds = [0, 1]\nplanned_tests = [\"simclr\"]";
        check("seeds = [0, 1]", planned, "`simclr` names no row with a base");
        check("base = \"simclr\"", "base = \"simclr-metamask\"", "another row without a base");
        check("garments = 50.0", "garmets = 50.0", "`garmets` is none of garments");
        check("garments = 50.0", "garments = 500.0", "in percent, got 500");
        check(
            "title = \"two arms\"",
            "titel = \"two arms\"",
            "small.toml:3: unknown field `titel`",
        );
        check("name = \"small\"", "name = \"../up\"", "expected letters, digits");
        check("name = \"simclr-metamask\"", "name = \"simclr\"", "declared twice");
        check("preset = \"{column}-simclr-tuned\"", "", "expected `preset` or `config`");
    }

    #[test]
    fn the_last_override_wins() -> Result<(), Failure> {
        let text = SMALL.to_owned()
            + "[budget.long]\nset = [\"training.epochs=5\"]\n\
               [budget.short]\nset = [\"training.epochs=4\"]\n\
               [[override]]\nrows = [\"simclr\"]\nbudgets = [\"short\"]\nset = [\"training.epochs=2\"]\n";
        let grid = parse(&text)?;
        let epochs = |budget: &str, row: usize| -> Result<usize, Failure> {
            let budget = grid.budget(Some(budget))?;
            let config = grid.cell_config(budget, "default", &grid.columns[0], &grid.rows[row])?;
            Ok(config.training.epochs)
        };
        assert_eq!((epochs("long", 0)?, epochs("long", 1)?), (5, 5));
        assert_eq!((epochs("short", 0)?, epochs("short", 1)?), (2, 4));
        assert_eq!(grid.budget(None).expect_err("two").code, Code::Usage);
        Ok(())
    }

    #[test]
    fn a_cell_that_cannot_be_says_which() {
        let grid = parse(&SMALL.replace("encoder.width=4", "encoder.widht=4")).expect("it reads");
        let budget = grid.budget(None).expect("the only one");
        let config = grid.cell_config(budget, "default", &grid.columns[0], &grid.rows[0]);
        let failure = config.expect_err("no such setting");
        assert!(failure.message.starts_with("cell simclr, garments: "), "{failure}");
    }
}

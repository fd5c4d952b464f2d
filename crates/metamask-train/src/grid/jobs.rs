//! What a grid comes to: one job for each cell and seed, and one more for each
//! base at equal compute.

use std::fmt;

use metamask_data::Places;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::{Budget, Column, GridFile, Row};
use crate::{
    config::Config,
    cost::{counted_cost, equal_compute_epochs},
    failure::{Code, Failure},
    init,
};

/// Which arm of a comparison a job belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The row itself.
    Own,
    /// The row's base, trained for as long as the row costs.
    BaseAtEqualCompute,
}

/// One run of a grid.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name: what a person wants to know, then a hash of all its settings.
    pub id: String,
    /// The budget's name.
    pub budget: String,
    /// The recipe.
    pub recipe: String,
    /// The column's name.
    pub column: String,
    /// The row's name.
    pub row: String,
    /// Of the row, or of its base at equal compute.
    pub arm: Arm,
    /// The seed.
    pub seed: u64,
    /// Every setting.
    pub config: Config,
}

/// What of a grid is meant; what is not named is left open.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The budget's name.
    pub budget: Option<String>,
    /// Recipes.
    pub recipes: Vec<String>,
    /// Rows.
    pub rows: Vec<String>,
    /// Columns.
    pub columns: Vec<String>,
    /// Seeds.
    pub seeds: Vec<u64>,
}

impl Selection {
    /// Fails if something is named that the grid has not.
    fn check(&self, grid: &GridFile) -> Result<(), Failure> {
        let check = |what: &str, asked: &[String], known: Vec<&String>| match asked
            .iter()
            .find(|name| !known.contains(name))
        {
            None => Ok(()),
            Some(name) => {
                let known: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
                let message =
                    format!("unknown {what} `{name}`, expected one of {}", known.join(", "));
                Err(Failure::new(Code::Usage, message))
            }
        };
        check("recipe", &self.recipes, grid.recipes.iter().collect())?;
        check("row", &self.rows, grid.rows.iter().map(|row| &row.name).collect())?;
        check("column", &self.columns, grid.columns.iter().map(|column| &column.name).collect())
    }
}

/// The jobs of a budget that are meant, in the order of the table, all of a seed first:
/// whoever stops early has whole pairs.
///
/// # Errors
/// If something is named that there is not, or a cell's settings do not fit.
pub fn jobs(grid: &GridFile, selection: &Selection) -> Result<Vec<Job>, Failure> {
    selection.check(grid)?;
    let (budget_name, budget) = grid.budget(selection.budget.as_deref())?;
    let holds = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let seeds = if budget.seeds.is_empty() { &grid.seeds } else { &budget.seeds };
    if let Some(seed) = selection.seeds.iter().find(|seed| !seeds.contains(seed)) {
        let message = format!("unknown seed {seed}, expected some of {seeds:?}");
        return Err(Failure::new(Code::Usage, message));
    }
    let mut jobs = Vec::new();
    for &seed in seeds {
        if !selection.seeds.is_empty() && !selection.seeds.contains(&seed) {
            continue;
        }
        for recipe in &grid.recipes {
            if !holds(&budget.recipes, recipe) && !selection.recipes.contains(recipe) {
                continue;
            }
            if !holds(&selection.recipes, recipe) {
                continue;
            }
            for column in &grid.columns {
                if !holds(&budget.columns, &column.name) || !holds(&selection.columns, &column.name)
                {
                    continue;
                }
                for row in &grid.rows {
                    if !holds(&selection.rows, &row.name) {
                        continue;
                    }
                    let cell = Cell { grid, budget: (budget_name, budget), recipe, column, row };
                    jobs.extend(cell.jobs(seed)?);
                }
            }
        }
    }
    Ok(jobs)
}

struct Cell<'a> {
    grid: &'a GridFile,
    budget: (&'a str, &'a Budget),
    recipe: &'a str,
    column: &'a Column,
    row: &'a Row,
}

impl Cell<'_> {
    fn jobs(&self, seed: u64) -> Result<Vec<Job>, Failure> {
        let Self { grid, budget, recipe, column, row } = *self;
        let config = grid.cell_config(budget, recipe, column, row)?;
        let mut jobs = vec![self.job(Arm::Own, seed, config.clone())?];
        let base = row.base.as_ref().and_then(|base| grid.rows.iter().find(|r| r.name == *base));
        let Some(base) = base.filter(|_| grid.equal_compute) else { return Ok(jobs) };
        let mut base = grid.cell_config(budget, recipe, column, base)?;
        let costs = (equal_compute_epochs(&config), counted_cost(&config), counted_cost(&base));
        let (Some(epochs), Some(cost), Some(base_cost)) = costs else {
            return Err(Failure::new(
                Code::Config,
                format!("row `{}`: nobody has counted what its form of the mask costs", row.name),
            )
            .help("set `equal_compute = false` in the grid"));
        };
        // What costs the same has the base itself at equal compute.
        if cost > base_cost {
            base.training.epochs = epochs;
            jobs.push(self.job(Arm::BaseAtEqualCompute, seed, base)?);
        }
        Ok(jobs)
    }

    fn job(&self, arm: Arm, seed: u64, mut config: Config) -> Result<Job, Failure> {
        config.run.seed = seed;
        // Weights from the hub are known by the hash that the grid's file gives.
        let config = init::resolve(&config, &Places::default())?;
        let Self { budget: (budget, _), recipe, column, row, .. } = *self;
        let row_name = match (arm, &row.base) {
            (Arm::BaseAtEqualCompute, Some(base)) => format!("{base}-at-cost-of-{}", row.name),
            _ => row.name.clone(),
        };
        let id = format!("{}-{row_name}-{recipe}-s{seed}-{}", column.name, hash_of(&config));
        Ok(Job {
            id,
            budget: budget.to_owned(),
            recipe: recipe.to_owned(),
            column: column.name.clone(),
            row: row.name.clone(),
            arm,
            seed,
            config,
        })
    }
}

impl Job {
    /// What its seeds share: a word that depends on the settings but the seed.
    pub fn cell_hash(&self) -> String {
        let mut config = self.config.clone();
        config.run.seed = 0;
        hash_of(&config)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// The first eight hexadecimal digits of the SHA-256 of every setting that differs from its
/// default, seed included.
///
/// A setting that is added to the program later, with the old behaviour as its
/// default, leaves it as it is: names stay, and with them the records of years.
/// A *changed* default does not go unnoticed: a record holds every setting, and is
/// held against the job's.
fn hash_of(config: &Config) -> String {
    let mut hash = Sha256::new();
    let default = Config::default().settings();
    for ((key, value), (_, default)) in config.settings().into_iter().zip(default) {
        if value != default || key == "run.seed" {
            hash.update(format!("{key} = {value}\n"));
        }
    }
    hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::{SMALL, parse};
    use super::*;

    fn ids(text: &str, selection: &Selection) -> Vec<String> {
        let jobs = jobs(&parse(text).expect("it reads"), selection).expect("it fits");
        jobs.into_iter().map(|job| job.id).collect()
    }

    #[test]
    fn a_grid_comes_to_its_cells_and_the_bases_at_equal_compute() {
        let grid = parse(SMALL).expect("it reads");
        let all = jobs(&grid, &Selection::default()).expect("it fits");
        assert_eq!(all.len(), 2 * 3);
        let epochs: Vec<usize> = all.iter().map(|job| job.config.training.epochs).collect();
        // Lookahead, exact, beside L_drr: 7 F to 3 F.
        assert_eq!(epochs, [3, 3, 7, 3, 3, 7]);
        let extra = &all[2];
        assert_eq!((extra.arm, extra.row.as_str()), (Arm::BaseAtEqualCompute, "simclr-metamask"));
        assert!(extra.id.starts_with("garments-simclr-at-cost-of-simclr-metamask-default-s0-"));
        assert!(all[..3].iter().all(|job| job.seed == 0), "a seed at a time");
        let without = SMALL.replace("seeds = [0, 1]", "seeds = [0, 1]\nequal_compute = false");
        assert_eq!(ids(&without, &Selection::default()).len(), 4);
    }

    #[test]
    fn names_depend_on_the_settings_alone() {
        let whole = ids(SMALL, &Selection::default());
        let distinct: std::collections::BTreeSet<_> = whole.iter().collect();
        assert_eq!(distinct.len(), whole.len());
        // Order, titles and seeds of other jobs are nothing to a job.
        let other = SMALL.replace("two arms", "2 arms").replace("[0, 1]", "[7, 1]");
        let again = ids(&other, &Selection { seeds: vec![1], ..Selection::default() });
        assert_eq!(again, whole[3..]);
        let longer = ids(&SMALL.replace("epochs=3", "epochs=4"), &Selection::default());
        assert!(longer.iter().all(|id| !whole.contains(id)));
    }

    #[test]
    fn a_hash_is_that_of_the_settings_that_are_not_the_default_s() {
        // SHA-256 of the text, by sha256sum.
        let config = Config::default();
        assert_eq!(hash_of(&config), "c8f09756");
    }

    #[test]
    fn a_selection_names_what_there_is() {
        let select = |rows: &[&str]| Selection {
            rows: rows.iter().map(|&row| row.to_owned()).collect(),
            seeds: vec![1],
            ..Selection::default()
        };
        assert_eq!(ids(SMALL, &select(&["simclr"])).len(), 1);
        let grid = parse(SMALL).expect("it reads");
        let failure = jobs(&grid, &select(&["simcrl"])).expect_err("no such row");
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains("`simcrl`, expected one of simclr, "), "{failure}");
        let seeds = Selection { seeds: vec![5], ..Selection::default() };
        assert!(jobs(&grid, &seeds).is_err());
    }
}

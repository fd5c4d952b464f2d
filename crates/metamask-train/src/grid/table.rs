//! Records added up: each cell's mean and spread, what + MetaMask gains over its base
//! seed by seed, and over that base at equal compute.
//!
//! Numbers are put together only if they can be: one protocol and one set of images in a
//! column, one version in a table. What does not fit is an error and not a footnote.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use metamask_eval::{MeanStd, PairedDifference, holm};
use serde::Serialize;

use super::{
    file::GridFile,
    jobs::{Arm, Job, Selection, jobs},
    mask_controls::LineControls,
    plan::{Estimate, Planned},
    record::Record,
};
use crate::{
    cost::{PLAIN, counted_cost},
    evaluate::Measure,
    failure::{Code, Failure},
};

/// What is known of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellState {
    /// Nothing: it has not run, and was not rehearsed with these settings.
    Open,
    /// Files in the format of its data train an epoch, and what it costs is planned.
    Reproducible,
    /// It has run on the real data with every seed.
    Reproduced,
}

/// A grid's table.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// The grid's name.
    pub grid: String,
    /// The grid's title.
    pub title: String,
    /// The accuracy that is a cell's number: `kNN` or `linear probe`.
    pub measure: &'static str,
    /// The version that all numbers were made by; none without numbers.
    pub version: Option<String>,
    /// A budget with a recipe each.
    pub sections: Vec<Section>,
    /// The comparisons that were planned and have run with every seed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub planned_tests: Vec<PlannedTest>,
    /// What a reader should know, from 1.
    pub notes: Vec<String>,
}

/// A comparison that was planned before it ran.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedTest {
    /// The budget.
    pub budget: String,
    /// The column's title.
    pub column: String,
    /// The row's title.
    pub row: String,
    /// Over the base at equal compute where the grid has that, else at equal epochs.
    pub difference: PairedDifference,
    /// Student's paired test.
    pub p_value: f64,
    /// The same among all planned tests of the table, by Holm's procedure.
    pub holm_p_value: f64,
}

/// The cells of one budget and recipe.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// The budget's name.
    pub budget: String,
    /// What it is.
    pub about: String,
    /// The recipe.
    pub recipe: String,
    /// Whether its cells count as reproduced once they have run.
    pub reproduces: bool,
    /// Points that a cell may lie from the published number.
    pub tolerance: Option<f64>,
    /// The seeds that a whole cell has.
    pub seeds: Vec<u64>,
    /// What the times of planned cells are of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_on: Option<String>,
    /// The columns.
    pub columns: Vec<ColumnOfTable>,
}

/// A column.
#[derive(Clone, Debug, Serialize)]
pub struct ColumnOfTable {
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// How its numbers were measured, in full.
    pub protocol: Option<String>,
    /// How the other accuracy was.
    pub other_protocol: Option<String>,
    /// Accuracy of a guess.
    pub chance_percent: Option<f64>,
    /// Raw pixels, by the same protocol.
    pub pixels_percent: Option<f64>,
    /// The untrained encoder, over the seeds.
    pub untrained: Option<MeanStd>,
    /// The processors that its records name.
    pub machines: Vec<String>,
    /// Rows with their further arms, in the order of the grid.
    pub lines: Vec<Line>,
}

/// A cell, or the base at equal compute.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The row's name.
    pub row: String,
    /// Its title.
    pub title: String,
    /// The row itself, or its base at equal compute.
    pub arm: Arm,
    /// What is known of it.
    pub state: CellState,
    /// Each seed's numbers.
    pub seeds: Vec<SeedValue>,
    /// Mean and spread over the seeds, in percent.
    pub ours: Option<MeanStd>,
    /// The same by the other protocol.
    pub other: Option<MeanStd>,
    /// The epoch that was evaluated: the last one.
    pub epochs: usize,
    /// The published number.
    pub paper: Option<f64>,
    /// Against the base, seed by seed.
    pub over_base: Option<PairedDifference>,
    /// Against the base at equal compute, seed by seed.
    pub over_base_at_equal_compute: Option<PairedDifference>,
    /// Counted cost of a step, in plain ones.
    pub counted_cost: Option<f64>,
    /// Mean over the seeds.
    pub training_s: Option<f64>,
    /// The highest.
    pub peak_mib: Option<f64>,
    /// What a job of it will take, where that was planned.
    pub estimate: Option<Estimate>,
    /// Its masks beside masks in other orders, where the records have that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_controls: Option<LineControls>,
    /// Numbers of its notes.
    pub notes: Vec<usize>,
}

/// A seed's numbers.
#[derive(Clone, Debug, Serialize)]
pub struct SeedValue {
    /// The seed.
    pub seed: u64,
    /// Its record.
    pub id: String,
    /// In percent.
    pub percent: f64,
    /// By the other protocol.
    pub other_percent: Option<f64>,
}

impl Table {
    /// Of a grid and the records and plans in a folder. What can be reproduced is shown, open
    /// cells too; of a budget that reproduces nothing, and of a recipe that is not its budget's, only
    /// what has run, unless `selection` asks for it.
    ///
    /// # Errors
    /// If a record is damaged, of other settings, of no job of this grid, or if numbers of different
    /// protocols, images or versions would come together.
    pub fn of(grid: &GridFile, records: &Path, selection: &Selection) -> Result<Self, Failure> {
        let mut known = BTreeSet::new();
        let mut sections = Vec::new();
        let asked = selection.budget.is_some() || !selection.recipes.is_empty();
        let mut versions = BTreeMap::new();
        for (name, budget) in &grid.budgets {
            for recipe in &grid.recipes {
                let all = Selection {
                    budget: Some(name.clone()),
                    recipes: vec![recipe.clone()],
                    ..Selection::default()
                };
                let jobs = jobs(grid, &all)?;
                known.extend(jobs.iter().map(|job| job.id.clone()));
                if selection.budget.as_ref().is_some_and(|asked| asked != name)
                    || !(selection.recipes.is_empty() || selection.recipes.contains(recipe))
                {
                    continue;
                }
                let planned = Planned::read(records, name, recipe)?;
                let mut found = Vec::new();
                for job in &jobs {
                    let record = Record::of_job(records, &grid.name, job)?;
                    if let Some(record) = &record {
                        versions.entry(record.version.clone()).or_insert_with(|| job.id.clone());
                    }
                    found.push(record);
                }
                let is_empty = planned.is_none() && found.iter().all(Option::is_none);
                let seeds = if budget.seeds.is_empty() { &grid.seeds } else { &budget.seeds };
                let section = Section {
                    budget: name.clone(),
                    about: budget.about.clone(),
                    recipe: recipe.clone(),
                    reproduces: budget.reproduces,
                    tolerance: budget.tolerance,
                    seeds: seeds.clone(),
                    planned_on: planned.as_ref().map(Planned::place),
                    columns: columns(grid, &jobs, &found, planned.as_ref(), budget.reproduces)?,
                };
                let is_default = budget.recipes.is_empty() || budget.recipes.contains(recipe);
                if !is_empty || (is_default && budget.reproduces) || asked {
                    sections.push(section);
                }
            }
        }
        if let Some(stray) = strays(records, &known)? {
            let path = records.join(stray);
            let message = "is of no job of this grid: its settings have changed, or another's";
            return Err(Failure::at(Code::Data, &path, message)
                .help("move it out of the folder: nothing is left out of a table silently"));
        }
        if let [(one, a), (other, b), ..] = &versions.iter().collect::<Vec<_>>()[..] {
            let message = format!(
                "`{a}` was made by version {one}, `{b}` by {other}: their numbers are not mixed"
            );
            return Err(Failure::at(Code::Data, records, message)
                .help("keep the records of one version in a folder"));
        }
        Ok(Self {
            grid: grid.name.clone(),
            title: grid.title.clone(),
            measure: title_of(grid.protocol.measure()),
            version: versions.into_keys().next(),
            planned_tests: planned_tests(grid, &sections),
            sections,
            notes: grid.notes.iter().map(|note| note.text.clone()).collect(),
        })
    }
}

/// The grid's planned tests whose every seed has run: before that they are not looked at.
fn planned_tests(grid: &GridFile, sections: &[Section]) -> Vec<PlannedTest> {
    let mut tests = Vec::new();
    for section in sections {
        for column in &section.columns {
            let own = column.lines.iter().filter(|line| line.arm == Arm::Own);
            for line in own.filter(|line| grid.planned_tests.contains(&line.row)) {
                let over = line.over_base_at_equal_compute.or(line.over_base);
                let whole = over.filter(|difference| difference.n == section.seeds.len());
                let Some((difference, p_value)) = whole.and_then(|d| Some((d, d.p_value()?)))
                else {
                    continue;
                };
                tests.push(PlannedTest {
                    budget: section.budget.clone(),
                    column: column.title.clone(),
                    row: line.title.clone(),
                    difference,
                    p_value,
                    holm_p_value: p_value,
                });
            }
        }
    }
    let p_values: Vec<f64> = tests.iter().map(|test| test.p_value).collect();
    tests.iter_mut().zip(holm(&p_values)).for_each(|(test, p)| test.holm_p_value = p);
    tests
}

/// How a protocol is called in a table.
pub(super) fn title_of(measure: Measure) -> &'static str {
    match measure {
        Measure::Knn => "kNN",
        _ => "linear probe",
    }
}

fn other(measure: Measure) -> Measure {
    match measure {
        Measure::Knn => Measure::Linear,
        _ => Measure::Knn,
    }
}

impl Section {
    /// How many cells are open, reproducible and reproduced.
    pub fn counts(&self) -> [usize; 3] {
        let cells = self.columns.iter().flat_map(|column| &column.lines);
        let mut counts = [0; 3];
        for line in cells.filter(|line| line.arm == Arm::Own) {
            counts[line.state as usize] += 1;
        }
        counts
    }
}

/// A record in the folder that no job knows.
fn strays(records: &Path, known: &BTreeSet<String>) -> Result<Option<String>, Failure> {
    let entries = match fs::read_dir(records) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(records, "read", &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::io(records, "read", &error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    let is_stray = |name: &String| {
        // The table itself may lie beside its records.
        let id = name.strip_suffix(".json").filter(|_| name != "table.json");
        id.is_some_and(|id| !known.contains(id) && !Planned::is_named(name))
    };
    Ok(names.into_iter().find(is_stray))
}

fn columns(
    grid: &GridFile,
    jobs: &[Job],
    records: &[Option<Record>],
    planned: Option<&Planned>,
    reproduces: bool,
) -> Result<Vec<ColumnOfTable>, Failure> {
    let mut columns = Vec::new();
    for column in &grid.columns {
        let both = jobs.iter().zip(records);
        let here: Vec<(&Job, Option<&Record>)> = both
            .filter(|(job, _)| job.column == column.name)
            .map(|(job, record)| (job, record.as_ref()))
            .collect();
        if here.is_empty() {
            continue;
        }
        let measure = grid.protocol.measure();
        let found: Vec<&Record> = here.iter().filter_map(|(_, record)| *record).collect();
        check_alike(&found, measure)?;
        let mut untrained = BTreeMap::new();
        for record in &found {
            // Rows of a seed share the untrained encoder, unless their encoders differ.
            if let Some(percent) = record.accuracy_of("untrained encoder", measure) {
                untrained.entry(record.seed).or_insert(percent);
            }
        }
        let untrained: Vec<f64> = untrained.into_values().collect();
        let first = found.first();
        let machines: BTreeSet<String> =
            found.iter().map(|record| record.cost.machine.clone()).collect();
        columns.push(ColumnOfTable {
            name: column.name.clone(),
            title: column.title.clone(),
            protocol: first.map(|record| record.protocol(measure)),
            other_protocol: first.map(|record| record.protocol(other(measure))),
            chance_percent: first.map(|record| record.results.chance_percent),
            pixels_percent: first.and_then(|record| record.accuracy_of("raw pixels", measure)),
            untrained: MeanStd::of(&untrained).ok(),
            machines: machines.into_iter().collect(),
            lines: lines(grid, &column.name, &here, planned, reproduces),
        });
    }
    Ok(columns)
}

/// Fails if two of a column's records cannot stand beside each other.
fn check_alike(records: &[&Record], measure: Measure) -> Result<(), Failure> {
    let Some(first) = records.first() else { return Ok(()) };
    for record in &records[1..] {
        for (what, a, b) in [
            ("measured by", first.protocol(measure), record.protocol(measure)),
            ("measured by", first.protocol(other(measure)), record.protocol(other(measure))),
            ("on images of SHA-256", first.data_sha256.clone(), record.data_sha256.clone()),
        ] {
            if a != b {
                let message = format!(
                    "column {}: `{}` is {what} `{a}`, `{}` {what} `{b}`: such numbers are not mixed",
                    first.column, first.id, record.id
                );
                return Err(Failure::new(Code::Data, message)
                    .help("give all rows of a column the same [evaluation] and [data]"));
            }
        }
        if record.accuracy_percent(measure).is_none() {
            let message = format!("`{}` has no accuracy by {}", record.id, title_of(measure));
            return Err(Failure::new(Code::Data, message));
        }
    }
    Ok(())
}

fn lines(
    grid: &GridFile,
    column: &str,
    jobs: &[(&Job, Option<&Record>)],
    planned: Option<&Planned>,
    reproduces: bool,
) -> Vec<Line> {
    let measure = grid.protocol.measure();
    let of = |row: &str, arm: Arm| -> Vec<(&Job, Option<&Record>)> {
        let here = jobs.iter().filter(|(job, _)| job.row == row && job.arm == arm);
        here.map(|(job, record)| (*job, *record)).collect()
    };
    let mut lines = Vec::new();
    for row in &grid.rows {
        for arm in [Arm::BaseAtEqualCompute, Arm::Own] {
            let own = of(&row.name, arm);
            let Some((job, _)) = own.first() else { continue };
            let seeds = values(&own, measure);
            let base = row.base.as_deref();
            let over = |other: Vec<(&Job, Option<&Record>)>| match arm {
                Arm::Own => difference(&seeds, &values(&other, measure)),
                Arm::BaseAtEqualCompute => None,
            };
            let over_base = base.and_then(|base| over(of(base, Arm::Own)));
            let at_equal_compute = of(&row.name, Arm::BaseAtEqualCompute);
            let over_base_at_equal_compute = match (base, at_equal_compute.is_empty()) {
                (None, _) => None,
                // It costs no more than its base: that is at equal compute already.
                (Some(_), true) if grid.equal_compute => over_base,
                (Some(_), true) => None,
                (Some(_), false) => over(at_equal_compute),
            };
            let found: Vec<&Record> = own.iter().filter_map(|(_, record)| *record).collect();
            let controls: Vec<_> =
                found.iter().filter_map(|record| record.results.mask_controls.as_ref()).collect();
            let cell = planned.and_then(|planned| planned.of(job));
            let state = match (seeds.len() == own.len() && reproduces, cell.is_some()) {
                (true, _) => CellState::Reproduced,
                (false, true) => CellState::Reproducible,
                (false, false) => CellState::Open,
            };
            let percents: Vec<f64> = seeds.iter().map(|value| value.percent).collect();
            let others: Vec<f64> = seeds.iter().filter_map(|value| value.other_percent).collect();
            let times: Vec<f64> = found.iter().map(|record| record.cost.training_s).collect();
            let of_base = base.and_then(|base| grid.rows.iter().find(|row| row.name == base));
            let title = match (arm, of_base) {
                (Arm::BaseAtEqualCompute, Some(base)) => {
                    format!("{}, as long as {} costs", base.title, short(&row.title, &base.title))
                }
                _ => row.title.clone(),
            };
            let noted = |names: &[String], name: &str| {
                names.is_empty() || names.iter().any(|noted| noted == name)
            };
            let is_general = |i: &usize| {
                let note = &grid.notes[*i];
                note.rows.is_empty() && note.columns.is_empty()
            };
            let notes = (0..grid.notes.len()).filter(|i| !is_general(i) && arm == Arm::Own);
            let notes = notes.filter(|&i| {
                let note = &grid.notes[i];
                noted(&note.rows, &row.name) && noted(&note.columns, column)
            });
            lines.push(Line {
                row: row.name.clone(),
                title,
                arm,
                state,
                ours: MeanStd::of(&percents).ok(),
                other: MeanStd::of(&others).ok(),
                seeds,
                epochs: job.config.training.epochs,
                paper: match arm {
                    Arm::Own => row.paper.get(column).copied(),
                    Arm::BaseAtEqualCompute => None,
                },
                over_base,
                over_base_at_equal_compute,
                counted_cost: counted_cost(&job.config).map(|cost| cost / PLAIN),
                training_s: MeanStd::of(&times).ok().map(|times| times.mean),
                peak_mib: found.iter().filter_map(|record| record.cost.peak_mib).reduce(f64::max),
                estimate: cell.map(|cell| cell.estimate),
                mask_controls: LineControls::of(&controls),
                notes: notes.map(|i| i + 1).collect(),
            });
        }
    }
    lines
}

/// `SimCLR + MetaMask` beside `SimCLR` is `+ MetaMask`.
fn short<'a>(title: &'a str, base: &str) -> &'a str {
    title.strip_prefix(base).map_or(title, str::trim_start)
}

fn values(jobs: &[(&Job, Option<&Record>)], measure: Measure) -> Vec<SeedValue> {
    let values = jobs.iter().filter_map(|(job, record)| {
        let record = (*record)?;
        Some(SeedValue {
            seed: job.seed,
            id: job.id.clone(),
            percent: record.accuracy_percent(measure)?,
            other_percent: record.accuracy_percent(other(measure)),
        })
    });
    values.collect()
}

/// Of the seeds that both have.
fn difference(a: &[SeedValue], b: &[SeedValue]) -> Option<PairedDifference> {
    let pairs = a.iter().filter_map(|a| {
        let b = b.iter().find(|b| b.seed == a.seed)?;
        Some((a.percent, b.percent))
    });
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.unzip();
    PairedDifference::of(&a, &b).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{
        file::tests::{SMALL, parse},
        record::tests::record,
    };
    use super::*;

    /// Records of the small grid: base, the base at equal compute, + MetaMask, a seed each.
    pub(in crate::grid) fn written(
        percents: &[[f64; 3]],
        change: impl Fn(&mut Record),
    ) -> (GridFile, tempfile::TempDir) {
        let grid = parse(SMALL).expect("it reads");
        let folder = tempfile::tempdir().expect("a folder");
        let all = jobs(&grid, &Selection::default()).expect("it fits");
        for (jobs, percents) in all.chunks(3).zip(percents) {
            // In the order of the jobs: base, + MetaMask, base at equal compute.
            let order = [percents[0], percents[2], percents[1]];
            for (job, percent) in jobs.iter().zip(order) {
                let mut record = record(job, percent);
                change(&mut record);
                record.write(folder.path()).expect("written");
            }
        }
        (grid, folder)
    }

    fn table(percents: &[[f64; 3]], change: impl Fn(&mut Record)) -> Result<Table, Failure> {
        let (grid, folder) = written(percents, change);
        Table::of(&grid, folder.path(), &Selection::default())
    }

    #[test]
    fn cells_are_added_up_as_written_out() -> Result<(), Failure> {
        let table = table(&[[50.0, 53.0, 54.0], [52.0, 54.0, 55.0]], |_| ())?;
        let column = &table.sections[0].columns[0];
        let [base, equal, masked] = &column.lines[..] else { panic!("{column:?}") };
        assert_eq!(equal.arm, Arm::BaseAtEqualCompute);
        assert_eq!(equal.title, "SimCLR, as long as + MetaMask costs");
        assert_eq!((base.epochs, equal.epochs, masked.epochs), (3, 7, 3));
        // Means (50 + 52)/2 and (54 + 55)/2; spread of two values is |a − b|/√2.
        let ours = base.ours.expect("two seeds");
        assert!((ours.mean - 51.0).abs() < 1e-12);
        assert!((ours.std.expect("two") - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(masked.ours.map(|ours| (ours.mean, ours.n)), Some((54.5, 2)));
        assert_eq!(masked.other.map(|other| other.mean), Some(59.5));
        // Differences 4 and 3: 3.5 ± 12.7062 · (1/√2)/√2 = 3.5 ± 6.3531.
        let over = masked.over_base.expect("two pairs");
        let [low, high] = over.interval.expect("two pairs");
        assert!((over.mean - 3.5).abs() < 1e-12);
        assert!((low + 2.8531).abs() < 1e-4 && (high - 9.8531).abs() < 1e-4, "{over}");
        let at_equal = masked.over_base_at_equal_compute.expect("two pairs");
        assert!((at_equal.mean - 1.0).abs() < 1e-12 && at_equal.excludes_zero());
        assert_eq!((base.over_base, equal.over_base), (None, None));
        assert_eq!((base.paper, equal.paper, masked.paper), (Some(50.0), None, None));
        assert_eq!(
            column.untrained.map(|untrained| (untrained.mean, untrained.n)),
            Some((20.0, 2))
        );
        assert_eq!((column.pixels_percent, column.chance_percent), (Some(30.0), Some(10.0)));
        assert!((masked.counted_cost.expect("counted") - 7.0 / 3.0).abs() < 1e-12);
        assert_eq!(table.sections[0].counts(), [0, 0, 2], "the further arm is no cell");
        Ok(())
    }

    #[test]
    fn a_cell_with_a_seed_missing_is_not_reproduced_but_shown() -> Result<(), Failure> {
        let table = table(&[[50.0, 53.0, 54.0]], |_| ())?;
        let section = &table.sections[0];
        assert_eq!(section.counts(), [2, 0, 0]);
        let masked = &section.columns[0].lines[2];
        assert_eq!(masked.ours.map(|ours| (ours.mean, ours.std, ours.n)), Some((54.0, None, 1)));
        let over = masked.over_base.expect("one pair");
        assert_eq!((over.mean, over.interval), (4.0, None));
        Ok(())
    }

    #[test]
    fn numbers_that_do_not_belong_together_are_refused() {
        let both = [[50.0, 53.0, 54.0], [52.0, 54.0, 55.0]];
        let refused = |change: &dyn Fn(&mut Record), expected: &str| {
            let failure = table(&both, |record| {
                if record.seed == 1 {
                    change(record);
                }
            });
            let failure = failure.expect_err(expected);
            assert_eq!(failure.code, Code::Data);
            assert!(failure.message.contains(expected), "{failure}");
        };
        refused(
            &|record| record.results.protocols[0] = "kNN: k = 200".to_owned(),
            "measured by `kNN: k = 200; garments: ",
        );
        refused(&|record| record.results.split = "garments: 61".to_owned(), "garments: 61");
        refused(&|record| record.data_sha256 = "1".repeat(64), "on images of SHA-256");
        refused(
            &|record| record.version = "9.9.9".to_owned(),
            "by 9.9.9: their numbers are not mixed",
        );
    }

    #[test]
    fn a_planned_comparison_is_tested_at_equal_compute() -> Result<(), Failure> {
        let (mut grid, folder) = written(&[[50.0, 53.0, 54.0], [52.0, 54.0, 57.0]], |_| ());
        let of = |grid: &GridFile| Table::of(grid, folder.path(), &Selection::default());
        assert!(of(&grid)?.planned_tests.is_empty(), "none was planned");
        grid.planned_tests = vec!["simclr-metamask".to_owned()];
        let [test] = &of(&grid)?.planned_tests[..] else { panic!("one column, one row") };
        // d = 1, 3: t = 2 √2 / √2 with one degree of freedom, P(|T| > 2) = 1 − 2/π arctan 2.
        assert_eq!(test.difference.mean, 2.0);
        let expected = 1.0 - std::f64::consts::FRAC_2_PI * 2f64.atan();
        assert!((test.p_value - expected).abs() < 1e-12);
        assert_eq!(test.holm_p_value, test.p_value, "one test is all of them");
        let page = crate::grid::page::markdown(&of(&grid)?, "records");
        assert!(
            page.contains("| SimCLR + MetaMask | +2.00 [-10.71, +14.71] | 2 | 0.2952 | 0.2952 |")
        );
        // A third seed that has not run: nobody looks before the end.
        grid.seeds.push(2);
        assert!(of(&grid)?.planned_tests.is_empty());
        Ok(())
    }

    #[test]
    fn a_record_of_no_job_is_not_passed_over() {
        let (grid, folder) = written(&[[50.0, 53.0, 54.0]], |_| ());
        fs::write(folder.path().join("table.json"), "{}").expect("written");
        assert!(Table::of(&grid, folder.path(), &Selection::default()).is_ok(), "no record");
        fs::write(folder.path().join("garments-gone-s0.json"), "{}").expect("written");
        let failure = Table::of(&grid, folder.path(), &Selection::default()).expect_err("refused");
        assert!(failure.message.contains("is of no job of this grid"), "{failure}");
    }

    #[test]
    fn without_records_every_cell_is_open() -> Result<(), Failure> {
        let table = table(&[], |_| ())?;
        assert_eq!(table.sections[0].counts(), [2, 0, 0]);
        assert_eq!(table.version, None);
        Ok(())
    }
}

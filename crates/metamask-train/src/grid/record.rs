//! What is kept of a finished job: a small JSON file that says everything a
//! number needs beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use metamask_ops::Kernel;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::jobs::{Arm, Job};
use crate::{
    config::Config,
    durable,
    evaluate::{Measure, Results},
    failure::{Code, Failure},
    run_folder,
};

/// Raised by whoever changes the number that a run ends with: an optimisation that
/// sums in another order does not need it, another algorithm, augmentation or evaluation does.
/// Records of different versions are not put into one table.
pub const RESULTS_VERSION: u32 = 1;

/// The version that stands in a record.
pub fn version() -> String {
    format!("{}+results.{RESULTS_VERSION}", env!("CARGO_PKG_VERSION"))
}

const FORMAT: u32 = 1;
const MAX_BYTES: u64 = 4 << 20;
/// Points of a curve that are kept; longer ones are thinned evenly.
const MAX_POINTS: usize = 40;

/// What is kept of a finished job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of this file.
    pub format: u32,
    /// The job's name.
    pub id: String,
    /// The grid's name.
    pub grid: String,
    /// The budget's name.
    pub budget: String,
    /// The recipe.
    pub recipe: String,
    /// The column's name.
    pub column: String,
    /// The row's name.
    pub row: String,
    /// The row itself, or its base at equal compute.
    pub arm: Arm,
    /// The seed.
    pub seed: u64,
    /// Of the program: see [`RESULTS_VERSION`].
    pub version: String,
    /// What the program was built from, if it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Every setting, as TOML.
    pub config: BTreeMap<String, String>,
    /// SHA-256 over all images and labels.
    pub data_sha256: String,
    /// The accuracies with their protocols.
    pub results: Results,
    /// The epochs in brief.
    pub curve: Vec<Map<String, Value>>,
    /// Time and memory.
    pub cost: Cost,
}

/// What a job took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Of training, without what a kill took away.
    pub training_s: f64,
    /// Of the evaluation, baselines included.
    pub evaluation_s: f64,
    /// Highest resident memory of the job's processes, where the system tells it.
    pub peak_mib: Option<f64>,
    /// Threads of the job.
    pub threads: usize,
    /// Jobs that ran beside each other.
    pub jobs: usize,
    /// The processor.
    pub machine: String,
}

/// What a job's process says at its end, a line of `timings.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessLine {
    /// `process`
    pub kind: String,
    /// Steps done.
    pub step: u64,
    /// Highest resident memory.
    pub peak_mib: Option<f64>,
    /// Threads.
    pub threads: usize,
    /// Jobs beside each other.
    pub jobs: usize,
    /// The processor.
    pub machine: String,
}

impl Record {
    /// Of a finished run.
    ///
    /// # Errors
    /// If the run cannot be read, is not finished, or has other settings than the job.
    pub fn of(grid: &str, job: &Job, run: &Path, source: Option<String>) -> Result<Self, Failure> {
        let (config, sha256) = run_folder::read_config(run)?;
        if let [difference, ..] = &job.config.differences(&config)[..] {
            let message = format!("is of another job: {difference}");
            return Err(Failure::at(Code::Config, run, message));
        }
        let Some(results) = run_folder::read_results(run)? else {
            return Err(Failure::at(Code::Missing, run, "has no results, expected a finished run"));
        };
        let checkpoints =
            crate::checkpoint::Checkpoints::to_inspect(run.join("checkpoints"), sha256)?;
        let timings = lines(&run.join("timings.jsonl"))?;
        let seconds = |kind: &str| -> f64 {
            of_kind(&timings, kind).filter_map(|line| line["duration_s"].as_f64()).sum()
        };
        let processes: Vec<ProcessLine> = of_kind(&timings, "process")
            .filter_map(|line| serde_json::from_value(line.clone()).ok())
            .collect();
        let last = processes.last();
        Ok(Self {
            format: FORMAT,
            id: job.id.clone(),
            grid: grid.to_owned(),
            budget: job.budget.clone(),
            recipe: job.recipe.clone(),
            column: job.column.clone(),
            row: job.row.clone(),
            arm: job.arm,
            seed: job.seed,
            version: version(),
            source,
            config: job.config.settings().into_iter().collect(),
            data_sha256: checkpoints.identity.data_sha256,
            results,
            curve: curve(&lines(&run.join("metrics.jsonl"))?),
            cost: Cost {
                training_s: tenths(seconds("epoch")),
                evaluation_s: tenths(seconds("evaluation")),
                peak_mib: processes.iter().filter_map(|p| p.peak_mib).reduce(f64::max).map(tenths),
                threads: last.map_or(0, |process| process.threads),
                jobs: last.map_or(0, |process| process.jobs),
                machine: last.map_or_else(String::new, |process| process.machine.clone()),
            },
        })
    }

    /// Where the record of a job lies.
    pub fn path(folder: &Path, id: &str) -> PathBuf {
        folder.join(format!("{id}.json"))
    }

    /// Reads the record of a job, if it is there, and holds it against the job.
    ///
    /// # Errors
    /// If it is damaged, or was made with other settings.
    pub fn of_job(folder: &Path, grid: &str, job: &Job) -> Result<Option<Self>, Failure> {
        let path = Self::path(folder, &job.id);
        let Some(record) = Self::read(&path)? else { return Ok(None) };
        record.belongs_to(grid, job, &path)?;
        Ok(Some(record))
    }

    /// Reads a record; `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be read or is none.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let bytes = match durable::read_at_most(path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(path, "read", &error)),
        };
        let not_one = |what: String| Failure::at(Code::Data, path, what);
        let bytes = bytes.ok_or_else(|| not_one("is longer than a record".to_owned()))?;
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| not_one(format!("is no record of a job: {error}")))?;
        if record.format != FORMAT {
            let message = format!("has format {}, this program reads {FORMAT}", record.format);
            return Err(not_one(message));
        }
        Ok(Some(record))
    }

    /// Fails unless it is the job's. Whether versions mix is for whoever puts records together.
    fn belongs_to(&self, grid: &str, job: &Job, path: &Path) -> Result<(), Failure> {
        let stale = |what: String| {
            Err(Failure::at(Code::Data, path, what)
                .help("keep such records in another folder (--records), or remove them"))
        };
        let place = |record: &Self| {
            let Self { grid, budget, recipe, column, row, arm, seed, id, .. } = record;
            format!("{grid}: {budget}, {recipe}, {column}, {row}, {arm:?}, {seed}, {id}")
        };
        let Job { id, budget, recipe, column, row, arm, seed, .. } = job;
        let expected =
            format!("{grid}: {budget}, {recipe}, {column}, {row}, {arm:?}, {seed}, {id}");
        if place(self) != expected {
            return stale(format!("is of `{}`, expected `{expected}`", place(self)));
        }
        let default: BTreeMap<_, _> = Config::default().settings().into_iter().collect();
        for (key, value) in job.config.settings() {
            // A setting that is younger than the record was at its default.
            let was = self.config.get(&key).or_else(|| default.get(&key));
            if was != Some(&value) {
                let was = was.map_or("nothing", String::as_str);
                return stale(format!("has other settings: `{key}` was {was}, is {value}"));
            }
        }
        let known: BTreeSet<&String> = default.keys().collect();
        match self.config.keys().find(|key| !known.contains(key)) {
            None => Ok(()),
            Some(key) => stale(format!("has the setting `{key}`, which there is no more")),
        }
    }

    /// Writes it, once: a record is never overwritten.
    ///
    /// # Errors
    /// If there is another one of that name, or the disk refuses.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let path = Self::path(folder, &self.id);
        fs::create_dir_all(folder).map_err(|error| Failure::io(folder, "create", &error))?;
        match Self::read(&path)? {
            None => {
                let mut text = serde_json::to_vec_pretty(self).expect("a record is plain JSON");
                text.push(b'\n');
                durable::replace(&path, &text)?;
            }
            // Time and place are another matter.
            Some(there) if there.results == self.results && there.config == self.config => (),
            Some(_) => {
                let message = "is there already with other results; records are never overwritten";
                return Err(Failure::at(Code::OutDir, &path, message)
                    .help("keep the new ones in another folder (--records)"));
            }
        }
        Ok(path)
    }

    /// The run's own number: with the mask where it has one, unless it is off at test time.
    pub fn accuracy_percent(&self, measure: Measure) -> Option<f64> {
        self.accuracy_of("trained encoder", measure)
    }

    /// The first representation whose name begins with this.
    pub fn accuracy_of(&self, representation: &str, measure: Measure) -> Option<f64> {
        let row = self.results.rows.iter();
        let row = row.clone().find(|row| row.representation.starts_with(representation))?;
        match measure {
            Measure::Knn => row.knn_percent,
            Measure::Linear => row.linear_percent,
            Measure::FineTune(_) => None,
        }
    }

    /// How it was measured, in full: protocol, images, epoch.
    pub fn protocol(&self, measure: Measure) -> String {
        let begins = match measure {
            Measure::Knn => "kNN",
            Measure::Linear => "linear",
            Measure::FineTune(_) => "fine-tune",
        };
        let protocol = self.results.protocols.iter().find(|line| line.starts_with(begins));
        let protocol = protocol.map_or("no protocol", String::as_str);
        format!("{protocol}; {}; last epoch", self.results.split)
    }
}

/// What the machine is, as far as it says so.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = format!("{:?}", Kernel::current()).to_lowercase();
    format!("{}, {cores} cores, {kernel} kernels", model.unwrap_or(std::env::consts::ARCH))
}

fn tenths(x: f64) -> f64 {
    (10.0 * x).round() / 10.0
}

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

/// The whole lines of a log.
pub(super) fn lines(path: &Path) -> Result<Vec<Value>, Failure> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::io(path, "read", &error)),
        Ok(text) => text,
    };
    let lines = text.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// What of an epoch is worth keeping.
const KEPT: [&str; 8] = [
    "epoch",
    "base_loss",
    "redundancy_loss",
    "second_order_ratio",
    "mask_min",
    "mask_max",
    "embedding_std",
    "effective_rank",
];

fn curve(metrics: &[Value]) -> Vec<Map<String, Value>> {
    let epochs: Vec<&Value> = of_kind(metrics, "epoch").collect();
    let every = epochs.len().div_ceil(MAX_POINTS).max(1);
    let is_kept = |i: usize| (i + 1).is_multiple_of(every) || i + 1 == epochs.len();
    let kept = epochs.iter().enumerate().filter(|(i, _)| is_kept(*i));
    kept.map(|(_, epoch)| {
        let kept = KEPT.iter().filter_map(|&key| {
            let value = epoch.get(key)?;
            // Six digits draw any curve.
            let value = match value.as_f64() {
                Some(x) if !value.is_u64() => format!("{x:.5e}").parse::<f64>().ok()?.into(),
                _ => value.clone(),
            };
            Some((key.to_owned(), value))
        });
        kept.collect()
    })
    .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{
        file::tests::{SMALL, parse},
        jobs::{Selection, jobs},
    };
    use super::*;
    use crate::evaluate::Row;

    /// A record of a job that ended with this kNN.
    pub(in crate::grid) fn record(job: &Job, knn: f64) -> Record {
        Record {
            format: FORMAT,
            id: job.id.clone(),
            grid: "small".to_owned(),
            budget: job.budget.clone(),
            recipe: job.recipe.clone(),
            column: job.column.clone(),
            row: job.row.clone(),
            arm: job.arm,
            seed: job.seed,
            version: version(),
            source: None,
            config: job.config.settings().into_iter().collect(),
            data_sha256: "0".repeat(64),
            results: Results {
                step: 30,
                epoch: job.config.training.epochs as u64,
                split: "garments: 60 training images, 20 test images, 10 classes".to_owned(),
                protocols: vec!["kNN: k = 5".to_owned(), "linear probe: L-BFGS".to_owned()],
                chance_percent: 10.0,
                rows: vec![
                    row("raw pixels", 30.0),
                    row("untrained encoder", 20.0),
                    row("trained encoder", knn),
                ],
                mask: None,
                mask_controls: None,
            },
            curve: Vec::new(),
            cost: Cost {
                training_s: 60.0,
                evaluation_s: 5.0,
                peak_mib: Some(100.0),
                threads: 1,
                jobs: 2,
                machine: "a machine".to_owned(),
            },
        }
    }

    fn row(name: &str, knn: f64) -> Row {
        let (knn_percent, linear_percent) = (Some(knn), Some(knn + 5.0));
        Row { knn_percent, linear_percent, ..Row::new(name) }
    }

    #[test]
    fn a_record_is_written_once_and_read_back() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let job = &jobs(&parse(SMALL)?, &Selection::default())?[0];
        let record = record(job, 51.5);
        record.write(folder.path())?;
        assert_eq!(Record::of_job(folder.path(), "small", job)?, Some(record.clone()));
        // The same results of another day are no conflict, others are.
        let mut later = record.clone();
        later.cost.training_s = 61.0;
        later.write(folder.path())?;
        later.results.rows[2].knn_percent = Some(51.0);
        assert_eq!(later.write(folder.path()).expect_err("refused").code, Code::OutDir);
        assert_eq!(Record::of_job(folder.path(), "small", job)?, Some(record));
        Ok(())
    }

    #[test]
    fn a_record_of_another_job_or_other_settings_is_refused() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let job = &jobs(&parse(SMALL)?, &Selection::default())?[0];
        let refused = |change: &dyn Fn(&mut Record), expected: &str| {
            let mut record = record(job, 51.5);
            change(&mut record);
            let text = serde_json::to_vec(&record).expect("JSON");
            fs::write(Record::path(folder.path(), &job.id), text).expect("written");
            let failure = Record::of_job(folder.path(), "small", job).expect_err(expected);
            assert_eq!(failure.code, Code::Data);
            assert!(failure.message.contains(expected), "{failure}");
        };
        refused(&|r| r.seed = 9, "expected `small: default, default, garments, simclr, Own, 0");
        let momentum = "optimizer.momentum".to_owned();
        refused(
            &|r| drop(r.config.insert(momentum.clone(), "0.8".to_owned())),
            "`optimizer.momentum` was 0.8, is 0.9",
        );
        refused(
            &|r| drop(r.config.insert("optimizer.gone".to_owned(), "1".to_owned())),
            "`optimizer.gone`, which there is no more",
        );
        refused(&|r| r.format = 9, "has format 9");
        // A setting that is younger than the record is taken at its default.
        let mut older = record(job, 51.5);
        older.config.remove(&momentum);
        fs::write(Record::path(folder.path(), &job.id), serde_json::to_vec(&older)?)?;
        assert!(Record::of_job(folder.path(), "small", job)?.is_some());
        Ok(())
    }

    #[test]
    fn long_curves_are_thinned_and_end_with_the_last_epoch() {
        let epochs: Vec<Value> = (1..=801)
            .map(|i| serde_json::json!({ "kind": "epoch", "epoch": i, "base_loss": 1.0 / 3.0 }))
            .collect();
        let curve = curve(&epochs);
        assert!(curve.len() <= MAX_POINTS + 1, "{}", curve.len());
        assert_eq!(curve.last().expect("a point")["epoch"], 801);
        assert_eq!(curve[0]["base_loss"], 0.333333);
        assert!(curve[0].get("kind").is_none());
    }
}

//! What a grid will cost: each cell trains an epoch of a few steps, and is
//! multiplied out.
//!
//! Sets that lie in files are stood in for by a [`super::fixture`] in their exact format:
//! speed does not depend on what images show, and a cell whose data are not here is
//! rehearsed from its first byte to its table. A batch is measured by its first 64 images, by 16
//! where the network is so wide that a step would take seconds: time goes with the images.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use candle_core::{DType, Device, Tensor};
use metamask_data::Places;
use metamask_eval::{Knn, LinearProbe, Protocol};
use metamask_random::{Key, Purpose};
use serde::{Deserialize, Serialize};

use super::{
    fixture::{self, Sizes},
    jobs::Job,
    record::{machine, version},
};
use crate::{
    config::Config,
    durable,
    evaluate::{encoded_images, features_of, looks},
    failure::{Code, Failure},
    learner::Learner,
    observer::{Observer, StepReport},
    pretrain::{RunOptions, load_data, pretrain},
};

/// Steps of the epoch that is measured; the first one is not timed, of the others the median counts.
const STEPS: usize = 4;
const MAX_BATCH: usize = 64;
const MAX_BATCH_OF_WIDE: usize = 16;
const WIDE: usize = 32;
/// What the classifiers of the evaluation are timed on.
const N_TRAIN: usize = 512;
const N_TEST: usize = 256;

/// What a cell's configuration was found to take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Whether files in the set's exact format stood in for it.
    pub fixture: bool,
    /// Images of a step that was timed.
    pub batch: usize,
    /// Until the first step, of a process and its files.
    pub start_s: f64,
    /// Of training, an image's share.
    pub image_s: f64,
    /// Of evaluation, an image's features.
    pub encode_s: f64,
    /// Of evaluation, all nearest neighbours, per training image and test image.
    pub knn_s: f64,
    /// Of evaluation, all linear probes, per training image.
    pub linear_s: f64,
    /// A checkpoint on the disk.
    pub checkpoint_bytes: u64,
    /// Highest resident memory, at that batch, where the system tells it.
    pub peak_mib: Option<f64>,
    /// Images to pre-train on, to fit classifiers on, and to test on, in the real job.
    pub images: [usize; 3],
}

/// What a job will take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Steps.
    pub steps: u64,
    /// Time in all, evaluation included.
    pub total_s: f64,
    /// Of it the evaluation.
    pub evaluation_s: f64,
    /// On the disk: two checkpoints.
    pub disk_bytes: u64,
    /// Memory; for batches that were not measured whole, the most it can be.
    pub peak_mib: Option<f64>,
}

/// A cell that was rehearsed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedCell {
    /// The column's name.
    pub column: String,
    /// The row's name.
    pub row: String,
    /// [`Job::cell_hash`]: another configuration is another cell.
    pub hash: String,
    /// What was measured.
    pub measured: Measured,
    /// What a job of it will take.
    pub estimate: Estimate,
}

/// Rehearsed cells of one budget and recipe, kept beside the records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// Of this file.
    pub format: u32,
    /// The grid's name.
    pub grid: String,
    /// The budget's name.
    pub budget: String,
    /// The recipe.
    pub recipe: String,
    /// Of the program.
    pub version: String,
    /// The processor.
    pub machine: String,
    /// Threads of each job.
    pub threads: usize,
    /// Jobs beside each other.
    pub jobs: usize,
    /// The cells.
    pub cells: Vec<PlannedCell>,
}

const FORMAT: u32 = 1;
const PREFIX: &str = "plan-";

impl Planned {
    /// An empty one.
    pub fn new(grid: &str, (budget, recipe): (&str, &str), threads: usize, jobs: usize) -> Self {
        Self {
            format: FORMAT,
            grid: grid.to_owned(),
            budget: budget.to_owned(),
            recipe: recipe.to_owned(),
            version: version(),
            machine: machine(),
            threads,
            jobs,
            cells: Vec::new(),
        }
    }

    /// Whether its times can stand beside another's.
    fn is_alike(&self, other: &Self) -> bool {
        let measured_by =
            |plan: &Self| (plan.version.clone(), plan.machine.clone(), plan.threads, plan.jobs);
        measured_by(self) == measured_by(other)
    }

    /// What its times are of.
    pub fn place(&self) -> String {
        let threads = if self.threads == 1 { "thread" } else { "threads" };
        format!("{} {threads} of {}, no GPU", self.threads, self.machine)
    }

    /// Where it lies.
    pub fn path(folder: &Path, budget: &str, recipe: &str) -> PathBuf {
        folder.join(format!("{PREFIX}{budget}-{recipe}.json"))
    }

    /// Whether a file's name is that of a plan.
    pub(super) fn is_named(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// Reads it; `None` if there is none.
    ///
    /// # Errors
    /// If it does not read.
    pub fn read(folder: &Path, budget: &str, recipe: &str) -> Result<Option<Self>, Failure> {
        const MAX_BYTES: u64 = 16 << 20;
        let path = Self::path(folder, budget, recipe);
        let bytes = match durable::read_at_most(&path, MAX_BYTES) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(&path, "read", &error)),
            Ok(bytes) => bytes.unwrap_or_default(),
        };
        let planned: Result<Self, _> = serde_json::from_slice(&bytes);
        match planned {
            Ok(planned) if planned.format == FORMAT => Ok(Some(planned)),
            Ok(_) => Err(Failure::at(Code::Data, &path, "has another format")),
            Err(error) => Err(Failure::at(Code::Data, &path, format!("is no plan: {error}"))),
        }
    }

    /// Writes it; cells that were planned before and not again are kept, unless by another version
    /// or on another machine: a plan says of all its cells what their times are of. A plan is no
    /// result: a newer one takes the place of the older.
    ///
    /// # Errors
    /// If the one that is there does not read, or the disk refuses.
    pub fn write(mut self, folder: &Path) -> Result<PathBuf, Failure> {
        fs::create_dir_all(folder).map_err(|error| Failure::io(folder, "create", &error))?;
        let before = Self::read(folder, &self.budget, &self.recipe)?;
        for cell in before.filter(|before| before.is_alike(&self)).map_or(vec![], |p| p.cells) {
            let same = |own: &PlannedCell| (&own.column, &own.row) == (&cell.column, &cell.row);
            if !self.cells.iter().any(same) {
                self.cells.push(cell);
            }
        }
        self.cells.sort_by(|a, b| (&a.column, &a.row).cmp(&(&b.column, &b.row)));
        let path = Self::path(folder, &self.budget, &self.recipe);
        let mut text = serde_json::to_vec_pretty(&self).expect("a plan is plain JSON");
        text.push(b'\n');
        durable::replace(&path, &text)?;
        Ok(path)
    }

    /// What was planned of a job's cell, if it was planned with these settings.
    pub fn of(&self, job: &Job) -> Option<&PlannedCell> {
        let hash = job.cell_hash();
        self.cells
            .iter()
            .find(|cell| (&cell.column, &cell.row, &cell.hash) == (&job.column, &job.row, &hash))
    }
}

/// Trains an epoch of a few steps and evaluates, in a folder that is empty, and times it.
///
/// # Errors
/// As pre-training.
pub fn measure(config: &Config, scratch: &Path, places: &Places) -> anyhow::Result<Measured> {
    let is_wide = config.encoder.width > WIDE || config.encoder.depth > 18;
    let max_batch = if is_wide { MAX_BATCH_OF_WIDE } else { MAX_BATCH };
    let batch = config.training.batch_size.min(max_batch);
    let mut small = config.clone();
    small.training.epochs = 1;
    small.training.batch_size = batch;
    (small.optimizer.warmup_epochs, small.optimizer.milestones) = (0, Vec::new());
    small.mask.experimental.start_epoch = 0;
    (small.checkpoint.keep, small.log.every_steps) = (2, 0);
    let manifest = config.data.dataset.manifest();
    let manifest = manifest.map_err(|error| Failure::from_data(error.into()))?;
    let (images, places) = match &manifest {
        Some(manifest) => {
            let has_unlabelled = manifest.images.unlabelled > 0;
            // Where there are images without labels both are trained on.
            let (train, unlabelled) = match has_unlabelled {
                true => (batch, (STEPS - 1) * batch),
                false => (STEPS * batch, 0),
            };
            let folder = scratch.join("data");
            fixture::write(manifest, Sizes { train, test: batch, unlabelled }, &folder)?;
            (small.data.train_images, small.data.validation_images) = (0, 0);
            let places = Places { data_dir: Some(folder), ..Places::default() };
            (counted(config, manifest.images), places)
        }
        None => {
            let data = load_data(config, places)?;
            let split = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
            let images = [split.len(), data.train.len(), data.test.len()];
            if data.unlabelled.is_none() {
                // Both are taken from the training images.
                let n = STEPS * batch + batch;
                if n < data.train.len() {
                    (small.data.train_images, small.data.validation_images) = (n, batch);
                }
            }
            (images, places.clone())
        }
    };

    let out = scratch.join("run");
    let mut clock = Clock::default();
    let options = RunOptions { out: out.clone(), places: places.clone(), ..RunOptions::default() };
    let started = Time::now();
    pretrain(&small, &options, &mut clock)?;
    let mut intervals: Vec<f64> =
        clock.steps.windows(2).map(|w| w[1].seconds_since(&w[0])).collect();
    intervals.sort_by(f64::total_cmp);
    let (Some(first), Some(&step_s)) = (clock.steps.first(), intervals.get(intervals.len() / 2))
    else {
        let message = format!("an epoch of `{}` has one step only", config.data.dataset);
        return Err(Failure::new(Code::Config, message).into());
    };
    let start_s = first.seconds_since(&started);

    let data = load_data(&small, &places)?;
    let learner = Learner::new(&small, DType::F32)?;
    let size = config.augmentation.size;
    let start = Time::now();
    let features = features_of(&learner, &data.train, size)?;
    let encode_s = Time::now().seconds_since(&start) / data.train.len().max(1) as f64;
    let n_features = features.dim(1)?;
    let (n_classes, k) = (data.train.n_classes(), config.evaluation.knn_k.min(N_TRAIN));
    let knn = Protocol::Knn(Knn { k, temperature: config.evaluation.knn_temperature });
    let [knn_looks, probes] = looks(config, n_features, [images[1], images[2]], &data.train);
    let probe = Protocol::LinearProbe(LinearProbe::default());
    Ok(Measured {
        fixture: manifest.is_some(),
        batch,
        start_s: (start_s - step_s).max(0.0),
        image_s: step_s / batch as f64,
        encode_s,
        knn_s: knn_looks * classify(&knn, n_features, n_classes)? / (N_TRAIN * N_TEST) as f64,
        linear_s: probes * classify(&probe, n_features, n_classes)? / N_TRAIN as f64,
        checkpoint_bytes: size_of_newest(&out.join("checkpoints"))?,
        peak_mib: None,
        images,
    })
}

/// Images to pre-train on, to fit classifiers on, and to test on.
fn counted(config: &Config, published: metamask_data::Counts) -> [usize; 3] {
    let [train, test, unlabelled] =
        [published.train, published.test, published.unlabelled].map(|n| n as usize);
    let train = match config.data.train_images {
        0 => train,
        n => n.min(train),
    };
    let (train, test) = match config.data.validation_images {
        0 => (train, test),
        n => (train.saturating_sub(n), n),
    };
    [train + unlabelled, train, test]
}

/// Time of a classifier on noise.
fn classify(protocol: &Protocol, dim: usize, n_classes: usize) -> anyhow::Result<f64> {
    let mut stream = Key::new(1, Purpose::Initialisation).stream();
    let mut features = |n: usize| {
        let values: Vec<f32> = (0..n * dim).map(|_| stream.uniform_f64() as f32 - 0.5).collect();
        Tensor::from_vec(values, (n, dim), &Device::Cpu)
    };
    let (train, test) = (features(N_TRAIN)?, features(N_TEST)?);
    let labels: Vec<u32> = (0..N_TRAIN as u32).map(|i| i % n_classes.max(1) as u32).collect();
    let start = Time::now();
    protocol.accuracy_percent((&train, &labels), (&test, &labels[..N_TEST]), n_classes.max(1))?;
    Ok(Time::now().seconds_since(&start))
}

fn size_of_newest(checkpoints: &Path) -> anyhow::Result<u64> {
    let mut newest = 0;
    for folder in fs::read_dir(checkpoints)? {
        let mut size = 0;
        for file in fs::read_dir(folder?.path())? {
            size += file?.metadata()?.len();
        }
        newest = newest.max(size);
    }
    Ok(newest)
}

/// A time on the wall, and of this process's threads on their processors.
///
/// A job of one thread takes the lesser of the two: a process that had to wait for others took
/// longer on the wall, and one whose views were made beside its steps shorter.
struct Time {
    wall: Instant,
    cpu_s: Option<f64>,
}

impl Time {
    fn now() -> Self {
        let cpu_s = if metamask_ops::threads() == 1 { cpu_s() } else { None };
        Self { wall: Instant::now(), cpu_s }
    }

    fn seconds_since(&self, before: &Self) -> f64 {
        let wall = self.wall.duration_since(before.wall).as_secs_f64();
        match (self.cpu_s, before.cpu_s) {
            // A thread that has ended since is no longer in the sum.
            (Some(now), Some(before)) if now > before => wall.min(now - before),
            _ => wall,
        }
    }
}

/// Time that the threads of this process have been on a processor, where the system tells it.
fn cpu_s() -> Option<f64> {
    let mut nanoseconds = 0;
    for task in fs::read_dir("/proc/self/task").ok()? {
        // One that ends while we look has nothing to read.
        let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(nanoseconds as f64 * 1e-9)
}

/// Remembers when each step ended.
#[derive(Default)]
struct Clock {
    steps: Vec<Time>,
}

impl Observer for Clock {
    fn step(&mut self, _report: &StepReport) {
        self.steps.push(Time::now());
    }
}

impl Measured {
    /// Multiplies it out for a job.
    ///
    /// ```text
    /// steps = epochs · ⌊pre-training images / batch⌋        training = start_s + steps · batch · image_s
    /// evaluation = encoded images · encode_s + train · test · knn_s + train · linear_s
    /// ```
    pub fn estimate(&self, config: &Config) -> Estimate {
        let [pretraining, train, test] = self.images;
        let (batch, epochs) = (config.training.batch_size, config.training.epochs);
        let steps = (epochs * (pretraining / batch)) as u64;
        let training_s = steps as f64 * batch as f64 * self.image_s;
        let (n_train, n_test) = (train as f64, test as f64);
        let evaluation_s = encoded_images(config, [train, test]) as f64 * self.encode_s
            + n_train * n_test * self.knn_s
            + n_train * self.linear_s;
        Estimate {
            steps,
            total_s: self.start_s + training_s + evaluation_s,
            evaluation_s,
            disk_bytes: 2 * self.checkpoint_bytes,
            peak_mib: self.peak_mib.map(|mib| mib * (batch as f64 / self.batch as f64).max(1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        file::tests::{SMALL, parse},
        jobs::{Selection, jobs},
    };
    use super::*;

    fn measured() -> Measured {
        Measured {
            fixture: true,
            batch: 64,
            start_s: 2.0,
            image_s: 0.01,
            encode_s: 0.001,
            knn_s: 1e-7,
            linear_s: 1e-3,
            checkpoint_bytes: 1_000,
            peak_mib: Some(500.0),
            images: [105_000, 5_000, 8_000],
        }
    }

    #[test]
    fn an_estimate_is_the_measurement_multiplied_out() {
        let set = ["training.epochs=10", "training.batch_size=512"].map(String::from);
        let config = Config::read("", "", &set).expect("valid");
        let Estimate { steps, total_s, evaluation_s, disk_bytes, peak_mib } =
            measured().estimate(&config);
        // 205 whole batches an epoch; 13 s + 13 s encode, 4 s neighbours, 5 s probes.
        assert_eq!(steps, 2_050);
        assert!((evaluation_s - (26.0 + 4.0 + 5.0)).abs() < 1e-9, "{evaluation_s}");
        assert!((total_s - (2.0 + 2_050.0 * 5.12 + 35.0)).abs() < 1e-6, "{total_s}");
        assert_eq!((disk_bytes, peak_mib), (2_000, Some(4_000.0)));
        // Mask controls see two views of 2,000 images.
        let set = [&set[..], &["evaluation.mask_controls=30".to_owned()]].concat();
        let config = Config::read("", "", &set).expect("valid");
        assert!((measured().estimate(&config).evaluation_s - (35.0 + 4.0)).abs() < 1e-9);
    }

    #[test]
    fn a_limit_and_a_validation_cut_change_what_is_counted() {
        let published = metamask_data::Counts { train: 5_000, test: 8_000, unlabelled: 100_000 };
        let count = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
            counted(&Config::read("", "", &set).expect("valid"), published)
        };
        assert_eq!(count(&[]), [105_000, 5_000, 8_000]);
        assert_eq!(count(&["data.train_images=1000"]), [101_000, 1_000, 8_000]);
        assert_eq!(count(&["data.validation_images=500"]), [104_500, 4_500, 500]);
    }

    #[test]
    fn a_cell_is_rehearsed_on_a_fixture_of_its_set() -> anyhow::Result<()> {
        let set = [
            "data.dataset=stl10",
            "augmentation.size=16",
            "encoder.width=2",
            "encoder.stem=cifar-with-pool",
            "contrastive_head.hidden=[8]",
            "contrastive_head.output=8",
            "training.batch_size=8",
            "training.epochs=100",
            "mask.mode=off",
        ];
        let config = Config::read("", "", &set.map(String::from))?;
        let scratch = tempfile::tempdir()?;
        let measured = measure(&config, scratch.path(), &Places::default())?;
        assert!(measured.fixture && measured.batch == 8, "{measured:?}");
        assert_eq!(measured.images, [105_000, 5_000, 8_000]);
        for seconds in [measured.image_s, measured.encode_s, measured.knn_s, measured.linear_s] {
            assert!(seconds > 0.0, "{measured:?}");
        }
        assert!(measured.checkpoint_bytes > 1_000, "{measured:?}");
        Ok(())
    }

    #[test]
    fn plans_are_kept_cell_by_cell_and_belong_to_their_settings() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let grid = parse(SMALL)?;
        let jobs = jobs(&grid, &Selection::default())?;
        for job in &jobs[..2] {
            let mut planned = Planned::new("small", ("default", "default"), 1, 2);
            planned.cells.push(PlannedCell {
                column: job.column.clone(),
                row: job.row.clone(),
                hash: job.cell_hash(),
                measured: measured(),
                estimate: measured().estimate(&job.config),
            });
            planned.write(folder.path())?;
        }
        let planned = Planned::read(folder.path(), "default", "default")?.expect("written");
        assert_eq!(planned.cells.len(), 2);
        // Seeds share it; other settings do not, and the base at equal compute is no cell.
        assert!(planned.of(&jobs[0]).is_some() && planned.of(&jobs[3]).is_some());
        assert!(planned.of(&jobs[2]).is_none());
        // Times of another machine do not stay beside them.
        let mut elsewhere = Planned { machine: "another".to_owned(), ..planned.clone() };
        elsewhere.cells.truncate(1);
        elsewhere.write(folder.path())?;
        let planned = Planned::read(folder.path(), "default", "default")?.expect("written");
        assert_eq!((planned.cells.len(), &*planned.machine), (1, "another"));
        Ok(())
    }
}

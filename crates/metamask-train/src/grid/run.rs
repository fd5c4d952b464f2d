//! Running a grid: each job in a process of its own, so many at a time.
//!
//! A process a job: one that crashes or is killed takes no other with it, its memory
//! is its own, and as a run's bits do not depend on its threads, none of a grid's
//! numbers depends on how many jobs ran beside each other. A child's stdin is a pipe that
//! nothing is written to: when it closes, because the grid was asked to stop or has been
//! killed, the child saves its state and ends, so that nobody is left behind.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use metamask_data::{DatasetSpec, Places, status};
use serde::{Deserialize, Serialize};

use super::{
    file::GridFile,
    jobs::Job,
    record::{Record, version},
};
use crate::{
    config::Config,
    cost::counted_cost,
    durable,
    failure::{Code, Failure, shown},
    run_folder,
};

/// How a grid is run; nothing of it changes a number.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The grid's folder, with a run for each job.
    pub out: PathBuf,
    /// Where records are kept.
    pub records: PathBuf,
    /// Jobs beside each other.
    pub parallel: usize,
    /// Threads that they share.
    pub threads: usize,
    /// Whether jobs that failed are tried again.
    pub retry: bool,
    /// What the program was built from, for the records.
    pub source: Option<String>,
    /// This program.
    pub program: PathBuf,
    /// What each job is told beside its own words, such as where the data are.
    pub arguments: Vec<OsString>,
}

/// Where a job stands.
#[derive(Clone, Debug)]
pub enum State {
    /// There is a record of it, or a run with results.
    Finished,
    /// It has begun.
    Interrupted,
    /// It ended with an error.
    Failed(Failed),
    /// It has not begun.
    Open,
    /// Nor can it: the data are not here.
    NoData,
}

/// How a job failed, kept beside its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// The exit status, or the signal that ended it.
    pub ended: String,
    /// The line of its error.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// Watches a grid. Every method has an empty body.
pub trait GridObserver {
    /// A job has begun, or goes on.
    fn started(&mut self, job: &Job, resumes: bool) {
        let _ = (job, resumes);
    }
    /// A job is finished and its record safe.
    fn finished(&mut self, job: &Job, record: &Record, outlook: &Outlook) {
        let _ = (job, record, outlook);
    }
    /// A job has failed; the others go on.
    fn failed(&mut self, job: &Job, failed: &Failed, log: &Path, outlook: &Outlook) {
        let _ = (job, failed, log, outlook);
    }
    /// A moment has passed.
    fn passed(&mut self, outlook: &Outlook) {
        let _ = outlook;
    }
    /// Whether to stop: running jobs save their state.
    fn is_interrupted(&self) -> bool {
        false
    }
}

/// How far a grid is.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    /// Jobs that ended, those of before included.
    pub ended: usize,
    /// Jobs in all.
    pub jobs: usize,
    /// Jobs that run.
    pub running: usize,
    /// Time that is left, once there is a speed to tell it by.
    pub left_s: Option<f64>,
}

/// What has become of the jobs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Finished, those of before included.
    pub finished: usize,
    /// Failed, with the line of each one's error.
    pub failed: Vec<(String, Failed)>,
    /// Data sets that are not here, and how many jobs wait for each.
    pub no_data: BTreeMap<String, usize>,
    /// Whether it was asked to stop.
    pub interrupted: bool,
}

/// The folder of a job's run.
pub fn run_of(out: &Path, job: &Job) -> PathBuf {
    out.join("jobs").join(&job.id)
}

fn beside(out: &Path, job: &Job, ending: &str) -> PathBuf {
    out.join("jobs").join(format!("{}{ending}", job.id))
}

/// Whether the data of a configuration are on this machine.
///
/// # Errors
/// If a manifest cannot be read.
pub fn data_is_here(spec: &DatasetSpec, places: &Places) -> anyhow::Result<bool> {
    match (spec.manifest().map_err(|error| Failure::from_data(error.into()))?, spec) {
        (Some(manifest), _) => {
            let status = status(&manifest, places);
            let status = status.map_err(|error| Failure::from_data(error.into()))?;
            Ok(status.origin.is_some())
        }
        (None, DatasetSpec::Folder(path)) => Ok(path.exists()),
        (None, _) => Ok(true),
    }
}

/// Where each job stands.
///
/// # Errors
/// If a record is damaged, of another version or of other settings.
pub fn states(
    grid: &GridFile,
    jobs: &[Job],
    (out, records): (&Path, &Path),
    places: &Places,
) -> anyhow::Result<Vec<State>> {
    let mut here = BTreeMap::new();
    let mut states = Vec::new();
    for job in jobs {
        let spec = &job.config.data.dataset;
        let run = run_of(out, job);
        let state = if Record::of_job(records, &grid.name, job)?.is_some()
            || (run_folder::is_run(&run) && run_folder::read_results(&run)?.is_some())
        {
            State::Finished
        } else if let Some(failed) = failed_before(out, job)? {
            State::Failed(failed)
        } else if run_folder::is_run(&run) {
            State::Interrupted
        } else {
            let name = spec.to_string();
            if !here.contains_key(&name) {
                here.insert(name.clone(), data_is_here(spec, places)?);
            }
            if here[&name] { State::Open } else { State::NoData }
        };
        states.push(state);
    }
    Ok(states)
}

fn failed_before(out: &Path, job: &Job) -> Result<Option<Failed>, Failure> {
    const MAX_BYTES: u64 = 1 << 20;
    let path = beside(out, job, ".failed.json");
    match durable::read_at_most(&path, MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io(&path, "read", &error)),
        Ok(bytes) => {
            let failed = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let damaged = || Failed {
                ended: "unknown".to_owned(),
                message: format!("{}: does not read", shown(&path)),
                attempts: 1,
            };
            Ok(Some(failed.unwrap_or_else(damaged)))
        }
    }
}

/// Runs what is not finished.
///
/// # Errors
/// If the grid's folder is in use or cannot be made, a record is not this version's, or the
/// disk refuses. A job that fails is no error here: it is in the summary.
pub fn run(
    grid: &GridFile,
    jobs: &[Job],
    options: &RunOptions,
    places: &Places,
    observer: &mut dyn GridObserver,
) -> anyhow::Result<Summary> {
    let folder = options.out.join("jobs");
    fs::create_dir_all(&folder).map_err(|error| {
        Failure::at(Code::OutDir, &options.out, format!("cannot be created: {error}"))
    })?;
    let _lock = run_folder::lock(&options.out, &options.out)?;

    let states = states(grid, jobs, (&options.out, &options.records), places)?;
    let mut summary = Summary::default();
    let mut pending = VecDeque::new();
    for (job, state) in jobs.iter().zip(states) {
        match state {
            State::Finished => {
                // Killed between its last word and its record, it gets that now.
                keep(grid, job, options)?;
                summary.finished += 1;
            }
            State::NoData => {
                *summary.no_data.entry(job.config.data.dataset.to_string()).or_default() += 1;
            }
            State::Failed(failed) if !options.retry => {
                summary.failed.push((job.id.clone(), failed));
            }
            State::Failed(_) | State::Interrupted | State::Open => {
                pending.push_back(Waiting { job, not_before: Instant::now(), tries: 0 });
            }
        }
    }
    let total = jobs.len() - summary.no_data.values().sum::<usize>();
    let left: f64 = pending.iter().map(|waiting| work(&waiting.job.config)).sum();
    let mut pool = Pool { options, running: Vec::new(), start: Instant::now(), left, done: 0.0 };
    loop {
        if !summary.interrupted && observer.is_interrupted() {
            summary.interrupted = true;
            pending.clear();
            for running in &mut pool.running {
                // The child sees the end of its stdin.
                drop(running.child.stdin.take());
            }
        }
        while pool.running.len() < options.parallel.max(1) {
            let ready = pending.iter().position(|waiting| waiting.not_before <= Instant::now());
            let Some(waiting) = ready.and_then(|at| pending.remove(at)) else { break };
            let resumes = run_folder::is_run(&run_of(&options.out, waiting.job));
            pool.start(waiting)?;
            observer.started(waiting.job, resumes);
        }
        if pool.running.is_empty() && pending.is_empty() {
            break;
        }
        thread::sleep(POLL);
        for (waiting, status) in pool.ended()? {
            let job = waiting.job;
            if status.success() {
                let record = keep(grid, job, options)?;
                summary.finished += 1;
                let failed = beside(&options.out, job, ".failed.json");
                if failed.exists() {
                    durable::remove(&failed)?;
                }
                pool.left -= work(&job.config);
                observer.finished(job, &record, &pool.outlook(&summary, total));
            } else if summary.interrupted {
                // Its state is saved, or was.
            } else if status.code() == Some(Code::Locked.exit_status().into())
                && waiting.tries < MAX_TRIES
            {
                // A job of a grid that was killed is still saving its state.
                let not_before = Instant::now() + AGAIN;
                pending.push_back(Waiting { not_before, tries: waiting.tries + 1, ..waiting });
            } else {
                let before = failed_before(&options.out, job)?.map_or(0, |failed| failed.attempts);
                let log = beside(&options.out, job, ".log");
                let failed = Failed {
                    ended: status.to_string(),
                    message: last_error(&log),
                    attempts: before + 1,
                };
                let text = serde_json::to_vec_pretty(&failed)?;
                durable::replace(&beside(&options.out, job, ".failed.json"), &text)?;
                pool.left -= work(&job.config);
                summary.failed.push((job.id.clone(), failed.clone()));
                observer.failed(job, &failed, &log, &pool.outlook(&summary, total));
            }
        }
        let outlook = pool.outlook(&summary, total);
        observer.passed(&outlook);
    }
    Ok(summary)
}

const POLL: Duration = Duration::from_millis(50);
/// How long, and how often, a job is left alone that another process holds.
const AGAIN: Duration = Duration::from_millis(500);
const MAX_TRIES: u32 = 240;

#[derive(Clone, Copy)]
struct Waiting<'a> {
    job: &'a Job,
    not_before: Instant,
    tries: u32,
}

struct Running<'a> {
    waiting: Waiting<'a>,
    child: Child,
    slot: usize,
    /// Share of the job that was done when it started here, and that is done now.
    share: [f64; 2],
    looked: Instant,
}

struct Pool<'a> {
    options: &'a RunOptions,
    running: Vec<Running<'a>>,
    start: Instant,
    /// Work of the jobs that have not ended.
    left: f64,
    /// Work that was done here by jobs that have ended.
    done: f64,
}

impl<'a> Pool<'a> {
    fn start(&mut self, waiting: Waiting<'a>) -> Result<(), Failure> {
        let RunOptions { out, parallel, threads, program, arguments, .. } = self.options;
        let job = waiting.job;
        let config = beside(out, job, ".toml");
        durable::replace(&config, job.config.to_annotated_toml().as_bytes())?;
        let log = beside(out, job, ".log");
        let stderr = OpenOptions::new().append(true).create(true).open(&log);
        let stderr = stderr.map_err(|error| Failure::io(&log, "open", &error))?;
        let taken: Vec<usize> = self.running.iter().map(|running| running.slot).collect();
        let slot = (0..).find(|slot| !taken.contains(slot)).expect("there are numbers enough");
        let mut command = Command::new(program);
        command.args(["grid", "job", "--config"]).arg(&config);
        command.arg("--out").arg(run_of(out, job));
        command.args(["--threads", &share_of(*threads, (*parallel).max(1), slot).to_string()]);
        command.args(["--beside", &parallel.to_string()]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr);
        let child =
            command.spawn().map_err(|error| Failure::io(program, "start a job with", &error))?;
        let share = share_done(&run_of(out, job), &job.config);
        let looked = Instant::now();
        self.running.push(Running { waiting, child, slot, share: [share, share], looked });
        Ok(())
    }

    /// The jobs that have ended since.
    fn ended(&mut self) -> Result<Vec<(Waiting<'a>, std::process::ExitStatus)>, Failure> {
        let mut ended = Vec::new();
        let mut i = 0;
        while i < self.running.len() {
            let running = &mut self.running[i];
            let status = running.child.try_wait();
            let status = status
                .map_err(|error| Failure::io(&self.options.program, "wait for a job of", &error))?;
            match status {
                Some(status) => {
                    let Running { waiting, share: [before, _], .. } = self.running.remove(i);
                    if status.success() {
                        self.done += work(&waiting.job.config) * (1.0 - before);
                    }
                    ended.push((waiting, status));
                }
                None => {
                    if running.looked.elapsed() > Duration::from_secs(2) {
                        let job = running.waiting.job;
                        running.share[1] = share_done(&run_of(&self.options.out, job), &job.config);
                        running.looked = Instant::now();
                    }
                    i += 1;
                }
            }
        }
        Ok(ended)
    }

    fn outlook(&self, summary: &Summary, jobs: usize) -> Outlook {
        let here = |running: &Running<'_>| {
            let [before, now] = running.share;
            let whole = work(&running.waiting.job.config);
            (whole * (now - before).max(0.0), whole * now)
        };
        let (gained, done): (Vec<f64>, Vec<f64>) = self.running.iter().map(here).unzip();
        let (gained, done): (f64, f64) = (gained.iter().sum(), done.iter().sum());
        let speed = (self.done + gained) / self.start.elapsed().as_secs_f64();
        Outlook {
            ended: summary.finished + summary.failed.len(),
            jobs,
            running: self.running.len(),
            left_s: (speed > 0.0).then(|| (self.left - done).max(0.0) / speed),
        }
    }
}

/// Threads of a slot: all are given out, and no job has none.
fn share_of(threads: usize, parallel: usize, slot: usize) -> usize {
    (threads / parallel + usize::from(slot < threads % parallel)).max(1)
}

/// Makes sure of a finished job's record.
fn keep(grid: &GridFile, job: &Job, options: &RunOptions) -> Result<Record, Failure> {
    match Record::of_job(&options.records, &grid.name, job)? {
        Some(record) if record.version == version() => Ok(record),
        Some(record) => {
            let path = Record::path(&options.records, &job.id);
            let message = format!(
                "was made by version {}, this is {}: their numbers are not mixed",
                record.version,
                version()
            );
            Err(Failure::at(Code::Data, &path, message)
                .help("keep the new records in another folder (--records), or remove the old ones"))
        }
        None => {
            let run = run_of(&options.out, job);
            let record = Record::of(&grid.name, job, &run, options.source.clone())?;
            record.write(&options.records)?;
            Ok(record)
        }
    }
}

/// The last error in a log, without what follows it.
fn last_error(log: &Path) -> String {
    let text = tail(log, 16 << 10);
    let error = text.lines().rev().find(|line| line.starts_with("error["));
    let line = error.or_else(|| text.lines().rev().find(|line| !line.trim().is_empty()));
    line.unwrap_or("it said nothing").to_owned()
}

fn tail(path: &Path, limit: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(limit);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Share of a run that its log says is done.
fn share_done(run: &Path, config: &Config) -> f64 {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        epoch: u64,
    }
    let text = tail(&run.join("metrics.jsonl"), 8 << 10);
    let last = text.lines().rev().find_map(|line| serde_json::from_str::<Line>(line).ok());
    last.map_or(0.0, |last| {
        let whole = if last.kind == "step" { last.epoch - 1 } else { last.epoch };
        whole as f64 / config.training.epochs as f64
    })
}

/// How much there is to do in a job, in units that jobs share: F times epochs times images.
fn work(config: &Config) -> f64 {
    // A form nobody has counted is taken for the dearest.
    let cost = counted_cost(config).unwrap_or(12.0);
    cost * config.training.epochs as f64 * images(config) as f64
}

fn images(config: &Config) -> usize {
    let published =
        || config.data.dataset.manifest().ok().flatten().map(|manifest| manifest.images);
    match (config.data.train_images, published()) {
        (0, Some(counts)) => (counts.train + counts.unlabelled) as usize,
        // The embedded set's.
        (0, None) => 7_000,
        (n, _) => n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_shared_out_to_the_last_and_nobody_goes_without() {
        let shares = |threads, parallel| -> Vec<usize> {
            (0..parallel).map(|slot| share_of(threads, parallel, slot)).collect()
        };
        assert_eq!(shares(4, 2), [2, 2]);
        assert_eq!(shares(5, 2), [3, 2]);
        assert_eq!(shares(8, 3), [3, 3, 2]);
        assert_eq!(shares(2, 4), [1, 1, 1, 1]);
    }

    #[test]
    fn a_log_gives_up_its_last_error() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("a.log");
        fs::write(&log, "error[IO]: first\nresuming\nerror[NOT-FINITE]: step 3\n  help: lower\n")?;
        assert_eq!(last_error(&log), "error[NOT-FINITE]: step 3");
        fs::write(&log, "thread panicked\n\n")?;
        assert_eq!(last_error(&log), "thread panicked");
        assert_eq!(last_error(&folder.path().join("none")), "it said nothing");
        Ok(())
    }

    #[test]
    fn a_run_s_log_tells_how_far_it_is() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let config = Config::read("", "", &["training.epochs=4".to_owned()])?;
        assert_eq!(share_done(folder.path(), &config), 0.0);
        let text = "{\"kind\":\"epoch\",\"epoch\":1}\n{\"kind\":\"step\",\"epoch\":2}\n{\"ki";
        fs::write(folder.path().join("metrics.jsonl"), text)?;
        assert_eq!(share_done(folder.path(), &config), 0.25);
        Ok(())
    }
}

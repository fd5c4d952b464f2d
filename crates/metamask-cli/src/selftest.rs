//! `metamask selftest`: the promises of the README, held against this machine.
//!
//! Starts this program again and again on a small run, kills some of them, and compares
//! what they leave, byte for byte. Knows a run's folder from outside, as a user does.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use candle_core::Device;
use metamask_random::{Key, Purpose};
use metamask_train::{Code, Failure, agreement::CASES, shown};

use crate::{agreement, arguments::SelftestArguments, print, progress::Spinner};

const CONFIG: &str = include_str!("selftest.toml");
const THREADS: [&str; 3] = ["1", "2", "4"];
/// A run may end before its kill where the machine's load changes; then others are tried.
const MAX_ROUNDS_A_KILL: u32 = 20;

/// What became of a promise.
struct Verdict {
    promise: &'static str,
    tried: String,
    held: usize,
    of: usize,
    /// The first file in which a run differs, and that run.
    difference: Option<(PathBuf, String)>,
}

impl Verdict {
    fn new(promise: &'static str, tried: String) -> Self {
        Self { promise, tried, held: 0, of: 0, difference: None }
    }

    fn count(&mut self, run: &Path, difference: Option<String>) {
        self.of += 1;
        match difference {
            None => self.held += 1,
            Some(file) => {
                self.difference.get_or_insert_with(|| (run.to_owned(), file));
            }
        }
    }

    fn holds(&self) -> bool {
        self.held == self.of
    }
}

pub(crate) fn selftest(arguments: &SelftestArguments) -> anyhow::Result<ExitCode> {
    let device = arguments.device.open()?;
    let bench = Bench::new(arguments.dir.as_deref(), arguments.device.name())?;
    let n_cases = if device.is_cpu() { 0 } else { CASES.len() as u64 };
    let n_runs = 2 + THREADS.len() as u64 + u64::from(arguments.kill);
    let progress = Spinner::new(n_cases + n_runs);
    let found = try_device(&device, &progress)
        .and_then(|agreement| Ok((agreement, try_all(&bench, arguments, &progress)?)));
    progress.finish();
    let ((text, disagreement), verdicts) = found?;
    print::to_stdout(&(text + &table(&verdicts)))?;
    if let Some(failure) = disagreement {
        return Err(failure.into());
    }
    match broken(&verdicts) {
        Some(failure) => {
            Err(failure.kept(format!("both runs, in {}", shown(&bench.folder))).into())
        }
        None => {
            bench.remove();
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What a GPU computes beside what the CPU does; nothing of the CPU itself.
fn try_device(device: &Device, progress: &Spinner) -> anyhow::Result<(String, Option<Failure>)> {
    if device.is_cpu() {
        return Ok((String::new(), None));
    }
    let (text, failure) = agreement::table(device, &mut |case| {
        progress.advance();
        progress.say(case);
    })?;
    Ok((text + "\n", failure))
}

fn try_all(
    bench: &Bench,
    arguments: &SelftestArguments,
    progress: &Spinner,
) -> anyhow::Result<[Verdict; 3]> {
    let done = |what: &str| {
        progress.advance();
        progress.say(what);
    };
    let start = Instant::now();
    let whole = bench.finish("whole", &[])?;
    let duration = start.elapsed();
    done("a whole run");

    let mut repeatability = Verdict::new("repeatability", "the same run again".to_owned());
    repeatability.count(&bench.path("again"), bench.finish("again", &[])?.difference(&whole));
    done("the same again");

    let mut threads =
        Verdict::new("thread independence", format!("{} threads", THREADS.join(", ")));
    for n in THREADS {
        let name = format!("threads-{n}");
        let run = bench.finish(&name, &["--threads", n])?;
        threads.count(&bench.path(&name), run.difference(&whole));
        done(&format!("--threads {n}"));
    }

    let n_kills = u32::from(arguments.kill);
    let mut replay = Verdict::new("restart replay", String::new());
    let (mut n_fired, mut n_saved, mut round) = (0, 0, 0);
    while n_fired < n_kills {
        if round == n_kills * MAX_ROUNDS_A_KILL {
            let message =
                format!("selftest: only {n_fired} of {n_kills} kills hit a running program");
            return Err(Failure::new(Code::Internal, message)
                .help("repeat it when the machine is less busy")
                .into());
        }
        let name = format!("killed-{round}");
        // The instant is drawn; what the program is doing then is up to the machine.
        let instant = Key::new(arguments.seed, Purpose::Test).sample(round).stream().uniform_f64();
        round += 1;
        if !bench.kill(&name, duration.mul_f64(instant))? {
            bench.forget(&name);
            continue;
        }
        n_fired += 1;
        n_saved += u32::from(last_checkpoint(&bench.path(&name)).is_some());
        let run = bench.finish(&name, &[])?;
        let difference = run.difference(&whole);
        if difference.is_none() {
            bench.forget(&name);
        }
        replay.count(&bench.path(&name), difference);
        done(&format!("kill {n_fired} of {n_kills}"));
    }
    replay.tried = format!("{n_fired} kills, {n_saved} of them after a checkpoint");
    Ok([repeatability, threads, replay])
}

/// A folder to run in, and this program.
struct Bench {
    program: PathBuf,
    folder: PathBuf,
    device: String,
}

impl Bench {
    fn new(folder: Option<&Path>, device: &str) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| {
            Failure::io(Path::new("metamask"), "find the program itself", &error)
        })?;
        let name = format!("metamask-selftest-{}", std::process::id());
        let folder = folder.unwrap_or(&std::env::temp_dir()).join(name);
        let cannot = |error| match Failure::io(&folder, "make a folder to run in", &error) {
            failure if failure.code == Code::DiskFull => failure,
            failure => Failure { code: Code::OutDir, ..failure }.help("name another with --dir"),
        };
        fs::create_dir(&folder).map_err(cannot)?;
        let config = folder.join("selftest.toml");
        fs::write(&config, CONFIG).map_err(|error| Failure::io(&config, "write", &error))?;
        Ok(Self { program, folder, device: device.to_owned() })
    }

    fn path(&self, run: &str) -> PathBuf {
        self.folder.join(run)
    }

    fn command(&self, run: &str, more: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null());
        command.args(["pretrain", "--config", "selftest.toml", "--resume", "--offline", "--out"]);
        command.arg(run).args(["--device", &self.device]).args(more);
        command
    }

    /// Runs to the end.
    fn finish(&self, run: &str, more: &[&str]) -> Result<Left, Failure> {
        let output = self.command(run, more).output().map_err(|error| self.cannot_start(&error))?;
        if output.status.success() {
            return Left::of(&self.path(run));
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let line = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("said nothing");
        let message = format!("the run ended with {}: {line}", output.status);
        Err(Failure::at(Code::Promise, &self.path(run), message))
    }

    /// Starts a run and kills it after a time; whether it was still running then.
    fn kill(&self, run: &str, after: Duration) -> Result<bool, Failure> {
        let io = |error: std::io::Error| self.cannot_start(&error);
        let mut child = self.command(run, &[]).stderr(Stdio::null()).spawn().map_err(io)?;
        thread::sleep(after);
        let is_running = child.try_wait().map_err(io)?.is_none();
        child.kill().map_err(io)?;
        child.wait().map_err(io)?;
        Ok(is_running)
    }

    fn cannot_start(&self, error: &std::io::Error) -> Failure {
        Failure::io(&self.program, "start the program itself", error)
    }

    /// Removes what is of no use any more.
    fn forget(&self, run: &str) {
        let _ = fs::remove_dir_all(self.path(run));
    }

    fn remove(self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a run leaves that its promises are about.
struct Left(Vec<(String, Vec<u8>)>);

impl Left {
    fn of(run: &Path) -> Result<Self, Failure> {
        let last = last_checkpoint(run)
            .ok_or_else(|| Failure::at(Code::CheckpointMissing, run, "has no checkpoint yet"))?;
        let in_checkpoint =
            names(&run.join(&last)).into_iter().map(|name| last.clone() + "/" + &name);
        let files = in_checkpoint.chain(["metrics.jsonl", "results.json"].map(String::from));
        let read = |name: String| {
            let path = run.join(&name);
            let bytes = fs::read(&path).map_err(|error| Failure::io(&path, "read", &error))?;
            Ok((name, bytes))
        };
        files.map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The first file in which it differs from another run.
    fn difference(&self, whole: &Self) -> Option<String> {
        let differs =
            |(mine, other): (&(String, Vec<u8>), _)| (mine != other).then(|| mine.0.clone());
        match self.0.len() == whole.0.len() {
            true => self.0.iter().zip(&whole.0).find_map(differs),
            false => Some("the number of files".to_owned()),
        }
    }
}

fn last_checkpoint(run: &Path) -> Option<String> {
    let mut steps = names(&run.join("checkpoints")).into_iter();
    let last = steps.rfind(|name| name.starts_with("step-"))?;
    Some(format!("checkpoints/{last}"))
}

/// The names in a folder, sorted; none if there is no folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn table(verdicts: &[Verdict]) -> String {
    let mut text = format!("{:<21}{:<41}{:>8}  same bits\n", "promise", "tried", "held");
    for verdict in verdicts {
        let Verdict { promise, tried, held, of, .. } = verdict;
        let word = if verdict.holds() { "yes" } else { "NO" };
        let _ = writeln!(text, "{promise:<21}{tried:<41}{:>8}  {word}", format!("{held} of {of}"));
    }
    let machine = format!(
        "{} {:?}, {} threads by default",
        std::env::consts::ARCH,
        metamask_ops::Kernel::current(),
        metamask_ops::threads()
    );
    let _ = writeln!(text, "\nmachine   {}", machine.to_lowercase());
    text += "compared  every byte of the last checkpoint, metrics.jsonl and results.json\n";
    text
}

/// The first promise that does not hold.
fn broken(verdicts: &[Verdict]) -> Option<Failure> {
    let verdict = verdicts.iter().find(|verdict| !verdict.holds())?;
    let (run, file) = verdict.difference.as_ref()?;
    let run = run.file_name().unwrap_or_default().to_string_lossy();
    let message = format!(
        "{}: {} of {} runs are the same; `{run}` differs from `whole` in {file}, expected the same bits",
        verdict.promise, verdict.held, verdict.of
    );
    Some(Failure::new(Code::Promise, message).help(
        "test the machine's memory; if it is sound, this is a bug: report it with both folders",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_does_not_hold_is_named_with_the_file() {
        let mut kept = Verdict::new("repeatability", "the same run again".to_owned());
        kept.count(Path::new("x/again"), None);
        let mut lost = Verdict::new("restart replay", "2 kills".to_owned());
        lost.count(Path::new("x/killed-0"), None);
        lost.count(Path::new("x/killed-1"), Some("metrics.jsonl".to_owned()));
        let verdicts = [kept, lost];
        assert!(table(&verdicts).contains("restart replay       2 kills"), "{}", table(&verdicts));
        assert!(table(&verdicts).contains("1 of 2  NO\n"), "{}", table(&verdicts));
        let failure = broken(&verdicts).expect("one does not hold");
        assert_eq!(
            failure.message,
            "restart replay: 1 of 2 runs are the same; `killed-1` differs from `whole` in \
             metrics.jsonl, expected the same bits"
        );
        assert_eq!(failure.code.exit_status(), 70);
        assert!(broken(&verdicts[..1]).is_none());
    }

    #[test]
    fn a_changed_byte_and_a_missing_file_are_differences() {
        let left = |bytes: &[&[u8]]| {
            Left(bytes.iter().enumerate().map(|(i, b)| (i.to_string(), b.to_vec())).collect())
        };
        let whole = left(&[b"a", b"b"]);
        assert_eq!(left(&[b"a", b"b"]).difference(&whole), None);
        assert_eq!(left(&[b"a", b"c"]).difference(&whole).as_deref(), Some("1"));
        assert!(left(&[b"a"]).difference(&whole).is_some());
    }
}

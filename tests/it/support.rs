//! Starting the command line, and a run small enough to be repeated often.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The command line to test. Without one the test is skipped, aloud.
///
/// ```text
/// let Some(metamask) = Metamask::find() else { return Ok(()) };
/// ```
pub(crate) struct Metamask {
    binary: PathBuf,
    folder: TempDir,
}

impl Metamask {
    pub(crate) fn find() -> Option<Self> {
        let Some(binary) = std::env::var_os("METAMASK_BIN") else {
            skip("METAMASK_BIN is not set: run `cargo xtask test`");
            return None;
        };
        let folder = TempDir::new().expect("a temporary folder");
        Some(Self { binary: binary.into(), folder })
    }

    /// The same with a folder in memory, if there is such a place: what a kill or an error
    /// leaves does not depend on the disk, which takes most of the time of a small run.
    pub(crate) fn in_memory() -> Option<Self> {
        let mut found = Self::find()?;
        if let Ok(folder) = TempDir::new_in("/dev/shm") {
            found.folder = folder;
        }
        Some(found)
    }

    /// The program's file.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The test's own folder, the working directory of what it starts.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The command, not yet started.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        self.prepare(&mut command);
        command.args(arguments);
        command
    }

    /// The same under another program (strace), which gets `before` first.
    pub(crate) fn under<S: AsRef<OsStr>>(
        &self,
        program: &str,
        before: &[S],
        arguments: &[&str],
    ) -> Command {
        let mut command = Command::new(program);
        self.prepare(&mut command);
        command.args(before).arg(&self.binary).args(arguments);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(self.folder()).env_remove("RUST_BACKTRACE");
        command.env("METAMASK_CACHE", self.path("cache")).env("HF_HUB_OFFLINE", "1");
        command.env("HF_TOKEN", CANARY);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// Runs it to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        Finished::from(self.command(arguments).output().expect("METAMASK_BIN can be started"))
    }

    /// Runs it and expects success.
    #[track_caller]
    pub(crate) fn succeed<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        let finished = self.run(arguments);
        assert_eq!(finished.code, Some(0), "stderr:\n{}", finished.stderr);
        finished
    }

    /// Writes [`TINY`] and returns `pretrain --config tiny.toml --out OUT`.
    pub(crate) fn tiny_run(&self, out: &str) -> Vec<String> {
        let config = self.path("tiny.toml");
        if !config.exists() {
            fs::write(&config, TINY).expect("the test's folder can be written to");
        }
        ["pretrain", "--config", "tiny.toml", "--out", out].map(String::from).to_vec()
    }
}

/// A token that every program of every test is given; nothing may ever show or keep it.
const CANARY: &str = "hf_CANARYxCANARYxCANARYxCANARYx";

/// The test is over: its files hold no token.
impl Drop for Metamask {
    fn drop(&mut self) {
        /// Archives and caches of data sets are larger, and not ours to fill.
        const LARGEST: u64 = 8 << 20;
        if std::thread::panicking() {
            return;
        }
        let mut open = vec![self.folder().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                let length = entry.metadata().map_or(0, |metadata| metadata.len());
                if kind.is_dir() {
                    open.push(entry.path());
                } else if kind.is_file() && length <= LARGEST {
                    let bytes = fs::read(entry.path()).unwrap_or_default();
                    let found = bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes());
                    assert!(!found, "{} holds the token", entry.path().display());
                }
            }
        }
    }
}

/// Four epochs of six steps on 96 images: SimCLR, L_drr and mask together,
/// about a second with its evaluation.
pub(crate) const TINY: &str = r#"
[data]
dataset = "garments"
train_images = 160
validation_images = 64

[augmentation]
size = 16

[encoder]
width = 4

[contrastive_head]
hidden = [32]
output = 16

[redundancy_head]
hidden = [32]
output = 32

[objective]
redundancy_weight = 0.01

[training]
epochs = 4
batch_size = 16

[log]
every_steps = 1
"#;

/// How a program ended and what it printed.
#[derive(Debug)]
pub(crate) struct Finished {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("the program prints UTF-8");
            assert!(!text.contains(CANARY), "the token is shown:\n{text}");
            text
        };
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// What a run leaves that must not depend on how it came about: every file of
/// its last checkpoint, and `metrics.jsonl`.
#[derive(PartialEq, Eq)]
pub(crate) struct Results(BTreeMap<String, Vec<u8>>);

impl Results {
    #[track_caller]
    pub(crate) fn of(run: &Path) -> Self {
        let checkpoints = sorted_names(&run.join("checkpoints"));
        let last =
            checkpoints.last().unwrap_or_else(|| panic!("no checkpoint in {}", run.display()));
        let folder = run.join("checkpoints").join(last);
        let mut files = BTreeMap::new();
        for name in sorted_names(&folder) {
            files.insert(format!("{last}/{name}"), read(&folder.join(&name)));
        }
        files.insert("metrics.jsonl".into(), read(&run.join("metrics.jsonl")));
        Self(files)
    }

    /// The names of the files in which two results differ.
    pub(crate) fn differences<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let names = self.0.keys().chain(other.0.keys().filter(|name| !self.0.contains_key(*name)));
        names.filter(|name| self.0.get(*name) != other.0.get(*name)).map(String::as_str).collect()
    }

    #[track_caller]
    pub(crate) fn assert_equal(&self, other: &Self, what: &str) {
        assert!(self.0.len() > 2, "a checkpoint has files");
        assert_eq!(self.differences(other), Vec::<&str>::new(), "{what}");
    }
}

pub(crate) fn sorted_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("our names are UTF-8");
    let mut names: Vec<String> = entries.map(|entry| name(entry.expect("an entry"))).collect();
    names.sort_unstable();
    names
}

pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Says that the running test could not; under METAMASK_FULL=1 that is a failure.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    // libtest names a test's thread after it.
    let test = thread.name().unwrap_or("a test");
    let full = std::env::var_os("METAMASK_FULL").is_some_and(|value| value == "1");
    assert!(!full, "METAMASK_FULL=1, but {test} cannot run: {reason}");
    // In one piece, and past libtest, which captures `eprintln!`.
    let line = format!("skipped: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The one JSON object that a command prints.
pub(crate) fn json(metamask: &Metamask, arguments: &[&str]) -> serde_json::Value {
    let printed = metamask.succeed(arguments).stdout;
    serde_json::from_str(&printed).expect("one JSON object")
}

/// A number of a JSON object.
pub(crate) fn number(value: &serde_json::Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("{name} of {value}"))
}

/// The lines of `metrics.jsonl`.
pub(crate) fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = String::from_utf8(read(&run.join("metrics.jsonl"))).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

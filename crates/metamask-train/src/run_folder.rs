//! A run's folder: created whole, never overwritten, used by one process at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::{
    checkpoint::sha256,
    config::Config,
    durable,
    evaluate::Results,
    failure::{Code, Failure, shown},
};

pub(crate) const CONFIG: &str = "config.toml";
const LOCK: &str = "run.lock";
const RESULTS: &str = "results.json";

/// A run's folder, held by this process until it is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    config: Config,
    config_sha256: String,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run. It appears with its configuration and
    /// held, or not at all.
    ///
    /// # Errors
    /// If there is something at `path` already, or it cannot be made.
    pub fn create(path: &Path, config: &Config) -> Result<Self, Failure> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let name = path.file_name().ok_or_else(|| {
            Failure::at(
                Code::OutDir,
                path,
                "is no name for a folder, expected one such as `runs/a`",
            )
        })?;
        refuse_existing(path)?;
        fs::create_dir_all(parent).map_err(|error| cannot_create(parent, &error))?;

        // A name of the longest kind leaves no room for more; its hash is as good.
        let hash = &sha256(name.as_encoded_bytes())[..8];
        let staging = parent.join(format!(".metamask-{}-{hash}", std::process::id()));
        fs::create_dir(&staging).map_err(|error| cannot_create(path, &error))?;
        let made = lock(&staging, path).and_then(|lock| {
            let text = config.to_annotated_toml();
            durable::write(&staging.join(CONFIG), text.as_bytes())?;
            // Fails if another process was first: the target then is not empty.
            fs::rename(&staging, path).map_err(|error| match refuse_existing(path) {
                Err(failure) => failure,
                Ok(()) => cannot_create(path, &error),
            })?;
            durable::sync_folder(parent)?;
            let config_sha256 = sha256(text.as_bytes());
            Ok(Self { path: path.to_owned(), config: config.clone(), config_sha256, _lock: lock })
        });
        if made.is_err() {
            // Whatever went wrong is told; this is only tidying.
            let _ = fs::remove_dir_all(&staging);
        }
        made
    }

    /// Takes the folder of an existing run.
    ///
    /// # Errors
    /// If there is no run, another process holds it, or its configuration does not read.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let (config, config_sha256) = read_config(path)?;
        let lock = lock(path, path)?;
        Ok(Self { path: path.to_owned(), config, config_sha256, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// SHA-256 of the stored configuration.
    pub fn config_sha256(&self) -> &str {
        &self.config_sha256
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The folder of steps that failed, each as it was before.
    pub fn dumps(&self) -> PathBuf {
        self.path.join("dumps")
    }

    /// The log of results.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The log of clocks and rates.
    pub fn timings(&self) -> PathBuf {
        self.path.join("timings.jsonl")
    }

    /// The final results: a run that has them is finished.
    pub fn results(&self) -> PathBuf {
        self.path.join(RESULTS)
    }
}

/// Whether a folder holds a run.
pub fn is_run(path: &Path) -> bool {
    path.join(CONFIG).is_file()
}

/// The configuration of the run in a folder, and its SHA-256. Needs no lock.
///
/// # Errors
/// If there is no run or its configuration does not read.
pub fn read_config(path: &Path) -> Result<(Config, String), Failure> {
    const MAX_BYTES: u64 = 1 << 20;
    let file = path.join(CONFIG);
    let bytes = match durable::read_at_most(&file, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = if path.exists() { "has no config.toml" } else { "is not there" };
            let message = format!("{found}, expected the folder of a run");
            return Err(Failure::at(Code::Missing, path, message));
        }
        Err(error) => return Err(Failure::io(&file, "read", &error)),
    };
    let text = bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Failure::at(Code::Config, &file, "is no text of at most 1 MiB"))?;
    Ok((Config::read(&text, &shown(&file), &[])?, sha256(text.as_bytes())))
}

/// The results of the finished run in a folder, if they are there and read. Needs no lock.
///
/// # Errors
/// If they cannot be read from the disk.
pub fn read_results(path: &Path) -> Result<Option<Results>, Failure> {
    const MAX_BYTES: u64 = 1 << 20;
    let file = path.join(RESULTS);
    match durable::read_at_most(&file, MAX_BYTES) {
        Ok(bytes) => Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io(&file, "read", &error)),
    }
}

/// The text of a run's log; nothing if it is not there yet. Needs no lock.
///
/// # Errors
/// If it cannot be read, or is longer than 256 MiB.
pub fn read_log(path: &Path) -> Result<String, Failure> {
    const MAX_BYTES: u64 = 256 << 20;
    match durable::read_at_most(path, MAX_BYTES) {
        Ok(Some(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(None) => Err(Failure::at(Code::Data, path, "is longer than 256 MiB, expected a log")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::io(path, "read", &error)),
    }
}

/// Fails if there is anything but an empty folder at `path`, and says who uses it.
fn refuse_existing(path: &Path) -> Result<(), Failure> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Failure::at(Code::OutDir, path, "is a file, expected a folder to be made"));
        }
        Err(error) => return Err(cannot_create(path, &error)),
        Ok(mut entries) => {
            if entries.next().is_none() {
                return Ok(());
            }
        }
    }
    if is_run(path) {
        lock(path, path)?;
        let message = "exists already; runs are never overwritten";
        return Err(Failure::at(Code::OutDir, path, message)
            .help("continue it with --resume, or choose another folder with --out"));
    }
    let message = "is a folder with other things in it, expected a folder to be made";
    Err(Failure::at(Code::OutDir, path, message).help("choose another folder with --out"))
}

fn cannot_create(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::at(Code::OutDir, path, "permission denied (needs write access)")
        }
        _ => Failure::at(Code::OutDir, path, format!("cannot be created: {error}")),
    }
}

/// Takes the lock in `folder`; `name` is what messages call it. The operating
/// system lets go of it when the process ends, however it ends.
pub(crate) fn lock(folder: &Path, name: &Path) -> Result<File, Failure> {
    let path = folder.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| cannot_create(name, &error))?;
    match file.try_lock() {
        Ok(()) => {
            let pid = format!("{}\n", std::process::id());
            let written = file.set_len(0).and_then(|()| file.write_all(pid.as_bytes()));
            written.map_err(|error| Failure::io(&path, "write", &error))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(16).read_to_string(&mut pid);
            let holder = match pid.trim().parse::<u32>() {
                Ok(pid) => format!("pid {pid}"),
                Err(_) => "another process".to_owned(),
            };
            Err(Failure::at(Code::Locked, name, format!("is in use by {holder}"))
                .help("wait until it ends, or choose another folder with --out"))
        }
        Err(TryLockError::Error(error)) => Err(Failure::io(&path, "lock", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_created_once_and_held_by_one() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("runs/a");
        let code = |result: Result<RunFolder, Failure>| result.expect_err("refused").code;

        let run = RunFolder::create(&path, &Config::default())?;
        assert_eq!(code(RunFolder::create(&path, &Config::default())), Code::Locked);
        assert_eq!(code(RunFolder::open(&path)), Code::Locked);
        let sha256 = run.config_sha256().to_owned();
        drop(run);
        assert_eq!(code(RunFolder::create(&path, &Config::default())), Code::OutDir);
        let run = RunFolder::open(&path)?;
        assert_eq!((run.config(), run.config_sha256()), (&Config::default(), sha256.as_str()));
        assert_eq!(fs::read_dir(path.parent().expect("a parent"))?.count(), 1, "nothing beside it");
        Ok(())
    }

    #[test]
    fn what_is_in_the_way_is_left_alone() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let check = |path: &Path, code: Code, expected: &str| {
            let failure = RunFolder::create(path, &Config::default()).expect_err(expected);
            assert_eq!(failure.code, code, "{failure}");
            assert!(failure.message.contains(expected), "{failure}");
        };
        let file = folder.path().join("file");
        fs::write(&file, "text")?;
        check(&file, Code::OutDir, "is a file");
        check(&file.join("run"), Code::OutDir, "");
        check(folder.path(), Code::OutDir, "with other things in it");
        assert_eq!(fs::read_to_string(&file)?, "text");
        let missing = RunFolder::open(&folder.path().join("nothing")).expect_err("no run");
        assert_eq!(missing.code, Code::Missing);
        Ok(())
    }
}

//! The run's two logs, a JSON object a line.
//!
//! `metrics.jsonl` holds results only and is bit-identical when a run is
//! repeated or resumed; `timings.jsonl` holds clocks and rates and is not.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{durable, failure::Failure, run_folder::RunFolder};

/// Appends to a run's logs.
#[derive(Debug)]
pub struct RunLog {
    metrics: (PathBuf, File),
    timings: (PathBuf, File),
}

impl RunLog {
    /// Opens the logs of a run that stands at `step`: what lies beyond it, or
    /// was cut short, goes.
    ///
    /// # Errors
    /// If a log cannot be read or written.
    pub fn open(folder: &RunFolder, step: u64) -> Result<Self, Failure> {
        truncate(&folder.metrics(), step)?;
        Ok(Self { metrics: append_to(folder.metrics())?, timings: append_to(folder.timings())? })
    }

    /// Adds a result.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn metric(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        append(&mut self.metrics, line)
    }

    /// Adds a timing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn timing(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        append(&mut self.timings, line)
    }

    /// Waits until the results are on the disk; a checkpoint must not be ahead of them.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&self) -> Result<(), Failure> {
        let (path, file) = &self.metrics;
        file.sync_all().map_err(|error| Failure::io(path, "sync", &error))
    }
}

fn append_to(path: PathBuf) -> Result<(PathBuf, File), Failure> {
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let file = file.map_err(|error| Failure::io(&path, "open", &error))?;
    Ok((path, file))
}

fn append((path, file): &mut (PathBuf, File), line: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec(line).expect("a log line is plain JSON");
    text.push(b'\n');
    file.write_all(&text).map_err(|error| Failure::io(path, "write", &error))
}

/// Keeps the lines of training up to `step`; evaluation is done again.
fn truncate(path: &Path, step: u64) -> Result<(), Failure> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io(path, "read", &error)),
        Ok(text) => text,
    };
    let kept = up_to(&text, step);
    if kept == text { Ok(()) } else { durable::replace(path, &kept) }
}

/// The whole lines of training up to `step`.
pub(crate) fn up_to(text: &[u8], step: u64) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        step: u64,
    }
    let keep = |line: &&[u8]| {
        line.ends_with(b"\n")
            && serde_json::from_slice::<Line>(line)
                .is_ok_and(|line| line.step <= step && line.kind != "evaluation")
    };
    let kept: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').filter(keep).collect();
    kept.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn resuming_keeps_whole_lines_up_to_the_step() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let run = RunFolder::create(&folder.path().join("a"), &Config::default())?;
        let kept = "{\"kind\":\"epoch\",\"step\":46}\n";
        let beyond =
            "{\"kind\":\"step\",\"step\":50}\n{\"kind\":\"evaluation\",\"step\":46}\n{\"ki";
        fs::write(run.metrics(), format!("{kept}{beyond}"))?;

        let mut log = RunLog::open(&run, 46)?;
        log.metric(&serde_json::json!({ "kind": "step", "step": 47 }))?;
        log.sync()?;
        let text = fs::read_to_string(run.metrics())?;
        assert_eq!(text, format!("{kept}{{\"kind\":\"step\",\"step\":47}}\n"));
        Ok(())
    }
}

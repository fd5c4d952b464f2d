//! Failures a user meets: a stable code, an exit status, one clear line.
//!
//! The line reads `error[CODE]: PATH: what was found, what was expected`; lines
//! `kept:` and `help:` may follow. Codes and statuses are part of the surface.

use std::{fmt, io, path::Path};

use metamask_data::{DataError, Fault};

/// The kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A command line that cannot be carried out.
    Usage,
    /// A configuration that does not parse or is out of range.
    Config,
    /// A device this build or machine does not have.
    Device,
    /// Data that is not what it should be.
    Data,
    /// A file or folder that is not there.
    Missing,
    /// No checkpoint in a run that should have one.
    CheckpointMissing,
    /// A checkpoint file whose bytes differ from its manifest.
    CheckpointHash,
    /// A checkpoint file with a malformed header.
    CheckpointHeader,
    /// A checkpoint whose tensors are not those of the model.
    CheckpointShape,
    /// A checkpoint in a format this program does not read.
    CheckpointVersion,
    /// A value that is not finite.
    NotFinite,
    /// Embeddings that collapsed, in a run that was to stop then.
    Collapsed,
    /// A promise of reproducibility that does not hold on this machine.
    Promise,
    /// A computation that cannot be done; not the user's doing as a rule.
    Internal,
    /// A download that failed.
    Download,
    /// An output folder that cannot be made.
    OutDir,
    /// A read or write that failed in the middle of a run.
    Io,
    /// A full disk.
    DiskFull,
    /// More memory than there is.
    Memory,
    /// A run folder that another process uses.
    Locked,
}

impl Code {
    /// Every code, in the order of the exit statuses.
    pub const ALL: [Self; 20] = [
        Self::Usage,
        Self::Config,
        Self::Device,
        Self::Data,
        Self::CheckpointHash,
        Self::CheckpointHeader,
        Self::CheckpointShape,
        Self::CheckpointVersion,
        Self::Missing,
        Self::CheckpointMissing,
        Self::Download,
        Self::NotFinite,
        Self::Collapsed,
        Self::Promise,
        Self::Internal,
        Self::OutDir,
        Self::Io,
        Self::DiskFull,
        Self::Memory,
        Self::Locked,
    ];

    /// The code of what can be wrong with data.
    fn of(fault: Fault) -> Self {
        match fault {
            Fault::Missing => Self::Missing,
            Fault::Request => Self::Config,
            Fault::Io => Self::Io,
            Fault::DiskFull => Self::DiskFull,
            Fault::Download => Self::Download,
            Fault::Invalid => Self::Data,
        }
    }

    /// The word between the brackets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "USAGE",
            Self::Config => "CONFIG",
            Self::Device => "DEVICE",
            Self::Data => "DATA",
            Self::Missing => "MISSING",
            Self::CheckpointMissing => "CKPT-MISSING",
            Self::CheckpointHash => "CKPT-HASH",
            Self::CheckpointHeader => "CKPT-HEADER",
            Self::CheckpointShape => "CKPT-SHAPE",
            Self::CheckpointVersion => "CKPT-VERSION",
            Self::Download => "DOWNLOAD",
            Self::NotFinite => "NOT-FINITE",
            Self::Collapsed => "COLLAPSED",
            Self::Promise => "PROMISE",
            Self::Internal => "INTERNAL",
            Self::OutDir => "OUT-DIR",
            Self::Io => "IO",
            Self::DiskFull => "DISK-FULL",
            Self::Memory => "MEMORY",
            Self::Locked => "LOCKED",
        }
    }

    /// The process's exit status.
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Usage | Self::Config | Self::Device => 2,
            Self::Data
            | Self::CheckpointHash
            | Self::CheckpointHeader
            | Self::CheckpointShape
            | Self::CheckpointVersion => 65,
            Self::Missing | Self::CheckpointMissing => 66,
            Self::Download => 69,
            Self::NotFinite | Self::Collapsed | Self::Promise | Self::Internal => 70,
            Self::OutDir => 73,
            Self::Io | Self::DiskFull | Self::Memory => 74,
            Self::Locked => 75,
        }
    }
}

/// A failure, ready to be shown.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind.
    pub code: Code,
    /// One line: where, what was found, what was expected.
    pub message: String,
    /// What is safe nevertheless.
    pub kept: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Failure {
    /// A failure with only its line.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), kept: None, help: None }
    }

    /// A failure at a path.
    pub fn at(code: Code, path: &Path, message: impl fmt::Display) -> Self {
        Self::new(code, format!("{}: {message}", shown(path)))
    }

    /// Says what to do.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Says what is safe.
    #[must_use]
    pub fn kept(self, kept: impl Into<String>) -> Self {
        Self { kept: Some(kept.into()), ..self }
    }

    /// A failed read or write at a path: a full disk has its own code.
    pub fn io(path: &Path, doing: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::at(Code::DiskFull, path, format!("failed to {doing}: {error}"))
                    .help("free some space, then repeat the command with --resume")
            }
            io::ErrorKind::FileTooLarge => {
                Self::at(Code::Io, path, format!("failed to {doing}: {error}"))
                    .help("see `ulimit -f`, then repeat the command with --resume")
            }
            _ => Self::at(Code::Io, path, format!("failed to {doing}: {error}")),
        }
    }

    /// Gives an error of the data crate its code: what is not there is
    /// `MISSING`, what cannot be met is `CONFIG`, anything else is `DATA`. A
    /// failure stays as it is.
    pub fn from_data(error: anyhow::Error) -> anyhow::Error {
        if error.downcast_ref::<Self>().is_some() {
            return error;
        }
        let known = error.downcast_ref::<DataError>();
        let code = known.map_or(Code::Data, |known| Code::of(known.fault));
        let help = known.and_then(|known| known.help.clone());
        Self { code, message: one_line(&error), kept: None, help }.into()
    }

    /// The same of an error that is known to be one.
    pub fn of_data(error: DataError) -> Self {
        let (code, help) = (Code::of(error.fault), error.help.clone());
        Self { code, message: one_line(&error.into()), kept: None, help }
    }
}

/// An error and its causes on one line, without the backtrace that Candle adds.
pub fn one_line(error: &anyhow::Error) -> String {
    let message = match error.downcast_ref::<candle_core::Error>() {
        Some(error) => without_backtrace(error).to_string(),
        None => format!("{error:#}"),
    };
    message.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn without_backtrace(error: &candle_core::Error) -> &candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(inner),
        other => other,
    }
}

/// A path on one line of a terminal: control characters are escaped.
pub fn shown(path: &Path) -> String {
    let escape = |c: char| {
        if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
    };
    path.to_string_lossy().chars().map(escape).collect()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code.name(), self.message)?;
        if let Some(kept) = &self.kept {
            write!(f, "\n  kept: {kept}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_with_optional_kept_and_help() {
        let failure = Failure::at(Code::Locked, Path::new("runs/a\nb"), "is in use by pid 812")
            .kept("step 450")
            .help("wait for it");
        assert_eq!(
            failure.to_string(),
            "error[LOCKED]: runs/a\\nb: is in use by pid 812\n  kept: step 450\n  help: wait for it"
        );
        assert_eq!(failure.code.exit_status(), 75);
    }

    #[test]
    fn every_code_is_in_the_documents_with_its_status() {
        let page = include_str!("../../../docs/errors.md");
        for code in Code::ALL {
            let row = format!("| `{}` | {} | ", code.name(), code.exit_status());
            assert!(page.contains(&row), "{row}");
        }
        let n_rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(n_rows, Code::ALL.len(), "a code in the page is gone");
    }

    #[test]
    fn faults_of_the_data_get_their_codes() {
        let check = |fault: Fault, code: Code| {
            let error = DataError { fault, code: "", message: "x".into(), help: Some("y".into()) };
            let failure = Failure::from_data(anyhow::Error::new(error).context("failed to load"));
            let failure = failure.downcast_ref::<Failure>().expect("a failure");
            assert_eq!(failure.code, code);
            assert_eq!(failure.message, "failed to load: x");
            assert_eq!(failure.help.as_deref(), Some("y"));
        };
        check(Fault::Missing, Code::Missing);
        check(Fault::Invalid, Code::Data);
        check(Fault::Request, Code::Config);
        check(Fault::Io, Code::Io);
        check(Fault::DiskFull, Code::DiskFull);
        check(Fault::Download, Code::Download);
        let failure = Failure::from_data(Failure::new(Code::Locked, "x").into());
        assert_eq!(failure.downcast_ref::<Failure>().expect("a failure").code, Code::Locked);
    }
}

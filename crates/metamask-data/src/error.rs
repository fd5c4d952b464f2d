//! What can be wrong with data, in the form the command line prints.

use std::path::Path;
use std::{fmt, io};

/// The kind of a [`DataError`]; the command line derives its exit status from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A file or folder that was asked for is not there (or cannot be read).
    Missing,
    /// A file is there and is not what its name says, or is damaged.
    Invalid,
    /// The request itself cannot be met: an unknown name, more images than there are.
    Request,
    /// Reading or writing one of our own files failed.
    Io,
    /// The disk is full.
    DiskFull,
    /// A server did not give what it should, or could not be reached.
    Download,
}

/// A failure to load data: one line, and sometimes advice.
///
/// It travels inside [`anyhow::Error`]; `error.downcast_ref::<DataError>()`
/// finds it again under any context.
#[derive(Debug)]
pub struct DataError {
    /// What kind of failure it is.
    pub fault: Fault,
    /// A stable word for scripts: `DATA-MISSING`, `DATA-KIND`, …
    pub code: &'static str,
    /// `<path or operation>: <what was found>, expected <what was expected>`.
    pub message: String,
    /// What to do about it, if that is known.
    pub help: Option<String>,
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DataError {}

impl DataError {
    /// The data is not where it was looked for.
    pub(crate) fn missing(message: String, help: Option<String>) -> Self {
        Self { fault: Fault::Missing, code: "DATA-MISSING", message, help }
    }

    /// Another kind of file lies under the name.
    pub(crate) fn kind(path: &Path, found: &str, expected: &str) -> Self {
        let message = format!("`{}`: found {found}, expected {expected}", path.display());
        Self { fault: Fault::Invalid, code: "DATA-KIND", message, help: None }
    }

    /// The right kind of file with content that cannot be right.
    pub(crate) fn content(
        path: &Path,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        let message = format!("`{}`: found {found}, expected {expected}", path.display());
        Self { fault: Fault::Invalid, code: "DATA-CONTENT", message, help: None }
    }

    /// The bytes differ from those that were published.
    pub(crate) fn hash(path: &Path, found: &str, expected: &str) -> Self {
        let message = format!("`{}`: found sha256 {found}, expected {expected}", path.display());
        Self { fault: Fault::Invalid, code: "DATA-HASH", message, help: None }
    }

    /// Reading or writing a file of ours failed.
    pub(crate) fn io(path: &Path, doing: &str, error: &io::Error) -> Self {
        let (fault, code) = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (Fault::DiskFull, "DISK-FULL")
            }
            _ => (Fault::Io, "IO"),
        };
        let message = format!("`{}`: failed to {doing}: {error}", path.display());
        Self { fault, code, message, help: None }
    }

    /// A download failed.
    #[cfg(feature = "hub")]
    pub(crate) fn download(message: String) -> Self {
        Self { fault: Fault::Download, code: "DOWNLOAD", message, help: None }
    }

    /// The request cannot be met.
    pub(crate) fn request(message: String) -> Self {
        Self { fault: Fault::Request, code: "DATA-REQUEST", message, help: None }
    }
}

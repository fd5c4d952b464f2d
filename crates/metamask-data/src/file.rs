//! Opening files of a data set, and saying what a wrong one is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::DataError;

/// No IDX file may hold, or unpack to, more. Fashion-MNIST's largest has 47 MB.
pub(crate) const LIMIT: usize = 64 << 20;

/// Opens a plain file; `expected` says what it should be.
pub(crate) fn open(path: &Path, expected: &str) -> Result<File, DataError> {
    // A pipe would not even open before somebody writes, and a device could go on for ever.
    if !fs::metadata(path).map_err(|error| unreadable(path, &error))?.is_file() {
        return Err(DataError::kind(path, "no plain file", expected));
    }
    File::open(path).map_err(|error| unreadable(path, &error))
}

/// The system does not give the file's bytes.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> DataError {
    DataError::missing(format!("`{}`: {error}", path.display()), None)
}

/// Folders as a list in a message.
pub(crate) fn list(folders: &[PathBuf]) -> String {
    let quoted: Vec<_> = folders.iter().map(|dir| format!("`{}`", dir.display())).collect();
    quoted.join(", ")
}

/// What a file that should be something else is, as far as its start tells.
pub(crate) fn recognise(start: &[u8]) -> Option<&'static str> {
    let text: Vec<u8> =
        start.trim_ascii_start().iter().take(4).map(u8::to_ascii_lowercase).collect();
    let known = match start {
        [] => "an empty file",
        _ if start.starts_with(&[0, 0, 8, 3]) => "an IDX file of images",
        _ if start.starts_with(&[0, 0, 8, 1]) => "an IDX file of labels",
        _ if start.starts_with(&[0x1f, 0x8b]) => "a gzip file",
        _ if start.starts_with(b"\x89PNG") => "a PNG picture",
        _ if start.starts_with(&[0xff, 0xd8, 0xff]) => "a JPEG picture",
        _ if start.starts_with(b"PAR1") => "a parquet file",
        _ if start.starts_with(b"\x80\x02") || start.starts_with(b"\x80\x04") => "a Python pickle",
        _ if start.starts_with(b"PK\x03\x04") => "a zip archive",
        _ if text == b"vers" => "a Git LFS pointer, not the data",
        _ if text == b"<!do" || text == b"<htm" => "an HTML page",
        _ => return None,
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_a_missing_file_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(open(folder.path(), "an IDX file").unwrap_err().code, "DATA-KIND");
        let missing = folder.path().join("none");
        assert_eq!(open(&missing, "an IDX file").unwrap_err().code, "DATA-MISSING");
    }
}

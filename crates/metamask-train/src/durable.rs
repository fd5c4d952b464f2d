//! Writes that survive a killed process and a lost power supply.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    path::Path,
};

use crate::failure::{Code, Failure};

/// Creates a file with `bytes` and waits until they are on the disk.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| Failure::io(path, &format!("write {} bytes", bytes.len()), &error))
}

/// Creates a file that is not there yet with `bytes`: on the disk whole, or not there.
///
/// # Errors
/// If it is there already or cannot be written.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => in_the_way(path),
        _ => Failure::at(Code::OutDir, path, format!("cannot be created: {error}")),
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        // Ours, and of no use to anybody.
        let _ = fs::remove_file(path);
        Failure::io(path, &format!("write {} bytes", bytes.len()), &error)
    })
}

/// Says before minutes of work and not after that a file to be written is there.
///
/// # Errors
/// If it is.
pub fn expect_new(path: Option<&Path>) -> Result<(), Failure> {
    match path {
        Some(path) if path.exists() => Err(in_the_way(path)),
        _ => Ok(()),
    }
}

/// What is said of a file that would have to be overwritten.
pub(crate) fn in_the_way(path: &Path) -> Failure {
    Failure::at(Code::OutDir, path, "exists already, expected a new file")
        .help("choose another name with --out")
}

/// Puts `bytes` at `path` at once: a reader sees the old file or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    write(partial, bytes)?;
    rename(partial, path)
}

/// Renames, and waits until the folder's new state is on the disk.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(|error| Failure::io(to, "move into place", &error))?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

/// Removes a file, and waits until the folder's new state is on the disk.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    fs::remove_file(path).map_err(|error| Failure::io(path, "remove", &error))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Waits until a folder's entries are on the disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), Failure> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|error| Failure::io(folder, "sync", &error))
}

/// Reads a file, but never more than `limit` bytes of it; `None` if it is longer.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

//! Members of archives, read where they are: nothing is ever unpacked.
//!
//! A name in an archive is compared and never becomes a path. Only plain files
//! count; links, devices and names that are no plain relative path are passed
//! over, the same name twice is an error, and so is more than the limits allow.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use zip::ZipArchive;

use crate::error::DataError;
use crate::file::{self, recognise};
use crate::guard::guarded;
use crate::manifest::is_plain_relative;

/// The largest archive here unpacks to 3.1 GB; a bomb goes on.
const TOTAL_LIMIT: u64 = 16 << 30;
/// STL-10's unlabelled images have 2.8 GB.
const MEMBER_LIMIT: u64 = 4 << 30;
const MAX_MEMBERS: usize = 2_000_000;

/// A wanted member of a `.tar.gz`.
pub(crate) struct Member<'a> {
    /// Its name without leading `./`.
    pub name: &'a str,
    pub bytes: u64,
    pub content: &'a mut dyn Read,
}

/// Calls `visit` for every member that `wants`, in the archive's order, until
/// that says it has seen enough (`false`).
pub(crate) fn visit_tar_gz(
    path: &Path,
    wants: impl Fn(&str) -> bool,
    mut visit: impl FnMut(Member<'_>) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let mut start = file::open(path, "a .tar.gz archive")?;
    let mut magic = Vec::new();
    start
        .by_ref()
        .take(64)
        .read_to_end(&mut magic)
        .map_err(|error| file::unreadable(path, &error))?;
    if !magic.starts_with(&[0x1f, 0x8b]) {
        let found = recognise(&magic).unwrap_or("no gzip file");
        return Err(DataError::kind(path, found, "a .tar.gz archive"));
    }
    let source = BufReader::with_capacity(1 << 16, file::open(path, "a .tar.gz archive")?);
    // The limit ends the stream, which then is cut short in the middle.
    let unpacked = MultiGzDecoder::new(source).take(TOTAL_LIMIT);
    let mut archive = tar::Archive::new(unpacked);
    let broken = |error: io::Error| broken(path, &error);
    let mut seen = BTreeSet::new();
    // Raw: long names are entries of their own, which nobody wants, rather
    // than allocations of a size that the archive chooses.
    let entries = archive.entries().map_err(broken)?.raw(true);
    for (i, entry) in entries.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if i >= MAX_MEMBERS {
            let expected = format!("at most {MAX_MEMBERS}");
            return Err(DataError::content(path, "more members", expected));
        }
        let name = entry.path_bytes().into_owned();
        let Ok(name) = std::str::from_utf8(&name) else { continue };
        let name = name.strip_prefix("./").unwrap_or(name);
        let is_file = entry.header().entry_type().is_file();
        if !is_file || !is_plain_relative(name) || !wants(name) {
            continue;
        }
        let bytes = entry.header().size().map_err(broken)?;
        if bytes > MEMBER_LIMIT {
            let found = format!("`{name}` of {bytes} bytes");
            return Err(DataError::content(path, found, format!("at most {MEMBER_LIMIT}")));
        }
        if !seen.insert(name.to_owned()) {
            return Err(DataError::content(path, format!("`{name}` twice"), "it once"));
        }
        if !visit(Member { name, bytes, content: &mut entry })? {
            return Ok(());
        }
    }
    Ok(())
}

/// A failed read of an archive: bad bytes, or a device that does not give them.
pub(crate) fn broken(path: &Path, error: &io::Error) -> DataError {
    match error.raw_os_error() {
        Some(_) => file::unreadable(path, error),
        None => {
            let what: String =
                error.to_string().chars().filter(|c| !c.is_control()).take(160).collect();
            DataError::content(path, format!("a broken archive ({what})"), "an intact one")
        }
    }
}

/// A zip archive and the names of its plain files.
pub(crate) struct Zip {
    archive: ZipArchive<BufReader<File>>,
    pub names: Vec<String>,
}

impl Zip {
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let mut file = file::open(path, "a zip archive")?;
        let mut magic = Vec::new();
        file.by_ref()
            .take(64)
            .read_to_end(&mut magic)
            .map_err(|error| file::unreadable(path, &error))?;
        if !magic.starts_with(b"PK") {
            let found = recognise(&magic).unwrap_or("no zip archive");
            return Err(DataError::kind(path, found, "a zip archive"));
        }
        let opened = guarded(|| ZipArchive::new(BufReader::new(file)));
        let archive = match opened {
            Ok(Ok(archive)) => archive,
            Ok(Err(error)) => return Err(broken(path, &io::Error::other(error))),
            Err(_) => return Err(DataError::content(path, "a broken archive", "an intact one")),
        };
        if archive.len() > MAX_MEMBERS {
            let found = format!("{} members", archive.len());
            return Err(DataError::content(path, found, format!("at most {MAX_MEMBERS}")));
        }
        // A name that is no text is none that anybody wants.
        let names = archive.file_names().filter_map(Result::ok).map(|name| name.into_owned());
        let is_file = |name: &String| is_plain_relative(name) && !name.ends_with('/');
        let names = names.filter(is_file).collect();
        Ok(Self { archive, names })
    }

    /// The bytes of a member, at most `limit`.
    pub(crate) fn read(
        &mut self,
        path: &Path,
        name: &str,
        limit: u64,
    ) -> Result<Vec<u8>, DataError> {
        let read = guarded(|| -> io::Result<Vec<u8>> {
            let member = self.archive.by_name(name).map_err(io::Error::other)?;
            let mut bytes = Vec::new();
            member.take(limit + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(Ok(bytes)) if bytes.len() as u64 > limit => {
                let found = format!("`{name}` with more bytes");
                Err(DataError::content(path, found, format!("at most {limit}")))
            }
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => {
                let error = io::Error::new(error.kind(), format!("`{name}`: {error}"));
                Err(broken(path, &error))
            }
            Err(_) => {
                let found = format!("`{name}` in a broken archive");
                Err(DataError::content(path, found, "an intact one"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::path::PathBuf;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// An archive of these members: name, type, content.
    fn tar_gz(members: &[(&str, tar::EntryType, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, kind, content) in members {
            let mut header = tar::Header::new_gnu();
            // Past `set_path`, which refuses the names an attacker would write.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        let bytes = builder.into_inner().unwrap().finish().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.gz");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn visited(path: &Path) -> Result<Vec<(String, Vec<u8>)>, DataError> {
        let mut all = Vec::new();
        visit_tar_gz(
            path,
            |_| true,
            |member| {
                let mut content = Vec::new();
                member.content.read_to_end(&mut content).unwrap();
                all.push((member.name.to_owned(), content));
                Ok(true)
            },
        )?;
        Ok(all)
    }

    #[test]
    fn only_plain_files_under_plain_names_are_visited() {
        use tar::EntryType as T;
        let (_folder, path) = tar_gz(&[
            ("./a/x.bin", T::Regular, b"x"),
            ("../outside", T::Regular, b"y"),
            ("/absolute", T::Regular, b"y"),
            ("a/link", T::Symlink, b""),
            ("a/hard", T::Link, b""),
            ("a/fifo", T::Fifo, b""),
            ("a/dir/", T::Directory, b""),
            ("c:\\x", T::Regular, b"y"),
            ("a/z.bin", T::Regular, b"zz"),
        ]);
        let names: Vec<_> = visited(&path).unwrap();
        let expected = [("a/x.bin", &b"x"[..]), ("a/z.bin", b"zz")];
        assert_eq!(names, expected.map(|(name, content)| (name.to_owned(), content.to_vec())));
    }

    #[test]
    fn the_same_name_twice_a_cut_and_another_kind_are_refused() {
        use tar::EntryType as T;
        let (_folder, path) = tar_gz(&[("a", T::Regular, b"1"), ("./a", T::Regular, b"2")]);
        assert!(visited(&path).unwrap_err().message.ends_with("found `a` twice, expected it once"));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(visited(&path).unwrap_err().code, "DATA-CONTENT");
        fs::write(&path, b"<!DOCTYPE html>").unwrap();
        assert!(visited(&path).unwrap_err().message.contains("found an HTML page"));
    }

    #[test]
    fn members_of_a_zip_are_read_in_place_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        for (name, content) in [("a/1", &[7; 100][..]), ("../out", b"x"), ("b", &[0; 5000])] {
            writer.start_file(name, options).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap();
        let mut zip = Zip::open(&path).unwrap();
        zip.names.sort();
        assert_eq!(zip.names, ["a/1", "b"]);
        assert_eq!(zip.read(&path, "a/1", 100).unwrap(), [7; 100]);
        let error = zip.read(&path, "b", 4999).unwrap_err();
        assert!(error.message.contains("`b` with more bytes"), "{error}");
        fs::write(&path, b"version https://git-lfs.github.com/spec/v1").unwrap();
        assert!(Zip::open(&path).err().unwrap().message.contains("Git LFS pointer"));
    }
}

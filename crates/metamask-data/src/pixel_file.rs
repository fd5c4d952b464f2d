//! A data set decoded into one file of ours: its bytes, and an index behind them.
//!
//! ```text
//! magic   images [n, height, width, 3]: test, unlabelled, train   index (JSON)   its SHA-256   its length   magic
//! ```
//! The first load of a data set writes the file, later ones map it. It is
//! written beside its place and renamed, so that a file at its place is whole;
//! nothing of ours ever changes one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{Mmap, UncheckedAdvice};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::error::DataError;
use crate::images::Images;

/// Another layout gets another magic; a file with an old one is written anew.
const MAGIC: &[u8; 16] = b"METAMASK PIXELS1";
const TRAILER: usize = 32 + 8 + MAGIC.len();
/// Labels of two million images have 16 MB.
const INDEX_LIMIT: u64 = 256 << 20;

/// What is known of the images in a pixel file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// The class of each test image.
    pub test: Vec<u32>,
    /// The class of each training image.
    pub train: Vec<u32>,
    /// Number of images without labels.
    pub unlabelled: usize,
    /// How many of them, the first ones, equal a test image byte for byte.
    pub equal_to_test: usize,
    pub class_names: Vec<String>,
    /// Indices of training images, for sets that come with folds.
    pub folds: Vec<Vec<u32>>,
    /// The files that were read, with their SHA-256.
    pub sources: Vec<SourceFile>,
    /// What a user should know: files left out, missing pins.
    pub notes: Vec<String>,
    /// SHA-256 of the images.
    pub pixels_sha256: String,
}

/// A file that was decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceFile {
    pub name: String,
    pub sha256: String,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.test.len() + self.train.len() + self.unlabelled
    }

    fn image_size(&self) -> usize {
        self.height * self.width * Images::CHANNELS
    }
}

/// The bytes of a mapped pixel file.
#[derive(Debug)]
pub(crate) struct Map {
    map: Mmap,
    end: usize,
    /// Bytes that were looked at since the last were given back.
    looked_at: AtomicUsize,
}

/// Bytes of a map that count as this process's memory, about: the system brings in
/// what lies beside a byte that is looked at as well.
const KEPT: usize = 32 << 20;

impl Map {
    /// The images.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[MAGIC.len()..self.end]
    }

    /// Counts bytes that were looked at; now and then the whole map's memory goes
    /// back to the system, which keeps the file in its cache while it has room.
    pub(crate) fn looked_at(&self, n_bytes: usize) {
        if self.looked_at.fetch_add(n_bytes, Ordering::Relaxed) + n_bytes >= KEPT {
            self.looked_at.store(0, Ordering::Relaxed);
            give_back(&self.map);
        }
    }
}

/// Takes a map's pages out of this process's memory.
#[allow(unsafe_code)]
fn give_back(map: &Mmap) {
    // SAFETY: the map is of a file and only read, so there is nothing in it that is not
    // in the file: a page that is looked at again, by whichever thread, comes from there
    // with the same bytes.
    let advised = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
    // A system that does not follow the advice only keeps the memory longer.
    let _ = advised;
}

/// A pixel file that is being written. Threads may write images at once.
#[derive(Debug)]
pub(crate) struct PixelWriter {
    file: NamedTempFile,
    image_size: usize,
}

impl PixelWriter {
    /// Begins a file for images of that size, in `folder` or where temporary
    /// files go.
    pub(crate) fn new(
        folder: Option<&Path>,
        (height, width): (usize, usize),
    ) -> Result<Self, DataError> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".partial-");
        let made = match folder {
            None => builder.tempfile(),
            Some(folder) => fs::create_dir_all(folder).and_then(|()| builder.tempfile_in(folder)),
        };
        let file = made.map_err(|error| {
            let place =
                folder.map_or_else(|| "temporary folder".into(), |dir| dir.display().to_string());
            DataError::io(Path::new(&place), "write", &error)
        })?;
        let writer = Self { file, image_size: height * width * Images::CHANNELS };
        writer.write_at(MAGIC, 0)?;
        Ok(writer)
    }

    /// Writes one image to its place.
    pub(crate) fn write(&self, index: usize, image: &[u8]) -> Result<(), DataError> {
        assert_eq!(image.len(), self.image_size, "a whole image");
        self.write_many(index, image)
    }

    /// Writes images from a place on.
    pub(crate) fn write_many(&self, first: usize, images: &[u8]) -> Result<(), DataError> {
        assert!(images.len().is_multiple_of(self.image_size), "whole images");
        self.write_at(images, self.offset(first))
    }

    /// Exchanges two images.
    pub(crate) fn swap(&self, a: usize, b: usize) -> Result<(), DataError> {
        let read = |index: usize| {
            let mut image = vec![0; self.image_size];
            let read = self.file.as_file().read_exact_at(&mut image, self.offset(index));
            read.map(|()| image).map_err(|error| DataError::io(self.file.path(), "read", &error))
        };
        let (image_a, image_b) = (read(a)?, read(b)?);
        self.write(a, &image_b)?;
        self.write(b, &image_a)
    }

    /// Calls `see` with every image in `range`, in order, a few at a time.
    pub(crate) fn for_each_chunk(
        &self,
        range: std::ops::Range<usize>,
        mut see: impl FnMut(usize, &[u8]),
    ) -> Result<(), DataError> {
        let at_a_time = (8 << 20) / self.image_size + 1;
        let mut bytes = vec![0; at_a_time * self.image_size];
        let mut first = range.start;
        while first < range.end {
            let n = at_a_time.min(range.end - first);
            let chunk = &mut bytes[..n * self.image_size];
            let read = self.file.as_file().read_exact_at(chunk, self.offset(first));
            read.map_err(|error| DataError::io(self.file.path(), "read", &error))?;
            see(first, chunk);
            first += n;
        }
        Ok(())
    }

    /// Writes the index and maps the file; with a `place` the file stays there.
    pub(crate) fn finish(
        self,
        mut index: Index,
        place: Option<&Path>,
    ) -> Result<PixelFile, DataError> {
        assert_eq!(index.image_size(), self.image_size, "one size");
        let mut hash = Sha256::new();
        self.for_each_chunk(0..index.len(), |_, bytes| hash.update(bytes))?;
        index.pixels_sha256 = crate::digest::hex(&hash.finalize());

        let json = serde_json::to_vec(&index).expect("an index is JSON");
        let mut trailer = json.clone();
        trailer.extend(Sha256::digest(&json));
        trailer.extend((json.len() as u64).to_le_bytes());
        trailer.extend(MAGIC);
        self.write_at(&trailer, self.offset(index.len()))?;

        let path = self.file.path().to_owned();
        let failed = |error: io::Error| DataError::io(&path, "write", &error);
        let file = match place {
            None => self.file.into_file(),
            Some(place) => {
                self.file.as_file().sync_all().map_err(failed)?;
                self.file
                    .persist(place)
                    .map_err(|error| DataError::io(place, "write", &error.error))?
            }
        };
        let shown = place.unwrap_or(&path);
        PixelFile::of(&file, shown)?.ok_or_else(|| {
            DataError::content(shown, "a cache that does not read back", "the one just written")
        })
    }

    fn offset(&self, index: usize) -> u64 {
        (MAGIC.len() + index * self.image_size) as u64
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DataError> {
        let written = self.file.as_file().write_all_at(bytes, offset);
        written.map_err(|error| DataError::io(self.file.path(), "write", &error))
    }
}

/// A whole pixel file.
#[derive(Clone, Debug)]
pub(crate) struct PixelFile {
    pub index: Index,
    /// Test, unlabelled, train: what pre-training may see lies together.
    pub images: Images,
}

impl PixelFile {
    /// Opens the file at `place`; `None` if there is none, or none of ours.
    pub(crate) fn open(place: &Path) -> Result<Option<Self>, DataError> {
        match File::open(place) {
            Ok(file) => Self::of(&file, place),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DataError::io(place, "read", &error)),
        }
    }

    fn of(file: &File, path: &Path) -> Result<Option<Self>, DataError> {
        let failed = |error: io::Error| DataError::io(path, "read", &error);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() < (MAGIC.len() + TRAILER) as u64 {
            return Ok(None);
        }
        // Positioned reads first: only a file whose parts agree is mapped.
        let mut end = [0; TRAILER];
        file.read_exact_at(&mut end, metadata.len() - TRAILER as u64).map_err(failed)?;
        let (sha256, rest) = end.split_at(32);
        let (length, magic) = rest.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let fits = length <= INDEX_LIMIT.min(metadata.len() - (MAGIC.len() + TRAILER) as u64);
        if magic != MAGIC || !fits {
            return Ok(None);
        }
        let start = metadata.len() - TRAILER as u64 - length;
        let mut json = vec![0; length as usize];
        file.read_exact_at(&mut json, start).map_err(failed)?;
        if Sha256::digest(&json)[..] != *sha256 {
            return Ok(None);
        }
        let Ok(index) = serde_json::from_slice::<Index>(&json) else { return Ok(None) };
        let n_bytes = index.len().checked_mul(index.image_size());
        if index.image_size() == 0 || n_bytes.map(|n| (n + MAGIC.len()) as u64) != Some(start) {
            return Ok(None);
        }
        let map = Arc::new(Map {
            map: map(file).map_err(failed)?,
            end: start as usize,
            looked_at: AtomicUsize::new(0),
        });
        let images = Images::mapped(map, index.height, index.width).expect("sizes agree");
        Ok(Some(Self { index, images }))
    }
}

/// The one memory map of this program.
#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file is one of our own, written whole before it got its name
    // and never changed by us afterwards; its length was checked against its
    // index. A user who cuts it short while it is in use ends the program
    // (SIGBUS), as with any mapped file; `u8` has no invalid values.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let class_names = vec!["a".to_owned(), "b".to_owned()];
        let (test, train) = (vec![1], vec![0, 1]);
        Index { height: 2, width: 1, test, train, unlabelled: 3, class_names, ..Index::default() }
    }

    fn is_intact(file: &PixelFile) -> bool {
        crate::digest::sha256(&[file.images.bytes()]) == file.index.pixels_sha256
    }

    fn write(place: Option<&Path>) -> PixelFile {
        let writer = PixelWriter::new(place.and_then(Path::parent), (2, 1)).unwrap();
        (0..6).rev().for_each(|i| writer.write(i, &[i as u8; 6]).unwrap());
        writer.swap(3, 5).unwrap();
        writer.finish(index(), place).unwrap()
    }

    #[test]
    fn a_file_is_mapped_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/a.pixels");
        let written = write(Some(&place));
        let opened = PixelFile::open(&place).unwrap().unwrap();
        assert_eq!((&written.index, &written.images), (&opened.index, &opened.images));
        let firsts: Vec<u8> = (0..6).map(|i| opened.images.image(i)[0]).collect();
        assert_eq!(firsts, [0, 1, 2, 5, 4, 3]);
        assert!(is_intact(&opened));
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1, "no partial file");
        assert_eq!(write(None).images, opened.images);
    }

    #[test]
    fn what_is_given_back_is_there_when_it_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a.pixels");
        let writer = PixelWriter::new(Some(folder.path()), (64, 64)).unwrap();
        // 74 MB, so that it goes back twice on the way.
        let n = 6_000;
        let image = |i: usize| vec![(i % 251) as u8; 64 * 64 * 3];
        (0..n).for_each(|i| writer.write(i, &image(i)).unwrap());
        let index = Index { height: 64, width: 64, unlabelled: n, ..Index::default() };
        let images = writer.finish(index, Some(&place)).unwrap().images;
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
        };
        let before = resident();
        for i in (0..n).chain(0..n) {
            assert_eq!(images.image(i), image(i), "image {i}");
            images.looked_at(1);
            let more = resident().saturating_sub(before);
            assert!(i % 100 > 0 || more < KEPT + (16 << 20), "{more} bytes at image {i}");
        }
    }

    #[test]
    fn a_file_that_is_cut_or_changed_is_none_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a.pixels");
        assert!(PixelFile::open(&place).unwrap().is_none(), "not there");
        write(Some(&place));
        let whole = fs::read(&place).unwrap();
        let reopened = |bytes: &[u8]| {
            fs::remove_file(&place).unwrap();
            fs::write(&place, bytes).unwrap();
            PixelFile::open(&place).unwrap()
        };
        for n in 0..whole.len() {
            assert!(reopened(&whole[..n]).is_none(), "cut to {n}");
        }
        let pixels = MAGIC.len()..MAGIC.len() + 36;
        for at in (0..whole.len()).filter(|at| *at >= pixels.end) {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            assert!(reopened(&changed).is_none(), "changed at {at}");
        }
        let mut changed = whole;
        changed[pixels.start] ^= 4;
        assert!(!is_intact(&reopened(&changed).unwrap()), "pixels have a sum of their own");
    }
}

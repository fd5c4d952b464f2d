//! STL-10 in its binary format (Coates, Ng and Lee 2011).
//!
//! ```text
//! train_X.bin, test_X.bin, unlabeled_X.bin    images of 3 x 96 x 96 bytes, each channel column by column
//! train_y.bin, test_y.bin                     labels, 1 to 10
//! fold_indices.txt                            ten lines of indices into the training images
//! ```
//! `pixel(channel, row, column) = image[channel · 96² + column · 96 + row]`. The
//! unlabelled images, 2.8 GB, go through memory a few at a time.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::archive::{self, visit_tar_gz};
use crate::decode::{Decoding, Target};
use crate::error::DataError;
use crate::file::{self, recognise};
use crate::manifest::Manifest;
use crate::pixel_file::{Index, PixelFile};
use crate::source::Original;

/// In the order in which images are kept.
const IMAGES: [&str; 3] = ["test_X.bin", UNLABELLED, "train_X.bin"];
const UNLABELLED: &str = "unlabeled_X.bin";
const LABELS: [&str; 2] = ["test_y.bin", "train_y.bin"];
const FOLDS: &str = "fold_indices.txt";

const MAX_IMAGES: u64 = 1 << 20;
const TEXT_LIMIT: u64 = 1 << 20;
const AT_A_TIME: usize = 256;

/// What has been read so far; an archive may have its members in any order.
#[derive(Debug, Default)]
struct Progress {
    n: [Option<usize>; 3],
    done: [bool; 3],
    labels: [Option<Vec<u32>>; 2],
    folds: Option<Vec<Vec<u32>>>,
}

pub(crate) fn read(
    manifest: &Manifest,
    folder: &str,
    original: &Original,
    target: &Target,
) -> Result<PixelFile, DataError> {
    let side = manifest.side as usize;
    let decoding = target.begin(&manifest.name, None, side)?;
    let mut progress = Progress::default();
    let reader = Reader { manifest, decoding: &decoding, side };
    match original {
        Original::Folder(dir) => {
            for name in IMAGES.iter().chain(&LABELS).chain([&FOLDS]) {
                let path = dir.join(name);
                if [UNLABELLED, FOLDS].contains(name) && !path.exists() {
                    progress.is_absent(name);
                    continue;
                }
                let file = file::open(&path, "a binary file of STL-10")?;
                let bytes = file.metadata().map_err(|e| file::unreadable(&path, &e))?.len();
                let source = &mut BufReader::with_capacity(1 << 20, file);
                reader.member(&mut progress, name, bytes, &path, source)?;
            }
        }
        Original::Archive(path) => {
            let name_of = |member: &str| -> Option<&'static str> {
                let name = member.strip_prefix(folder)?.strip_prefix('/')?;
                let mut all = IMAGES.iter().chain(&LABELS).chain([&FOLDS]);
                all.find(|known| **known == name).copied()
            };
            // The place of the training images is known only when the number of
            // the unlabelled ones is, which comes behind them in the published
            // archive: a second pass, cut short, reads those.
            for _ in 0..IMAGES.len() {
                visit_tar_gz(
                    path,
                    |member| name_of(member).is_some(),
                    |member| {
                        let name = name_of(member.name).expect("only those are visited");
                        let shown = crate::decode::inside(path, member.name);
                        reader.member(&mut progress, name, member.bytes, &shown, member.content)?;
                        Ok(!progress.is_complete())
                    },
                )?;
                progress.is_absent(UNLABELLED);
                progress.is_absent(FOLDS);
                if progress.is_complete() {
                    break;
                }
            }
        }
    }
    let path = |name: &str| original.member(folder, name);
    progress.finish(manifest, path, decoding)
}

impl Progress {
    fn is_complete(&self) -> bool {
        self.done.iter().all(|done| *done)
            && self.labels.iter().all(Option::is_some)
            && self.folds.is_some()
    }

    /// The unlabelled images and the folds can be left away.
    fn is_absent(&mut self, name: &str) {
        match name {
            UNLABELLED if self.n[1].is_none() => (self.n[1], self.done[1]) = (Some(0), true),
            FOLDS => drop(self.folds.get_or_insert_default()),
            _ => {}
        }
    }

    fn finish(
        self,
        manifest: &Manifest,
        path: impl Fn(&str) -> PathBuf,
        decoding: Decoding,
    ) -> Result<PixelFile, DataError> {
        let [test, train] = [(0, 0), (2, 1)].map(|(i, j)| -> Result<Vec<u32>, DataError> {
            let missing = |name: &str| {
                let message = format!("`{}`: is not there, expected it", path(name).display());
                DataError::missing(message, None)
            };
            let n = self.n[i].ok_or_else(|| missing(IMAGES[i]))?;
            let labels = self.labels[j].clone().ok_or_else(|| missing(LABELS[j]))?;
            if labels.len() != n {
                let found = format!("{} labels", labels.len());
                let expected = format!("{n}, one for each image");
                return Err(DataError::content(&path(LABELS[j]), found, expected));
            }
            Ok(labels)
        });
        let (test, train) = (test?, train?);
        let folds = self.folds.unwrap_or_default();
        if let Some(index) = folds.iter().flatten().find(|&&i| i as usize >= train.len()) {
            let expected = format!("indices of the {} training images", train.len());
            return Err(DataError::content(&path(FOLDS), format!("index {index}"), expected));
        }
        decoding.finish(Index {
            test,
            train,
            unlabelled: self.n[1].unwrap_or(0),
            folds,
            class_names: manifest.classes.clone(),
            ..Index::default()
        })
    }
}

struct Reader<'a> {
    manifest: &'a Manifest,
    decoding: &'a Decoding,
    side: usize,
}

impl Reader<'_> {
    fn member(
        &self,
        progress: &mut Progress,
        name: &str,
        bytes: u64,
        path: &Path,
        source: &mut dyn Read,
    ) -> Result<(), DataError> {
        if let Some(i) = IMAGES.iter().position(|known| *known == name) {
            let n = self.number(path, bytes, source)?;
            progress.n[i] = Some(n);
            let before = progress.n[..i].iter().copied().sum::<Option<usize>>();
            if let (Some(first), false) = (before, progress.done[i]) {
                self.images(first, n, path, source)?;
                progress.done[i] = true;
            }
        } else if let Some(i) = LABELS.iter().position(|known| *known == name) {
            progress.labels[i] = Some(self.labels(path, source)?);
        } else {
            progress.folds = Some(folds(path, source)?);
        }
        Ok(())
    }

    fn number(&self, path: &Path, bytes: u64, source: &mut dyn Read) -> Result<usize, DataError> {
        let size = (3 * self.side * self.side) as u64;
        let n = bytes / size;
        if bytes > 0 && bytes.is_multiple_of(size) && n <= MAX_IMAGES {
            return Ok(n as usize);
        }
        let mut start = Vec::new();
        source.take(64).read_to_end(&mut start).map_err(|error| archive::broken(path, &error))?;
        Err(match recognise(&start) {
            Some(found) => DataError::kind(path, found, "a binary file of STL-10"),
            None => {
                let expected = format!("a multiple of {size}, an image of STL-10");
                DataError::content(path, format!("{bytes} bytes"), expected)
            }
        })
    }

    fn images(
        &self,
        first: usize,
        n: usize,
        path: &Path,
        source: &mut dyn Read,
    ) -> Result<(), DataError> {
        let (side, plane) = (self.side, self.side * self.side);
        let size = 3 * plane;
        let mut some = vec![0; AT_A_TIME.min(n) * size];
        let mut done = 0;
        while done < n {
            let n_now = AT_A_TIME.min(n - done);
            let some = &mut some[..n_now * size];
            source.read_exact(some).map_err(|error| archive::broken(path, &error))?;
            self.decoding.put_records(first + done, some, size, side, |image, rgb| {
                for (at, pixel) in rgb.chunks_exact_mut(3).enumerate() {
                    let from = at % side * side + at / side;
                    pixel.copy_from_slice(&[0, 1, 2].map(|channel| image[channel * plane + from]));
                }
            })?;
            done += n_now;
        }
        Ok(())
    }

    fn labels(&self, path: &Path, source: &mut dyn Read) -> Result<Vec<u32>, DataError> {
        let mut labels = Vec::new();
        let read = source.take(MAX_IMAGES + 1).read_to_end(&mut labels);
        read.map_err(|error| archive::broken(path, &error))?;
        let n_classes = self.manifest.classes.len();
        match labels.iter().position(|&label| !(1..=n_classes).contains(&usize::from(label))) {
            None => Ok(labels.into_iter().map(|label| u32::from(label) - 1).collect()),
            Some(i) => {
                let found = format!("label {} at image {i}", labels[i]);
                Err(DataError::content(path, found, format!("1 to {n_classes}")))
            }
        }
    }
}

fn folds(path: &Path, source: &mut dyn Read) -> Result<Vec<Vec<u32>>, DataError> {
    let mut text = Vec::new();
    let read = source.take(TEXT_LIMIT).read_to_end(&mut text);
    read.map_err(|error| archive::broken(path, &error))?;
    let text = String::from_utf8_lossy(&text);
    let line = |(i, line): (usize, &str)| {
        let indices = line.split_whitespace().map(|word| {
            let wrong = || {
                let word: String = word.escape_default().take(40).collect();
                DataError::content(path, format!("`{word}` in line {}", i + 1), "indices")
            };
            word.parse::<u32>().map_err(|_| wrong())
        });
        indices.collect()
    };
    text.lines().filter(|line| !line.trim().is_empty()).enumerate().map(line).collect()
}

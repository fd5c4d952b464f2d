//! What every reader shares: where decoded images go, in parallel and at one size.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::DataError;
use crate::picture;
use crate::pixel_file::{Index, PixelFile, PixelWriter, SourceFile};
use crate::report::{Reporter, Unit};
use crate::spread::spread;

/// Where a reader writes to, and what it may tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    /// The folder of the cache; `None` keeps the file only as long as it is used.
    pub folder: Option<PathBuf>,
    /// The file's name there.
    pub name: String,
    /// Rows and columns that images get; `None` leaves them.
    pub side: Option<usize>,
    /// What the file will say it was made of.
    pub sources: Vec<SourceFile>,
    /// And what its users should know.
    pub notes: Vec<String>,
    pub report: Reporter,
}

impl Target {
    pub(crate) fn place(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(&self.name))
    }

    /// Begins the decoding of `n` images of that native side.
    pub(crate) fn begin(
        &self,
        what: &str,
        n: Option<usize>,
        native: usize,
    ) -> Result<Decoding, DataError> {
        let side = self.side.unwrap_or(native);
        let writer = PixelWriter::new(self.folder.as_deref(), (side, side))?;
        self.report.started(format!("decoding {what}"), n.map(|n| n as u64), Unit::Images);
        Ok(Decoding { writer, side, target: self.clone() })
    }
}

/// Images on their way into a pixel file.
#[derive(Debug)]
pub(crate) struct Decoding {
    writer: PixelWriter,
    side: usize,
    target: Target,
}

impl Decoding {
    /// Puts one image of `[height, width, 3]` in its place, resized if need be.
    pub(crate) fn put(
        &self,
        index: usize,
        rgb: &[u8],
        size: (usize, usize),
    ) -> Result<(), DataError> {
        match size == (self.side, self.side) {
            true => self.writer.write(index, rgb)?,
            false => self.writer.write(index, &picture::fit(rgb, size, self.side))?,
        }
        self.target.report.advanced(1);
        Ok(())
    }

    /// Decodes records in parallel: `convert` makes `[side, side, 3]` bytes of
    /// each, and they are put in order from `first` on.
    pub(crate) fn put_records(
        &self,
        first: usize,
        records: &[u8],
        record: usize,
        native: usize,
        convert: impl Fn(&[u8], &mut [u8]) + Sync,
    ) -> Result<(), DataError> {
        records.par_chunks_exact(record).enumerate().try_for_each_init(
            || vec![0; native * native * 3],
            |rgb, (i, record)| {
                convert(record, rgb);
                self.put(first + i, rgb, (native, native))
            },
        )
    }

    /// Finishes the file. Images that come one class after the other (Tiny-ImageNet) are
    /// spread, for whoever takes the first or the last so many. Unlabelled images that equal a test image byte for
    /// byte trade places with the first ones, so that they can be left out.
    pub(crate) fn finish(self, index: Index) -> Result<PixelFile, DataError> {
        let mut index = Index { height: self.side, width: self.side, ..index };
        index.sources.extend(self.target.sources.iter().cloned());
        index.notes.extend(self.target.notes.iter().cloned());
        if index.unlabelled > 0 && !index.test.is_empty() {
            index.equal_to_test = self.set_apart_equal_to_test(&index)?;
        }
        if index.folds.is_empty() {
            let first_train = index.test.len() + index.unlabelled;
            self.spread_if_sorted(0, &mut index.test)?;
            self.spread_if_sorted(first_train, &mut index.train)?;
        }
        let file = self.writer.finish(index, self.target.place().as_deref())?;
        self.target.report.finished();
        Ok(file)
    }

    fn spread_if_sorted(&self, first: usize, labels: &mut Vec<u32>) -> Result<(), DataError> {
        if !labels.is_sorted() {
            return Ok(());
        }
        let mut order = spread(labels);
        *labels = order.iter().map(|&image| labels[image]).collect();
        // Each cycle of the permutation by exchanges; a place that is done holds itself.
        for place in 0..order.len() {
            let mut at = place;
            while order[at] != place {
                self.writer.swap(first + at, first + order[at])?;
                at = std::mem::replace(&mut order[at], at);
            }
            order[at] = at;
        }
        Ok(())
    }

    fn set_apart_equal_to_test(&self, index: &Index) -> Result<usize, DataError> {
        let n_test = index.test.len();
        let size = self.side * self.side * 3;
        let mut sums: Vec<[u8; 32]> = Vec::with_capacity(n_test);
        let sum = |image: &[u8]| -> [u8; 32] {
            use sha2::Digest;
            sha2::Sha256::digest(image).into()
        };
        self.writer.for_each_chunk(0..n_test, |_, chunk| {
            sums.par_extend(chunk.par_chunks_exact(size).map(sum));
        })?;
        sums.sort_unstable();
        let (first, n) = (n_test, index.unlabelled);
        let mut is_equal = vec![false; n];
        self.writer.for_each_chunk(first..first + n, |start, chunk| {
            let flags = &mut is_equal[start - first..][..chunk.len() / size];
            flags.par_iter_mut().zip(chunk.par_chunks_exact(size)).for_each(|(flag, image)| {
                *flag = sums.binary_search(&sum(image)).is_ok();
            });
        })?;
        let n_equal = is_equal.iter().filter(|&&equal| equal).count();
        let mut behind = (n_equal..n).filter(|&i| is_equal[i]);
        for i in (0..n_equal).filter(|&i| !is_equal[i]) {
            let j = behind.next().expect("as many behind as are missing in front");
            self.writer.swap(first + i, first + j)?;
        }
        Ok(n_equal)
    }
}

/// Encoded pictures on their way into a pixel file: decodes them in parallel, a
/// few at a time, and puts number i of `pictures` in place `first + i`.
pub(crate) fn put_pictures<T: Send + Sync>(
    decoding: &Decoding,
    first: usize,
    mut pictures: impl Iterator<Item = Result<T, DataError>>,
    decode: impl Fn(&T) -> Result<picture::Picture, DataError> + Sync,
) -> Result<usize, DataError> {
    const AT_A_TIME: usize = 256;
    let mut done = 0;
    loop {
        let some = pictures.by_ref().take(AT_A_TIME).collect::<Result<Vec<T>, DataError>>()?;
        if some.is_empty() {
            return Ok(done);
        }
        some.par_iter().enumerate().try_for_each(|(i, encoded)| {
            let picture = decode(encoded)?;
            decoding.put(first + done + i, &picture.bytes, (picture.height, picture.width))
        })?;
        done += some.len();
    }
}

/// A path as `archive/member`, for messages.
pub(crate) fn inside(path: &Path, member: &str) -> PathBuf {
    path.join(member)
}

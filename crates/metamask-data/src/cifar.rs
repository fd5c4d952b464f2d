//! CIFAR-10 in its binary format (Krizhevsky 2009): files of 3,073-byte records.
//!
//! ```text
//! label (0 to 9)   1,024 red   1,024 green   1,024 blue   each row by row
//! ```
//! The images carry no licence, so none is part of this program; the files are
//! those of `cifar-10-binary.tar.gz`, unpacked by the user.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::dataset::{Images, Labelled};
use crate::error::DataError;
use crate::file::{LIMIT, find_folder, list, open, recognise, unreadable};

pub(crate) const LICENCE: &str = "CIFAR-10, Krizhevsky 2009; no licence stated";

const CLASS_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + Images::CHANNELS * PLANE;

const TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
const TEST: [&str; 1] = ["test_batch.bin"];

/// Training and test images from the six files in `data_dir`; how many a file
/// holds follows from its length.
pub(crate) fn cifar10(data_dir: Option<&Path>) -> Result<[Labelled; 2], DataError> {
    let folder = find(data_dir)?;
    Ok([read_files(&folder, &TRAIN)?, read_files(&folder, &TEST)?])
}

/// The folder itself, or where unpacking the archive puts the files.
fn find(data_dir: Option<&Path>) -> Result<PathBuf, DataError> {
    const HELP: &str = "unpack cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html and \
                        give its folder with --data-dir";
    let help = Some(HELP.to_owned());
    let Some(dir) = data_dir else {
        let message = "cifar10: no folder was given, expected one with CIFAR-10's binary files";
        return Err(DataError::missing(message.into(), help));
    };
    let folders = [dir.to_owned(), dir.join("cifar-10-batches-bin"), dir.join("cifar10")];
    if let Some(folder) = find_folder(&folders, &TRAIN.map(String::from)) {
        return Ok(folder);
    }
    if dir.join("cifar-10-batches-py").exists() || dir.join("data_batch_1").exists() {
        // Pickles can run code; they are not read at all.
        return Err(DataError::kind(dir, "CIFAR-10 as Python pickles", "its binary files"))
            .map_err(|error| DataError { help, ..error });
    }
    let looked = list(&folders);
    let message =
        format!("cifar10: found no `{}` in {looked}, expected CIFAR-10's binary files", TRAIN[0]);
    Err(DataError::missing(message, help))
}

fn read_files(folder: &Path, names: &[&str]) -> Result<Labelled, DataError> {
    let (mut labels, mut bytes) = (Vec::new(), Vec::new());
    for name in names {
        let path = folder.join(name);
        let file = open(&path, "a binary file of CIFAR-10")?;
        read_records(&path, file, &mut labels, &mut bytes)?;
    }
    Ok(Labelled {
        images: Images::new(bytes, SIDE, SIDE).expect("whole images"),
        labels,
        class_names: CLASS_NAMES.map(String::from).into(),
        factors: None,
    })
}

/// Appends a file's labels, and its images as `[32, 32, 3]`; `path` only names
/// the source in errors.
fn read_records(
    path: &Path,
    source: impl Read,
    labels: &mut Vec<u32>,
    bytes: &mut Vec<u8>,
) -> Result<(), DataError> {
    let mut records = Vec::new();
    let read = source.take(LIMIT as u64 + 1).read_to_end(&mut records);
    read.map_err(|error| unreadable(path, &error))?;
    if records.len() > LIMIT {
        return Err(DataError::content(path, "more bytes", format!("at most {LIMIT}")));
    }
    if records.is_empty() || !records.len().is_multiple_of(RECORD) {
        return Err(match recognise(&records) {
            Some(found) => DataError::kind(path, found, "a binary file of CIFAR-10"),
            None => {
                let found = format!("{} bytes", records.len());
                let expected = format!("a multiple of {RECORD}, a record of CIFAR-10");
                DataError::content(path, found, expected)
            }
        });
    }
    for (i, record) in records.chunks_exact(RECORD).enumerate() {
        let (label, planes) = (record[0], &record[1..]);
        if usize::from(label) >= CLASS_NAMES.len() {
            let found = format!("label {label} at image {i}");
            return Err(DataError::content(path, found, "0 to 9"));
        }
        labels.push(label.into());
        bytes.extend(
            (0..PLANE).flat_map(|at| [planes[at], planes[PLANE + at], planes[2 * PLANE + at]]),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A record whose red is 8 · row, green 8 · column and blue 100 + label: no
    /// mirror image or transpose of it is the same.
    fn record(label: u8) -> Vec<u8> {
        let plane = |value: fn(u8, u8) -> u8| {
            (0..32).flat_map(move |row| (0..32).map(move |column| value(row, column)))
        };
        let mut record = vec![label];
        record.extend(plane(|row, _| 8 * row));
        record.extend(plane(|_, column| 8 * column));
        record.extend([100 + label; PLANE]);
        record
    }

    /// The six files, of so many records each.
    fn folder(sizes: [u8; 6]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, n) in TRAIN.iter().chain(&TEST).zip(sizes) {
            let file: Vec<u8> = (0..n).flat_map(|i| record(i % 10)).collect();
            fs::write(folder.path().join(name), file).unwrap();
        }
        folder
    }

    #[test]
    fn images_are_read_upright_with_their_colours_and_labels() {
        let folder = folder([4, 3, 2, 1, 12, 5]);
        let [train, test] = cifar10(Some(folder.path())).unwrap();
        assert_eq!((train.len(), test.len()), (22, 5));
        assert_eq!(train.labels[..6], [0, 1, 2, 3, 0, 1]);
        for (i, label) in train.labels.iter().enumerate() {
            for (row, column) in [(0, 0), (3, 0), (0, 5), (31, 30)] {
                let pixel = &train.images.image(i)[3 * (row * 32 + column)..][..3];
                let expected = [8 * row, 8 * column, 100 + *label as usize];
                assert_eq!(pixel, expected.map(|value| value as u8), "image {i} {row},{column}");
            }
        }
    }

    #[test]
    fn the_archive_s_own_folder_is_found() {
        let outer = tempfile::tempdir().unwrap();
        let inner = folder([1; 6]);
        let target = outer.path().join("cifar-10-batches-bin");
        fs::create_dir(&target).unwrap();
        for name in TRAIN.iter().chain(&TEST) {
            fs::copy(inner.path().join(name), target.join(name)).unwrap();
        }
        assert_eq!(cifar10(Some(outer.path())).unwrap()[1].len(), 1);
    }

    fn check_refused(damage: impl Fn(&Path), code: &str, words: &str) {
        let folder = folder([2; 6]);
        damage(folder.path());
        let error = cifar10(Some(folder.path())).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(words), "{error}");
    }

    #[test]
    fn what_is_no_whole_number_of_records_is_refused_by_name() {
        let write = |name: &'static str, bytes: Vec<u8>| {
            move |dir: &Path| fs::write(dir.join(name), &bytes).unwrap()
        };
        let words = "data_batch_3.bin`: found 6145 bytes, expected a multiple of 3073";
        check_refused(write("data_batch_3.bin", vec![0; 6145]), "DATA-CONTENT", words);
        check_refused(write("test_batch.bin", vec![]), "DATA-KIND", "found an empty file");
        let pointer = b"version https://git-lfs.github.com/spec/v1\n".to_vec();
        check_refused(write("test_batch.bin", pointer), "DATA-KIND", "Git LFS pointer");
        let words = "test_batch.bin`: found label 10 at image 1, expected 0 to 9";
        let bytes = [record(9), record(10)].concat();
        check_refused(write("test_batch.bin", bytes), "DATA-CONTENT", words);
    }

    #[test]
    fn a_missing_batch_is_named_and_not_left_out() {
        let remove = |dir: &Path| fs::remove_file(dir.join("data_batch_4.bin")).unwrap();
        check_refused(remove, "DATA-MISSING", "data_batch_4.bin");
    }

    #[test]
    fn pickles_and_missing_folders_are_answered_with_what_to_fetch() {
        let folder = tempfile::tempdir().unwrap();
        let error = cifar10(Some(folder.path())).unwrap_err();
        assert_eq!(error.code, "DATA-MISSING");
        fs::create_dir(folder.path().join("cifar-10-batches-py")).unwrap();
        let error = cifar10(Some(folder.path())).unwrap_err();
        assert_eq!(error.code, "DATA-KIND");
        for error in [error, cifar10(None).unwrap_err()] {
            assert!(error.help.unwrap().contains("cifar-10-binary.tar.gz"));
        }
    }
}

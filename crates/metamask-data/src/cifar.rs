//! CIFAR-10 and CIFAR-100 in their binary format (Krizhevsky 2009): files of records.
//!
//! ```text
//! CIFAR-10    label (0 to 9)                   1,024 red   1,024 green   1,024 blue   each row by row
//! CIFAR-100   coarse (0 to 19) fine (0 to 99)  the same
//! ```
//! The class of CIFAR-100 is the fine label. The images carry no licence, so
//! none is part of this program.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::dataset::{Images, Labelled};
use crate::error::DataError;
use crate::file::{find_folder, list, open, recognise, unreadable};

/// One of the two sets: how its files are called and what a record begins with.
#[derive(Debug)]
pub(crate) struct Variant {
    pub licence: &'static str,
    /// The name of the set in messages.
    title: &'static str,
    archive: &'static str,
    /// The folders that the binary and the pickled archive unpack to.
    folder: &'static str,
    pickles: &'static str,
    /// A file that only unpacked pickles have.
    pickle: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    /// Label bytes of a record; the last one is the class.
    n_labels: usize,
    class_names: &'static [&'static str],
}

pub(crate) const CIFAR10: Variant = Variant {
    licence: "CIFAR-10, Krizhevsky 2009; no licence stated",
    title: "CIFAR-10",
    archive: "cifar-10-binary.tar.gz",
    folder: "cifar-10-batches-bin",
    pickles: "cifar-10-batches-py",
    pickle: "data_batch_1",
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: &["test_batch.bin"],
    n_labels: 1,
    class_names: &[
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
};

pub(crate) const CIFAR100: Variant = Variant {
    licence: "CIFAR-100, Krizhevsky 2009; no licence stated",
    title: "CIFAR-100",
    archive: "cifar-100-binary.tar.gz",
    folder: "cifar-100-binary",
    pickles: "cifar-100-python",
    pickle: "train",
    train: &["train.bin"],
    test: &["test.bin"],
    n_labels: 2,
    class_names: &[
        "apple",
        "aquarium_fish",
        "baby",
        "bear",
        "beaver",
        "bed",
        "bee",
        "beetle",
        "bicycle",
        "bottle",
        "bowl",
        "boy",
        "bridge",
        "bus",
        "butterfly",
        "camel",
        "can",
        "castle",
        "caterpillar",
        "cattle",
        "chair",
        "chimpanzee",
        "clock",
        "cloud",
        "cockroach",
        "couch",
        "crab",
        "crocodile",
        "cup",
        "dinosaur",
        "dolphin",
        "elephant",
        "flatfish",
        "forest",
        "fox",
        "girl",
        "hamster",
        "house",
        "kangaroo",
        "keyboard",
        "lamp",
        "lawn_mower",
        "leopard",
        "lion",
        "lizard",
        "lobster",
        "man",
        "maple_tree",
        "motorcycle",
        "mountain",
        "mouse",
        "mushroom",
        "oak_tree",
        "orange",
        "orchid",
        "otter",
        "palm_tree",
        "pear",
        "pickup_truck",
        "pine_tree",
        "plain",
        "plate",
        "poppy",
        "porcupine",
        "possum",
        "rabbit",
        "raccoon",
        "ray",
        "road",
        "rocket",
        "rose",
        "sea",
        "seal",
        "shark",
        "shrew",
        "skunk",
        "skyscraper",
        "snail",
        "snake",
        "spider",
        "squirrel",
        "streetcar",
        "sunflower",
        "sweet_pepper",
        "table",
        "tank",
        "telephone",
        "television",
        "tiger",
        "tractor",
        "train",
        "trout",
        "tulip",
        "turtle",
        "wardrobe",
        "whale",
        "willow_tree",
        "wolf",
        "woman",
        "worm",
    ],
};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const PIXELS: usize = Images::CHANNELS * PLANE;
/// No file of the two sets is larger; CIFAR-100's has 154 MB.
const FILE_LIMIT: usize = 50_000 * (2 + PIXELS);

/// Training and test images from the binary files in `data_dir`; how many a
/// file holds follows from its length.
pub(crate) fn read(variant: &Variant, data_dir: Option<&Path>) -> Result<[Labelled; 2], DataError> {
    let folder = find(variant, data_dir)?;
    Ok([read_files(variant, &folder, variant.train)?, read_files(variant, &folder, variant.test)?])
}

/// The folder itself, or where unpacking the archive puts the files.
fn find(variant: &Variant, data_dir: Option<&Path>) -> Result<PathBuf, DataError> {
    let Variant { title, archive, .. } = variant;
    let help = Some(format!(
        "unpack {archive} of www.cs.toronto.edu/~kriz/cifar.html and give its folder with --data-dir"
    ));
    let Some(dir) = data_dir else {
        let message = format!("{title}: no folder was given, expected one with its binary files");
        return Err(DataError::missing(message, help));
    };
    let folders = [dir.to_owned(), dir.join(variant.folder)];
    if let Some(folder) = find_folder(&folders, &[variant.train[0].to_owned()]) {
        return Ok(folder);
    }
    if dir.join(variant.pickles).exists() || dir.join(variant.pickle).is_file() {
        // Pickles can run code; they are not read at all.
        let found = format!("{title} as Python pickles");
        return Err(DataError { help, ..DataError::kind(dir, &found, "its binary files") });
    }
    let looked = list(&folders);
    let first = variant.train[0];
    let message = format!("{title}: found no `{first}` in {looked}, expected its binary files");
    Err(DataError::missing(message, help))
}

fn read_files(variant: &Variant, folder: &Path, names: &[&str]) -> Result<Labelled, DataError> {
    let (mut labels, mut bytes) = (Vec::new(), Vec::new());
    for name in names {
        let path = folder.join(name);
        let file = open(&path, &format!("a binary file of {}", variant.title))?;
        read_records(variant, &path, file, &mut labels, &mut bytes)?;
    }
    Ok(Labelled {
        images: Images::new(bytes, SIDE, SIDE).expect("whole images"),
        labels,
        class_names: variant.class_names.iter().map(|name| (*name).to_owned()).collect(),
        factors: None,
    })
}

/// Appends a file's labels, and its images as `[32, 32, 3]`; `path` only names
/// the source in errors.
fn read_records(
    variant: &Variant,
    path: &Path,
    source: impl Read,
    labels: &mut Vec<u32>,
    bytes: &mut Vec<u8>,
) -> Result<(), DataError> {
    let Variant { title, n_labels, class_names, .. } = variant;
    let record = n_labels + PIXELS;
    let mut records = Vec::new();
    let read = source.take(FILE_LIMIT as u64 + 1).read_to_end(&mut records);
    read.map_err(|error| unreadable(path, &error))?;
    if records.len() > FILE_LIMIT {
        return Err(DataError::content(path, "more bytes", format!("at most {FILE_LIMIT}")));
    }
    if records.is_empty() || !records.len().is_multiple_of(record) {
        return Err(match recognise(&records) {
            Some(found) => DataError::kind(path, found, &format!("a binary file of {title}")),
            None => {
                let found = format!("{} bytes", records.len());
                let expected = format!("a multiple of {record}, a record of {title}");
                DataError::content(path, found, expected)
            }
        });
    }
    for (i, record) in records.chunks_exact(record).enumerate() {
        let (label, planes) = (record[n_labels - 1], &record[*n_labels..]);
        if usize::from(label) >= class_names.len() {
            let found = format!("label {label} at image {i}");
            let expected = format!("0 to {}", class_names.len() - 1);
            return Err(DataError::content(path, found, expected));
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
        for (name, n) in CIFAR10.train.iter().chain(CIFAR10.test).zip(sizes) {
            let file: Vec<u8> = (0..n).flat_map(|i| record(i % 10)).collect();
            fs::write(folder.path().join(name), file).unwrap();
        }
        folder
    }

    #[test]
    fn images_are_read_upright_with_their_colours_and_labels() {
        let folder = folder([4, 3, 2, 1, 12, 5]);
        let [train, test] = read(&CIFAR10, Some(folder.path())).unwrap();
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
        for name in CIFAR10.train.iter().chain(CIFAR10.test) {
            fs::copy(inner.path().join(name), target.join(name)).unwrap();
        }
        assert_eq!(read(&CIFAR10, Some(outer.path())).unwrap()[1].len(), 1);
    }

    fn check_refused(damage: impl Fn(&Path), code: &str, words: &str) {
        let folder = folder([2; 6]);
        damage(folder.path());
        let error = read(&CIFAR10, Some(folder.path())).unwrap_err();
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
        let error = read(&CIFAR10, Some(folder.path())).unwrap_err();
        assert_eq!(error.code, "DATA-MISSING");
        fs::create_dir(folder.path().join("cifar-10-batches-py")).unwrap();
        let error = read(&CIFAR10, Some(folder.path())).unwrap_err();
        assert_eq!(error.code, "DATA-KIND");
        for error in [error, read(&CIFAR10, None).unwrap_err()] {
            assert!(error.help.unwrap().contains("cifar-10-binary.tar.gz"));
        }
    }

    #[test]
    fn the_class_of_cifar100_is_the_second_byte() {
        let folder = tempfile::tempdir().unwrap();
        // Coarse label 19 would be a class of its own; fine label 99 is the last.
        let records = |fine: [u8; 2]| {
            let record = |fine| [&[19, fine], &record(7)[1..]].concat();
            fine.map(record).concat()
        };
        fs::write(folder.path().join("train.bin"), records([99, 3])).unwrap();
        fs::write(folder.path().join("test.bin"), records([26, 0])).unwrap();
        let [train, test] = read(&CIFAR100, Some(folder.path())).unwrap();
        assert_eq!((&train.labels[..], &test.labels[..]), (&[99, 3][..], &[26, 0][..]));
        assert_eq!(train.images.image(1)[3 * 32..][..3], [8, 0, 107], "row 1, column 0");
        let names = |i: usize| &train.class_names[i];
        assert_eq!((names(0).as_str(), names(26).as_str()), ("apple", "crab"));
        assert_eq!((names(99).as_str(), train.n_classes()), ("worm", 100));

        fs::write(folder.path().join("test.bin"), records([26, 100])).unwrap();
        let error = read(&CIFAR100, Some(folder.path())).unwrap_err();
        assert!(error.message.ends_with("found label 100 at image 1, expected 0 to 99"), "{error}");
    }
}

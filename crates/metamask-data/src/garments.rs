//! Garments: the embedded part of Fashion-MNIST, and the whole from IDX files.

use std::path::{Path, PathBuf};

use crate::digest::sha256;
use crate::error::DataError;
use crate::file::{find_folder, list, open};
use crate::grey::{GreyImages, GreyLabelled};
use crate::idx;

/// Fashion-MNIST's classes, in the order of its labels.
pub(crate) const CLASS_NAMES: [&str; 10] = [
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
];

pub(crate) const LICENCE: &str = "Fashion-MNIST, copyright 2017 Zalando SE, MIT";

const SIDE: (usize, usize) = (28, 28);

/// Where Debian's package `dataset-fashion-mnist` puts the files.
const DEBIAN: &str = "/usr/share/datasets/fashion-mnist";

/// `data/garments`, made by the `cut.py` there.
struct Embedded {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! embedded {
    ($name:literal) => {
        Embedded { name: $name, bytes: include_bytes!(concat!("../../../data/garments/", $name)) }
    };
}

const EMBEDDED: [[Embedded; 2]; 2] = [
    [embedded!("train-images-idx3-ubyte.gz"), embedded!("train-labels-idx1-ubyte.gz")],
    [embedded!("test-images-idx3-ubyte.gz"), embedded!("test-labels-idx1-ubyte.gz")],
];
const EMBEDDED_SUMS: &str = include_str!("../../../data/garments/SHA256SUMS");

/// The files of Fashion-MNIST with the SHA-256 of what they unpack to (gzip
/// streams differ from packager to packager). Taken from Debian's package
/// 0.0~git20200523.55506a9-1, whose unpacked MD5 are those of the authors.
const PUBLISHED: [[(&str, &str); 2]; 2] = [
    [
        (
            "train-images-idx3-ubyte",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        (
            "train-labels-idx1-ubyte",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ],
    [
        (
            "t10k-images-idx3-ubyte",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        (
            "t10k-labels-idx1-ubyte",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ],
];
const PUBLISHED_SIZES: [usize; 2] = [60_000, 10_000];

/// The embedded training and test garments: 7,000 and 2,000.
pub(crate) fn embedded() -> Result<[GreyLabelled; 2], DataError> {
    let [train, test] = EMBEDDED;
    Ok([embedded_split(&train)?, embedded_split(&test)?])
}

fn embedded_split([images, labels]: &[Embedded; 2]) -> Result<GreyLabelled, DataError> {
    for file in [images, labels] {
        let path = Path::new(file.name);
        let sum = |line: &'static str| line.split_once("  ").filter(|(_, name)| *name == file.name);
        let (expected, _) = EMBEDDED_SUMS.lines().find_map(sum).expect("a sum for each file");
        let found = sha256(&[file.bytes]);
        if found != expected {
            return Err(DataError::hash(path, &found, expected));
        }
    }
    pair(
        Path::new(labels.name),
        idx::read_images(Path::new(images.name), images.bytes, SIDE)?,
        idx::read_labels(Path::new(labels.name), labels.bytes, CLASS_NAMES.len())?,
    )
}

/// Fashion-MNIST's training and test images from IDX files, plain or gzipped,
/// in `data_dir`, or where Debian puts them if none is given.
///
/// A set of the published size must be the published set; smaller ones of the
/// same layout are taken as they are.
pub(crate) fn fashion_mnist(data_dir: Option<&Path>) -> Result<[GreyLabelled; 2], DataError> {
    let folder = find(data_dir)?;
    let split = |which: usize| -> Result<GreyLabelled, DataError> {
        let [(images, images_sum), (labels, labels_sum)] = PUBLISHED[which];
        let images_path = path_of(&folder, images);
        let labels_path = path_of(&folder, labels);
        let set = pair(
            &labels_path,
            idx::read_images(&images_path, open(&images_path, "an IDX file of images")?, SIDE)?,
            idx::read_labels(
                &labels_path,
                open(&labels_path, "an IDX file of labels")?,
                CLASS_NAMES.len(),
            )?,
        )?;
        if set.labels.len() == PUBLISHED_SIZES[which] {
            check_published(
                &images_path,
                &idx::image_header(&set.images),
                &set.images.bytes,
                images_sum,
            )?;
            check_published(
                &labels_path,
                &idx::label_header(&set.labels),
                &set.labels,
                labels_sum,
            )?;
        }
        Ok(set)
    };
    Ok([split(0)?, split(1)?])
}

fn check_published(
    path: &Path,
    header: &[u8],
    bytes: &[u8],
    expected: &str,
) -> Result<(), DataError> {
    let found = sha256(&[header, bytes]);
    if found == expected {
        return Ok(());
    }
    let mut error = DataError::hash(path, &found, expected);
    error.help =
        Some("the file has Fashion-MNIST's size but not its content (MNIST's digits?)".into());
    Err(error)
}

/// The folder itself, or below it where torchvision and hand-made trees have it.
fn find(data_dir: Option<&Path>) -> Result<PathBuf, DataError> {
    const HELP: &str = "Debian and Ubuntu have them: `apt-get install dataset-fashion-mnist`; \
                        elsewhere: --data-dir with the files of \
                        github.com/zalandoresearch/fashion-mnist";
    let folders = match data_dir {
        None => vec![PathBuf::from(DEBIAN)],
        Some(dir) => vec![dir.to_owned(), dir.join("fashion-mnist"), dir.join("FashionMNIST/raw")],
    };
    let (name, _) = PUBLISHED[0][0];
    find_folder(&folders, &either(name)).ok_or_else(|| {
        let looked = list(&folders);
        let message = format!(
            "fashion-mnist: found no `{name}` (or .gz) in {looked}, expected Fashion-MNIST's four \
             IDX files"
        );
        DataError::missing(message, Some(HELP.to_owned()))
    })
}

/// The file, plain if it is there, else gzipped.
fn path_of(folder: &Path, name: &str) -> PathBuf {
    let [plain, packed] = either(name).map(|name| folder.join(name));
    if packed.exists() && !plain.exists() { packed } else { plain }
}

fn either(name: &str) -> [String; 2] {
    [name.to_owned(), format!("{name}.gz")]
}

/// Images and labels of one split, of equal number.
fn pair(
    labels_path: &Path,
    images: GreyImages,
    labels: Vec<u8>,
) -> Result<GreyLabelled, DataError> {
    if labels.len() != images.len() {
        let found = format!("{} labels", labels.len());
        let expected = format!("{}, one for each image", images.len());
        return Err(DataError::content(labels_path, found, expected));
    }
    Ok(GreyLabelled { images, labels })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::Fault;

    #[test]
    fn embedded_garments_are_complete_and_dealt_out_in_turn() {
        let [train, test] = embedded().unwrap();
        assert_eq!((train.labels.len(), test.labels.len()), (7_000, 2_000));
        for set in [train, test] {
            assert!(set.labels.iter().enumerate().all(|(i, &label)| usize::from(label) == i % 10));
            // The means of grey over a class, as anyone can compute them from
            // Fashion-MNIST, lie far apart: sandals are thin, coats fill the frame.
            let mean = |class: usize| {
                let of_class = set.images.bytes.chunks_exact(784).skip(class).step_by(10);
                let (n, sum) = of_class.fold((0, 0u64), |(n, sum), image| {
                    (n + 1, sum + image.iter().map(|&v| u64::from(v)).sum::<u64>())
                });
                sum as f64 / f64::from(n) / 784.0
            };
            assert!(mean(5) < 45.0 && mean(4) > 90.0, "{} {}", mean(5), mean(4));
        }
    }

    #[test]
    fn the_embedded_set_keeps_to_its_size() {
        let size: usize = EMBEDDED.iter().flatten().map(|file| file.bytes.len()).sum();
        assert!(size <= 4_000_000, "{size} bytes");
    }

    /// A folder with n training and n test images of Fashion-MNIST's layout.
    fn small(n: u8) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for [(images, _), (labels, _)] in PUBLISHED {
            let mut file = vec![0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 28, 0, 0, 0, 28];
            file.extend((0..usize::from(n) * 784).map(|i| (i % 251) as u8));
            fs::write(folder.path().join(images), file).unwrap();
            let mut file = vec![0, 0, 8, 1, 0, 0, 0, n];
            file.extend((0..n).map(|i| i % 10));
            fs::write(folder.path().join(labels), file).unwrap();
        }
        folder
    }

    #[test]
    fn a_smaller_set_of_the_same_layout_is_read_from_data_dir() {
        let folder = small(20);
        let [train, test] = fashion_mnist(Some(folder.path())).unwrap();
        assert_eq!((train.images.len(), test.labels[13]), (20, 3));
        assert_eq!(train.images.bytes[1000], (1000 % 251) as u8);
    }

    #[test]
    fn a_missing_folder_names_every_place_looked_at() {
        let error = fashion_mnist(Some(Path::new("/nowhere"))).unwrap_err();
        assert_eq!(error.fault, Fault::Missing);
        for place in ["`/nowhere`", "`/nowhere/fashion-mnist`", "`/nowhere/FashionMNIST/raw`"] {
            assert!(error.message.contains(place), "{error}");
        }
    }

    #[test]
    fn a_missing_file_and_labels_of_another_number_are_named() {
        let folder = small(20);
        let labels = folder.path().join("t10k-labels-idx1-ubyte");
        fs::write(&labels, [0, 0, 8, 1, 0, 0, 0, 2, 1, 1]).unwrap();
        let error = fashion_mnist(Some(folder.path())).unwrap_err();
        let expected =
            format!("`{}`: found 2 labels, expected 20, one for each image", labels.display());
        assert_eq!(error.message, expected);

        fs::remove_file(&labels).unwrap();
        let error = fashion_mnist(Some(folder.path())).unwrap_err();
        assert!(error.message.starts_with(&format!("`{}`", labels.display())), "{error}");
    }

    #[test]
    fn a_set_of_the_published_size_must_be_the_published_set() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, header: &[u8], n: usize| {
            fs::write(folder.path().join(name), [header, &vec![0; n]].concat()).unwrap();
        };
        // 60,000 = 0xea60; all black: the right size, the wrong images.
        let header = [0, 0, 8, 3, 0, 0, 0xea, 0x60, 0, 0, 0, 28, 0, 0, 0, 28];
        write("train-images-idx3-ubyte", &header, 60_000 * 784);
        write("train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0xea, 0x60], 60_000);
        let error = fashion_mnist(Some(folder.path())).unwrap_err();
        assert_eq!(error.code, "DATA-HASH");
    }
}

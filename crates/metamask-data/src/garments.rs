//! Garments: the embedded part of Fashion-MNIST.

use std::path::Path;

use crate::digest::sha256;
use crate::error::DataError;
use crate::grey::GreyLabelled;
use crate::idx;
use crate::idx_set::pair;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

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

    #[test]
    fn classes_are_called_as_in_the_whole_set() {
        assert_eq!(Manifest::embedded("fashion-mnist").classes, CLASS_NAMES);
    }
}

//! What a data set is in memory: bytes, and beside them labels and factors.

use std::ops::Range;

use anyhow::ensure;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::DataError;
use crate::images::Images;
use crate::split::Split;

/// A data set with its splits.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The name [`load`](crate::load) was given.
    pub name: String,
    /// Under what terms the images may be used, and whose they are.
    pub licence: String,
    /// The images to train on, in their fixed order.
    pub train: Labelled,
    /// Images that came without labels, of the same size; most data sets have none.
    pub unlabelled: Option<Unlabelled>,
    /// The images to test on.
    pub test: Labelled,
    /// Folds of the training images, as indices, for sets that come with them.
    pub folds: Vec<Vec<u32>>,
    /// What a user should know about these images: left out, unpinned, duplicated.
    pub notes: Vec<String>,
}

impl Dataset {
    /// The images of a split, for pre-training.
    ///
    /// It takes labelled images without their labels; this is the only way from
    /// a data set to [`Unlabelled`], and it refuses the test images.
    ///
    /// # Errors
    /// If the split is [`Split::Test`], or the data set has no unlabelled images
    /// and the split asks for them.
    pub fn pretraining(&self, split: Split) -> anyhow::Result<Unlabelled> {
        let refuse = |why: &str| {
            DataError::request(format!("pre-training on `{split}` of {}: {why}", self.name))
        };
        let unlabelled = || {
            self.unlabelled.as_ref().ok_or_else(|| refuse("the data set has no unlabelled images"))
        };
        Ok(match split {
            Split::Train => Unlabelled(self.train.images.clone()),
            Split::Unlabelled => unlabelled()?.clone(),
            Split::TrainAndUnlabelled => {
                Unlabelled(unlabelled()?.images().followed_by(&self.train.images)?)
            }
            Split::Test => return Err(refuse("test images are for evaluation only").into()),
        })
    }

    /// The largest split that pre-training may see.
    pub fn pretraining_split(&self) -> Split {
        match (&self.unlabelled, self.train.is_empty()) {
            (None, _) => Split::Train,
            (Some(_), true) => Split::Unlabelled,
            (Some(_), false) => Split::TrainAndUnlabelled,
        }
    }

    /// Replaces the test images by the last `n` training images and takes them
    /// out of the training images: hyperparameters are chosen on this cut, so
    /// that the test images stay unseen.
    ///
    /// # Errors
    /// If no training image would be left, or `n` is 0.
    pub fn with_validation(self, n: usize) -> anyhow::Result<Self> {
        let n_train = self.train.len();
        ensure!(
            (1..n_train).contains(&n),
            DataError::request(format!(
                "validation cut of {}: images to hold back, expected 1 to {}, got {n}",
                self.name,
                n_train.saturating_sub(1)
            ))
        );
        let test = self.train.slice(n_train - n..n_train);
        let train = self.train.slice(0..n_train - n);
        // They count from the start of all training images, some of which are gone.
        Ok(Self { train, test, folds: Vec::new(), ..self })
    }

    /// The training images of a fold, from 0.
    ///
    /// # Errors
    /// If there is no such fold.
    pub fn fold(&self, fold: usize) -> anyhow::Result<Labelled> {
        let indices = self.folds.get(fold).ok_or_else(|| {
            let n = self.folds.len();
            DataError::request(format!("fold {fold} of {}: it has {n} folds", self.name))
        })?;
        Ok(self.train.select(indices))
    }

    /// How many test images are also, byte for byte, among the training images:
    /// what a probe is fitted on and judged by should have none in common.
    pub fn n_test_in_train(&self) -> usize {
        let mut train = sums(&self.train.images);
        train.sort_unstable();
        sums(&self.test.images).iter().filter(|sum| train.binary_search(sum).is_ok()).count()
    }

    /// The training images to fit a probe on, as rising indices: those that equal a test
    /// image byte for byte are left out. What is judged on the test images has then seen
    /// none of them.
    pub fn training_without_test_images(&self) -> Vec<u32> {
        let mut test = sums(&self.test.images);
        test.sort_unstable();
        let train = (0u32..).zip(sums(&self.train.images));
        train.filter(|(_, sum)| test.binary_search(sum).is_err()).map(|(i, _)| i).collect()
    }

    /// SHA-256 over all images and labels, in lower-case hexadecimal.
    ///
    /// Two runs with one fingerprint have seen the same data.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let unlabelled = self.unlabelled.as_ref().map(|unlabelled| (unlabelled.images(), &[][..]));
        let labelled = [&self.train, &self.test].map(|set| (&set.images, &set.labels[..]));
        for (images, labels) in labelled.into_iter().chain(unlabelled) {
            for size in [images.len(), images.height(), images.width(), images.channels()] {
                hash.update((size as u64).to_le_bytes());
            }
            images.blocks().for_each(|block| hash.update(block));
            for label in labels {
                hash.update(label.to_le_bytes());
            }
        }
        hex(&hash.finalize())
    }
}

/// SHA-256 of each image.
fn sums(images: &Images) -> Vec<[u8; 32]> {
    let sum = |image: &[u8]| -> [u8; 32] { Sha256::digest(image).into() };
    let of_block = |block: &[u8]| -> Vec<[u8; 32]> {
        block.par_chunks_exact(images.image_size()).map(sum).collect()
    };
    images.blocks().flat_map(of_block).collect()
}

/// Images with their classes: what evaluation sees.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The images.
    pub images: Images,
    /// The class of each image, an index into `class_names`.
    pub labels: Vec<u32>,
    /// The classes' names.
    pub class_names: Vec<String>,
    /// What each image was made of, for generated scenes.
    pub factors: Option<Factors>,
}

impl Labelled {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Number of classes, those without an image included.
    pub fn n_classes(&self) -> usize {
        self.class_names.len()
    }

    /// A run of the images with all that belongs to them.
    ///
    /// # Panics
    /// If the range ends behind the last image.
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self {
            images: self.images.slice(range.clone()),
            labels: self.labels[range.clone()].to_vec(),
            class_names: self.class_names.clone(),
            factors: self.factors.as_ref().map(|factors| factors.slice(range)),
        }
    }
}

impl Labelled {
    /// Some of the images with all that belongs to them, in that order; copies.
    ///
    /// # Panics
    /// If there is no image of an index.
    pub fn select(&self, indices: &[u32]) -> Self {
        let at = || indices.iter().map(|&i| i as usize);
        let bytes: Vec<u8> = at().flat_map(|i| self.images.image(i)).copied().collect();
        let (height, width) = (self.images.height(), self.images.width());
        Self {
            images: Images::new(bytes, height, width).expect("whole images"),
            labels: at().map(|i| self.labels[i]).collect(),
            class_names: self.class_names.clone(),
            factors: self.factors.as_ref().map(|factors| factors.select(at())),
        }
    }
}

/// Images without classes: what pre-training sees.
///
/// It has no field for a label, so none can reach an objective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlabelled(Images);

impl Unlabelled {
    /// The images.
    pub fn images(&self) -> &Images {
        &self.0
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Images> for Unlabelled {
    fn from(images: Images) -> Self {
        Self(images)
    }
}

/// What generated images were made of, apart from their class.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    factors: Vec<Factor>,
    values: Vec<f32>, // [n, factors]
}

/// One nuisance factor of a generated image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor {
    /// Its name, `snake_case`, with the unit where there is one.
    pub name: &'static str,
    /// Whether augmentation tells two views of an image apart by it.
    pub group: FactorGroup,
    /// What its values mean.
    pub kind: FactorKind,
}

/// Whether two views of an image agree in a factor.
///
/// A factor that both views share helps to tell images apart just as the object
/// does, so nothing that learns without labels can be expected to drop it; one
/// that differs between the views can be dropped. Studies report the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactorGroup {
    /// Both views show the same value, up to the colour jitter.
    SharedByViews,
    /// Cropping and mirroring change the value from view to view.
    DiffersBetweenViews,
}

/// What the values of a factor mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FactorKind {
    /// One of so many categories: 0, 1, ….
    Categorical(u32),
    /// A position on a circle of circumference 1, in `[0, 1)`.
    Circular,
    /// A number.
    Continuous,
}

impl Factors {
    /// Takes the values `[n, factors.len()]`.
    ///
    /// # Panics
    /// If the values are no whole number of rows.
    pub fn new(factors: &[Factor], values: Vec<f32>) -> Self {
        assert!(
            !factors.is_empty() && values.len().is_multiple_of(factors.len()),
            "rows of factors"
        );
        Self { factors: factors.to_vec(), values }
    }

    /// The factors, in the order of a row.
    pub fn factors(&self) -> &[Factor] {
        &self.factors
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.values.len() / self.factors.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All factors of one image.
    pub fn row(&self, image: usize) -> &[f32] {
        &self.values[image * self.factors.len()..][..self.factors.len()]
    }

    /// One factor of all images; `None` if there is no factor of that name.
    pub fn column(&self, name: &str) -> Option<Vec<f32>> {
        let column = self.factors.iter().position(|factor| factor.name == name)?;
        Some(self.values.chunks_exact(self.factors.len()).map(|row| row[column]).collect())
    }

    fn select(&self, images: impl Iterator<Item = usize>) -> Self {
        let values = images.flat_map(|i| self.row(i)).copied().collect();
        Self { factors: self.factors.clone(), values }
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let width = self.factors.len();
        Self {
            factors: self.factors.clone(),
            values: self.values[range.start * width..range.end * width].to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RHO: Factor =
        Factor { name: "rho", group: FactorGroup::SharedByViews, kind: FactorKind::Continuous };

    /// Ten images of 1×1 pixels; image i has bytes i, i, i, class i and factor i.
    fn ten() -> Dataset {
        let bytes: Vec<u8> = (0..10).flat_map(|i| [i; 3]).collect();
        let train = Labelled {
            images: Images::new(bytes, 1, 1).unwrap(),
            labels: (0..10).collect(),
            class_names: (0..10).map(|i| i.to_string()).collect(),
            factors: Some(Factors::new(&[RHO], (0..10u8).map(f32::from).collect())),
        };
        let (name, licence) = ("ten".into(), String::new());
        let (folds, notes) = (vec![vec![1, 3], vec![8]], Vec::new());
        let test = train.clone();
        Dataset { name, licence, test, unlabelled: None, train, folds, notes }
    }

    #[test]
    fn validation_cut_takes_the_last_training_images_and_all_that_is_theirs() {
        let cut = ten().with_validation(3).unwrap();
        assert_eq!((cut.train.len(), cut.test.len()), (7, 3));
        assert_eq!(cut.train.labels, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(cut.test.labels, [7, 8, 9]);
        assert_eq!(cut.test.images.bytes(), [7, 7, 7, 8, 8, 8, 9, 9, 9]);
        assert_eq!(cut.test.images.image(1), [8; 3]);
        assert_eq!(cut.test.factors.unwrap().column("rho").unwrap(), [7.0, 8.0, 9.0]);
    }

    #[test]
    fn validation_cut_leaves_at_least_one_image_on_each_side() {
        for n in [0, 10, 11] {
            let error = ten().with_validation(n).unwrap_err();
            assert!(error.to_string().contains("expected 1 to 9"), "{error}");
        }
    }

    /// With test images 100, 101, … and unlabelled images 200, 201, ….
    fn with_unlabelled(shared: bool) -> Dataset {
        let images = |first: u8, n: u8| {
            let bytes: Vec<u8> = (first..first + n).flat_map(|i| [i; 3]).collect();
            Images::new(bytes, 1, 1).unwrap()
        };
        let mut dataset = ten();
        dataset.test.images = images(100, 10);
        dataset.unlabelled = Some(Unlabelled(images(200, 4)));
        if shared {
            let both = dataset.pretraining(Split::TrainAndUnlabelled).unwrap().0;
            dataset.unlabelled = Some(Unlabelled(both.slice(0..4)));
            dataset.train.images = both.slice(4..14);
        }
        dataset
    }

    #[test]
    fn pretraining_sees_training_and_unlabelled_images_and_no_test_image() {
        for shared in [false, true] {
            let dataset = with_unlabelled(shared);
            let check = |split, expected: Vec<u8>| {
                let images = dataset.pretraining(split).unwrap();
                let firsts: Vec<u8> = images.images().bytes().iter().copied().step_by(3).collect();
                assert_eq!(firsts, expected, "{split}");
            };
            check(Split::Train, (0..10).collect());
            check(Split::Unlabelled, (200..204).collect());
            check(Split::TrainAndUnlabelled, (200..204).chain(0..10).collect());
            assert!(dataset.pretraining(Split::Test).is_err());
            assert_eq!(dataset.pretraining_split(), Split::TrainAndUnlabelled);
        }
        assert_eq!(ten().pretraining_split(), Split::Train);
        assert!(ten().pretraining(Split::TrainAndUnlabelled).is_err());
    }

    #[test]
    fn folds_select_training_images_with_all_that_is_theirs() {
        let fold = ten().fold(0).unwrap();
        assert_eq!((&fold.labels[..], fold.images.bytes()), (&[1, 3][..], &[1, 1, 1, 3, 3, 3][..]));
        assert_eq!(fold.factors.unwrap().column("rho").unwrap(), [1.0, 3.0]);
        assert!(ten().fold(2).is_err());
    }

    #[test]
    fn test_images_among_the_training_images_are_counted() {
        assert_eq!(ten().n_test_in_train(), 10);
        assert_eq!(ten().with_validation(3).unwrap().n_test_in_train(), 0);
    }

    #[test]
    fn a_probe_s_training_images_are_none_of_the_test_images() {
        let mut dataset = ten();
        dataset.test = dataset.train.slice(7..9);
        assert_eq!(dataset.training_without_test_images(), [0, 1, 2, 3, 4, 5, 6, 9]);
        let cut = ten().with_validation(3).unwrap();
        assert_eq!(cut.training_without_test_images(), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn fingerprint_sees_images_labels_and_the_split() {
        let dataset = ten();
        let mut relabelled = dataset.clone();
        relabelled.train.labels.swap(0, 1);
        let cut = dataset.clone().with_validation(5).unwrap();
        let prints = [dataset.fingerprint(), relabelled.fingerprint(), cut.fingerprint()];
        assert_eq!(prints[0], ten().fingerprint());
        assert!(prints[0] != prints[1] && prints[0] != prints[2]);
    }
}

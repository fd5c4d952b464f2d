//! The images that a probe, neighbours or a fine-tuning learn from.

use metamask_data::{Dataset, Labelled};

use crate::failure::{Code, Failure};

/// Training images none of which equals an image that they are judged by.
pub(crate) struct TrainingImages<'a> {
    /// The training images, all of them.
    pub all: &'a Labelled,
    /// Those that are learned from, as rising indices.
    pub samples: Vec<u32>,
    /// The class of each of these.
    pub labels: Vec<u32>,
}

impl<'a> TrainingImages<'a> {
    /// Of a data set: every training image that is no test image, byte for byte.
    ///
    /// # Errors
    /// If none is left.
    pub(crate) fn of(data: &'a Dataset) -> Result<Self, Failure> {
        let samples = data.training_without_test_images();
        if samples.is_empty() {
            let message = format!("{}: every training image is also a test image", data.name);
            return Err(Failure::new(Code::Data, message));
        }
        let labels = samples.iter().map(|&i| data.train.labels[i as usize]).collect();
        Ok(Self { all: &data.train, samples, labels })
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    pub(crate) fn n_left_out(&self) -> usize {
        self.all.len() - self.samples.len()
    }

    pub(crate) fn n_classes(&self) -> usize {
        self.all.n_classes()
    }
}

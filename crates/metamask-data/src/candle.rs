//! The border to candle-datasets: its `vision::Dataset` in and out.
//!
//! Its images are f32 in 0..1, `[n, channels, height, width]`, or `[n, pixels]`
//! for MNIST; its labels are u8. candle-datasets' own reader of the hub's CIFAR-10
//! (`cifar::load`) hands out every image transposed; what is read from its
//! `load_dir` stands upright, as here.

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use candle_datasets::vision;

use crate::dataset::{Dataset, Labelled};
use crate::images::Images;

impl TryFrom<&Dataset> for vision::Dataset {
    type Error = anyhow::Error;

    /// Images as f32 `[n, 3, height, width]` in 0..1, as `cifar::load_dir` makes
    /// them. Unlabelled images have no place in it.
    fn try_from(dataset: &Dataset) -> anyhow::Result<Self> {
        let (train_images, train_labels) = tensors(&dataset.train)?;
        let (test_images, test_labels) = tensors(&dataset.test)?;
        let labels = dataset.train.n_classes();
        Ok(Self { train_images, train_labels, test_images, test_labels, labels })
    }
}

fn tensors(set: &Labelled) -> anyhow::Result<(Tensor, Tensor)> {
    let (n, images) = (set.len(), &set.images);
    let shape = (n, images.height(), images.width(), Images::CHANNELS);
    let bytes = Tensor::from_slice(images.bytes(), shape, &Device::Cpu)?; // [n, h, w, 3]
    let planes = bytes.permute((0, 3, 1, 2))?.contiguous()?; // [n, 3, h, w]
    let values = (planes.to_dtype(DType::F32)? / 255.)?;
    let labels: Result<Vec<u8>, _> = set.labels.iter().map(|&label| u8::try_from(label)).collect();
    let labels = labels.context("candle-datasets: labels must fit a byte")?;
    Ok((values, Tensor::from_vec(labels, n, &Device::Cpu)?))
}

impl TryFrom<&vision::Dataset> for Dataset {
    type Error = anyhow::Error;

    /// Takes images of one or three channels; grey is repeated. Classes are
    /// called by their numbers.
    fn try_from(dataset: &vision::Dataset) -> anyhow::Result<Self> {
        let labelled = |images: &Tensor, labels: &Tensor| -> anyhow::Result<Labelled> {
            let labels = labels.to_dtype(DType::U32)?.to_vec1::<u32>()?;
            ensure!(
                labels.iter().all(|&label| (label as usize) < dataset.labels),
                "candle-datasets: labels must be below {}",
                dataset.labels
            );
            let images = images_of(images)?;
            ensure!(
                images.len() == labels.len(),
                "candle-datasets: {} labels for {} images",
                labels.len(),
                images.len()
            );
            let class_names = (0..dataset.labels).map(|class| class.to_string()).collect();
            Ok(Labelled { images, labels, class_names, factors: None })
        };
        Ok(Self {
            name: "candle-datasets".to_owned(),
            licence: "as the set's own".to_owned(),
            train: labelled(&dataset.train_images, &dataset.train_labels)?,
            unlabelled: None,
            test: labelled(&dataset.test_images, &dataset.test_labels)?,
            folds: Vec::new(),
            notes: Vec::new(),
        })
    }
}

fn images_of(images: &Tensor) -> anyhow::Result<Images> {
    let images = match *images.dims() {
        [_, _, _, _] => images.clone(),
        [n, pixels] => {
            let side = pixels.isqrt();
            ensure!(side * side == pixels, "candle-datasets: {pixels} pixels are no square");
            images.reshape((n, 1, side, side))?
        }
        _ => anyhow::bail!("candle-datasets: expected images [n, c, h, w] or [n, pixels]"),
    };
    let (n, channels, height, width) = images.dims4()?;
    let images = match channels {
        1 => images.broadcast_as((n, Images::CHANNELS, height, width))?,
        Images::CHANNELS => images,
        _ => anyhow::bail!("candle-datasets: expected 1 or 3 channels, got {channels}"),
    };
    let bytes = (images.permute((0, 2, 3, 1))?.to_dtype(DType::F32)? * 255.)?.round()?;
    let bytes = bytes.clamp(0f32, 255f32)?.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
    Images::new(bytes, height, width)
}

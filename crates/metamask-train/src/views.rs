//! The views of every batch, made one batch ahead on a thread of their own, or drawn there and made
//! on the GPU that trains: the same bits.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread::JoinHandle,
};

use candle_core::{Device, Result, Tensor};
#[cfg(feature = "cuda")]
use metamask_augment::two_view_programs;
use metamask_augment::{ImageBatch, Pipeline, Transform, TwoViews, to_tensor, two_views};
use metamask_data::{Batches, Unlabelled, epoch_order};
#[cfg(feature = "cuda")]
use metamask_ops::PixelPrograms;
use metamask_ops::free_gpu_memory;

use crate::config::Augmentation;

/// The recipe of both views.
///
/// # Errors
/// If a setting is out of its range.
pub fn recipe(config: &Augmentation) -> Result<TwoViews> {
    let TwoViews { a, b } = recipe_in_colour(config)?;
    let normalized = |pipeline: Pipeline| {
        let mut transforms = pipeline.transforms().to_vec();
        transforms.extend(metamask_augment::evaluation(config.size).transforms().last().cloned());
        Pipeline::new(transforms)
    };
    Ok(TwoViews { a: normalized(a)?, b: normalized(b)? })
}

/// The same without the normalisation: values from black to white, to be looked at.
///
/// # Errors
/// If a setting is out of its range.
pub fn recipe_in_colour(config: &Augmentation) -> Result<TwoViews> {
    let Augmentation { size, crop_scale: scale, jitter, jitter_hue: hue, .. } = *config;
    let [brightness, contrast, saturation] = jitter;
    let ratio = [3.0 / 4.0, 4.0 / 3.0];
    let pipeline = |view: usize| {
        let mut transforms = vec![
            Transform::RandomResizedCrop { size, scale, ratio },
            Transform::HorizontalFlip { p: config.flip_probability },
            Transform::ColorJitter {
                brightness,
                contrast,
                saturation,
                hue,
                p: config.jitter_probability,
            },
            Transform::Grayscale { p: config.grayscale_probability },
        ];
        let (blur, solarize) = (config.blur_probability[view], config.solarize_probability[view]);
        if blur > 0.0 {
            // SimCLR's kernel is a tenth of the side, odd.
            let kernel = (size / 20 * 2 + 1).max(3);
            transforms.push(Transform::GaussianBlur { kernel, sigma: [0.1, 2.0], p: blur });
        }
        if solarize > 0.0 {
            transforms.push(Transform::Solarize { threshold: 0.5, p: solarize });
        }
        Pipeline::new(transforms)
    };
    Ok(TwoViews { a: pipeline(0)?, b: pipeline(1)? })
}

/// Yields the two views of batch after batch, epoch after epoch, in order.
///
/// What it yields depends on (seed, epoch, batch) alone, so a run that goes on
/// at some epoch gets what it would have got.
pub struct ViewStream {
    /// `None` only while it is dropped.
    receiver: Option<Receiver<Result<Batch>>>,
    maker: Option<JoinHandle<()>>,
    /// Where the views go.
    device: Device,
    /// The images, where views are made on a GPU.
    there: Option<Tensor>,
}

/// A batch on its way.
enum Batch {
    /// Its views.
    Views([Tensor; 2]),
    /// What makes them where the images are.
    #[cfg(feature = "cuda")]
    Programs(Box<[PixelPrograms; 2]>),
}

impl ViewStream {
    /// Starts making the views of the epochs in `epochs`, the first of them from
    /// batch `from` on, for a learner on `device`.
    ///
    /// A GPU gets all images at once if they take at most half of what it has free, and makes
    /// the views itself.
    ///
    /// # Errors
    /// If the GPU does not take the images.
    /// # Panics
    /// If no thread can be started.
    pub fn start(
        images: Unlabelled,
        recipe: TwoViews,
        seed: u64,
        batch_size: usize,
        epochs: std::ops::Range<u64>,
        from: usize,
        device: &Device,
    ) -> Result<Self> {
        let there = on_gpu(&images, device)?;
        let draws_only = there.is_some();
        // One batch waits while the next is made: more would only take memory.
        let (sender, receiver) = sync_channel(1);
        let maker = std::thread::spawn(move || {
            let first = epochs.start;
            for epoch in epochs {
                let from = if epoch == first { from } else { 0 };
                let epoch = epoch as u32;
                let order = epoch_order(seed, epoch, images.len() as u32);
                for samples in Batches::new(&order, batch_size).skip(from) {
                    let batch = match draws_only {
                        #[cfg(feature = "cuda")]
                        true => drawn(&images, &recipe, samples, seed, epoch),
                        _ => make(&images, &recipe, samples, seed, epoch).map(Batch::Views),
                    };
                    let failed = batch.is_err();
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            }
        });
        let (receiver, maker) = (Some(receiver), Some(maker));
        Ok(Self { receiver, maker, device: device.clone(), there })
    }

    /// Whether the learner's GPU makes the views.
    pub fn is_on_gpu(&self) -> bool {
        self.there.is_some()
    }

    /// The next batch's views, `[batch, size, size, 3]` each, on the learner's device.
    ///
    /// # Errors
    /// If the recipe does not suit the images.
    pub fn next_batch(&mut self) -> Result<[Tensor; 2]> {
        let receiver = self.receiver.as_ref().expect("present until dropped");
        match (receiver.recv(), &self.there) {
            (Ok(Ok(Batch::Views([a, b]))), _) => {
                Ok([a.to_device(&self.device)?, b.to_device(&self.device)?])
            }
            #[cfg(feature = "cuda")]
            (Ok(Ok(Batch::Programs(programs))), Some(images)) => {
                let [a, b] = &*programs;
                Ok([a.run(images)?, b.run(images)?])
            }
            (Ok(Err(error)), _) => Err(error),
            _ => candle_core::bail!("views: expected another batch, got none"),
        }
    }
}

impl Drop for ViewStream {
    fn drop(&mut self) {
        // The maker's next send fails, which ends it.
        self.receiver = None;
        if let Some(maker) = self.maker.take() {
            // A panic there has been reported where it happened.
            let _ = maker.join();
        }
    }
}

/// All images on the GPU, if `device` is one and they leave it room to train.
fn on_gpu(images: &Unlabelled, device: &Device) -> Result<Option<Tensor>> {
    let images = images.images();
    let Some(free) = free_gpu_memory(device)? else { return Ok(None) };
    if images.bytes().len() > free / 2 {
        return Ok(None);
    }
    let shape = (images.len(), images.height(), images.width(), images.channels());
    let there = Tensor::from_slice(images.bytes(), shape, device)?;
    images.looked_at(images.len());
    Ok(Some(there))
}

/// What makes the views of these samples where the images are.
#[cfg(feature = "cuda")]
fn drawn(
    images: &Unlabelled,
    recipe: &TwoViews,
    samples: &[u32],
    seed: u64,
    epoch: u32,
) -> Result<Batch> {
    let images = images.images();
    let shape = [images.len(), images.height(), images.width()];
    let programs = two_view_programs(recipe, shape, samples, seed, epoch)?;
    Ok(Batch::Programs(Box::new(programs)))
}

/// The views of batch `batch` of epoch `epoch`, both from 0, as [`ViewStream`] yields them.
///
/// # Errors
/// If the recipe does not suit the images, or the epoch has no such batch.
pub fn batch_of(
    images: &Unlabelled,
    recipe: &TwoViews,
    seed: u64,
    batch_size: usize,
    (epoch, batch): (u64, usize),
) -> Result<[Tensor; 2]> {
    let epoch = epoch as u32;
    let order = epoch_order(seed, epoch, images.len() as u32);
    match Batches::new(&order, batch_size).nth(batch) {
        Some(samples) => make(images, recipe, samples, seed, epoch),
        None => candle_core::bail!(
            "views: expected a batch {batch} of {batch_size} among {} images, got none",
            images.len()
        ),
    }
}

/// The two views of these samples in that epoch, `[samples, size, size, 3]` each.
pub(crate) fn make(
    images: &Unlabelled,
    recipe: &TwoViews,
    samples: &[u32],
    seed: u64,
    epoch: u32,
) -> Result<[Tensor; 2]> {
    let images = images.images();
    let (height, width) = (images.height(), images.width());
    let batch = ImageBatch::new(images.bytes(), height, width)?;
    let size = recipe.output_size(height, width)?;
    let (a, b) = two_views(recipe, batch, samples, seed, epoch)?;
    images.looked_at(samples.len());
    Ok([to_tensor(a, size, &Device::Cpu)?, to_tensor(b, size, &Device::Cpu)?])
}

#[cfg(test)]
mod tests {
    use metamask_data::Images;

    use super::*;

    fn stream(epochs: std::ops::Range<u64>) -> ViewStream {
        stream_from(epochs, 0)
    }

    fn stream_from(epochs: std::ops::Range<u64>, from: usize) -> ViewStream {
        let bytes: Vec<u8> = (0..10 * 8 * 8 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let images = Unlabelled::from(Images::new(bytes, 8, 8).expect("ten images"));
        let config = Augmentation { size: 8, ..Default::default() };
        let recipe = recipe(&config).expect("a recipe");
        ViewStream::start(images, recipe, 3, 4, epochs, from, &Device::Cpu).expect("a stream")
    }

    fn numbers(stream: &mut ViewStream) -> Result<Vec<f32>> {
        let [a, b] = stream.next_batch()?;
        Tensor::cat(&[a, b], 0)?.flatten_all()?.to_vec1()
    }

    #[test]
    fn an_epoch_can_be_entered_without_those_before() -> Result<()> {
        let mut whole = stream(0..2);
        // Ten images make two batches of four.
        for _ in 0..2 {
            numbers(&mut whole)?;
        }
        let mut second = stream(1..2);
        for _ in 0..2 {
            assert_eq!(numbers(&mut whole)?, numbers(&mut second)?);
        }
        assert!(second.next_batch().is_err(), "the epochs are over");
        Ok(())
    }

    #[test]
    fn an_epoch_can_be_entered_in_its_middle() -> Result<()> {
        let (mut whole, mut rest) = (stream(0..2), stream_from(0..2, 1));
        numbers(&mut whole)?;
        for _ in 1..4 {
            assert_eq!(numbers(&mut whole)?, numbers(&mut rest)?);
        }
        assert!(rest.next_batch().is_err(), "the epochs are over");
        Ok(())
    }

    #[test]
    fn a_batch_can_be_made_alone() -> Result<()> {
        let mut first = stream(0..1);
        numbers(&mut first)?;
        let expected = numbers(&mut first)?;
        let bytes: Vec<u8> = (0..10 * 8 * 8 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let images = Unlabelled::from(Images::new(bytes, 8, 8).expect("ten images"));
        let recipe = recipe(&Augmentation { size: 8, ..Default::default() })?;
        let [a, b] = batch_of(&images, &recipe, 3, 4, (0, 1))?;
        assert_eq!(Tensor::cat(&[a, b], 0)?.flatten_all()?.to_vec1::<f32>()?, expected);
        assert!(batch_of(&images, &recipe, 3, 4, (0, 2)).is_err(), "ten images make two batches");
        Ok(())
    }

    #[test]
    fn only_the_view_that_is_asked_for_is_solarized() -> Result<()> {
        let recipe = recipe(&Augmentation {
            solarize_probability: [0.0, 0.2],
            blur_probability: [0.5, 0.0],
            ..Default::default()
        })?;
        let solarized = |pipeline: &Pipeline| {
            pipeline.transforms().iter().any(|t| matches!(t, Transform::Solarize { .. }))
        };
        let blurred = |pipeline: &Pipeline| {
            pipeline.transforms().iter().any(|t| matches!(t, Transform::GaussianBlur { .. }))
        };
        assert_eq!((solarized(&recipe.a), solarized(&recipe.b)), (false, true));
        assert_eq!((blurred(&recipe.a), blurred(&recipe.b)), (true, false));
        Ok(())
    }

    #[test]
    fn a_stream_can_be_left_at_any_time() {
        drop(stream(0..1000));
    }
}

//! Views of many images at once, one image a task.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::apply::write_view;
use crate::{AugmentationKey, Pipeline, TwoViews};

/// One image: `[height, width, 3]` bytes, RGB.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    height: usize,
    width: usize,
}

impl<'a> Image<'a> {
    /// Borrows the bytes of one image.
    ///
    /// # Errors
    /// If there are not `height` · `width` · 3 of them, or none.
    pub fn new(bytes: &'a [u8], height: usize, width: usize) -> Result<Self> {
        if bytes.is_empty() || bytes.len() != height * width * 3 {
            bail!(
                "image: bytes must be RGB of its size, expected {height} x {width} x 3, got {}",
                bytes.len()
            );
        }
        Ok(Self { bytes, height, width })
    }

    /// The pixels, row by row.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// Images of one size, back to back: `[n, height, width, 3]` bytes, RGB.
///
/// It may be a whole data set: nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct ImageBatch<'a> {
    bytes: &'a [u8],
    height: usize,
    width: usize,
}

impl<'a> ImageBatch<'a> {
    /// Borrows the bytes of images of `height` x `width`.
    ///
    /// # Errors
    /// If a side is 0 or the bytes are not a whole number of images.
    pub fn new(bytes: &'a [u8], height: usize, width: usize) -> Result<Self> {
        let image_len = height * width * 3;
        if image_len == 0 || !bytes.len().is_multiple_of(image_len) {
            bail!(
                "image batch: bytes must be whole images, \
                 expected a multiple of {height} x {width} x 3, got {}",
                bytes.len()
            );
        }
        Ok(Self { bytes, height, width })
    }

    /// How many images there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / (self.height * self.width * 3)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Image `index`.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn image(&self, index: usize) -> Image<'a> {
        let image_len = self.height * self.width * 3;
        let bytes = &self.bytes[index * image_len..][..image_len];
        Image { bytes, height: self.height, width: self.width }
    }

    fn check(&self, samples: &[u32]) -> Result<()> {
        let n = self.len();
        if let Some(sample) = samples.iter().find(|&&sample| sample as usize >= n) {
            bail!(
                "views: samples must be images of the batch, expected less than {n}, got {sample}"
            );
        }
        Ok(())
    }
}

/// Two views of each of the images `samples` of `images`, view a's numbers and
/// view b's.
///
/// ```
/// # use metamask_augment::{ImageBatch, simclr, two_views};
/// let bytes = vec![127; 10 * 32 * 32 * 3];
/// let images = ImageBatch::new(&bytes, 32, 32)?;
/// let (view_a, view_b) = two_views(&simclr(32), images, &[3, 1, 4], 7, 0)?;
/// assert_eq!(view_a.len(), 3 * 32 * 32 * 3);
/// assert_ne!(view_a, view_b);
/// # candle_core::Result::Ok(())
/// ```
/// # Shapes
/// Both `[samples, height, width, 3]`, see [`TwoViews::output_size`].
/// # Errors
/// If the recipe does not suit the images' size or a sample is not among them.
pub fn two_views(
    recipe: &TwoViews,
    images: ImageBatch<'_>,
    samples: &[u32],
    seed: u64,
    epoch: u32,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let (height, width) = recipe.output_size(images.height, images.width)?;
    images.check(samples)?;
    let view_len = height * width * 3;
    let mut view_a = vec![0.0; samples.len() * view_len];
    let mut view_b = view_a.clone();
    let outs = view_a.par_chunks_exact_mut(view_len).zip(view_b.par_chunks_exact_mut(view_len));
    outs.zip(samples).for_each(|((out_a, out_b), &sample)| {
        let image = images.image(sample as usize);
        let key = |view| AugmentationKey { seed, epoch, sample, view };
        write_view(&recipe.a, key(0), image, out_a);
        write_view(&recipe.b, key(1), image, out_b);
    });
    Ok((view_a, view_b))
}

/// View number `view` of each of the images `samples`: 0 and 1 are those of
/// [`two_views`], more are further draws of the same recipe (multi-crop).
///
/// # Shapes
/// `[samples, height, width, 3]`, see [`Pipeline::output_size`].
/// # Errors
/// As [`two_views`].
pub fn views(
    pipeline: &Pipeline,
    images: ImageBatch<'_>,
    samples: &[u32],
    seed: u64,
    epoch: u32,
    view: u16,
) -> Result<Vec<f32>> {
    let (height, width) = pipeline.output_size(images.height, images.width)?;
    images.check(samples)?;
    let view_len = height * width * 3;
    let mut views = vec![0.0; samples.len() * view_len];
    views.par_chunks_exact_mut(view_len).zip(samples).for_each(|(out, &sample)| {
        let key = AugmentationKey { seed, epoch, sample, view };
        write_view(pipeline, key, images.image(sample as usize), out);
    });
    Ok(views)
}

/// The images `samples` as evaluation sees them: through a pipeline that draws
/// nothing.
///
/// # Shapes
/// `[samples, height, width, 3]`, see [`Pipeline::output_size`].
/// # Errors
/// As [`two_views`], and if the pipeline is random.
pub fn evaluation_views(
    pipeline: &Pipeline,
    images: ImageBatch<'_>,
    samples: &[u32],
) -> Result<Vec<f32>> {
    if let Some(transform) = pipeline.transforms().iter().find(|transform| transform.is_random()) {
        bail!("evaluation views: transforms must not be random, got `{}`", transform.kind());
    }
    views(pipeline, images, samples, 0, 0, 0)
}

/// Views as a tensor `[n, height, width, 3]`.
///
/// # Errors
/// If the numbers are not whole views of that size.
pub fn to_tensor(
    views: Vec<f32>,
    (height, width): (usize, usize),
    device: &Device,
) -> Result<Tensor> {
    let n = views.len() / (height * width * 3).max(1);
    Tensor::from_vec(views, (n, height, width, 3), device)
}

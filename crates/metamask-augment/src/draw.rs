//! The draw: which operations one view gets, with which parameters.
//!
//! Pure in its key. Nothing here touches a pixel.

use candle_core::{Result, bail};
use metamask_random::{Key, Purpose, Stream};

use crate::resample::resized;
use crate::{Pipeline, Transform};

/// Names the draw of one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AugmentationKey {
    /// The run's seed.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u32,
    /// Index of the image in its data set.
    pub sample: u32,
    /// 0 for view a, 1 for view b.
    pub view: u16,
}

impl AugmentationKey {
    fn stream(self) -> Stream {
        let Self { seed, epoch, sample, view } = self;
        Key::new(seed, Purpose::Augmentation).epoch(epoch).sample(sample).view(view).stream()
    }
}

/// One deterministic step on the pixels, whose values run from 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// Cuts `height` x `width` pixels at (`top`, `left`) and resizes them to
    /// `out_height` x `out_width`: bilinear, with antialias where it shrinks.
    ResizedCrop {
        /// First row.
        top: usize,
        /// First column.
        left: usize,
        /// Rows that are cut.
        height: usize,
        /// Columns that are cut.
        width: usize,
        /// Rows of the result.
        out_height: usize,
        /// Columns of the result.
        out_width: usize,
    },
    /// Mirrors left and right.
    HorizontalFlip,
    /// v · factor, clipped.
    Brightness(f32),
    /// Blend with the mean luma of the image (rounded, as PIL does), clipped.
    Contrast(f32),
    /// Blend with the luma of the pixel, clipped.
    Saturation(f32),
    /// Turns the hue by this share of the circle, −0.5 to 0.5.
    Hue(f32),
    /// The luma in all three channels.
    Grayscale,
    /// Separable Gaussian of `kernel` taps, reflecting at the border.
    GaussianBlur {
        /// Taps a side, odd.
        kernel: usize,
        /// Standard deviation in pixels.
        sigma: f32,
    },
    /// 255 − v where v ≥ threshold, which is a share of 255.
    Solarize(f32),
    /// (v / 255 − mean) / std.
    Normalize {
        /// Mean of each channel.
        mean: [f32; 3],
        /// Standard deviation of each channel.
        std: [f32; 3],
    },
}

/// Everything that was drawn for one view: its operations, in order.
///
/// A transform that was not to happen this time leaves no operation; a colour
/// jitter leaves up to four, in the order drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewParams {
    /// What happens to the pixels.
    pub operations: Vec<Operation>,
}

impl ViewParams {
    /// Height and width of what comes out when an image of `height` x `width` goes in.
    ///
    /// # Errors
    /// If an operation reaches outside the image it meets, or a `Normalize` is
    /// not the last. What [`Pipeline::draw`] returns for this size never does.
    pub fn output_size(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let mut current = (height, width);
        for (index, operation) in self.operations.iter().enumerate() {
            match *operation {
                Operation::ResizedCrop { top, left, height, width, out_height, out_width } => {
                    let inside = |from: usize, len: usize, side: usize| {
                        len > 0 && from.checked_add(len).is_some_and(|end| end <= side)
                    };
                    if !inside(top, height, current.0) || !inside(left, width, current.1) {
                        bail!(
                            "resized crop: the rectangle must lie within the image, \
                             expected {current:?}, \
                             got {height} x {width} at ({top}, {left})"
                        );
                    }
                    if out_height == 0 || out_width == 0 {
                        bail!(
                            "resized crop: the result must not be empty, \
                             got {out_height} x {out_width}"
                        );
                    }
                    current = (out_height, out_width);
                }
                Operation::GaussianBlur { kernel, sigma } => {
                    let shortest = current.0.min(current.1);
                    if kernel % 2 == 0 || kernel / 2 >= shortest || sigma.is_nan() || sigma <= 0.0 {
                        bail!(
                            "gaussian blur: an odd kernel must reflect within the image, \
                             expected at most {} \
                             and a positive sigma, got {kernel} and {sigma}",
                            2 * shortest - 1
                        );
                    }
                }
                Operation::Normalize { .. } if index + 1 != self.operations.len() => {
                    bail!("normalize: it must be the last operation, got position {index}");
                }
                _ => {}
            }
        }
        Ok(current)
    }
}

impl Pipeline {
    /// Draws the parameters of one view of an image of `height` x `width`.
    ///
    /// ```
    /// # use metamask_augment::{AugmentationKey, simclr};
    /// let key = AugmentationKey { seed: 7, epoch: 3, sample: 41, view: 0 };
    /// let recipe = simclr(32);
    /// assert_eq!(recipe.a.draw(key, 32, 32), recipe.a.draw(key, 32, 32));
    /// ```
    pub fn draw(&self, key: AugmentationKey, height: usize, width: usize) -> ViewParams {
        let mut params = ViewParams::default();
        self.draw_into(key, height, width, &mut params);
        params
    }

    /// [`Pipeline::draw`] into a list whose memory is used again.
    pub(crate) fn draw_into(
        &self,
        key: AugmentationKey,
        mut height: usize,
        mut width: usize,
        params: &mut ViewParams,
    ) {
        let mut stream = key.stream();
        let operations = &mut params.operations;
        operations.clear();
        for transform in self.transforms() {
            match *transform {
                Transform::RandomResizedCrop { size, scale, ratio } => {
                    operations.push(random_crop(&mut stream, height, width, size, scale, ratio));
                    (height, width) = (size, size);
                }
                Transform::Resize { size } => {
                    let (out_height, out_width) = resized(height, width, size);
                    let (top, left) = (0, 0);
                    operations.push(Operation::ResizedCrop {
                        top,
                        left,
                        height,
                        width,
                        out_height,
                        out_width,
                    });
                    (height, width) = (out_height, out_width);
                }
                Transform::CenterCrop { size } => {
                    operations.push(Operation::ResizedCrop {
                        top: centre(height, size),
                        left: centre(width, size),
                        height: size,
                        width: size,
                        out_height: size,
                        out_width: size,
                    });
                    (height, width) = (size, size);
                }
                Transform::HorizontalFlip { p } => {
                    if happens(&mut stream, p) {
                        operations.push(Operation::HorizontalFlip);
                    }
                }
                Transform::ColorJitter { brightness, contrast, saturation, hue, p } => {
                    if happens(&mut stream, p) {
                        let strengths = [brightness, contrast, saturation, hue].map(|s| s as f32);
                        jitter(&mut stream, strengths, operations);
                    }
                }
                Transform::Grayscale { p } => {
                    if happens(&mut stream, p) {
                        operations.push(Operation::Grayscale);
                    }
                }
                Transform::GaussianBlur { kernel, sigma: [low, high], p } => {
                    if happens(&mut stream, p) {
                        let sigma = stream.uniform_in(low as f32, high as f32);
                        operations.push(Operation::GaussianBlur { kernel, sigma });
                    }
                }
                Transform::Solarize { threshold, p } => {
                    if happens(&mut stream, p) {
                        operations.push(Operation::Solarize(threshold as f32));
                    }
                }
                Transform::Normalize { mean, std } => {
                    let [mean, std] = [mean, std].map(|values| values.map(|v| v as f32));
                    operations.push(Operation::Normalize { mean, std });
                }
            }
        }
    }
}

/// torchvision's `RandomResizedCrop.get_params`.
fn random_crop(
    stream: &mut Stream,
    height: usize,
    width: usize,
    size: usize,
    scale: [f64; 2],
    ratio: [f64; 2],
) -> Operation {
    let resized_crop = |top, left, height, width| Operation::ResizedCrop {
        top,
        left,
        height,
        width,
        out_height: size,
        out_width: size,
    };
    let log_ratio = ratio.map(libm::log);
    for _ in 0..10 {
        let area = (height * width) as f64 * uniform_in(stream, scale);
        let aspect = libm::exp(uniform_in(stream, log_ratio));
        let crop_width = libm::rint(libm::sqrt(area * aspect)) as usize;
        let crop_height = libm::rint(libm::sqrt(area / aspect)) as usize;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            let top = stream.below((height - crop_height + 1) as u32) as usize;
            let left = stream.below((width - crop_width + 1) as u32) as usize;
            return resized_crop(top, left, crop_height, crop_width);
        }
    }
    let (crop_height, crop_width) = largest_crop(height, width, ratio);
    let (top, left) = ((height - crop_height) / 2, (width - crop_width) / 2);
    resized_crop(top, left, crop_height, crop_width)
}

/// The fall-back of `RandomResizedCrop`: as much of the image as the ratio allows.
fn largest_crop(height: usize, width: usize, [low, high]: [f64; 2]) -> (usize, usize) {
    let ratio = width as f64 / height as f64;
    let (crop_height, crop_width) = if ratio < low {
        (libm::rint(width as f64 / low) as usize, width)
    } else if ratio > high {
        (height, libm::rint(height as f64 * high) as usize)
    } else {
        (height, width)
    };
    // Extreme ratios round to nothing, or past the border by one.
    (crop_height.clamp(1, height), crop_width.clamp(1, width))
}

fn uniform_in(stream: &mut Stream, [low, high]: [f64; 2]) -> f64 {
    low + (high - low) * stream.uniform_f64()
}

/// Python's `int(round((side - size) / 2))`, which rounds half to even.
fn centre(side: usize, size: usize) -> usize {
    libm::rint((side - size) as f64 / 2.0) as usize
}

/// torchvision's `ColorJitter.get_params`; a strength of 0 leaves its part out.
fn jitter(stream: &mut Stream, strengths: [f32; 4], operations: &mut Vec<Operation>) {
    let mut order = [0, 1, 2, 3];
    for i in (1..4).rev() {
        order.swap(i, stream.below(i as u32 + 1) as usize);
    }
    let [brightness, contrast, saturation, hue] = strengths;
    let mut factor = |strength: f32| stream.uniform_in((1.0 - strength).max(0.0), 1.0 + strength);
    let parts = [
        (brightness, Operation::Brightness(factor(brightness))),
        (contrast, Operation::Contrast(factor(contrast))),
        (saturation, Operation::Saturation(factor(saturation))),
        (hue, Operation::Hue(stream.uniform_in(-hue, hue))),
    ];
    for (strength, operation) in order.map(|part| parts[part]) {
        if strength > 0.0 {
            operations.push(operation);
        }
    }
}

fn happens(stream: &mut Stream, p: f64) -> bool {
    f64::from(stream.uniform()) < p
}

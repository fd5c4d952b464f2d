//! The baseline that every representation has to beat: the pixels themselves.
//!
//! All images' pixels are in memory at once, four bytes a value, so there is a bound:
//! of a large set every image is looked at, but smaller.

use candle_core::{Result, Tensor};
use metamask_data::Images;

use crate::evaluate::in_batches;

/// What the pixels of all images may take: 21,845 images of 32 pixels a side.
const BYTES: usize = 256 << 20;

/// How the pixels of a data set's images are looked at. Displays as its protocol line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RawPixels {
    /// Images, those that are learned from and those that are judged.
    n_images: usize,
    /// What the encoder sees of an image, in pixels a side.
    view: usize,
    /// What is looked at here.
    pub side: usize,
}

impl RawPixels {
    /// The view's own side, or the largest smaller one at which all images fit.
    pub(crate) fn new(n_images: usize, view: usize) -> Self {
        let fits = |side: usize| n_images * side * side * 3 * size_of::<f32>() <= BYTES;
        let side = (1..=view).rev().find(|&side| fits(side)).unwrap_or(1);
        Self { n_images, view, side }
    }

    /// Values of an image.
    pub(crate) fn dim(self) -> usize {
        3 * self.side.pow(2)
    }

    /// The pixels of these images, `[samples, side · side · 3]`, normalised as for the
    /// encoder.
    pub(crate) fn of(self, images: &Images, samples: Option<&[u32]>) -> Result<Tensor> {
        in_batches(images, samples, self.side, |views| views.flatten_from(1))
    }

    /// The line that belongs beside its numbers where they are not of the view itself.
    pub(crate) fn protocol(self) -> Option<String> {
        let Self { n_images, view, side } = self;
        (side < view).then(|| {
            format!(
                "raw pixels: every image, at {side}x{side} instead of {view}x{view}, so that \
                 {n_images} take at most {} MiB",
                BYTES >> 20
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_set_is_looked_at_in_small_and_says_so() {
        // 2^28 bytes are 21,845 images of 32 · 32 · 3 values and a third.
        let all = RawPixels::new(21_845, 32);
        assert_eq!((all.side, all.protocol()), (32, None));
        assert_eq!(RawPixels::new(21_846, 32).side, 31);
        let many = RawPixels::new(100_000, 32);
        // 100,000 · 14 · 14 · 12 = 235 MB, and with 15 it is 270 MB.
        assert_eq!(many.side, 14);
        assert_eq!(
            many.protocol().as_deref(),
            Some(
                "raw pixels: every image, at 14x14 instead of 32x32, so that 100000 take at \
                 most 256 MiB"
            )
        );
        assert_eq!(RawPixels::new(1 << 40, 224).side, 1);
    }
}

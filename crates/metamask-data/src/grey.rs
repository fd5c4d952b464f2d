//! Grey images and their conversion to the 32×32 RGB of everything behind.

use anyhow::ensure;

use crate::dataset::Labelled;
use crate::images::Images;

/// Rows and columns that smaller grey images are set into.
pub(crate) const SIDE: usize = 32;

/// Equally sized grey images, one behind the other, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GreyImages {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) bytes: Vec<u8>,
}

impl GreyImages {
    /// Takes `[n, height, width]` bytes; n follows from their number.
    ///
    /// # Errors
    /// If a side is 0 or the bytes are no whole number of images.
    pub fn new(bytes: Vec<u8>, height: usize, width: usize) -> anyhow::Result<Self> {
        let size = height * width;
        ensure!(
            size > 0 && bytes.len().is_multiple_of(size),
            "grey images: bytes must be whole images of {height}x{width}, got {} bytes",
            bytes.len()
        );
        Ok(Self { height, width, bytes })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.bytes.len() / (self.height * self.width)
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Rows of an image.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of an image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One image, `[height, width]`.
    ///
    /// # Panics
    /// If there is no image of that index.
    pub fn image(&self, index: usize) -> &[u8] {
        let size = self.height * self.width;
        &self.bytes[index * size..][..size]
    }
}

impl GreyImages {
    /// The images centred on black of 32×32, grey repeated as red, green and blue.
    ///
    /// Padding rather than scaling: no pixel is invented, and 28 → 32 leaves the
    /// two black pixels at each side that MNIST's own networks used too.
    pub(crate) fn centred_rgb(&self) -> Vec<u8> {
        let Self { height, width, bytes } = self;
        assert!(*height <= SIDE && *width <= SIDE, "{height}x{width} does not fit {SIDE}x{SIDE}");
        let (top, left) = ((SIDE - height) / 2, (SIDE - width) / 2);
        let size = SIDE * SIDE * Images::CHANNELS;
        let mut rgb = vec![0; self.len() * size];
        for (image, grey) in rgb.chunks_exact_mut(size).zip(bytes.chunks_exact(height * width)) {
            for (y, row) in grey.chunks_exact(*width).enumerate() {
                let start = ((top + y) * SIDE + left) * Images::CHANNELS;
                for (x, value) in row.iter().enumerate() {
                    image[start + x * Images::CHANNELS..][..Images::CHANNELS].fill(*value);
                }
            }
        }
        rgb
    }

    /// The brightness of RGB images; that of grey ones is their own.
    pub(crate) fn of_rgb(images: &Images) -> Self {
        // Luma of Rec. 601 in integers: 1000 · v / 1000 is v again.
        let luma = |p: &[u8]| {
            (299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]) + 500) / 1000
        };
        let bytes = images.bytes().chunks_exact(Images::CHANNELS).map(|p| luma(p) as u8).collect();
        Self { height: images.height(), width: images.width(), bytes }
    }
}

/// The side that small grey images get, and whether that is by a black rim: 32
/// unless another side is asked for.
pub(crate) fn rim(side: usize, asked: Option<usize>) -> (Option<usize>, bool) {
    let padded = side <= SIDE && asked.is_none_or(|asked| asked == SIDE);
    (asked.or(padded.then_some(SIDE)), padded)
}

/// Grey images with their classes.
#[derive(Clone, Debug)]
pub(crate) struct GreyLabelled {
    pub images: GreyImages,
    pub labels: Vec<u8>,
}

impl GreyLabelled {
    /// See [`GreyImages::centred_rgb`].
    pub(crate) fn into_rgb(self, class_names: &[&str]) -> Labelled {
        let rgb = self.images.centred_rgb();
        Labelled {
            images: Images::new(rgb, SIDE, SIDE).expect("whole images"),
            labels: self.labels.iter().map(|label| u32::from(*label)).collect(),
            class_names: class_names.iter().map(|name| (*name).to_owned()).collect(),
            factors: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_images_are_centred_upright_and_repeated_over_the_channels() {
        // One 2×28 image whose value at (row, column) is 100 · row + column + 1.
        let bytes = (0..2).flat_map(|y| (0..28).map(move |x| 100 * y + x + 1)).collect();
        let images = GreyImages { height: 2, width: 28, bytes };
        let labelled = GreyLabelled { images, labels: vec![1] }.into_rgb(&["a", "b"]);
        let pixel = |y: usize, x: usize| &labelled.images.image(0)[(y * 32 + x) * 3..][..3];
        assert_eq!(pixel(15, 2), [1; 3]);
        assert_eq!(pixel(15, 29), [28; 3]);
        assert_eq!(pixel(16, 5), [104; 3]);
        assert_eq!(labelled.images.bytes().iter().filter(|&&b| b > 0).count(), 2 * 28 * 3);
        assert_eq!(labelled.labels, [1]);
    }
}

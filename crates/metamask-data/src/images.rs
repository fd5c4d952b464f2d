//! Equally sized images, one behind the other.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use anyhow::ensure;

use crate::pixel_file::Map;

/// Equally sized images as bytes, NHWC, RGB. Clones and slices share the bytes,
/// which are in memory or mapped from our own cache.
#[derive(Clone)]
pub struct Images {
    bytes: Bytes,
    first: usize,
    n: usize,
    height: usize,
    width: usize,
}

impl Images {
    /// Red, green, blue.
    pub const CHANNELS: usize = 3;

    /// Takes `[n, height, width, 3]` bytes; n follows from their number.
    ///
    /// # Errors
    /// If a side is 0 or the bytes are no whole number of images.
    pub fn new(bytes: impl Into<Arc<[u8]>>, height: usize, width: usize) -> anyhow::Result<Self> {
        Self::over(Bytes::Memory(bytes.into()), height, width)
    }

    /// The images in a file of ours.
    pub(crate) fn mapped(map: Arc<Map>, height: usize, width: usize) -> anyhow::Result<Self> {
        Self::over(Bytes::Mapped(map), height, width)
    }

    fn over(bytes: Bytes, height: usize, width: usize) -> anyhow::Result<Self> {
        let size = height * width * Self::CHANNELS;
        ensure!(size > 0, "images: sides must be positive, got {height}x{width}");
        ensure!(
            bytes.len().is_multiple_of(size),
            "images: bytes must be whole images, expected a multiple of {size}, got {}",
            bytes.len()
        );
        Ok(Self { n: bytes.len() / size, bytes, first: 0, height, width })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Rows of an image.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns of an image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Channels of a pixel: 3.
    pub fn channels(&self) -> usize {
        Self::CHANNELS
    }

    /// All images, `[n, height, width, 3]`.
    pub fn bytes(&self) -> &[u8] {
        let size = self.image_size();
        &self.bytes[self.first * size..(self.first + self.n) * size]
    }

    /// One image, `[height, width, 3]`.
    ///
    /// # Panics
    /// If there is no image of that index.
    pub fn image(&self, index: usize) -> &[u8] {
        assert!(index < self.n, "image {index} of {}", self.n);
        let size = self.image_size();
        &self.bytes[(self.first + index) * size..][..size]
    }

    /// Every image in its turn, in blocks that are looked at once: [`Self::looked_at`]
    /// is told of each.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        const BLOCK: usize = 8 << 20;
        let size = self.image_size();
        let n = (BLOCK / size).max(1);
        (0..self.n).step_by(n).map(move |first| {
            if first > 0 {
                self.looked_at(n); // the block before
            }
            &self.bytes()[first * size..(first + n).min(self.n) * size]
        })
    }

    /// Says that so many images have been looked at, of any index. Mapped ones then go
    /// out of this process's memory now and then, so that a pass over a set takes little
    /// of it; they can be looked at again like any other.
    pub fn looked_at(&self, n_images: usize) {
        if let Bytes::Mapped(map) = &self.bytes {
            map.looked_at(n_images * self.image_size());
        }
    }

    /// A run of the images; shares the bytes.
    ///
    /// # Panics
    /// If the range ends behind the last image.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.n, "{range:?} of {}", self.n);
        Self { first: self.first + range.start, n: range.len(), ..self.clone() }
    }

    /// These images and behind them `others`. What lies so in memory is shared,
    /// anything else is copied.
    ///
    /// # Errors
    /// If they differ in size.
    pub fn followed_by(&self, others: &Self) -> anyhow::Result<Self> {
        let sizes = [self, others].map(|images| (images.height, images.width));
        ensure!(sizes[0] == sizes[1], "images: sizes must be equal, got {sizes:?}");
        if std::ptr::eq(&*self.bytes, &*others.bytes) && self.first + self.n == others.first {
            return Ok(Self { n: self.n + others.n, ..self.clone() });
        }
        Self::new([self.bytes(), others.bytes()].concat(), self.height, self.width)
    }

    /// Bytes of an image.
    pub(crate) fn image_size(&self) -> usize {
        self.height * self.width * Self::CHANNELS
    }
}

/// Where the bytes are.
#[derive(Clone)]
enum Bytes {
    Memory(Arc<[u8]>),
    Mapped(Arc<Map>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Mapped(map) => map.bytes(),
        }
    }
}

impl PartialEq for Images {
    fn eq(&self, other: &Self) -> bool {
        (self.height, self.width) == (other.height, other.width) && self.bytes() == other.bytes()
    }
}

impl Eq for Images {}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Images({} of {}x{})", self.n, self.height, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_slices_count_from_their_own_start() {
        let bytes: Vec<u8> = (0..10).flat_map(|i| [i; 3]).collect();
        let images = Images::new(bytes, 1, 1).unwrap().slice(2..9).slice(1..3);
        assert_eq!(images.bytes(), [3, 3, 3, 4, 4, 4]);
        assert!(images.slice(2..2).is_empty());
    }

    #[test]
    fn blocks_are_all_images_in_order() {
        // An image has 3 MiB, so a block has two.
        let bytes: Vec<u8> = (0..5).flat_map(|i| vec![i; 3 << 20]).collect();
        let images = Images::new(bytes, 1024, 1024).unwrap().slice(1..4);
        let firsts = |block: &[u8]| block.iter().copied().step_by(3 << 20).collect::<Vec<u8>>();
        let blocks: Vec<_> = images.blocks().map(firsts).collect();
        assert_eq!(blocks, [vec![1, 2], vec![3]]);
        assert_eq!(images.slice(0..0).blocks().count(), 0);
    }

    #[test]
    fn images_refuse_a_part_of_an_image() {
        let error = Images::new(vec![0; 13], 2, 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "images: bytes must be whole images, expected a multiple of 12, got 13"
        );
    }
}

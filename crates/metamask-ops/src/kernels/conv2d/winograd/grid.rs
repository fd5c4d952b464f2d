//! Cutting images into tiles.

use std::ops::Range;

use super::transform::{TILE, WINDOW};
use crate::kernels::conv2d::ConvShape;
use crate::kernels::simd::{Real, Simd};
use crate::kernels::source::Source;

/// A correlation with 3x3 weights and stride 1, its outputs cut into tiles of
/// 4x4. Tiles at the lower and right edge may reach over it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) in_h: usize,
    pub(super) in_w: usize,
    pub(super) in_c: usize,
    pub(super) out_h: usize,
    pub(super) out_w: usize,
    pub(super) out_c: usize,
    padding: usize,
}

/// A tile: of which image, its row and its column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) image: usize,
    pub(super) row: usize,
    pub(super) column: usize,
}

impl Grid {
    pub(super) fn forward(s: &ConvShape) -> Self {
        Self {
            in_h: s.in_h,
            in_w: s.in_w,
            in_c: s.in_c,
            out_h: s.out_h(),
            out_w: s.out_w(),
            out_c: s.out_c,
            padding: s.padding,
        }
    }

    /// The gradient in the data is the correlation of dy with the weights turned
    /// by half a turn, channels exchanged; what was padding p is 2 − p.
    pub(super) fn backward_data(s: &ConvShape) -> Self {
        Self {
            in_h: s.out_h(),
            in_w: s.out_w(),
            in_c: s.out_c,
            out_h: s.in_h,
            out_w: s.in_w,
            out_c: s.in_c,
            padding: 2 - s.padding,
        }
    }

    /// Rows of tiles of an image.
    pub(super) fn rows(&self) -> usize {
        self.out_h.div_ceil(TILE)
    }

    /// Tiles in a row.
    pub(super) fn columns(&self) -> usize {
        self.out_w.div_ceil(TILE)
    }

    /// Tiles of an image.
    pub(super) fn tiles(&self) -> usize {
        self.rows() * self.columns()
    }

    pub(super) fn in_len(&self) -> usize {
        self.in_h * self.in_w * self.in_c
    }

    pub(super) fn out_len(&self) -> usize {
        self.out_h * self.out_w * self.out_c
    }

    /// Tile number `tile` of the whole batch.
    pub(super) fn place(&self, tile: usize) -> Place {
        let in_image = tile % self.tiles();
        Place {
            image: tile / self.tiles(),
            row: in_image / self.columns(),
            column: in_image % self.columns(),
        }
    }

    /// Pixels of a line of a band of inputs.
    fn input_width(&self) -> usize {
        self.columns() * TILE + WINDOW - TILE
    }

    /// Elements of a band of inputs.
    pub(super) fn inputs_len(&self, channels: usize) -> usize {
        WINDOW * self.input_width() * channels
    }

    /// Elements of a band of outputs.
    pub(super) fn outputs_len(&self, channels: usize) -> usize {
        TILE * self.columns() * TILE * channels
    }

    /// Copies what the place's row of tiles reads of some channels into a band,
    /// `[WINDOW, width, channels]`, zeros beyond the image: one walk through memory
    /// in its order, behind which no tile meets an edge.
    ///
    /// # Safety
    /// The CPU must have V's instructions.
    #[inline(always)]
    pub(super) unsafe fn copy_inputs<V: Simd>(
        &self,
        images: &Source<'_, V::Scalar>,
        place: Place,
        channels: Range<usize>,
        band: &mut [V::Scalar],
    ) {
        let image = Image {
            pixels: images.at(&images.x[place.image * self.in_len()..][..self.in_len()]),
            h: self.in_h,
            w: self.in_w,
            c: self.in_c,
        };
        let (top, width) = (place.row * TILE, self.input_width());
        // SAFETY: the caller's promise.
        unsafe { image.copy::<V>(top, self.padding, channels, width, band) }
    }

    /// The same of outputs, whose tiles do not overlap: `[TILE, width, channels]`.
    ///
    /// # Safety
    /// The CPU must have V's instructions.
    #[inline(always)]
    pub(super) unsafe fn copy_outputs<V: Simd>(
        &self,
        outputs: &[V::Scalar],
        place: Place,
        channels: Range<usize>,
        band: &mut [V::Scalar],
    ) {
        let image = Image {
            pixels: outputs[place.image * self.out_len()..][..self.out_len()].into(),
            h: self.out_h,
            w: self.out_w,
            c: self.out_c,
        };
        // SAFETY: the caller's promise.
        unsafe { image.copy::<V>(place.row * TILE, 0, channels, self.columns() * TILE, band) }
    }

    /// The inputs of a tile, `lanes` channels from `channel` on of a band of `channels`.
    ///
    /// # Safety
    /// The CPU must have V's instructions; column and channels must exist.
    #[inline(always)]
    pub(super) unsafe fn window<V: Simd>(
        &self,
        band: &[V::Scalar],
        channels: usize,
        column: usize,
        channel: usize,
        lanes: usize,
    ) -> [[V; WINDOW]; WINDOW] {
        let line = self.input_width() * channels;
        debug_assert!(band.len() >= WINDOW * line && channel + lanes <= channels);
        // SAFETY: the caller's promise.
        unsafe {
            let first = band.as_ptr().add(column * TILE * channels + channel);
            let mut window = [[V::zero(); WINDOW]; WINDOW];
            for (y, row) in window.iter_mut().enumerate() {
                for (x, pixel) in row.iter_mut().enumerate() {
                    *pixel = V::load_up_to(first.add(y * line + x * channels), lanes);
                }
            }
            window
        }
    }

    /// The 4x4 outputs of a tile, likewise.
    ///
    /// # Safety
    /// As [`Self::window`].
    #[inline(always)]
    pub(super) unsafe fn tile<V: Simd>(
        &self,
        band: &[V::Scalar],
        channels: usize,
        column: usize,
        channel: usize,
        lanes: usize,
    ) -> [[V; TILE]; TILE] {
        let line = self.columns() * TILE * channels;
        debug_assert!(band.len() >= TILE * line && channel + lanes <= channels);
        // SAFETY: the caller's promise.
        unsafe {
            let first = band.as_ptr().add(column * TILE * channels + channel);
            let mut tile = [[V::zero(); TILE]; TILE];
            for (y, row) in tile.iter_mut().enumerate() {
                for (x, pixel) in row.iter_mut().enumerate() {
                    *pixel = V::load_up_to(first.add(y * line + x * channels), lanes);
                }
            }
            tile
        }
    }

    /// Writes (or adds) a tile to `outputs`, whose first row is tile row
    /// `first_row` of its first image.
    ///
    /// # Safety
    /// As [`Self::tile`]; the tile must lie in `outputs`, where not beyond the image.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "what, where to, and how much of it")]
    pub(super) unsafe fn put<V: Simd>(
        &self,
        tile: [[V; TILE]; TILE],
        outputs: *mut V::Scalar,
        first_row: usize,
        place: Place,
        channel: usize,
        lanes: usize,
        accumulate: bool,
    ) {
        let (top, left) = (place.row * TILE, place.column * TILE);
        let first = (top - first_row * TILE) * self.out_w + left;
        // SAFETY: the caller's promise; nothing is written outside the image.
        unsafe {
            let to = outputs.add(place.image * self.out_len() + first * self.out_c + channel);
            for (y, line) in tile.into_iter().enumerate() {
                for (x, pixel) in line.into_iter().enumerate() {
                    if top + y < self.out_h && left + x < self.out_w {
                        let to = to.add((y * self.out_w + x) * self.out_c);
                        let pixel =
                            if accumulate { pixel.add(V::load_up_to(to, lanes)) } else { pixel };
                        pixel.store_up_to(to, lanes);
                    }
                }
            }
        }
    }

    /// The vectors that cover some channels: where each starts, and its lanes.
    pub(super) fn vectors<V: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..channels).step_by(V::LANES).map(move |c| (c, V::LANES.min(channels - c)))
    }
}

/// An image to copy from.
struct Image<'a, T> {
    pixels: Source<'a, T>,
    h: usize,
    w: usize,
    c: usize,
}

impl<T: Real> Image<'_, T> {
    /// Copies some channels of the lines from `top` on, of an image with a border
    /// of `border` zeros, as many lines of `width` pixels as `to` holds.
    ///
    /// # Safety
    /// The CPU must have V's instructions.
    #[inline(always)]
    unsafe fn copy<V: Simd<Scalar = T>>(
        &self,
        top: usize,
        border: usize,
        channels: Range<usize>,
        width: usize,
        to: &mut [T],
    ) {
        let c = channels.len();
        let there = self.w.min(width - border);
        for (y, line) in to.chunks_exact_mut(width * c).enumerate() {
            let y = (top + y).wrapping_sub(border);
            if y >= self.h {
                line.fill(T::ZERO);
                continue;
            }
            let (before, rest) = line.split_at_mut(border * c);
            let (pixels, after) = rest.split_at_mut(there * c);
            before.fill(T::ZERO);
            after.fill(T::ZERO);
            // SAFETY: the caller's promise.
            unsafe {
                self.pixels.copy::<V>(y * self.w * self.c, self.c, channels.clone(), pixels);
            }
        }
    }
}

/// Elements between the same places of two points or tiles: often a power of two, and
/// a little more keeps them out of each other's cache sets.
pub(super) fn point_stride<T: Real>(elements: usize) -> usize {
    elements + 64 / size_of::<T>()
}

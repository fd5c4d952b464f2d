//! Cutting images into tiles.

use super::transform::{TILE, WINDOW};
use crate::kernels::conv2d::ConvShape;
use crate::kernels::simd::{Real, Simd};

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

    /// The inputs that a tile needs, `lanes` channels from `channel` on, zeros
    /// beyond the image.
    ///
    /// # Safety
    /// The CPU must have V's instructions; `images` must hold the place's image
    /// and the channels exist.
    #[inline(always)]
    pub(super) unsafe fn window<V: Simd>(
        &self,
        images: &[V::Scalar],
        place: Place,
        channel: usize,
        lanes: usize,
    ) -> [[V; WINDOW]; WINDOW] {
        let (top, left) = (place.row * TILE, place.column * TILE);
        let inside = top >= self.padding
            && left >= self.padding
            && top + WINDOW <= self.in_h + self.padding
            && left + WINDOW <= self.in_w + self.padding
            && lanes == V::LANES;
        // SAFETY: the caller's promise; what lies outside the image is not read.
        unsafe {
            let image = images.as_ptr().add(place.image * self.in_len() + channel);
            let mut window = [[V::zero(); WINDOW]; WINDOW];
            if inside {
                let first =
                    image.add(((top - self.padding) * self.in_w + left - self.padding) * self.in_c);
                for (y, line) in window.iter_mut().enumerate() {
                    for (x, pixel) in line.iter_mut().enumerate() {
                        *pixel = V::load(first.add((y * self.in_w + x) * self.in_c));
                    }
                }
                return window;
            }
            for (y, line) in window.iter_mut().enumerate() {
                let y = (top + y).wrapping_sub(self.padding);
                for (x, pixel) in line.iter_mut().enumerate() {
                    let x = (left + x).wrapping_sub(self.padding);
                    if y < self.in_h && x < self.in_w {
                        *pixel = V::load_up_to(image.add((y * self.in_w + x) * self.in_c), lanes);
                    }
                }
            }
            window
        }
    }

    /// The 4x4 elements of a tile of `outputs`, zeros beyond the image.
    ///
    /// # Safety
    /// The CPU must have V's instructions; `outputs` must hold the place's image
    /// and the channels exist.
    #[inline(always)]
    pub(super) unsafe fn tile<V: Simd>(
        &self,
        outputs: &[V::Scalar],
        place: Place,
        channel: usize,
        lanes: usize,
    ) -> [[V; TILE]; TILE] {
        // SAFETY: the caller's promise; what lies outside the image is not read.
        unsafe {
            let image = outputs.as_ptr().add(place.image * self.out_len() + channel);
            let mut tile = [[V::zero(); TILE]; TILE];
            for (y, line) in tile.iter_mut().enumerate() {
                let y = place.row * TILE + y;
                for (x, pixel) in line.iter_mut().enumerate() {
                    let x = place.column * TILE + x;
                    if y < self.out_h && x < self.out_w {
                        let from = image.add((y * self.out_w + x) * self.out_c);
                        *pixel = V::load_up_to(from, lanes);
                    }
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

    /// Tiles of a cell: what is transformed and multiplied at a time.
    pub(super) fn vectors<V: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..channels).step_by(V::LANES).map(move |c| (c, V::LANES.min(channels - c)))
    }
}

/// Elements between the same places of two points: rows lie a power of two
/// apart often, and a little more keeps points out of each other's cache sets.
pub(super) fn point_stride<T: Real>(elements: usize) -> usize {
    elements + 64 / size_of::<T>()
}

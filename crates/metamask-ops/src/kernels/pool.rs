//! Max, average and global average pooling over NHWC images. Kernel and stride
//! are free of each other.

use rayon::prelude::*;

use super::Real;

/// Sizes of a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolShape {
    pub(crate) batch: usize,
    pub(crate) in_h: usize,
    pub(crate) in_w: usize,
    pub(crate) channels: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    /// At most half the kernel: every window then touches the image.
    pub(crate) padding: usize,
}

impl PoolShape {
    pub(crate) fn out_h(&self) -> usize {
        (self.in_h + 2 * self.padding - self.kernel) / self.stride + 1
    }

    pub(crate) fn out_w(&self) -> usize {
        (self.in_w + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Elements of an input image.
    fn in_len(&self) -> usize {
        self.in_h * self.in_w * self.channels
    }

    /// Elements of an output image.
    fn out_len(&self) -> usize {
        self.out_h() * self.out_w() * self.channels
    }

    fn check(&self, x: usize, y: usize) {
        assert!(
            2 * self.padding <= self.kernel && self.stride > 0,
            "pool: padding must be at most half the kernel, got {self:?}"
        );
        assert_eq!(x, self.batch * self.in_len(), "pool: input must fit {self:?}");
        assert_eq!(y, self.batch * self.out_len(), "pool: output must fit {self:?}");
    }

    /// Calls `f` for every output pixel of an image and every input pixel of
    /// its window, windows row by row: `(output pixel, input pixel)`.
    fn for_each_pair(&self, mut f: impl FnMut(usize, usize)) {
        for (out, (oy, ox)) in
            (0..self.out_h()).flat_map(|y| (0..self.out_w()).map(move |x| (y, x))).enumerate()
        {
            let rows = self.window(oy, self.in_h);
            for iy in rows {
                for ix in self.window(ox, self.in_w) {
                    f(out, iy * self.in_w + ix);
                }
            }
        }
    }

    /// The input positions, along one axis of length `len`, of window `out`.
    fn window(&self, out: usize, len: usize) -> std::ops::Range<usize> {
        let start = out * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(len)
    }
}

/// `y = max over the window`, with the place of the maximum.
///
/// `indices` receives `iy · in_w + ix` of each maximum; among equals the first
/// in row order, as in PyTorch. Padding never wins. A NaN in the window wins.
///
/// # Shapes
/// `x`: `[batch, in_h, in_w, c]`; `y`, `indices`: `[batch, out_h, out_w, c]`.
pub(crate) fn max_pool2d_forward<T: Real>(
    s: &PoolShape,
    x: &[T],
    y: &mut [T],
    indices: &mut [u32],
) {
    s.check(x.len(), y.len());
    assert_eq!(indices.len(), y.len(), "max_pool2d: indices must have the output's shape");
    let c = s.channels;
    y.par_chunks_mut(s.out_len())
        .zip(indices.par_chunks_mut(s.out_len()))
        .zip(x.par_chunks(s.in_len()))
        .for_each(|((y, indices), x)| {
            y.fill(T::NEG_INFINITY);
            indices.fill(u32::MAX);
            s.for_each_pair(|out, pixel| {
                let window = x[pixel * c..][..c].iter();
                let best = y[out * c..][..c].iter_mut().zip(&mut indices[out * c..][..c]);
                for ((best, index), &value) in best.zip(window) {
                    // The first pixel of a window is taken whatever its value.
                    let is_nan = value.partial_cmp(&value).is_none();
                    if value > *best || is_nan || *index == u32::MAX {
                        *best = value;
                        *index = pixel as u32;
                    }
                }
            });
        });
}

/// Gradient of max pooling: `dx[index] = Σ dy` over the windows that chose it.
///
/// # Shapes
/// `dy`, `indices`: `[batch, out_h, out_w, c]`; `dx`: `[batch, in_h, in_w, c]`.
pub(crate) fn max_pool2d_backward<T: Real>(s: &PoolShape, dy: &[T], indices: &[u32], dx: &mut [T]) {
    s.check(dx.len(), dy.len());
    let c = s.channels;
    dx.par_chunks_mut(s.in_len())
        .zip(dy.par_chunks(s.out_len()).zip(indices.par_chunks(s.out_len())))
        .for_each(|(dx, (dy, indices))| {
            dx.fill(T::ZERO);
            for (dy, indices) in dy.chunks_exact(c).zip(indices.chunks_exact(c)) {
                for (channel, (&dy, &index)) in dy.iter().zip(indices).enumerate() {
                    dx[index as usize * c + channel] += dy;
                }
            }
        });
}

/// Tangent of max pooling: `ẏ = ẋ[index]`.
///
/// # Shapes
/// `x_dot`: `[batch, in_h, in_w, c]`; `indices`, `y_dot`: `[batch, out_h, out_w, c]`.
pub(crate) fn max_pool2d_tangent<T: Real>(
    s: &PoolShape,
    x_dot: &[T],
    indices: &[u32],
    y_dot: &mut [T],
) {
    s.check(x_dot.len(), y_dot.len());
    let c = s.channels;
    y_dot
        .par_chunks_mut(s.out_len())
        .zip(x_dot.par_chunks(s.in_len()).zip(indices.par_chunks(s.out_len())))
        .for_each(|(y_dot, (x_dot, indices))| {
            for (y_dot, indices) in y_dot.chunks_exact_mut(c).zip(indices.chunks_exact(c)) {
                for (channel, (y_dot, &index)) in y_dot.iter_mut().zip(indices).enumerate() {
                    *y_dot = x_dot[index as usize * c + channel];
                }
            }
        });
}

/// `y = Σ window / kernel²`. Padding counts as zeros, as PyTorch's default
/// (`count_include_pad`). Linear, so it is its own tangent.
///
/// # Shapes
/// `x`: `[batch, in_h, in_w, c]`, `y`: `[batch, out_h, out_w, c]`.
pub(crate) fn avg_pool2d_forward<T: Real>(s: &PoolShape, x: &[T], y: &mut [T]) {
    s.check(x.len(), y.len());
    let (c, weight) = (s.channels, s.weight());
    y.par_chunks_mut(s.out_len()).zip(x.par_chunks(s.in_len())).for_each(|(y, x)| {
        y.fill(T::ZERO);
        s.for_each_pair(|out, pixel| add_scaled(&x[pixel * c..][..c], weight, &mut y[out * c..]));
    });
}

/// Gradient of average pooling: `dx = Σ dy / kernel²` over the windows that
/// hold the pixel.
///
/// # Shapes
/// `dy`: `[batch, out_h, out_w, c]`, `dx`: `[batch, in_h, in_w, c]`.
pub(crate) fn avg_pool2d_backward<T: Real>(s: &PoolShape, dy: &[T], dx: &mut [T]) {
    s.check(dx.len(), dy.len());
    let (c, weight) = (s.channels, s.weight());
    dx.par_chunks_mut(s.in_len()).zip(dy.par_chunks(s.out_len())).for_each(|(dx, dy)| {
        dx.fill(T::ZERO);
        s.for_each_pair(|out, pixel| add_scaled(&dy[out * c..][..c], weight, &mut dx[pixel * c..]));
    });
}

/// `y = mean over the pixels`. Linear, so it is its own tangent.
///
/// # Shapes
/// `x`: `[batch, pixels, channels]`, `y`: `[batch, channels]`.
pub(crate) fn global_avg_pool_forward<T: Real>(
    pixels: usize,
    channels: usize,
    x: &[T],
    y: &mut [T],
) {
    assert_eq!(x.len(), y.len() * pixels, "global_avg_pool: input must have {pixels} pixels");
    let weight = T::from_f64(1.0 / pixels as f64);
    y.par_chunks_mut(channels).zip(x.par_chunks(pixels * channels)).for_each(|(y, x)| {
        y.fill(T::ZERO);
        for row in x.chunks_exact(channels) {
            for (y, &x) in y.iter_mut().zip(row) {
                *y += x;
            }
        }
        for y in y {
            *y = *y * weight;
        }
    });
}

/// Gradient of global average pooling: `dx = dy / pixels` at every pixel.
///
/// # Shapes
/// `dy`: `[batch, channels]`, `dx`: `[batch, pixels, channels]`.
pub(crate) fn global_avg_pool_backward<T: Real>(
    pixels: usize,
    channels: usize,
    dy: &[T],
    dx: &mut [T],
) {
    assert_eq!(dx.len(), dy.len() * pixels, "global_avg_pool: input must have {pixels} pixels");
    let weight = T::from_f64(1.0 / pixels as f64);
    dx.par_chunks_mut(pixels * channels).zip(dy.par_chunks(channels)).for_each(|(dx, dy)| {
        for row in dx.chunks_exact_mut(channels) {
            for (dx, &dy) in row.iter_mut().zip(dy) {
                *dx = dy * weight;
            }
        }
    });
}

impl PoolShape {
    fn weight<T: Real>(&self) -> T {
        T::from_f64(1.0 / (self.kernel * self.kernel) as f64)
    }
}

/// `y += x · weight` over `x`'s elements.
fn add_scaled<T: Real>(x: &[T], weight: T, y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x * weight;
    }
}

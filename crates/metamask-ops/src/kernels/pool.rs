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

    /// Elements of the input batch.
    #[cfg(feature = "cuda")]
    pub(crate) fn input_len(&self) -> usize {
        self.batch * self.in_len()
    }

    /// Elements of the output batch.
    #[cfg(feature = "cuda")]
    pub(crate) fn output_len(&self) -> usize {
        self.batch * self.out_len()
    }

    /// Elements of an input image.
    fn in_len(&self) -> usize {
        self.in_h * self.in_w * self.channels
    }

    /// Elements of an output image.
    fn out_len(&self) -> usize {
        self.out_h() * self.out_w() * self.channels
    }

    pub(crate) fn check(&self, x: usize, y: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_same_for_any_threads, values, widen};

    const TOLERANCE_F32: f64 = 1e-6; // Sums over at most 49 pixels.
    const TOLERANCE_F64: f64 = 1e-14;

    fn shapes() -> impl Iterator<Item = PoolShape> {
        let shape = |batch, (in_h, in_w), channels, kernel, stride, padding| PoolShape {
            batch,
            in_h,
            in_w,
            channels,
            kernel,
            stride,
            padding,
        };
        [
            shape(1, (1, 1), 1, 1, 1, 0),
            shape(2, (4, 6), 3, 2, 2, 0),
            shape(2, (7, 5), 16, 3, 2, 1),
            shape(3, (6, 6), 5, 3, 1, 1),
            shape(1, (8, 9), 17, 3, 3, 0),
            shape(2, (5, 5), 4, 2, 3, 1),
            shape(1, (2, 3), 2, 4, 1, 2),
            shape(2, (11, 7), 1, 7, 2, 3),
        ]
        .into_iter()
    }

    /// For every output element: its index, and the inputs in its window.
    fn windows(s: &PoolShape) -> Vec<(usize, Vec<usize>)> {
        let mut windows = Vec::new();
        for n in 0..s.batch {
            for oy in 0..s.out_h() {
                for ox in 0..s.out_w() {
                    for c in 0..s.channels {
                        let mut inputs = Vec::new();
                        for ky in 0..s.kernel {
                            for kx in 0..s.kernel {
                                let (iy, ix) = (oy * s.stride + ky, ox * s.stride + kx);
                                let (h, w) = (s.in_h + s.padding, s.in_w + s.padding);
                                if (s.padding..h).contains(&iy) && (s.padding..w).contains(&ix) {
                                    let (iy, ix) = (iy - s.padding, ix - s.padding);
                                    inputs.push(((n * s.in_h + iy) * s.in_w + ix) * s.channels + c);
                                }
                            }
                        }
                        let out = ((n * s.out_h() + oy) * s.out_w() + ox) * s.channels + c;
                        windows.push((out, inputs));
                    }
                }
            }
        }
        windows
    }

    fn check<T: Real>(s: &PoolShape, tolerance: f64) {
        let n_in = s.batch * s.in_len();
        let n_out = s.batch * s.out_len();
        let (x, x_dot) = (values::<T>(n_in, 1), values::<T>(n_in, 2));
        let dy = values::<T>(n_out, 3);
        let (x64, x_dot64, dy64) = (widen(&x), widen(&x_dot), widen(&dy));
        let windows = windows(s);

        let mut y = vec![T::ZERO; n_out];
        let mut indices = vec![0; n_out];
        let (mut dx, mut y_dot) = (x.clone(), dy.clone());
        max_pool2d_forward(s, &x, &mut y, &mut indices);
        max_pool2d_backward(s, &dy, &indices, &mut dx);
        max_pool2d_tangent(s, &x_dot, &indices, &mut y_dot);
        let (mut e_y, mut e_dx, mut e_y_dot) =
            (vec![0.0; n_out], vec![0.0; n_in], vec![0.0; n_out]);
        for (out, inputs) in &windows {
            let largest = inputs.iter().copied().reduce(|a, b| if x64[b] > x64[a] { b } else { a });
            let largest = largest.expect("every window touches the image");
            e_y[*out] = x64[largest];
            e_dx[largest] += dy64[*out];
            e_y_dot[*out] = x_dot64[largest];
        }
        assert_close(&format!("max {s:?}"), &y, &e_y, 0.0);
        assert_close(&format!("max gradient {s:?}"), &dx, &e_dx, tolerance);
        assert_close(&format!("max tangent {s:?}"), &y_dot, &e_y_dot, 0.0);

        let (mut y, mut dx) = (dy.clone(), x.clone());
        avg_pool2d_forward(s, &x, &mut y);
        avg_pool2d_backward(s, &dy, &mut dx);
        let (mut e_y, mut e_dx) = (vec![0.0; n_out], vec![0.0; n_in]);
        for (out, inputs) in &windows {
            for &input in inputs {
                e_y[*out] += x64[input] / (s.kernel * s.kernel) as f64;
                e_dx[input] += dy64[*out] / (s.kernel * s.kernel) as f64;
            }
        }
        assert_close(&format!("average {s:?}"), &y, &e_y, tolerance);
        assert_close(&format!("average gradient {s:?}"), &dx, &e_dx, tolerance);
    }

    #[test]
    fn max_and_average_equal_their_definition() {
        for s in shapes() {
            check::<f32>(&s, TOLERANCE_F32);
            check::<f64>(&s, TOLERANCE_F64);
        }
    }

    #[test]
    fn global_average_equals_its_definition_and_its_gradient_is_the_transpose() {
        let (batch, pixels, channels) = (3, 35, 17);
        let x = values::<f64>(batch * pixels * channels, 1);
        let dy = values::<f64>(batch * channels, 2);
        let (mut y, mut dx) = (dy.clone(), x.clone());
        global_avg_pool_forward(pixels, channels, &x, &mut y);
        global_avg_pool_backward(pixels, channels, &dy, &mut dx);
        let at = |i: usize| i / (pixels * channels) * channels + i % channels;
        let mut expected = vec![0.0; y.len()];
        x.iter().enumerate().for_each(|(i, x)| expected[at(i)] += x / pixels as f64);
        assert_close("mean", &y, &expected, TOLERANCE_F64);
        let expected: Vec<f64> = (0..x.len()).map(|i| dy[at(i)] / pixels as f64).collect();
        assert_close("gradient", &dx, &expected, TOLERANCE_F64);
    }

    #[test]
    fn of_equal_maxima_the_first_in_row_order_wins() {
        let s =
            PoolShape { batch: 1, in_h: 2, in_w: 2, channels: 1, kernel: 2, stride: 2, padding: 0 };
        let (mut y, mut indices) = ([0.0], [0]);
        max_pool2d_forward(&s, &[1.0, 2.0, 2.0, 2.0], &mut y, &mut indices);
        assert_eq!((y, indices), ([2.0], [1]));
    }

    #[test]
    fn minus_infinity_and_nan_have_a_place_too() {
        let s =
            PoolShape { batch: 1, in_h: 1, in_w: 3, channels: 1, kernel: 3, stride: 3, padding: 1 };
        let (mut y, mut indices) = ([0.0], [7]);
        max_pool2d_forward(&s, &[f64::NEG_INFINITY; 3], &mut y, &mut indices);
        assert_eq!((y, indices), ([f64::NEG_INFINITY], [0]));
        max_pool2d_forward(&s, &[1.0, f64::NAN, 2.0], &mut y, &mut indices);
        assert!(y[0].is_nan() && indices == [1]);
    }

    #[test]
    fn pools_are_the_same_bits_for_any_number_of_threads() {
        for s in shapes() {
            assert_same_for_any_threads(&format!("{s:?}"), || {
                let x = values::<f32>(s.batch * s.in_len(), 1);
                let (mut y, mut indices) = (values::<f32>(s.batch * s.out_len(), 2), Vec::new());
                indices.resize(y.len(), 0);
                max_pool2d_forward(&s, &x, &mut y, &mut indices);
                let mut dx = x.clone();
                max_pool2d_backward(&s, &y, &indices, &mut dx);
                let mut averaged = dx.clone();
                avg_pool2d_backward(&s, &y, &mut averaged);
                (y, indices, dx, averaged)
            });
        }
    }
}

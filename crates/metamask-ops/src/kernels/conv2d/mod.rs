//! Two-dimensional convolution: forward, gradient in the data, gradient in the
//! weights.
//!
//! Direct convolution, no im2col. Forward and backward-data are the same sum,
//! a correlation of a zero-bordered image with packed weights ([`correlate`]):
//! [`plan`] says which. Backward-weight is in [`weight`]. What [`Precision`]
//! allows beyond that is in [`winograd`].

mod correlate;
mod pack;
mod plan;
mod product;
#[cfg(test)]
mod tests;
mod weight;
mod weight_tile;
mod winograd;

use self::correlate::correlate;
use self::plan::Plan;
use super::batch_norm::{Normalisation, PartMoments};
use super::simd::Real;
use super::source::Source;
use super::workspace::Workspace;
use crate::{Kernel, Precision};

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub(crate) batch: usize,
    pub(crate) in_h: usize,
    pub(crate) in_w: usize,
    pub(crate) in_c: usize,
    pub(crate) out_c: usize,
    pub(crate) kernel_h: usize,
    pub(crate) kernel_w: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

/// The parts in which a convolution's result is finished, each while it is in the cache:
/// the result is cut into pieces of `piece` elements, such as an image, and each of these
/// from its start into parts of `part`.
#[derive(Clone, Copy, Debug)]
struct Parts {
    piece: usize,
    part: usize,
}

impl Parts {
    /// How many of them a result of `len` elements has.
    fn count(&self, len: usize) -> usize {
        len.div_ceil(self.piece) * self.piece.div_ceil(self.part)
    }

    /// Which of them begins at element `first`.
    fn index(&self, first: usize) -> usize {
        let (piece, within) = (first / self.piece, first % self.piece);
        piece * self.piece.div_ceil(self.part) + within / self.part
    }
}

/// What a word of a product's factors holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terms {
    Whole,
    Pairs,
}

impl ConvShape {
    pub(crate) fn out_h(&self) -> usize {
        (self.in_h + 2 * self.padding - self.kernel_h) / self.stride + 1
    }

    pub(crate) fn out_w(&self) -> usize {
        (self.in_w + 2 * self.padding - self.kernel_w) / self.stride + 1
    }

    /// Elements of the input batch.
    pub(crate) fn input_len(&self) -> usize {
        self.batch * self.in_h * self.in_w * self.in_c
    }

    /// Elements of the output batch.
    pub(crate) fn output_len(&self) -> usize {
        self.batch * self.out_h() * self.out_w() * self.out_c
    }

    /// Elements of the weights.
    pub(crate) fn weight_len(&self) -> usize {
        self.kernel_h * self.kernel_w * self.in_c * self.out_c
    }

    /// Winograd's method, with what terms, where it is allowed and saves time.
    fn winograd<T: Real>(&self, precision: Precision) -> Option<Terms> {
        let terms = match precision {
            Precision::Exact => return None,
            Precision::Fast => Terms::Whole,
            Precision::Bf16 => Terms::Pairs,
        };
        (T::HAS_FAST && winograd::pays(self)).then_some(terms)
    }

    /// The terms of a direct sum over the channels of a source.
    fn direct<T: Real>(precision: Precision, channels: usize) -> Terms {
        match precision {
            Precision::Bf16 if T::HAS_FAST && channels.is_multiple_of(2) => Terms::Pairs,
            _ => Terms::Whole,
        }
    }

    /// In what parts its forward pass comes.
    fn parts<T: Real>(&self, precision: Precision) -> Parts {
        match self.winograd::<T>(precision) {
            None => correlate::parts(&Plan::forward(self)),
            Some(_) => winograd::parts(self),
        }
    }

    pub(crate) fn check(&self, x: usize, w: usize, y: usize) {
        assert!(
            self.stride > 0
                && self.in_h + 2 * self.padding >= self.kernel_h
                && self.in_w + 2 * self.padding >= self.kernel_w,
            "conv2d: the kernel must fit the padded image, got {self:?}"
        );
        assert_eq!(x, self.input_len(), "conv2d: input must fit {self:?}");
        assert_eq!(w, self.weight_len(), "conv2d: weights must fit {self:?}");
        assert_eq!(y, self.output_len(), "conv2d: output must fit {self:?}");
    }
}

/// `y = conv(x, w)`, or `y += conv(x, w)` if `accumulate` is set.
///
/// ```text
/// y[n, oy, ox, o] = Σ_{kh, kw, i} x[n, oy·stride + kh − padding, ox·stride + kw − padding, i] w[kh, kw, i, o]
/// ```
/// Linear in x and in w, so the tangent is two calls: `conv(ẋ, w)`, then
/// `conv(x, ẇ)` accumulating.
///
/// # Shapes
/// `x`: `[batch, in_h, in_w, in_c]`, `w`: `[kernel_h, kernel_w, in_c, out_c]`,
/// `y`: `[batch, out_h, out_w, out_c]`.
pub(crate) fn conv2d_forward<T: Real>(
    precision: Precision,
    s: &ConvShape,
    x: Source<'_, T>,
    w: &[T],
    y: &mut [T],
    accumulate: bool,
    ws: &mut Workspace<T>,
) {
    forward_with(precision, s, x, w, y, accumulate, |_, _| {}, ws);
}

/// `y = relu?(conv(x, w) · scale + shift (+ residual))`: a convolution and the
/// normalisation by fixed statistics behind it.
///
/// # Shapes
/// As [`conv2d_forward`]; `residual` like `y`, scale and shift `[out_c]`.
pub(crate) fn conv2d_forward_normalised<T: Real>(
    precision: Precision,
    s: &ConvShape,
    x: Source<'_, T>,
    w: &[T],
    by: &Normalisation<'_, T>,
    y: &mut [T],
    ws: &mut Workspace<T>,
) {
    let kernel = Kernel::current();
    let finish = |first: usize, rows: &mut [T]| by.apply(kernel, first, rows);
    forward_with(precision, s, x, w, y, false, finish, ws);
}

/// `y = conv(x, w)`, and mean and biased variance of every channel of y: the statistics of
/// the normalisation behind it.
///
/// # Shapes
/// As [`conv2d_forward`]; mean and variance `[out_c]`.
#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
pub(crate) fn conv2d_forward_with_moments<T: Real>(
    precision: Precision,
    s: &ConvShape,
    x: Source<'_, T>,
    w: &[T],
    y: &mut [T],
    mean: &mut [T],
    variance: &mut [T],
    ws: &mut Workspace<T>,
) {
    let kernel = Kernel::current();
    let mut sums = std::mem::take(&mut ws.sums);
    let parts = s.parts::<T>(precision);
    let moments = PartMoments::new(parts.count(y.len()), s.out_c, &mut sums);
    let finish = |first: usize, rows: &mut [T]| moments.take(kernel, parts.index(first), rows);
    forward_with(precision, s, x, w, y, false, finish, ws);
    moments.join(mean, variance);
    ws.sums = sums;
}

#[allow(clippy::too_many_arguments, reason = "a convolution, its operands, where to work")]
fn forward_with<T: Real>(
    precision: Precision,
    s: &ConvShape,
    x: Source<'_, T>,
    w: &[T],
    y: &mut [T],
    accumulate: bool,
    finish: impl Fn(usize, &mut [T]) + Sync,
    ws: &mut Workspace<T>,
) {
    s.check(x.x.len(), w.len(), y.len());
    let kernel = Kernel::current();
    match s.winograd::<T>(precision) {
        None => {
            let plan = Plan::forward(s);
            match ConvShape::direct::<T>(precision, s.in_c) {
                Terms::Whole => {
                    correlate::<T, false>(kernel, &plan, x, w, y, accumulate, finish, ws);
                }
                Terms::Pairs => {
                    correlate::<T, true>(kernel, &plan, x, w, y, accumulate, finish, ws);
                }
            }
        }
        Some(Terms::Whole) => {
            winograd::forward::<T, false>(kernel, s, x, w, y, accumulate, finish, ws);
        }
        Some(Terms::Pairs) => {
            winograd::forward::<T, true>(kernel, s, x, w, y, accumulate, finish, ws);
        }
    }
}

/// Gradient in the data: `dx = convᵀ(dy, w)`, or `dx += …` if `accumulate`.
///
/// ```text
/// dx[n, iy, ix, i] = Σ dy[n, oy, ox, o] w[kh, kw, i, o]   over oy·stride + kh − padding = iy, same for x
/// ```
///
/// # Shapes
/// As [`conv2d_forward`], `dy` like `y`, `dx` like `x`.
pub(crate) fn conv2d_backward_data<T: Real>(
    precision: Precision,
    s: &ConvShape,
    dy: &[T],
    w: &[T],
    dx: &mut [T],
    accumulate: bool,
    ws: &mut Workspace<T>,
) {
    s.check(dx.len(), w.len(), dy.len());
    let kernel = Kernel::current();
    match s.winograd::<T>(precision) {
        None => {
            let plan = Plan::backward_data(s);
            let finish = |_, _: &mut [T]| {};
            match ConvShape::direct::<T>(precision, s.out_c) {
                Terms::Whole => {
                    correlate::<T, false>(kernel, &plan, dy.into(), w, dx, accumulate, finish, ws);
                }
                Terms::Pairs => {
                    correlate::<T, true>(kernel, &plan, dy.into(), w, dx, accumulate, finish, ws);
                }
            }
        }
        Some(Terms::Whole) => {
            winograd::backward_data::<T, false>(kernel, s, dy, w, dx, accumulate, ws);
        }
        Some(Terms::Pairs) => {
            winograd::backward_data::<T, true>(kernel, s, dy, w, dx, accumulate, ws);
        }
    }
}

/// Gradient in the weights; overwrites `dw`.
///
/// ```text
/// dw[kh, kw, i, o] = Σ_{n, oy, ox} x[n, oy·stride + kh − padding, ox·stride + kw − padding, i] dy[n, oy, ox, o]
/// ```
///
/// # Shapes
/// As [`conv2d_forward`], `dy` like `y`, `dw` like `w`.
pub(crate) fn conv2d_backward_weight<T: Real>(
    precision: Precision,
    s: &ConvShape,
    x: Source<'_, T>,
    dy: &[T],
    dw: &mut [T],
    ws: &mut Workspace<T>,
) {
    s.check(x.x.len(), dw.len(), dy.len());
    let kernel = Kernel::current();
    match s.winograd::<T>(precision) {
        None => weight::backward_weight(kernel, s, x, dy, dw, ws),
        Some(Terms::Whole) => winograd::backward_weight::<T, false>(kernel, s, x, dy, dw, ws),
        Some(Terms::Pairs) => winograd::backward_weight::<T, true>(kernel, s, x, dy, dw, ws),
    }
}

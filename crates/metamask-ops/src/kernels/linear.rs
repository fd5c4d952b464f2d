//! The fully connected layer, as a 1x1 convolution read backwards.
//!
//! PyTorch keeps linear weights as `[out, in]`, which is a 1x1 convolution's
//! `[in, out]` with the two names exchanged. So y = x wᵀ is that convolution's
//! backward-data, its dx the forward, and its dw the same with x and dy
//! exchanged: nothing new to compute here.

use rayon::prelude::*;

use super::{
    ConvShape, Real, Workspace, conv2d_backward_data, conv2d_backward_weight, conv2d_forward,
};

/// Sizes of a fully connected layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinearShape {
    pub(crate) batch: usize,
    pub(crate) in_features: usize,
    pub(crate) out_features: usize,
}

impl LinearShape {
    /// The convolution from out to in features whose weights these are.
    fn as_convolution(self) -> ConvShape {
        ConvShape {
            batch: self.batch,
            in_h: 1,
            in_w: 1,
            in_c: self.out_features,
            out_c: self.in_features,
            kernel_h: 1,
            kernel_w: 1,
            stride: 1,
            padding: 0,
        }
    }
}

/// `y = x wᵀ + b`, or `y += …` if `accumulate` is set.
///
/// The map is linear in (x, w, b) one at a time, so its tangent is two calls:
/// `linear_forward(ẋ, w, None)` and, accumulating, `linear_forward(x, ẇ, ḃ)`.
///
/// # Shapes
/// `x`: `[batch, in]`, `w`: `[out, in]`, `bias`: `[out]`, `y`: `[batch, out]`.
pub(crate) fn linear_forward<T: Real>(
    s: &LinearShape,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
    accumulate: bool,
    ws: &mut Workspace<T>,
) {
    conv2d_backward_data(&s.as_convolution(), x, w, y, accumulate, ws);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), s.out_features, "linear: bias must have one value an output");
        y.par_chunks_mut(s.out_features).for_each(|row| {
            for (y, &b) in row.iter_mut().zip(bias) {
                *y += b;
            }
        });
    }
}

/// Gradients of [`linear_forward`], each written if its place is given (`dx`
/// added to if `accumulate` is set).
///
/// ```text
/// dx = dy w        dw = dyᵀ x        db = Σ_batch dy
/// ```
#[allow(clippy::too_many_arguments, reason = "three inputs, three outputs")]
pub(crate) fn linear_backward<T: Real>(
    s: &LinearShape,
    x: &[T],
    w: &[T],
    dy: &[T],
    dx: Option<&mut [T]>,
    accumulate: bool,
    dw: &mut [T],
    db: Option<&mut [T]>,
    ws: &mut Workspace<T>,
) {
    let shape = s.as_convolution();
    if let Some(dx) = dx {
        conv2d_forward(&shape, dy, w, dx, accumulate, ws);
    }
    conv2d_backward_weight(&shape, dy, x, dw, ws);
    if let Some(db) = db {
        db.fill(T::ZERO);
        for row in dy.chunks_exact(s.out_features) {
            for (db, &dy) in db.iter_mut().zip(row) {
                *db += dy;
            }
        }
    }
}

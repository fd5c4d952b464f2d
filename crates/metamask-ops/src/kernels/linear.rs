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
use crate::Precision;

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
    conv2d_backward_data(Precision::Exact, &s.as_convolution(), x, w, y, accumulate, ws);
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
        conv2d_forward(Precision::Exact, &shape, dy.into(), w, dx, accumulate, ws);
    }
    conv2d_backward_weight(Precision::Exact, &shape, dy.into(), x, dw, ws);
    if let Some(db) = db {
        db.fill(T::ZERO);
        for row in dy.chunks_exact(s.out_features) {
            for (db, &dy) in db.iter_mut().zip(row) {
                *db += dy;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, values};

    const TOLERANCE_F64: f64 = 1e-13;

    #[test]
    fn layer_equals_its_definition() {
        for (batch, in_features, out_features) in
            [(1, 1, 1), (5, 3, 17), (33, 64, 10), (7, 100, 33)]
        {
            let s = LinearShape { batch, in_features, out_features };
            let x = values::<f64>(batch * in_features, 1);
            let w = values::<f64>(out_features * in_features, 2);
            let bias = values::<f64>(out_features, 3);
            let dy = values::<f64>(batch * out_features, 4);
            let mut ws = Workspace::default();

            let (mut e_y, mut e_dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
            let (mut e_dw, mut e_db) = (vec![0.0; w.len()], vec![0.0; out_features]);
            for n in 0..batch {
                for o in 0..out_features {
                    let out = n * out_features + o;
                    e_y[out] += bias[o];
                    e_db[o] += dy[out];
                    for i in 0..in_features {
                        let (input, weight) = (n * in_features + i, o * in_features + i);
                        e_y[out] += x[input] * w[weight];
                        e_dx[input] += dy[out] * w[weight];
                        e_dw[weight] += dy[out] * x[input];
                    }
                }
            }
            let mut y = dy.clone();
            linear_forward(&s, &x, &w, Some(&bias), &mut y, false, &mut ws);
            assert_close("y", &y, &e_y, TOLERANCE_F64);
            let (mut dx, mut dw, mut db) = (x.clone(), w.clone(), bias.clone());
            let (into_dx, into_db) = (Some(&mut *dx), Some(&mut *db));
            linear_backward(&s, &x, &w, &dy, into_dx, false, &mut dw, into_db, &mut ws);
            assert_close("dx", &dx, &e_dx, TOLERANCE_F64);
            assert_close("dw", &dw, &e_dw, TOLERANCE_F64);
            assert_close("db", &db, &e_db, TOLERANCE_F64);

            linear_forward(&s, &x, &w, Some(&bias), &mut y, true, &mut ws);
            let twice: Vec<f64> = e_y.iter().map(|y| 2.0 * y).collect();
            assert_close("y, accumulated", &y, &twice, TOLERANCE_F64);
        }
    }
}

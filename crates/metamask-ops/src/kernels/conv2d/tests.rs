//! Every pass against loops written out from the definition, in f64.

use super::*;
use crate::kernels::batch_norm::batch_norm_forward;
use crate::kernels::source::Scaling;
use crate::kernels::testing::{assert_close, assert_same_for_any_threads, values, widen};

/// Sums of up to 5000 products in f32, relative to their root mean square.
const TOLERANCE_F32: f64 = 2e-5;
const TOLERANCE_F64: f64 = 1e-12;
/// Pairs of f32 in f64: 2⁻²⁴ and no more of every factor, so that no term can be missing.
const TOLERANCE_PAIRS_F64: f64 = 1e-6;
/// Pairs of bfloat16 in f32: 2⁻⁹ of every factor, the largest of thousands of errors.
const TOLERANCE_PAIRS_F32: f64 = 0.05;

/// Shapes with every odd thing: channels that fill no vector, one image, images
/// smaller than the kernel, border without and more than need be, rows and
/// columns that no window reaches.
fn shapes() -> Vec<ConvShape> {
    let shape = |batch, (in_h, in_w), in_c, out_c, kernel, stride, padding| ConvShape {
        batch,
        in_h,
        in_w,
        in_c,
        out_c,
        kernel_h: kernel,
        kernel_w: kernel,
        stride,
        padding,
    };
    let mut shapes = vec![
        shape(1, (1, 1), 1, 1, 1, 1, 0),
        shape(1, (5, 7), 1, 1, 3, 1, 1),
        shape(2, (6, 5), 3, 5, 3, 1, 1),
        shape(3, (9, 7), 3, 16, 3, 2, 1),
        shape(2, (8, 8), 3, 64, 3, 1, 1),
        shape(2, (13, 11), 3, 17, 7, 2, 3),
        shape(1, (5, 6), 5, 100, 5, 1, 2),
        shape(2, (7, 7), 16, 16, 3, 1, 1),
        shape(19, (4, 4), 16, 32, 3, 2, 1),
        shape(2, (8, 8), 17, 33, 1, 2, 0),
        shape(3, (6, 6), 32, 64, 1, 1, 0),
        shape(2, (9, 9), 32, 32, 3, 1, 0),
        shape(2, (6, 6), 64, 100, 3, 2, 1),
        shape(2, (5, 5), 100, 48, 3, 1, 1),
        shape(1, (4, 4), 300, 64, 3, 1, 1),
        shape(5, (6, 6), 130, 20, 3, 1, 1),
        shape(2, (3, 3), 5, 17, 3, 1, 3),
        shape(2, (2, 2), 16, 16, 5, 1, 2),
        shape(2, (4, 4), 3, 3, 1, 3, 2),
        shape(1, (5, 4), 2, 3, 2, 3, 0),
        shape(33, (1, 1), 17, 10, 1, 1, 0),
    ];
    shapes.push(ConvShape { kernel_h: 1, ..shape(2, (6, 7), 4, 9, 5, 2, 2) });
    shapes.push(ConvShape { kernel_w: 1, ..shape(2, (6, 7), 4, 9, 3, 1, 1) });
    shapes
}

/// Calls `f(output, input, weight)` with the index of every term of the sum.
pub(super) fn for_each_term(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    for n in 0..s.batch {
        for oy in 0..s.out_h() {
            for ox in 0..s.out_w() {
                for kh in 0..s.kernel_h {
                    for kw in 0..s.kernel_w {
                        let Some(iy) = (oy * s.stride + kh).checked_sub(s.padding) else {
                            continue;
                        };
                        let Some(ix) = (ox * s.stride + kw).checked_sub(s.padding) else {
                            continue;
                        };
                        if iy >= s.in_h || ix >= s.in_w {
                            continue;
                        }
                        for i in 0..s.in_c {
                            for o in 0..s.out_c {
                                f(
                                    ((n * s.out_h() + oy) * s.out_w() + ox) * s.out_c + o,
                                    ((n * s.in_h + iy) * s.in_w + ix) * s.in_c + i,
                                    ((kh * s.kernel_w + kw) * s.in_c + i) * s.out_c + o,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Forward and gradient in the data, with PAIRS where the channels are even.
fn check_correlations<T: Real, const PAIRS: bool>(kernel: Kernel, s: &ConvShape, tolerance: f64) {
    let x = values::<T>(s.input_len(), 1);
    let w = values::<T>(s.weight_len(), 2);
    let dy = values::<T>(s.output_len(), 3);
    let (x64, w64, dy64) = (widen(&x), widen(&w), widen(&dy));
    let mut ws = Workspace::default();
    let finish = |_, _: &mut [T]| {};

    for add in [false, true] {
        if !PAIRS || s.in_c.is_multiple_of(2) {
            let mut y = values::<T>(s.output_len(), 4);
            let mut expected = if add { widen(&y) } else { vec![0.0; y.len()] };
            for_each_term(s, |o, i, k| expected[o] += x64[i] * w64[k]);
            let plan = Plan::forward(s);
            correlate::<T, PAIRS>(kernel, &plan, x[..].into(), &w, &mut y, add, finish, &mut ws);
            assert_close(&format!("{kernel:?} forward {s:?}"), &y, &expected, tolerance);
        }
        if !PAIRS || s.out_c.is_multiple_of(2) {
            let mut dx = values::<T>(s.input_len(), 5);
            let mut expected = if add { widen(&dx) } else { vec![0.0; dx.len()] };
            for_each_term(s, |o, i, k| expected[i] += dy64[o] * w64[k]);
            let plan = Plan::backward_data(s);
            correlate::<T, PAIRS>(kernel, &plan, dy[..].into(), &w, &mut dx, add, finish, &mut ws);
            assert_close(&format!("{kernel:?} backward data {s:?}"), &dx, &expected, tolerance);
        }
    }
}

fn check_weight<T: Real>(kernel: Kernel, s: &ConvShape, tolerance: f64) {
    let x = values::<T>(s.input_len(), 1);
    let dy = values::<T>(s.output_len(), 3);
    let (x64, dy64) = (widen(&x), widen(&dy));
    let mut ws = Workspace::default();
    let mut dw = values::<T>(s.weight_len(), 6);
    let mut expected = vec![0.0; dw.len()];
    for_each_term(s, |o, i, k| expected[k] += x64[i] * dy64[o]);
    weight::backward_weight(kernel, s, x[..].into(), &dy, &mut dw, &mut ws);
    assert_close(&format!("{kernel:?} backward weight {s:?}"), &dw, &expected, tolerance);
}

#[test]
fn passes_equal_their_definition_in_f64() {
    for s in shapes() {
        check_correlations::<f64, false>(Kernel::Portable, &s, TOLERANCE_F64);
        check_correlations::<f64, true>(Kernel::Portable, &s, TOLERANCE_PAIRS_F64);
        check_weight::<f64>(Kernel::Portable, &s, TOLERANCE_F64);
    }
}

#[test]
fn passes_equal_their_definition_in_f32_on_every_kernel() {
    for kernel in Kernel::supported() {
        for s in shapes() {
            check_correlations::<f32, false>(kernel, &s, TOLERANCE_F32);
            check_correlations::<f32, true>(kernel, &s, TOLERANCE_PAIRS_F32);
            check_weight::<f32>(kernel, &s, TOLERANCE_F32);
        }
    }
}

fn passes<const PAIRS: bool>(kernel: Kernel, s: &ConvShape) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let x = values::<f32>(s.input_len(), 1);
    let w = values::<f32>(s.weight_len(), 2);
    let dy = values::<f32>(s.output_len(), 3);
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
    let mut ws = Workspace::default();
    let finish = |_, _: &mut [f32]| {};
    let (plan, back) = (Plan::forward(s), Plan::backward_data(s));
    correlate::<f32, PAIRS>(kernel, &plan, x[..].into(), &w, &mut y, false, finish, &mut ws);
    correlate::<f32, PAIRS>(kernel, &back, dy[..].into(), &w, &mut dx, true, finish, &mut ws);
    weight::backward_weight(kernel, s, x[..].into(), &dy, &mut dw, &mut ws);
    (y, dx, dw)
}

#[test]
fn passes_are_the_same_bits_for_any_number_of_threads() {
    for kernel in Kernel::supported() {
        for s in shapes() {
            let label = format!("{kernel:?} {s:?}");
            assert_same_for_any_threads(&label, || passes::<false>(kernel, &s));
            if s.in_c.is_multiple_of(2) && s.out_c.is_multiple_of(2) {
                assert_same_for_any_threads(&label, || passes::<true>(kernel, &s));
            }
        }
    }
}

/// The odd ones, and such as have many channels, parts of images and many images.
fn shapes_and_wide_ones() -> Vec<ConvShape> {
    let wide = |batch, size, in_c, out_c| ConvShape {
        batch,
        in_h: size,
        in_w: size,
        in_c,
        out_c,
        kernel_h: 3,
        kernel_w: 3,
        stride: 1,
        padding: 1,
    };
    let many = [wide(9, 8, 256, 256), wide(40, 10, 256, 40), wide(2, 36, 256, 40)];
    let narrow = [wide(3, 37, 16, 32), wide(9, 10, 34, 20), wide(2, 4, 16, 16)];
    shapes().into_iter().chain(many).chain(narrow).collect()
}

#[test]
fn a_source_normalised_on_the_way_is_one_that_was_normalised() {
    for s in shapes_and_wide_ones() {
        let (x, w) = (values::<f32>(s.input_len(), 1), values::<f32>(s.weight_len(), 2));
        let (scale, shift) = (values::<f32>(s.in_c, 3), values::<f32>(s.in_c, 4));
        let dy = values::<f32>(s.output_len(), 5);
        for relu in [false, true] {
            let mut normalised = vec![0.0; x.len()];
            batch_norm_forward(&x, s.in_c, &scale, &shift, None, relu, &mut normalised);
            for precision in [Precision::Exact, Precision::Fast, Precision::Bf16] {
                let passes = |x: Source<'_, f32>| {
                    let mut ws = Workspace::default();
                    let mut y = vec![7.0; s.output_len()];
                    conv2d_forward(precision, &s, x, &w, &mut y, false, &mut ws);
                    let mut dw = vec![7.0; s.weight_len()];
                    conv2d_backward_weight(precision, &s, x, &dy, &mut dw, &mut ws);
                    (y, dw)
                };
                let by = Scaling { scale: &scale, shift: &shift, relu };
                let on_the_way = passes(Source { x: &x, by: Some(by) });
                assert_eq!(on_the_way, passes(normalised[..].into()), "{precision:?} {relu} {s:?}");
            }
        }
    }
}

#[test]
fn moments_come_with_a_convolution() {
    for s in shapes_and_wide_ones() {
        let (x, w) = (values::<f32>(s.input_len(), 1), values::<f32>(s.weight_len(), 2));
        for precision in [Precision::Exact, Precision::Fast, Precision::Bf16] {
            let with_moments = || {
                let mut ws = Workspace::default();
                let mut y = vec![7.0; s.output_len()];
                let (mut mean, mut variance) = (vec![7.0; s.out_c], vec![7.0; s.out_c]);
                let (x, m, v) = (x[..].into(), &mut mean, &mut variance);
                conv2d_forward_with_moments(precision, &s, x, &w, &mut y, m, v, &mut ws);
                (y, mean, variance)
            };
            let (y, mean, variance) = with_moments();
            let mut alone = vec![0.0; y.len()];
            let ws = &mut Workspace::default();
            conv2d_forward(precision, &s, x[..].into(), &w, &mut alone, false, ws);
            assert_eq!(y, alone, "{precision:?} {s:?}");

            let rows = (y.len() / s.out_c) as f64;
            let column = |c: usize| y.iter().skip(c).step_by(s.out_c).map(|v| f64::from(*v));
            let means: Vec<f64> = (0..s.out_c).map(|c| column(c).sum::<f64>() / rows).collect();
            let variances: Vec<f64> = (0..s.out_c)
                .map(|c| column(c).map(|v| (v - means[c]).powi(2)).sum::<f64>() / rows)
                .collect();
            let what = |of: &str| format!("{of}, {precision:?} {s:?}");
            assert_close(&what("mean"), &mean, &means, TOLERANCE_F32);
            assert_close(&what("variance"), &variance, &variances, TOLERANCE_F32);
            assert_same_for_any_threads(&what("moments"), with_moments);
        }
    }
}

#[test]
fn a_normalised_convolution_is_convolution_then_normalisation() {
    for s in &shapes_and_wide_ones() {
        for precision in [Precision::Exact, Precision::Fast, Precision::Bf16] {
            let (x, w) = (values::<f32>(s.input_len(), 1), values::<f32>(s.weight_len(), 2));
            let (scale, shift) = (values::<f32>(s.out_c, 3), values::<f32>(s.out_c, 4));
            let residual = values::<f32>(s.output_len(), 5);
            let mut ws = Workspace::default();
            for (residual, relu) in [(None, false), (None, true), (Some(&*residual), true)] {
                let mut expected = vec![0.0; s.output_len()];
                conv2d_forward(precision, s, x[..].into(), &w, &mut expected, false, &mut ws);
                for (i, y) in expected.iter_mut().enumerate() {
                    *y = y.mul_add(scale[i % s.out_c], shift[i % s.out_c]);
                    *y += residual.map_or(0.0, |residual| residual[i]);
                    *y = if relu { y.max(0.0) } else { *y };
                }
                let by = Normalisation { scale: &scale, shift: &shift, residual, relu };
                let mut y = vec![7.0; s.output_len()];
                conv2d_forward_normalised(precision, s, x[..].into(), &w, &by, &mut y, &mut ws);
                // Two roundings on CPUs without a fused multiply-add.
                assert_close(&format!("{precision:?} {s:?}"), &y, &widen(&expected), 2e-6);
            }
        }
    }
}

//! Every pass against loops written out from the definition, in f64.

use super::*;
use crate::kernels::conv2d::tests::for_each_term;
use crate::kernels::testing::{assert_close, assert_same_for_any_threads, values, widen};

/// Sums of up to 5000 products in f32, relative to their root mean square:
/// eight times the direct kernel's bound.
const TOLERANCE_F32: f64 = 1.6e-4;
/// The constants are irrational, so f64 sees their rounding.
const TOLERANCE_F64: f64 = 1e-12;
/// Pairs of f32 in f64: 2⁻²⁴ and no more of every term, so that none can be missing.
const TOLERANCE_PAIRS_F64: f64 = 2e-6;
/// Pairs of bfloat16 in f32: 2⁻⁹ of every term, grown by the transforms; the largest of
/// thousands of errors whose root mean square is a hundredth.
const TOLERANCE_PAIRS_F32: f64 = 0.15;

fn shape(
    batch: usize,
    (in_h, in_w): (usize, usize),
    in_c: usize,
    out_c: usize,
    padding: usize,
) -> ConvShape {
    let (kernel_h, kernel_w, stride) = (3, 3, 1);
    ConvShape { batch, in_h, in_w, in_c, out_c, kernel_h, kernel_w, stride, padding }
}

/// Images smaller than a tile, edges that cut tiles, all paddings, channels that
/// fill no vector, several blocks of them, one image, several images a task,
/// several tasks an image, more tiles than a cell.
fn shapes() -> Vec<ConvShape> {
    vec![
        shape(1, (1, 1), 1, 1, 1),
        shape(1, (3, 3), 2, 3, 0),
        shape(2, (4, 4), 16, 16, 1),
        shape(3, (5, 7), 3, 5, 1),
        shape(2, (6, 5), 17, 33, 2),
        shape(1, (9, 9), 20, 100, 1),
        shape(40, (4, 4), 33, 20, 1),
        shape(2, (8, 8), 64, 64, 1),
        shape(1, (30, 27), 19, 21, 1),
        shape(1, (13, 140), 5, 17, 1),
        shape(5, (6, 6), 130, 70, 1),
        shape(2, (4, 3), 300, 40, 0),
        shape(1, (5, 9), 259, 270, 1),
        shape(66, (2, 1), 256, 256, 1),
        shape(2, (5, 4), 601, 110, 1),
    ]
}

fn check<T: Real, const PAIRS: bool>(kernel: Kernel, s: &ConvShape, tolerance: f64) {
    let x = values::<T>(s.input_len(), 1);
    let w = values::<T>(s.weight_len(), 2);
    let dy = values::<T>(s.output_len(), 3);
    let (x64, w64, dy64) = (widen(&x), widen(&w), widen(&dy));
    let mut ws = Workspace::default();

    for accumulate in [false, true] {
        let mut y = values::<T>(s.output_len(), 4);
        let mut expected = if accumulate { widen(&y) } else { vec![0.0; y.len()] };
        for_each_term(s, |o, i, k| expected[o] += x64[i] * w64[k]);
        forward::<T, PAIRS>(kernel, s, x[..].into(), &w, &mut y, accumulate, |_, _| {}, &mut ws);
        assert_close(&format!("{kernel:?} forward {s:?}"), &y, &expected, tolerance);

        let mut dx = values::<T>(s.input_len(), 5);
        let mut expected = if accumulate { widen(&dx) } else { vec![0.0; dx.len()] };
        for_each_term(s, |o, i, k| expected[i] += dy64[o] * w64[k]);
        backward_data::<T, PAIRS>(kernel, s, &dy, &w, &mut dx, accumulate, &mut ws);
        assert_close(&format!("{kernel:?} backward data {s:?}"), &dx, &expected, tolerance);
    }

    let mut dw = values::<T>(s.weight_len(), 6);
    let mut expected = vec![0.0; dw.len()];
    for_each_term(s, |o, i, k| expected[k] += x64[i] * dy64[o]);
    backward_weight::<T, PAIRS>(kernel, s, x[..].into(), &dy, &mut dw, &mut ws);
    assert_close(&format!("{kernel:?} backward weight {s:?}"), &dw, &expected, tolerance);
}

#[test]
fn passes_equal_their_definition_in_f64() {
    for s in shapes() {
        check::<f64, false>(Kernel::Portable, &s, TOLERANCE_F64);
        check::<f64, true>(Kernel::Portable, &s, TOLERANCE_PAIRS_F64);
    }
}

#[test]
fn passes_equal_their_definition_in_f32_on_every_kernel() {
    for kernel in Kernel::supported() {
        for s in shapes() {
            check::<f32, false>(kernel, &s, TOLERANCE_F32);
            check::<f32, true>(kernel, &s, TOLERANCE_PAIRS_F32);
        }
    }
}

fn passes<const PAIRS: bool>(kernel: Kernel, s: &ConvShape) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let x = values::<f32>(s.input_len(), 1);
    let w = values::<f32>(s.weight_len(), 2);
    let dy = values::<f32>(s.output_len(), 3);
    let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
    let mut ws = Workspace::default();
    forward::<f32, PAIRS>(kernel, s, x[..].into(), &w, &mut y, false, |_, _| {}, &mut ws);
    backward_data::<f32, PAIRS>(kernel, s, &dy, &w, &mut dx, true, &mut ws);
    backward_weight::<f32, PAIRS>(kernel, s, x[..].into(), &dy, &mut dw, &mut ws);
    (y, dx, dw)
}

#[test]
fn passes_are_the_same_bits_for_any_number_of_threads() {
    for kernel in Kernel::supported() {
        for s in shapes() {
            let label = format!("{kernel:?} {s:?}");
            assert_same_for_any_threads(&label, || passes::<false>(kernel, &s));
            assert_same_for_any_threads(&label, || passes::<true>(kernel, &s));
        }
    }
}

#[test]
fn it_pays_for_the_layers_of_a_resnet_and_not_for_tiny_or_strided_ones() {
    for (size, channels) in [(32, 64), (16, 128), (8, 256), (4, 512), (32, 16), (24, 64)] {
        assert!(pays(&shape(64, (size, size), channels, channels, 1)), "{size} px, {channels}");
    }
    assert!(!pays(&shape(64, (32, 32), 3, 64, 1)));
    assert!(!pays(&shape(1, (4, 4), 512, 512, 1)), "the weights' transform is not made good");
    assert!(!pays(&ConvShape { stride: 2, ..shape(64, (32, 32), 64, 64, 1) }));
    assert!(!pays(&ConvShape { kernel_w: 1, ..shape(64, (32, 32), 64, 64, 1) }));
}

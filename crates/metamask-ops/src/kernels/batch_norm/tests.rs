//! Every pass against its formula in f64, and the tangent against differences.

use super::*;
use crate::kernels::testing::{assert_close, assert_same_for_any_threads, values, widen};

/// Sums over up to 3000 rows in f32, relative to their root mean square.
const TOLERANCE_F32: f64 = 2e-5;
const TOLERANCE_F64: f64 = 1e-11;
const EPSILON: f64 = 1e-5;

const SHAPES: [(usize, usize); 9] =
    [(2, 1), (7, 3), (3000, 5), (64, 16), (1100, 17), (700, 32), (530, 64), (300, 100), (37, 512)];

/// One layer: inputs, and in f64 everything it computes, from the definition.
struct Layer<T> {
    rows: usize,
    channels: usize,
    x: Vec<T>,
    gamma: Vec<T>,
    beta: Vec<T>,
    residual: Vec<T>,
    mean: Vec<T>,
    inv_std: Vec<T>,
}

impl<T: Real> Layer<T> {
    fn new(rows: usize, channels: usize) -> Self {
        // An offset far above the spread, where one-pass sums would cancel.
        let x: Vec<T> =
            values::<T>(rows * channels, 1).iter().map(|v| *v + T::from_f64(3.0)).collect();
        let column = |c: usize| x.iter().skip(c).step_by(channels).map(|v| v.to_f64());
        let mean = |c| column(c).sum::<f64>() / rows as f64;
        let variance = |c| column(c).map(|v| (v - mean(c)).powi(2)).sum::<f64>() / rows as f64;
        let means = (0..channels).map(|c| T::from_f64(mean(c))).collect();
        let inv_std =
            (0..channels).map(|c| T::from_f64(1.0 / (variance(c) + EPSILON).sqrt())).collect();
        Self {
            rows,
            channels,
            gamma: values(channels, 2),
            beta: values(channels, 3),
            residual: values(rows * channels, 4),
            x,
            mean: means,
            inv_std,
        }
    }

    fn batch_norm(&self, statistics: Statistics) -> BatchNorm<'_, T> {
        let Self { mean, inv_std, gamma, .. } = self;
        BatchNorm { mean, inv_std, gamma, statistics }
    }

    fn normalized(&self) -> Vec<f64> {
        let c = |i: usize| i % self.channels;
        let normal = |(i, x): (usize, &T)| {
            (x.to_f64() - self.mean[c(i)].to_f64()) * self.inv_std[c(i)].to_f64()
        };
        self.x.iter().enumerate().map(normal).collect()
    }

    /// `γ x̂ + β + residual`, before ReLU.
    fn output(&self) -> Vec<f64> {
        let c = |i: usize| i % self.channels;
        let output = |(i, x): (usize, f64)| {
            x * self.gamma[c(i)].to_f64() + self.beta[c(i)].to_f64() + self.residual[i].to_f64()
        };
        self.normalized().into_iter().enumerate().map(output).collect()
    }

    fn column_means(&self, terms: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut means = vec![0.0; self.channels];
        for i in 0..self.rows * self.channels {
            means[i % self.channels] += terms(i) / self.rows as f64;
        }
        means
    }
}

fn check<T: Real>(kernel: Kernel, (rows, channels): (usize, usize), tolerance: f64) {
    let layer = Layer::<T>::new(rows, channels);
    let what = |step: &str| format!("{kernel:?} {step} [{rows}, {channels}]");
    let c = |i: usize| i % channels;
    let mut ws = Workspace::default();
    let n = rows * channels;

    let (mut mean, mut variance) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
    column_moments(kernel, &layer.x, channels, &mut mean, &mut variance, &mut ws.sums);
    assert_close(&what("mean"), &mean, &widen(&layer.mean), tolerance);
    let expected: Vec<f64> = layer.inv_std.iter().map(|s| s.to_f64().powi(-2) - EPSILON).collect();
    assert_close(&what("variance"), &variance, &expected, tolerance);

    let scale: Vec<T> = (0..channels).map(|i| layer.gamma[i] * layer.inv_std[i]).collect();
    let shift: Vec<T> = (0..channels).map(|i| layer.beta[i] - layer.mean[i] * scale[i]).collect();
    let mut y = vec![T::ZERO; n];
    let residual = Some(layer.residual.as_slice());
    forward_with(kernel, &layer.x, channels, &scale, &shift, residual, true, &mut y);
    let expected: Vec<f64> = layer.output().iter().map(|y| y.max(0.0)).collect();
    assert_close(&what("forward"), &y, &expected, tolerance);

    let normal = layer.normalized();
    let dy = values::<T>(n, 5);
    let x_dot = values::<T>(n, 6);
    let residual_dot = values::<T>(n, 7);
    let (gamma_dot, beta_dot) = (values::<T>(channels, 8), values::<T>(channels, 9));
    for statistics in [Statistics::Batch, Statistics::Fixed] {
        for relu in [false, true] {
            let open = |i: usize| !relu || y[i] > T::ZERO;
            let gate = relu.then_some(y.as_slice());
            let bn = layer.batch_norm(statistics);
            let batch = f64::from(u8::from(statistics == Statistics::Batch));

            let g: Vec<f64> = (0..n).map(|i| if open(i) { dy[i].to_f64() } else { 0.0 }).collect();
            let mean_g = layer.column_means(|i| g[i]);
            let mean_gx = layer.column_means(|i| g[i] * normal[i]);
            let (mut dgamma, mut dbeta) = (vec![T::ZERO; channels], vec![T::ZERO; channels]);
            let (mut dx, mut g_now) = (vec![T::ZERO; n], dy.clone());
            let relu_now = gate.map_or(Relu::None, Relu::Output);
            let dx_now = Some(&mut dx[..]);
            backward_with(
                kernel,
                &bn,
                &layer.x,
                relu_now,
                &mut g_now,
                &mut dgamma,
                &mut dbeta,
                dx_now,
                &mut ws,
            );
            let mut in_place = dy.clone();
            let dummy = &mut vec![T::ZERO; channels];
            let again = &mut dummy.clone();
            backward_with(
                kernel,
                &bn,
                &layer.x,
                relu_now,
                &mut in_place,
                dummy,
                again,
                None,
                &mut ws,
            );
            assert_eq!(in_place, dx, "{}", what("dx in the place of dy"));
            let total = |means: &[f64]| means.iter().map(|m| m * rows as f64).collect::<Vec<_>>();
            assert_close(&what("dbeta"), &dbeta, &total(&mean_g), tolerance);
            assert_close(&what("dgamma"), &dgamma, &total(&mean_gx), tolerance);
            assert_close(&what("residual gradient"), &g_now, &g, 0.0);
            let expected: Vec<f64> = (0..n)
                .map(|i| {
                    layer.gamma[c(i)].to_f64()
                        * layer.inv_std[c(i)].to_f64()
                        * (g[i] - batch * (mean_g[c(i)] + normal[i] * mean_gx[c(i)]))
                })
                .collect();
            assert_close(&what("dx"), &dx, &expected, tolerance);

            let mean_x = layer.column_means(|i| x_dot[i].to_f64());
            let mean_xx = layer.column_means(|i| x_dot[i].to_f64() * normal[i]);
            let mut y_dot = vec![T::ZERO; n];
            tangent_with(
                kernel,
                &bn,
                &layer.x,
                relu_now,
                &x_dot,
                &gamma_dot,
                &beta_dot,
                Some(&residual_dot),
                &mut y_dot,
                &mut ws,
            );
            let expected: Vec<f64> = (0..n)
                .map(|i| {
                    let normal_dot = layer.inv_std[c(i)].to_f64()
                        * (x_dot[i].to_f64() - batch * (mean_x[c(i)] + normal[i] * mean_xx[c(i)]));
                    let sum = gamma_dot[c(i)].to_f64() * normal[i]
                        + layer.gamma[c(i)].to_f64() * normal_dot
                        + beta_dot[c(i)].to_f64()
                        + residual_dot[i].to_f64();
                    if open(i) { sum } else { 0.0 }
                })
                .collect();
            assert_close(&what("tangent"), &y_dot, &expected, tolerance);
        }
    }
}

#[test]
fn passes_equal_their_definition_in_f64() {
    for shape in SHAPES {
        check::<f64>(Kernel::Portable, shape, TOLERANCE_F64);
    }
}

#[test]
fn passes_equal_their_definition_in_f32_on_every_kernel() {
    for kernel in Kernel::supported() {
        for shape in SHAPES {
            check::<f32>(kernel, shape, TOLERANCE_F32);
        }
    }
}

/// Of the same bits, as nothing else would notice: a number that both count or none.
#[test]
fn relu_is_open_where_its_output_says_so_and_where_its_input_does() {
    for kernel in Kernel::supported() {
        for (rows, channels) in SHAPES {
            let layer = Layer::<f32>::new(rows, channels);
            let bn = layer.batch_norm(Statistics::Batch);
            let scale: Vec<f32> = (0..channels).map(|i| bn.gamma[i] * bn.inv_std[i]).collect();
            let shift: Vec<f32> =
                (0..channels).map(|i| layer.beta[i] - bn.mean[i] * scale[i]).collect();
            let mut y = vec![0.0; layer.x.len()];
            forward_with(kernel, &layer.x, channels, &scale, &shift, None, true, &mut y);
            let gradients = |relu| {
                let mut ws = Workspace::default();
                let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
                let mut dx = layer.residual.clone();
                let (dg, db) = (&mut dgamma, &mut dbeta);
                backward_with(kernel, &bn, &layer.x, relu, &mut dx, dg, db, None, &mut ws);
                let (mut y_dot, x_dot) = (vec![0.0; y.len()], &layer.residual);
                let (ones, twos) = (vec![1.0; channels], vec![2.0; channels]);
                let (bn, ws) = (&bn, &mut ws);
                tangent_with(kernel, bn, &layer.x, relu, x_dot, &ones, &twos, None, &mut y_dot, ws);
                (dgamma, dbeta, dx, y_dot)
            };
            let by_output = gradients(Relu::Output(&y));
            let by_input = gradients(Relu::Input { scale: &scale, shift: &shift });
            assert_eq!(by_output, by_input, "{kernel:?} [{rows}, {channels}]");
        }
    }
}

/// The formulas above were derived by hand; this one needs no derivation.
#[test]
fn tangent_equals_central_differences() {
    let (rows, channels, h) = (23, 5, 1e-5);
    let layer = Layer::<f64>::new(rows, channels);
    let x_dot = values::<f64>(rows * channels, 6);
    let (gamma_dot, beta_dot) = (values::<f64>(channels, 8), values::<f64>(channels, 9));
    let forward = |h: f64| {
        let mut ws = Workspace::default();
        let x: Vec<f64> = layer.x.iter().zip(&x_dot).map(|(x, d)| x + h * d).collect();
        let (mut mean, mut variance) = (vec![0.0; channels], vec![0.0; channels]);
        moments(&x, channels, &mut mean, &mut variance, &mut ws);
        let scale: Vec<f64> = (0..channels)
            .map(|i| (layer.gamma[i] + h * gamma_dot[i]) / (variance[i] + EPSILON).sqrt())
            .collect();
        let shift: Vec<f64> =
            (0..channels).map(|i| layer.beta[i] + h * beta_dot[i] - mean[i] * scale[i]).collect();
        let mut y = vec![0.0; x.len()];
        batch_norm_forward(&x, channels, &scale, &shift, None, false, &mut y);
        y
    };
    let (plus, minus) = (forward(h), forward(-h));
    let differences: Vec<f64> = plus.iter().zip(&minus).map(|(p, m)| (p - m) / (2.0 * h)).collect();
    let mut y_dot = vec![0.0; differences.len()];
    let bn = layer.batch_norm(Statistics::Batch);
    let mut ws = Workspace::default();
    batch_norm_tangent(
        &bn,
        &layer.x,
        Relu::None,
        &x_dot,
        &gamma_dot,
        &beta_dot,
        None,
        &mut y_dot,
        &mut ws,
    );
    // Truncation h² and cancellation 1e-16 / h.
    assert_close("tangent", &y_dot, &differences, 1e-8);
}

#[test]
fn passes_are_the_same_bits_for_any_number_of_threads() {
    for kernel in Kernel::supported() {
        for (rows, channels) in SHAPES {
            assert_same_for_any_threads(&format!("{kernel:?} [{rows}, {channels}]"), || {
                let layer = Layer::<f32>::new(rows, channels);
                let mut ws = Workspace::default();
                let zeros = vec![0.0; channels];
                let (mut a, mut b) = (zeros.clone(), zeros.clone());
                column_moments(kernel, &layer.x, channels, &mut a, &mut b, &mut ws.sums);
                let (mut dgamma, mut dbeta) = (zeros.clone(), zeros);
                let mut dx = layer.residual.clone();
                let bn = layer.batch_norm(Statistics::Batch);
                let relu = Relu::Input { scale: &layer.gamma, shift: &layer.beta };
                backward_with(
                    kernel,
                    &bn,
                    &layer.x,
                    relu,
                    &mut dx,
                    &mut dgamma,
                    &mut dbeta,
                    None,
                    &mut ws,
                );
                (a, b, dgamma, dbeta, dx)
            });
        }
    }
}

#[test]
fn relu_lets_a_nan_through_on_every_kernel() {
    for kernel in Kernel::supported() {
        for channels in [3, 16, 65] {
            let x = vec![f32::NAN; 2 * channels];
            let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
            let mut y = vec![0.0; x.len()];
            forward_with(kernel, &x, channels, &ones, &zeros, None, true, &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "{kernel:?} hides a diverged run");
        }
    }
}

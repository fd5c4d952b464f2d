//! Linear probe: multinomial logistic regression on frozen features.
//!
//! Leaves the choice of features, and what a probe says about them, to others.
//! A standardised probe sees what a feature *contains*, not how loud it is: a
//! mask that only rescales dimensions cannot change it.

use candle_core::{DType, Device, Result, Storage, Tensor, WithDType, bail};
use metamask_ops::{LossAndGradient, softmax_regression};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{check_labels, checked_features};

/// Settings of the linear probe, and its solver.
///
/// ```text
/// minimise  (1/n) Σᵢ −ln softmax(W x̂ᵢ + b)_{yᵢ} + (λ/2) ‖W‖²       x̂ = (x − mean) / std
/// ```
/// Mean and std of each dimension are the training features' (std over n, a
/// dimension that does not vary becomes 0); λ is `penalty`, the bias b is free.
/// Full-batch L-BFGS from zero (10 pairs, halving line search) until no element
/// of the gradient exceeds `gradient_tolerance`, or `max_iterations`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinearProbe {
    /// λ, at least 0; above 0 the solution is unique. Default 1e-3.
    pub penalty: f64,
    /// Iterations at most. Default 300.
    pub max_iterations: usize,
    /// Stops when every element of the gradient is this small. Default 1e-4.
    pub gradient_tolerance: f64,
}

impl Default for LinearProbe {
    fn default() -> Self {
        Self { penalty: 1e-3, max_iterations: 300, gradient_tolerance: 1e-4 }
    }
}

/// A fitted [`LinearProbe`].
#[derive(Clone, Debug)]
pub struct LinearClassifier {
    /// Mean of each dimension, `[1, dim]`, in the training features' dtype.
    mean: Tensor,
    /// 1 / std of each dimension, `[1, dim]`; 0 where it does not vary.
    inverse_std: Tensor,
    /// W, `[n_classes, dim]` row by row, acting on standardised features.
    pub weight: Vec<f64>,
    /// b, one a class.
    pub bias: Vec<f64>,
    /// Iterations that were done.
    pub iterations: usize,
    /// Objective reached.
    pub loss: f64,
    /// Whether the gradient's tolerance was reached.
    pub converged: bool,
}

impl LinearProbe {
    /// Fits the classifier. Computes products in the features' dtype (f32 or
    /// f64) where the features are, sums and the solver's vectors in f64.
    ///
    /// # Shapes
    /// `features`: `[n, dim]` with `n` labels.
    /// # Errors
    /// If shapes, labels or settings do not fit, or a feature is not finite.
    pub fn fit(
        &self,
        features: &Tensor,
        labels: &[u32],
        n_classes: usize,
    ) -> Result<LinearClassifier> {
        let device = features.device();
        let features = checked_features("linear_probe", features)?; // [N, D]
        let (n, dim) = features.dims2()?;
        check_labels("linear_probe", labels, n, n_classes)?;
        self.check()?;

        let (mean, inverse_std) = match features.dtype() {
            DType::F64 => standardisation::<f64>(&features)?,
            _ => standardisation::<f32>(&features)?,
        };
        let x = standardised(&features, &mean, &inverse_std)?.to_device(device)?;
        drop(features);
        let objective = Objective { x, labels, n_classes, penalty: self.penalty };
        let start = vec![0.0; n_classes * (dim + 1)];
        let Minimum { mut point, value, iterations, converged } = minimise(
            |point| objective.value_and_gradient(point),
            start,
            self.max_iterations,
            self.gradient_tolerance,
        )?;
        let bias = point.split_off(n_classes * dim);
        let classifier = LinearClassifier {
            mean,
            inverse_std,
            weight: point,
            bias,
            iterations,
            loss: value,
            converged,
        };
        Ok(classifier)
    }

    fn check(&self) -> Result<()> {
        if !(self.penalty >= 0.0 && self.penalty.is_finite()) {
            bail!("linear_probe: penalty must be at least 0, got {}", self.penalty);
        }
        if self.gradient_tolerance.is_nan() || self.gradient_tolerance < 0.0 {
            bail!("linear_probe: tolerance must be at least 0, got {}", self.gradient_tolerance);
        }
        Ok(())
    }
}

impl LinearClassifier {
    /// Scores W x̂ + b, `[m, n_classes]`, of features `[m, dim]`.
    ///
    /// # Errors
    /// If the width is not the training features', or a feature is not finite.
    pub fn scores(&self, features: &Tensor) -> Result<Tensor> {
        let features = checked_features("linear_probe", features)?.to_dtype(self.mean.dtype())?;
        let (dim, expected) = (features.dim(1)?, self.mean.dim(1)?);
        if dim != expected {
            bail!("linear_probe: width must be the training one, expected {expected}, got {dim}");
        }
        let x = standardised(&features, &self.mean, &self.inverse_std)?;
        scores(&x, &self.weight, &self.bias)
    }

    /// Class of the highest score, the lowest of equal ones.
    ///
    /// # Errors
    /// As [`Self::scores`].
    pub fn predict(&self, features: &Tensor) -> Result<Vec<u32>> {
        let scores = self.scores(features)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let best = |row: &Vec<f64>| {
            (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
        };
        Ok(scores.iter().map(|row| best(row) as u32).collect())
    }
}

/// Mean and 1 / std (over n) of each dimension of features in T, both `[1, dim]`.
fn standardisation<T: WithDType>(features: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, dim) = features.dims2()?;
    let divided = |sums: Vec<f64>| sums.into_iter().map(|sum| sum / n as f64).collect::<Vec<_>>();
    let mean = divided(sums_over_rows::<T>(features, |_, x| x)?);
    let deviation = |d: usize, x: f64| x - mean[d];
    let variance = divided(sums_over_rows::<T>(features, |d, x| deviation(d, x).powi(2))?);
    // A std this far below the values is rounding, not variation.
    let epsilon = if features.dtype() == DType::F64 { 1e-12 } else { 1e-5 };
    let inverse_std: Vec<f64> = variance
        .iter()
        .zip(&mean)
        .map(|(variance, mean)| {
            let std = variance.sqrt();
            let varies = std > epsilon * mean.abs() + f64::from(f32::MIN_POSITIVE);
            if varies { 1.0 / std } else { 0.0 }
        })
        .collect();
    let row = |values| Tensor::from_vec(values, (1, dim), &Device::Cpu)?.to_dtype(T::DTYPE);
    Ok((row(mean)?, row(inverse_std)?))
}

/// Sum over rows of `term(dimension, value)`, in fixed blocks of rows, then block by block.
fn sums_over_rows<T: WithDType>(
    features: &Tensor,
    term: impl Fn(usize, f64) -> f64 + Sync,
) -> Result<Vec<f64>> {
    const ROWS: usize = 256;
    let dim = features.dim(1)?;
    let (storage, layout) = features.storage_and_layout();
    let (Storage::Cpu(values), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        unreachable!("`checked_features` makes them so");
    };
    let blocks: Vec<Vec<f64>> = values.as_slice::<T>()?[start..end]
        .par_chunks(ROWS * dim)
        .map(|rows| {
            let mut sums = vec![0.0; dim];
            for row in rows.chunks_exact(dim) {
                for (d, (sum, value)) in sums.iter_mut().zip(row).enumerate() {
                    *sum += term(d, value.to_f64());
                }
            }
            sums
        })
        .collect();
    let mut sums = vec![0.0; dim];
    for block in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, of_block)| *sum += of_block);
    }
    Ok(sums)
}

fn standardised(features: &Tensor, mean: &Tensor, inverse_std: &Tensor) -> Result<Tensor> {
    features.broadcast_sub(mean)?.broadcast_mul(inverse_std)
}

/// x Wᵀ + b, `[n, n_classes]`.
fn scores(x: &Tensor, weight: &[f64], bias: &[f64]) -> Result<Tensor> {
    let (dim, n_classes) = (x.dim(1)?, bias.len());
    let weight = Tensor::from_slice(weight, (n_classes, dim), &Device::Cpu)?;
    let bias = Tensor::from_slice(bias, (1, n_classes), &Device::Cpu)?;
    x.matmul(&weight.t()?.to_dtype(x.dtype())?)?.broadcast_add(&bias.to_dtype(x.dtype())?)
}

/// Penalised cross-entropy as a function of (W, b) in one vector.
struct Objective<'a> {
    x: Tensor, // [N, D], standardised
    labels: &'a [u32],
    n_classes: usize,
    penalty: f64,
}

impl Objective<'_> {
    fn value_and_gradient(&self, point: &[f64]) -> Result<(f64, Vec<f64>)> {
        let (weight, bias) = point.split_at(self.n_classes * self.x.dim(1)?);
        let LossAndGradient { loss, weight: mut gradient, bias: bias_gradient } =
            softmax_regression(&self.x, self.labels, weight, bias)?;
        gradient.iter_mut().zip(weight).for_each(|(g, w)| *g += self.penalty * w);
        gradient.extend(bias_gradient);
        Ok((loss + 0.5 * self.penalty * dot(weight, weight), gradient))
    }
}

struct Minimum {
    point: Vec<f64>,
    value: f64,
    iterations: usize,
    converged: bool,
}

/// Limited-memory BFGS (Nocedal & Wright, algorithm 7.5) for a smooth convex
/// function. Ends early when no step along the search direction makes it
/// smaller, which is where rounding drowns the slope.
fn minimise(
    function: impl Fn(&[f64]) -> Result<(f64, Vec<f64>)>,
    start: Vec<f64>,
    max_iterations: usize,
    gradient_tolerance: f64,
) -> Result<Minimum> {
    const PAIRS: usize = 10;
    /// Share of the slope's promise that a step has to keep (Armijo).
    const SUFFICIENT_DECREASE: f64 = 1e-4;
    const HALVINGS: usize = 30;
    const ROUNDING: f64 = 8.0 * f64::EPSILON;

    let mut point = start;
    let (mut value, mut gradient) = function(&point)?;
    let mut pairs: Vec<Pair> = Vec::new();
    let small = |gradient: &[f64]| gradient.iter().all(|g| g.abs() <= gradient_tolerance);
    let mut iterations = 0;
    'iterations: while iterations < max_iterations && !small(&gradient) {
        let direction = descent_direction(&pairs, &gradient);
        let slope = dot(&direction, &gradient);
        // The first step has no curvature to go by: one of length at most 1.
        let mut step = if pairs.is_empty() { 1.0 / norm(&gradient).max(1.0) } else { 1.0 };
        for halving in 0..=HALVINGS {
            let next: Vec<f64> = point.iter().zip(&direction).map(|(p, d)| p + step * d).collect();
            let (next_value, next_gradient) = function(&next)?;
            let decreases = next_value <= value + SUFFICIENT_DECREASE * step * slope;
            // Near the minimum rounding hides the decrease and the slope has to
            // tell (approximate Wolfe condition, Hager & Zhang 2005, eq. 4.1).
            let flattens = next_value <= value + ROUNDING * value.abs()
                && dot(&direction, &next_gradient) <= (2.0 * SUFFICIENT_DECREASE - 1.0) * slope;
            if decreases || flattens {
                if pairs.len() == PAIRS {
                    pairs.remove(0);
                }
                pairs.extend(Pair::new(&point, &next, &gradient, &next_gradient));
                (point, value, gradient) = (next, next_value, next_gradient);
                break;
            }
            if halving == HALVINGS {
                break 'iterations;
            }
            step *= 0.5;
        }
        iterations += 1;
    }
    let converged = small(&gradient);
    Ok(Minimum { point, value, iterations, converged })
}

/// A step s, the change y of the gradient along it, and 1 / ⟨s, y⟩.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    rho: f64,
}

impl Pair {
    /// None where the step shows no curvature, which only rounding can cause.
    fn new(from: &[f64], to: &[f64], gradient_from: &[f64], gradient_to: &[f64]) -> Option<Self> {
        let s: Vec<f64> = to.iter().zip(from).map(|(b, a)| b - a).collect();
        let y: Vec<f64> = gradient_to.iter().zip(gradient_from).map(|(b, a)| b - a).collect();
        let curvature = dot(&s, &y);
        (curvature > 1e-14 * norm(&s) * norm(&y)).then(|| Self { s, y, rho: 1.0 / curvature })
    }
}

/// −H g by the two-loop recursion, H the inverse Hessian that the pairs imply.
fn descent_direction(pairs: &[Pair], gradient: &[f64]) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(pairs.len());
    for Pair { s, y, rho } in pairs.iter().rev() {
        let alpha = rho * dot(s, &q);
        q.iter_mut().zip(y).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some(Pair { y, rho, .. }) = pairs.last() {
        let scale = 1.0 / (rho * dot(y, y));
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for (Pair { s, y, rho }, alpha) in pairs.iter().zip(alphas.into_iter().rev()) {
        let beta = rho * dot(y, &q);
        q.iter_mut().zip(s).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use metamask_random::{Key, Purpose};

    use super::*;

    const KEY: Key = Key::new(3, Purpose::Test);

    /// Overlapping normal clusters, one a class, in f64.
    fn clusters(n: usize, dim: usize, n_classes: u32, key: Key) -> Result<(Tensor, Vec<u32>)> {
        let mut stream = key.stream();
        let labels: Vec<u32> = (0..n).map(|_| stream.below(n_classes)).collect();
        let centre = |label: u32, d: usize| f64::from(u8::from(d as u32 % n_classes == label));
        let values: Vec<f64> = labels
            .iter()
            .flat_map(|&label| (0..dim).map(move |d| (label, d)))
            .map(|(label, d)| stream.normal() + centre(label, d))
            .collect();
        Ok((Tensor::from_vec(values, (n, dim), &Device::Cpu)?, labels))
    }

    #[test]
    fn gradient_equals_central_differences() -> Result<()> {
        let (x, labels) = clusters(20, 4, 3, KEY)?;
        let objective = Objective { x, labels: &labels, n_classes: 3, penalty: 0.1 };
        let mut stream = KEY.view(1).stream();
        let point: Vec<f64> = (0..15).map(|_| stream.normal()).collect();
        let (_, gradient) = objective.value_and_gradient(&point)?;
        for i in 0..15 {
            let at = |shift: f64| {
                let mut moved = point.clone();
                moved[i] += shift;
                objective.value_and_gradient(&moved).map(|(value, _)| value)
            };
            let difference = (at(1e-5)? - at(-1e-5)?) / 2e-5;
            // The differences' own error: 1e-10 from the third derivative, 1e-11 rounding.
            assert!((gradient[i] - difference).abs() < 1e-9, "{i}: {} {difference}", gradient[i]);
        }
        Ok(())
    }

    #[test]
    fn minimise_solves_an_ill_conditioned_quadratic() -> Result<()> {
        // ½ Σ c_i (p_i − i)², curvatures from 1 to 100: the minimum is p_i = i.
        let curvature = |i: usize| 10f64.powf(2.0 * i as f64 / 19.0);
        let quadratic = |p: &[f64]| {
            let gradient = (0..20).map(|i| curvature(i) * (p[i] - i as f64)).collect();
            let value = (0..20).map(|i| 0.5 * curvature(i) * (p[i] - i as f64).powi(2)).sum();
            Ok((value, gradient))
        };
        let minimum = minimise(quadratic, vec![0.0; 20], 500, 1e-9)?;
        // Conjugate gradients are bound to need fewer than √100 ln(1e13) / 2 = 150.
        assert!(minimum.converged && minimum.iterations < 150, "{}", minimum.iterations);
        assert!(minimum.point.iter().enumerate().all(|(i, p)| (p - i as f64).abs() < 1e-8));
        Ok(())
    }

    #[test]
    fn f32_features_give_nearly_the_f64_classifier() -> Result<()> {
        let (x, labels) = clusters(500, 16, 4, KEY)?;
        let probe = LinearProbe::default();
        let double = probe.fit(&x, &labels, 4)?;
        let single = probe.fit(&x.to_dtype(DType::F32)?, &labels, 4)?;
        assert!(double.converged && single.converged);
        // The stopping tolerance over the penalty, 1e-4 / 1e-3, bounds it; it is far smaller.
        let difference = double.weight.iter().zip(&single.weight).map(|(a, b)| (a - b).abs());
        assert!(difference.fold(0.0, f64::max) < 1e-2);
        Ok(())
    }

    #[test]
    fn rescaling_a_dimension_changes_no_prediction() -> Result<()> {
        let (x, labels) = clusters(200, 6, 3, KEY)?;
        let mask = Tensor::new(&[[0.5f64, 0.25, 1.0, 2.0, 0.125, 4.0]], &Device::Cpu)?;
        let masked = x.broadcast_mul(&mask)?;
        let probe = LinearProbe::default();
        let plain = probe.fit(&x, &labels, 3)?;
        let other = probe.fit(&masked, &labels, 3)?;
        assert_eq!(plain.predict(&x)?, other.predict(&masked)?);
        assert_eq!(plain.weight, other.weight);
        Ok(())
    }

    #[test]
    fn dead_dimensions_get_no_weight() -> Result<()> {
        for dtype in [DType::F64, DType::F32] {
            let (x, labels) = clusters(100, 2, 2, KEY)?;
            let dead = Tensor::full(0.3f64, (100, 1), &Device::Cpu)?;
            let x = Tensor::cat(&[&x, &dead], 1)?.to_dtype(dtype)?;
            let fitted = LinearProbe::default().fit(&x, &labels, 2)?;
            assert_eq!((fitted.weight[2], fitted.weight[5]), (0.0, 0.0), "{dtype:?}");
            assert!(fitted.converged);
        }
        Ok(())
    }

    #[test]
    fn bad_input_is_refused() -> Result<()> {
        let (x, labels) = clusters(10, 3, 2, KEY)?;
        let probe = LinearProbe::default();
        let refused = |result: Result<LinearClassifier>, expected: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "`{error}` does not say `{expected}`");
        };
        refused(probe.fit(&x, &labels[1..], 2), "one label");
        refused(probe.fit(&x, &labels, 1), "below the number of classes");
        refused(probe.fit(&(&x / 0.0)?, &labels, 2), "must be finite");
        refused(LinearProbe { penalty: -1.0, ..probe }.fit(&x, &labels, 2), "penalty");
        let fitted = probe.fit(&x, &labels, 2)?;
        assert!(fitted.predict(&x.narrow(1, 0, 2)?).is_err());
        Ok(())
    }
}

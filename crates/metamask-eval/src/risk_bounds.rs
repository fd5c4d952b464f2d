//! What a contrastive loss promises for classification: the terms of MetaMask's
//! theorems 5.1 and 5.2 (Li et al. 2022, arXiv:2209.07902), measured.
//!
//! Knows nothing of masks or heads: embeddings of two views with their labels in,
//! numbers out. Whoever wants to know what a mask does measures twice.

use candle_core::{DType, Result, Tensor, bail};
use serde::Serialize;

use crate::checked_features;
use crate::variance::{Groups, conditional_variance};

/// Every term of the theorem, all in one space: u = z / (‖z‖ √τ), so that ⟨u, u′⟩ is
/// the score cos / τ that the loss is made of, and ‖u‖² = 1 / τ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RiskBounds {
    /// Samples, each with two views.
    pub samples: usize,
    /// M = 2N − 2, the negatives of a view in a batch of N samples.
    pub negatives: usize,
    /// K, the classes that occur.
    pub classes: usize,
    /// τ
    pub temperature: f64,
    /// L_contrast: its denominator holds the M negatives, as the theorem's proof has it.
    pub contrastive_loss: f64,
    /// The same with the positive in the denominator: NT-Xent, as it is trained. Above
    /// L_contrast, the more so the better the views agree.
    pub nt_xent: f64,
    /// L_CE of the mean classifier, whose weights are the class means of u.
    pub cross_entropy: f64,
    /// ln(M / K)
    pub log_ratio: f64,
    /// Φ(u|y), conditional variance.
    pub variance: f64,
    /// Σₖ √Φ(|u|ᵏ|y) over the dimensions, what theorem 5.2 is about.
    pub deviation_sum: f64,
}

/// The theorem's two inequalities, lower ≤ middle ≤ upper, without O(M^(−1/2)).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Inequalities {
    /// L_contrast − √Φ − ½ Σₖ √Φₖ, each with its factor.
    pub lower: f64,
    /// The same with ½ Φ for ½ Σₖ √Φₖ, as in the theorem's sister.
    pub sister_lower: f64,
    /// L_CE + ln(M / K)
    pub middle: f64,
    /// L_contrast + √Φ, with its factor.
    pub upper: f64,
    /// upper − lower: how much the theorem leaves open.
    pub gap: f64,
    /// Whether lower ≤ middle. Where not, the difference has to be O(M^(−1/2)), or the
    /// theorem does not apply.
    pub lower_holds: bool,
    /// Whether middle ≤ upper.
    pub upper_holds: bool,
    /// Whether the lower side says nothing: it allows L_CE ≤ 0, which nothing has.
    pub lower_is_vacuous: bool,
    /// Whether the upper side says nothing: it allows L_CE ≥ ln K, which a guess has.
    pub upper_is_vacuous: bool,
}

impl RiskBounds {
    /// The inequalities as they are printed, terms taken in u as they are.
    ///
    /// ```text
    /// L_contrast − √Φ − ½ Σₖ √Φₖ − O(M^(−1/2)) ≤ L_CE + ln(M/K) ≤ L_contrast + √Φ + O(M^(−1/2))
    /// ```
    /// They are proved for ‖u‖ = 1. At τ < 1 the upper one can fail by any amount
    /// (views that are equal, a single class all over the sphere: middle − L_contrast
    /// tends to 1/τ, √Φ is 1/√τ); [`Self::at_temperature`] cannot.
    pub fn as_printed(&self) -> Inequalities {
        self.inequalities(1.0, 1.0, 1.0)
    }

    /// The inequalities for scores cos / τ: what the theorem's proof gives when
    /// ‖u‖ = τ^(−1/2) is carried through it.
    ///
    /// ```text
    /// L_contrast − √Φ̂/τ − Σₖ √Φ̂ₖ / 2τ² − O ≤ L_CE + ln(M/K) ≤ L_contrast + √Φ̂/τ + O      Φ̂ = τ Φ
    /// ```
    /// Φ̂ is the variance of z / ‖z‖. The upper side: −E⟨u, u⁺ − μ_y⟩ is bounded by
    /// ‖u‖ √Φ, not by √Φ, and the rest is Jensen's inequality (classes equally
    /// frequent). The lower side adds the gap of Jensen's inequality, for which the
    /// sister has ½ ‖u‖² Φ = Φ̂ / 2τ²; Σₖ √Φ̂ₖ ≥ Φ̂ as Φ̂ₖ ≤ 1. At τ = 1 both forms agree.
    pub fn at_temperature(&self) -> Inequalities {
        let norm = self.temperature.powf(-0.5);
        self.inequalities(norm, norm.powi(3), norm.powi(2))
    }

    fn inequalities(&self, deviation: f64, deviations: f64, variance: f64) -> Inequalities {
        let spread = deviation * self.variance.sqrt();
        let lower = self.contrastive_loss - spread - 0.5 * deviations * self.deviation_sum;
        let upper = self.contrastive_loss + spread;
        let middle = self.cross_entropy + self.log_ratio;
        // Rounding is no breach.
        let at_most = |a: f64, b: f64| a <= b + 1e-9 * (1.0 + b.abs());
        Inequalities {
            lower,
            sister_lower: self.contrastive_loss - spread - 0.5 * variance * self.variance,
            middle,
            upper,
            gap: upper - lower,
            lower_holds: at_most(lower, middle),
            upper_holds: at_most(middle, upper),
            lower_is_vacuous: lower - self.log_ratio <= 0.0,
            upper_is_vacuous: upper - self.log_ratio >= (self.classes as f64).ln(),
        }
    }
}

/// u = z / (‖z‖ √τ), so that ⟨u, u′⟩ is the score cos / τ. ‖z‖ is bounded below by 1e-12.
fn as_scored(z: &Tensor, temperature: f64) -> Result<Tensor> {
    let z = checked_features("risk_bounds", z)?.to_dtype(DType::F64)?;
    let norm = (z.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)? * temperature.sqrt())?;
    z.broadcast_div(&norm)
}

/// √Φ(|u|ᵏ|y) of each dimension of both views' embeddings: their sum is
/// [`RiskBounds::deviation_sum`], what theorem 5.2 is about.
///
/// # Shapes
/// `z_a`, `z_b`: `[n, dim]` with `n` labels. Returns `dim` values, computed in f64.
/// # Errors
/// If shapes or labels do not fit, or an embedding is not finite.
pub fn scored_deviations(
    (z_a, z_b): (&Tensor, &Tensor),
    labels: &[u32],
    n_classes: usize,
    temperature: f64,
) -> Result<Vec<f64>> {
    let both = Tensor::cat(&[as_scored(z_a, temperature)?, as_scored(z_b, temperature)?], 0)?;
    let variances = conditional_variance(&both, &[labels, labels].concat(), n_classes)?;
    Ok(variances.into_iter().map(f64::sqrt).collect())
}

/// Measures every term of theorem 5.1 on the embeddings of two views.
///
/// ```text
/// u = z / (‖z‖ √τ)
/// L_contrast = E[−⟨u, u⁺⟩ + ln Σ_{j=1}^{M} exp⟨u, u⁻ⱼ⟩]             M = 2N − 2, both views as anchors
/// L_CE = E[−⟨u, μ_y⟩ + ln Σ_{k=1}^{K} exp⟨u, μₖ⟩]                    μₖ = E[u|y = k]
/// Φ(u|y) = E_y E_{x|y} ‖u − μ_y‖² = Σₖ Φ(|u|ᵏ|y)
/// ```
/// Batches of N = `batch` samples are taken in order, and what is left over at the end
/// is left out of everything; the other terms are taken over both views of all that
/// remain. |u|ᵏ is read as the k-th component of u. ‖z‖ is bounded below by 1e-12.
///
/// The means are those of the embeddings that are judged: L_CE is an in-sample number,
/// as in the theorem. The theorem takes classes to be equally frequent.
///
/// # Shapes
/// `z_a`, `z_b`: `[n, dim]` with `n` labels, n ≥ batch ≥ 2. Computed in f64.
/// # Errors
/// If shapes, labels or settings do not fit, or an embedding is not finite.
/// # Source
/// Li et al. 2022, theorem 5.1; the sister is Wang et al. 2022, "Chaos is a ladder",
/// arXiv:2203.13457, theorem 4.2.
pub fn risk_bounds(
    (z_a, z_b): (&Tensor, &Tensor),
    labels: &[u32],
    n_classes: usize,
    temperature: f64,
    batch: usize,
) -> Result<RiskBounds> {
    if z_a.dims2()? != z_b.dims2()? {
        bail!("risk_bounds: views must have one shape, got {:?}, {:?}", z_a.dims(), z_b.dims());
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        bail!("risk_bounds: temperature must be positive, got {temperature}");
    }
    let n = z_a.dim(0)?;
    if labels.len() != n || !(2..=n).contains(&batch) {
        let found = labels.len();
        bail!("risk_bounds: expected {n} labels and a batch from 2 to {n}, got {found}, {batch}");
    }
    let samples = n / batch * batch;
    let scaled = |z: &Tensor| as_scored(&z.narrow(0, 0, samples)?, temperature);
    let (u_a, u_b) = (scaled(z_a)?, scaled(z_b)?); // [n, P]

    let (mut contrastive, mut nt_xent) = (0.0, 0.0);
    for first in (0..samples).step_by(batch) {
        let views = [u_a.narrow(0, first, batch)?, u_b.narrow(0, first, batch)?];
        let u = Tensor::cat(&views, 0)?; // [2N, P]
        let scores = u.matmul(&u.t()?)?.to_vec2::<f64>()?;
        for (i, row) in scores.iter().enumerate() {
            let partner = (i + batch) % (2 * batch);
            let negatives = (0..row.len()).filter(|&j| j != i && j != partner).map(|j| row[j]);
            let negatives = log_sum_exp(negatives);
            contrastive += negatives - row[partner];
            nt_xent += log_sum_exp([negatives, row[partner]].into_iter()) - row[partner];
        }
    }

    let both = Tensor::cat(&[&u_a, &u_b], 0)?; // [2n, P]
    let labels = [&labels[..samples], &labels[..samples]].concat();
    let deviations = conditional_variance(&both, &labels, n_classes)?;
    let mut present = vec![false; n_classes];
    labels.iter().for_each(|&label| present[label as usize] = true);
    let classes = present.iter().filter(|&&present| present).count();
    let means = Groups::of("risk_bounds", &both, &labels, n_classes)?.means;
    let means = Tensor::from_vec(means, (n_classes, both.dim(1)?), both.device())?;
    let scores = both.matmul(&means.t()?)?.to_vec2::<f64>()?; // [2n, K]
    let cross_entropy: f64 = scores
        .iter()
        .zip(&labels)
        .map(|(row, &label)| {
            let of_present = (0..n_classes).filter(|&class| present[class]).map(|class| row[class]);
            log_sum_exp(of_present) - row[label as usize]
        })
        .sum();

    let views = 2.0 * samples as f64;
    let negatives = 2 * batch - 2;
    Ok(RiskBounds {
        samples,
        negatives,
        classes,
        temperature,
        contrastive_loss: contrastive / views,
        nt_xent: nt_xent / views,
        cross_entropy: cross_entropy / views,
        log_ratio: (negatives as f64 / classes as f64).ln(),
        variance: deviations.iter().sum(),
        deviation_sum: deviations.iter().map(|variance| variance.sqrt()).sum(),
    })
}

/// ln Σ exp, without overflow.
fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let highest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    highest + values.map(|value| (value - highest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    const ATOL: f64 = 1e-10;

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < ATOL, "{got}, expected {expected}");
    }

    fn normal(n: usize, dim: usize, key: Key) -> Result<Tensor> {
        let mut stream = key.stream();
        let values: Vec<f64> = (0..n * dim).map(|_| stream.normal()).collect();
        Tensor::from_vec(values, (n, dim), &Device::Cpu)
    }

    #[test]
    fn collapsed_embeddings_meet_every_side_of_the_theorem() -> Result<()> {
        let z = Tensor::new(&[[3.0, 4.0]; 8], &Device::Cpu)?;
        let labels: Vec<u32> = (0..8).map(|i| i % 4).collect();
        let bounds = risk_bounds((&z, &z), &labels, 4, 0.1, 8)?;
        // All scores are equal: ln M, ln(M + 1) and ln K.
        assert_eq!((bounds.negatives, bounds.classes), (14, 4));
        close(bounds.contrastive_loss, 14f64.ln());
        close(bounds.nt_xent, 15f64.ln());
        close(bounds.cross_entropy, 4f64.ln());
        close(bounds.variance, 0.0);
        for sides in [bounds.as_printed(), bounds.at_temperature()] {
            for side in [sides.middle, sides.lower, sides.sister_lower, sides.upper] {
                assert!((side - 14f64.ln()).abs() < 1e-5, "{sides:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn classes_at_right_angles_have_closed_forms() -> Result<()> {
        // Twelve samples of three classes, z the class's axis: no variance.
        let (tau, batch, classes) = (0.5f64, 12, 3);
        let labels: Vec<u32> = (0..12).map(|i| i % 3).collect();
        let rows: Vec<[f64; 3]> = labels
            .iter()
            .map(|&y| std::array::from_fn(|k| if k as u32 == y { 2.0 } else { 0.0 }))
            .collect();
        let z = Tensor::from_slice(rows.as_flattened(), (12, 3), &Device::Cpu)?;
        // A class without a sample does not count.
        let bounds = risk_bounds((&z, &z), &labels, 5, tau, batch)?;
        assert_eq!((bounds.samples, bounds.classes), (12, classes));
        let e = (1.0 / tau).exp();
        // Of 22 negatives 6 are of the same class.
        let negatives = 6.0 * e + 16.0;
        close(bounds.contrastive_loss, negatives.ln() - 1.0 / tau);
        close(bounds.nt_xent, (negatives + e).ln() - 1.0 / tau);
        close(bounds.cross_entropy, (1.0 + 2.0 * (-1.0 / tau).exp()).ln());
        close(bounds.log_ratio, (22.0f64 / 3.0).ln());
        close(bounds.variance, 0.0);
        Ok(())
    }

    #[test]
    fn gaussians_without_classes_have_the_sphere_s_values() -> Result<()> {
        // z ~ N(0, I): u is uniform on a sphere of radius τ^(−1/2). With two large
        // classes of mean near 0: Φ(u|y) = (1 − K / 2n) / τ, Φₖ = Φ / dim.
        let (n, dim, tau) = (2048, 64, 0.5);
        let key = Key::new(1, Purpose::Test);
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 2).collect();
        let (z_a, z_b) = (normal(n, dim, key)?, normal(n, dim, key.view(1))?);
        let bounds = risk_bounds((&z_a, &z_b), &labels, 2, tau, 256)?;
        let variance = (1.0 - 1.0 / 2048.0) / tau;
        assert!((bounds.variance / variance - 1.0).abs() < 1e-3, "{bounds:?}");
        let sum = (variance * dim as f64).sqrt();
        assert!((bounds.deviation_sum / sum - 1.0).abs() < 1e-3, "{bounds:?}");
        let each = scored_deviations((&z_a, &z_b), &labels, 2, tau)?;
        assert_eq!(each.len(), dim);
        assert!((each.iter().sum::<f64>() - bounds.deviation_sum).abs() < 1e-9);
        // Scores have mean 0 and variance 1 / (τ² dim): E exp = exp(1 / 2τ² dim) to first
        // order. The mean over 510 negatives misses that by 0.01 an anchor, and anchors
        // of one batch share them.
        let expected = 510f64.ln() + 1.0 / (2.0 * tau * tau * dim as f64);
        assert!((bounds.contrastive_loss - expected).abs() < 0.02, "{bounds:?} {expected}");
        let sides = bounds.at_temperature();
        assert!(sides.lower_holds && sides.upper_holds, "{sides:?}");
        assert!(sides.lower_is_vacuous && sides.upper_is_vacuous, "{sides:?}");
        Ok(())
    }

    #[test]
    fn as_printed_the_upper_side_fails_at_a_low_temperature() -> Result<()> {
        // One class all over a sphere of 512 dimensions, both views equal, τ = 0.1:
        // L_CE = 0 and L_contrast = −1/τ + ln M + 1 / (2 τ² dim), so that the middle is
        // 9.9 above L_contrast; √Φ(u) = τ^(−1/2) = 3.2, ‖u‖ √Φ(u) = 1/τ = 10.
        let (n, dim, tau) = (1024, 512, 0.1);
        let z = normal(n, dim, Key::new(7, Purpose::Test))?;
        let bounds = risk_bounds((&z, &z), &vec![0; n], 1, tau, n)?;
        close(bounds.cross_entropy, 0.0);
        let expected = -10.0 + 2046f64.ln() + 100.0 / (2.0 * dim as f64);
        assert!((bounds.contrastive_loss - expected).abs() < 0.02, "{bounds:?} {expected}");
        let (printed, scaled) = (bounds.as_printed(), bounds.at_temperature());
        assert!(!printed.upper_holds && printed.middle - printed.upper > 6.0, "{printed:?}");
        assert!(scaled.upper_holds && scaled.upper - scaled.middle < 0.2, "{scaled:?}");
        Ok(())
    }

    #[test]
    fn at_temperature_1_both_forms_are_one() -> Result<()> {
        let key = Key::new(8, Purpose::Test);
        let z = normal(20, 4, key)?;
        let labels: Vec<u32> = (0..20).map(|i| i % 2).collect();
        let bounds = risk_bounds((&z, &normal(20, 4, key.view(1))?), &labels, 2, 1.0, 10)?;
        assert_eq!(bounds.as_printed(), bounds.at_temperature());
        let refused = |batch, tau| risk_bounds((&z, &z), &labels, 2, tau, batch).is_err();
        assert!(refused(1, 1.0) && refused(21, 1.0) && refused(10, 0.0) && refused(10, f64::NAN));
        assert!(risk_bounds((&z, &z.narrow(1, 0, 3)?), &labels, 2, 1.0, 10).is_err());
        assert!(risk_bounds((&z, &z), &labels[1..], 2, 1.0, 10).is_err());
        assert!(risk_bounds((&z, &z), &labels, 1, 1.0, 10).is_err());
        Ok(())
    }
}

//! α-ReQ (Agrawal et al. 2022): how fast the eigenvalues of the covariance fall.

use std::ops::RangeInclusive;

use serde::Serialize;

/// A power law fitted to a spectrum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerLaw {
    /// α
    pub alpha: f64,
    /// ln c, the logarithm of what the law gives at rank 1.
    pub log_scale: f64,
    /// Share of the logarithms' (weighted) variance that the law explains, at most 1.
    pub r_squared: f64,
    /// First rank of the fit, from 1.
    pub first_rank: usize,
    /// Last rank of the fit.
    pub last_rank: usize,
}

impl PowerLaw {
    /// λ at a rank, from 1: c · rank^(−α).
    pub fn at(&self, rank: usize) -> f64 {
        (self.log_scale - self.alpha * (rank as f64).ln()).exp()
    }
}

/// The ranks that the authors' released code fits; the paper names none.
pub const ALPHA_REQ_RANKS: RangeInclusive<usize> = 4..=100;

/// Below this share of the largest eigenvalue a value is rounding.
const ROUNDING: f64 = 1e-13;

/// α-ReQ: exponent of the power law of the covariance's eigenvalues.
///
/// ```text
/// λⱼ ≈ c · j^(−α)      (α, ln c) = argmin Σⱼ wⱼ (ln λⱼ − ln c + α ln j)²,   wⱼ = 1 / j
/// ```
/// j runs over the ranks in `ranks` whose eigenvalue is above rounding. The
/// weights make equal stretches of the logarithmic axis count alike. Small α
/// means many directions in use, large α few; the authors find the best
/// representations near 1.
///
/// `None` where fewer than three eigenvalues can be fitted.
///
/// # Shapes
/// `spectrum`: the eigenvalues, the largest first
/// ([`covariance_spectrum`](crate::covariance_spectrum)).
/// # Source
/// Agrawal et al. 2022, "α-ReQ: assessing representation quality in SSL by measuring
/// eigenspectrum decay"; weights and ranks as in the released code, after Stringer
/// et al. 2019, "High-dimensional geometry of population responses in visual cortex".
pub fn alpha_req(spectrum: &[f64], ranks: RangeInclusive<usize>) -> Option<PowerLaw> {
    let floor = ROUNDING * spectrum.first()?;
    let fitted: Vec<(usize, f64)> = (1..)
        .zip(spectrum.iter().copied())
        .filter(|(rank, value)| ranks.contains(rank) && *value > floor)
        .collect();
    let (&(first_rank, _), &(last_rank, _)) = (fitted.first()?, fitted.last()?);
    if fitted.len() < 3 {
        return None;
    }
    let points = || fitted.iter().map(|&(j, value)| (1.0 / j as f64, (j as f64).ln(), value.ln()));
    let total: f64 = points().map(|(w, ..)| w).sum();
    let mean_x = points().map(|(w, x, _)| w * x).sum::<f64>() / total;
    let mean_y = points().map(|(w, _, y)| w * y).sum::<f64>() / total;
    let xx: f64 = points().map(|(w, x, _)| w * (x - mean_x).powi(2)).sum();
    let xy: f64 = points().map(|(w, x, y)| w * (x - mean_x) * (y - mean_y)).sum();
    let yy: f64 = points().map(|(w, _, y)| w * (y - mean_y).powi(2)).sum();
    let slope = xy / xx;
    // A flat spectrum leaves nothing but rounding to explain.
    let r_squared = if yy > 1e-24 * total { slope * xy / yy } else { 1.0 };
    let log_scale = mean_y - slope * mean_x;
    Some(PowerLaw { alpha: -slope, log_scale, r_squared, first_rank, last_rank })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_law_is_found_again_whatever_lies_outside_the_ranks() {
        for alpha in [0.0, 0.5, 1.0, 2.5] {
            let mut spectrum: Vec<f64> =
                (1..=200).map(|j| 3.0 * f64::from(j).powf(-alpha)).collect();
            spectrum[0] *= 50.0;
            spectrum[1] *= 20.0;
            spectrum[150..].iter_mut().for_each(|value| *value *= 1e-4);
            let law = alpha_req(&spectrum, ALPHA_REQ_RANKS).expect("enough eigenvalues");
            assert!((law.alpha - alpha).abs() < 1e-10, "{law:?}");
            assert!((law.at(1) - 3.0).abs() < 1e-9 && (law.r_squared - 1.0).abs() < 1e-10);
            assert_eq!((law.first_rank, law.last_rank), (4, 100));
        }
    }

    #[test]
    fn rounding_is_not_fitted_and_two_points_are_no_law() {
        let spectrum = [1.0, 0.5, 0.4, 0.3, 0.2, 0.1, 1e-16, 0.0, 0.0];
        assert_eq!(alpha_req(&spectrum, ALPHA_REQ_RANKS).map(|law| law.last_rank), Some(6));
        assert_eq!(alpha_req(&spectrum[..5], ALPHA_REQ_RANKS), None);
        assert_eq!(alpha_req(&[], ALPHA_REQ_RANKS), None);
        assert_eq!(alpha_req(&[0.0; 10], ALPHA_REQ_RANKS), None);
    }
}

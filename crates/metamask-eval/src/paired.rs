//! Two arms over the same seeds: their difference, and how far it can be trusted.

use std::fmt;

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

/// How sure the interval is.
const LEVEL: f64 = 0.95;

/// Mean difference of paired values with its 95 % confidence interval.
///
/// ```text
/// d_i = a_i − b_i        d̄ = Σ d_i / n        s² = Σ (d_i − d̄)² / (n − 1)
/// interval = d̄ ± t(0.975, n − 1) · s / √n
/// ```
/// t(p, ν) is the p-quantile of Student's distribution with ν degrees of freedom. Pairs
/// share their seed, so what a seed does to both arms cancels. The interval supposes that the
/// d_i are independent draws of one normal distribution; with three seeds t is 4.30, so that it is
/// wide, and rightly so.
///
/// Displays as `+1.2 [-0.3, +2.7]`, with the formatter's precision, 1 digit by default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// d̄
    pub mean: f64,
    /// s; none for a single pair.
    pub std: Option<f64>,
    /// The interval; none for a single pair.
    pub interval: Option<[f64; 2]>,
    /// Number of pairs.
    pub n: usize,
}

impl PairedDifference {
    /// Of `a − b`, value by value.
    ///
    /// # Errors
    /// If the lengths differ or are 0.
    pub fn of(a: &[f64], b: &[f64]) -> Result<Self> {
        let n = a.len();
        if n == 0 || n != b.len() {
            bail!("paired_difference: pairs, expected at least 1, got {n} and {} values", b.len());
        }
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let mean = differences.iter().sum::<f64>() / n as f64;
        if n == 1 {
            return Ok(Self { mean, std: None, interval: None, n });
        }
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        let std = (squares / (n - 1) as f64).sqrt();
        let half = student_t_quantile(0.5 + LEVEL / 2.0, n - 1) * std / (n as f64).sqrt();
        Ok(Self { mean, std: Some(std), interval: Some([mean - half, mean + half]), n })
    }

    /// Student's two-sided test of d̄ = 0: P(|T| ≥ |d̄| √n / s). None for a single pair, or where
    /// all differences are the same.
    pub fn p_value(&self) -> Option<f64> {
        let std = self.std.filter(|&std| std > 0.0)?;
        Some(1.0 - share_within(self.mean.abs() * (self.n as f64).sqrt() / std, self.n - 1))
    }

    /// Whether the interval leaves out 0.
    pub fn excludes_zero(&self) -> bool {
        self.interval.is_some_and(|[low, high]| low > 0.0 || high < 0.0)
    }
}

impl fmt::Display for PairedDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:+.digits$}", self.mean)?;
        match self.interval {
            Some([low, high]) => write!(f, " [{low:+.digits$}, {high:+.digits$}]"),
            None => Ok(()),
        }
    }
}

/// The p-quantile of Student's distribution, 0.5 < p < 1, with `dof` ≥ 1 degrees of freedom.
///
/// Bisects the distribution function, which has a finite sum for whole degrees of freedom.
///
/// # Source
/// Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
///
/// # Panics
/// If `p` or `dof` is outside of its range.
pub fn student_t_quantile(p: f64, dof: usize) -> f64 {
    assert!(p > 0.5 && p < 1.0 && dof >= 1, "0.5 < p < 1 and dof >= 1, got {p} and {dof}");
    // P(|T| ≤ t) at the quantile.
    let inside = 2.0 * p - 1.0;
    let (mut low, mut high) = (0.0, 1.0);
    while share_within(high, dof) < inside {
        high *= 2.0;
    }
    // Until no number lies between the two.
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return high;
        }
        match share_within(middle, dof) < inside {
            true => low = middle,
            false => high = middle,
        }
    }
}

/// P(|T| ≤ t), with θ = arctan(t / √ν).
///
/// ```text
/// ν odd    2/π · {θ + sin θ · [cos θ + 2/3 cos³ θ + … + (2·4⋯(ν−3)) / (1·3⋯(ν−2)) cos^{ν−2} θ]}
/// ν even   sin θ · {1 + 1/2 cos² θ + … + (1·3⋯(ν−3)) / (2·4⋯(ν−2)) cos^{ν−2} θ}
/// ```
fn share_within(t: f64, dof: usize) -> f64 {
    let theta = (t / (dof as f64).sqrt()).atan();
    let (sine, cosine) = theta.sin_cos();
    let is_odd = !dof.is_multiple_of(2);
    let (mut term, mut sum) = if is_odd { (cosine, 0.0) } else { (1.0, 0.0) };
    for power in (if is_odd { 1 } else { 0 }..dof.saturating_sub(1)).step_by(2) {
        sum += term;
        term *= cosine * cosine * (power + 1) as f64 / (power + 2) as f64;
    }
    match is_odd {
        true => std::f64::consts::FRAC_2_PI * (theta + sine * sum),
        false => sine * sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_printed_tables() {
        // Abramowitz and Stegun, table 26.10, and any table of Student's t: three to five digits.
        let printed = [
            (1, 12.7062),
            (2, 4.30265),
            (3, 3.18245),
            (4, 2.77645),
            (5, 2.57058),
            (6, 2.44691),
            (7, 2.36462),
            (8, 2.30600),
            (9, 2.26216),
            (10, 2.22814),
            (30, 2.04227),
            (120, 1.97993),
        ];
        for (dof, expected) in printed {
            let found = student_t_quantile(0.975, dof);
            assert!((found - expected).abs() < 6e-5, "{dof}: {found} {expected}");
        }
        assert!((student_t_quantile(0.995, 4) - 4.60409).abs() < 6e-5);
        // ν = 2 has a closed form, t = a √(2 / (1 − a²)) with a = 2p − 1; ν = 1 is tan.
        let a = 0.95f64;
        assert!((student_t_quantile(0.975, 2) - a * (2.0 / (1.0 - a * a)).sqrt()).abs() < 1e-12);
        let cauchy = (std::f64::consts::FRAC_PI_2 * a).tan();
        assert!((student_t_quantile(0.975, 1) - cauchy).abs() < 1e-9);
    }

    #[test]
    fn an_interval_is_that_of_the_formula_written_out() -> Result<()> {
        // d = 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, s = √7, half = 4.302653 · √7 / √3.
        let found = PairedDifference::of(&[51.0, 53.0, 60.0], &[50.0, 51.0, 54.0])?;
        let [low, high] = found.interval.expect("three pairs");
        assert_eq!((found.mean, found.n), (3.0, 3));
        assert!((found.std.expect("three") - 7f64.sqrt()).abs() < 1e-15);
        let half = 4.302_652_729_911_275 * (7f64 / 3.0).sqrt();
        assert!((low - (3.0 - half)).abs() < 1e-9 && (high - (3.0 + half)).abs() < 1e-9);
        assert!(!found.excludes_zero());
        // t = 3 √3 / √7, and of two degrees of freedom P(|T| ≤ t) = t / √(2 + t²).
        let t = 3.0 * (3f64 / 7.0).sqrt();
        let p = found.p_value().expect("three pairs");
        assert!((p - (1.0 - t / (2.0 + t * t).sqrt())).abs() < 1e-12, "{p}");
        assert_eq!(found.to_string(), "+3.0 [-3.6, +9.6]");
        // Equal differences leave nothing to doubt, as far as the formula goes.
        let equal = PairedDifference::of(&[2.0, 3.0], &[1.0, 2.0])?;
        assert!(equal.excludes_zero() && equal.p_value().is_none());
        Ok(())
    }

    #[test]
    fn one_pair_has_no_interval_and_unequal_arms_are_an_error() -> Result<()> {
        let one = PairedDifference::of(&[1.0], &[3.0])?;
        assert_eq!((one.mean, one.std, one.interval), (-2.0, None, None));
        assert_eq!(one.to_string(), "-2.0");
        assert!(!one.excludes_zero());
        assert!(PairedDifference::of(&[1.0], &[]).is_err());
        assert!(PairedDifference::of(&[], &[]).is_err());
        Ok(())
    }
}

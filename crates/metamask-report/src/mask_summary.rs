//! A mask in a few numbers.

use serde::Serialize;

/// Where the values of a mask lie.
///
/// Quartiles interpolate linearly between the sorted values, as NumPy does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MaskSummary {
    /// How many values there are.
    pub dimensions: usize,
    /// The lowest.
    pub min: f64,
    /// A quarter of the values is below.
    pub lower_quartile: f64,
    /// Half of the values is below.
    pub median: f64,
    /// Three quarters of the values are below.
    pub upper_quartile: f64,
    /// The highest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// Dimensions that are faded out: values below 0.1.
    pub below_0_1: usize,
    /// Dimensions that are kept whole: values above 0.9.
    pub above_0_9: usize,
}

impl MaskSummary {
    /// Of the values of a mask; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        Some(Self {
            dimensions: sorted.len(),
            min,
            lower_quartile: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            upper_quartile: quantile(&sorted, 0.75),
            max,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            below_0_1: sorted.iter().filter(|&&m| m < 0.1).count(),
            above_0_9: sorted.iter().filter(|&&m| m > 0.9).count(),
        })
    }
}

/// The value below which a share of the sorted values lies; there is at least one.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate_and_limits_are_exclusive() {
        assert_eq!(MaskSummary::of(&[]), None);
        // By hand: the quartiles of six values lie at the places 1.25, 2.5 and 3.75.
        let summary = MaskSummary::of(&[0.9, 0.0, 1.0, 0.1, 0.5, 0.25]).expect("values");
        assert_eq!((summary.dimensions, summary.min, summary.max), (6, 0.0, 1.0));
        let quartiles = [summary.lower_quartile, summary.median, summary.upper_quartile];
        for (got, expected) in quartiles.into_iter().zip([0.1375, 0.375, 0.8]) {
            assert!((got - expected).abs() < 1e-15, "{got}, expected {expected}");
        }
        assert!((summary.mean - 2.75 / 6.0).abs() < 1e-15);
        assert_eq!((summary.below_0_1, summary.above_0_9), (1, 1));
    }
}

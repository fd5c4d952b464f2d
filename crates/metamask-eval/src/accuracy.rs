//! Accuracy, and its mean and spread over seeds.

use std::fmt;

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

/// Share of predictions that equal their label, in percent.
///
/// # Errors
/// If the lengths differ or are 0.
pub fn accuracy_percent(predictions: &[u32], labels: &[u32]) -> Result<f64> {
    if predictions.len() != labels.len() || labels.is_empty() {
        bail!(
            "accuracy_percent: each prediction needs one label, expected {} of at least 1, got {}",
            predictions.len(),
            labels.len()
        );
    }
    let correct = predictions.iter().zip(labels).filter(|(prediction, label)| prediction == label);
    Ok(100.0 * correct.count() as f64 / labels.len() as f64)
}

/// Mean and sample standard deviation (n − 1) over seeds.
///
/// Displays as `85.7 ± 0.2 (n = 3)`, with the formatter's precision, 1 digit by
/// default; a single run shows no spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanStd {
    /// Mean.
    pub mean: f64,
    /// Standard deviation over n − 1; none for a single value.
    pub std: Option<f64>,
    /// Number of values.
    pub n: usize,
}

impl MeanStd {
    /// Of `values`, one for each seed.
    ///
    /// # Errors
    /// If there are none.
    pub fn of(values: &[f64]) -> Result<Self> {
        let n = values.len();
        if n == 0 {
            bail!("mean_std: there must be values, expected at least 1, got 0");
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Ok(Self { mean, std, n })
    }
}

impl fmt::Display for MeanStd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:.digits$}", self.mean)?;
        if let Some(std) = self.std {
            write!(f, " ± {std:.digits$}")?;
        }
        write!(f, " (n = {})", self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_equal_labels() -> Result<()> {
        assert_eq!(accuracy_percent(&[0, 1, 2, 3], &[0, 1, 0, 3])?, 75.0);
        assert!(accuracy_percent(&[0], &[0, 1]).is_err());
        assert!(accuracy_percent(&[], &[]).is_err());
        Ok(())
    }

    #[test]
    fn mean_std_divides_by_n_minus_one() -> Result<()> {
        // Squares of −1, 0, 1 sum to 2; over n − 1 = 2 that is 1.
        let seeds = MeanStd::of(&[84.0, 85.0, 86.0])?;
        assert_eq!(seeds, MeanStd { mean: 85.0, std: Some(1.0), n: 3 });
        assert_eq!(seeds.to_string(), "85.0 ± 1.0 (n = 3)");
        assert_eq!(format!("{:.2}", MeanStd::of(&[1.5])?), "1.50 (n = 1)");
        assert!(MeanStd::of(&[]).is_err());
        Ok(())
    }
}

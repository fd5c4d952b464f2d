//! How the variance of a representation is spread over directions.

use candle_core::{Result, Tensor};

use crate::dimensions::centred;
use crate::eigenvalues::singular_values;

/// Eigenvalues of the covariance matrix, the largest first.
///
/// ```text
/// C = (1/n) Σᵢ (xᵢ − x̄)(xᵢ − x̄)ᵀ        λ₁ ≥ λ₂ ≥ …
/// ```
/// The min(n, dim) largest: with fewer features than dimensions the others are 0.
/// Below about 1e-14 λ₁ a value is rounding.
///
/// # Shapes
/// `features`: `[n, dim]`, n ≥ 2. Computed in f64.
/// # Errors
/// If there are fewer than two features, or one is not finite.
pub fn covariance_spectrum(features: &Tensor) -> Result<Vec<f64>> {
    let centred = centred("covariance_spectrum", features)?;
    let n = centred.dim(0)? as f64;
    let mut spectrum: Vec<f64> =
        singular_values(&centred)?.into_iter().map(|sigma| sigma * sigma / n).collect();
    spectrum.sort_by(|a, b| b.total_cmp(a));
    Ok(spectrum)
}

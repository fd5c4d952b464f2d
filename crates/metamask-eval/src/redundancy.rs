//! Dimensional redundancy (MetaMask, figure 1a): dimensions that say the same.

use candle_core::{DType, Result, Tensor};

use crate::dimensions::centred;

/// How much the dimensions of a representation say the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Redundancy {
    /// |corr(k, l)|, `[dim, dim]` row by row: 1 on the diagonal, 0 in the rows and
    /// columns of a dimension that does not vary.
    pub absolute_correlation: Vec<f64>,
    /// Number of dimensions.
    pub dim: usize,
    /// Those that vary.
    pub varying: usize,
    /// Mean of |corr(k, l)| over the pairs k ≠ l of dimensions that vary, if there are any.
    pub mean_off_diagonal: Option<f64>,
}

/// Absolute correlations of the dimensions, and their mean off the diagonal.
///
/// ```text
/// |corr(k, l)| = |Σᵢ x̃ᵢₖ x̃ᵢₗ| / √(Σᵢ x̃ᵢₖ² · Σᵢ x̃ᵢₗ²)      x̃ = x − x̄
/// ```
/// Scaling a dimension changes nothing, so a mask does not either. Independent
/// dimensions do not give 0: sampling leaves about √(2 / (π n)).
///
/// # Shapes
/// `features`: `[n, dim]`, n ≥ 2. Computed in f64.
/// # Errors
/// If there are fewer than two features, or one is not finite.
/// # Source
/// Li et al. 2022, arXiv:2209.07902, figure 1a.
pub fn redundancy(features: &Tensor) -> Result<Redundancy> {
    let x = centred("redundancy", features)?;
    let dim = x.dim(1)?;
    let covariance = x.t()?.matmul(&x)?.flatten_all()?.to_vec1::<f64>()?; // [D, D]
    let length: Vec<f64> = (0..dim).map(|k| covariance[k * dim + k].sqrt()).collect();
    let varies = varying_dimensions(features)?;
    let varying = varies.iter().filter(|&&varies| varies).count();

    let mut absolute_correlation = vec![0.0; dim * dim];
    let mut sum = 0.0;
    for k in (0..dim).filter(|&k| varies[k]) {
        for l in (0..dim).filter(|&l| varies[l]) {
            let correlation = (covariance[k * dim + l] / (length[k] * length[l])).abs().min(1.0);
            absolute_correlation[k * dim + l] = if k == l { 1.0 } else { correlation };
            sum += if k == l { 0.0 } else { correlation };
        }
    }
    let mean_off_diagonal = (varying > 1).then(|| sum / (varying * (varying - 1)) as f64);
    Ok(Redundancy { absolute_correlation, dim, varying, mean_off_diagonal })
}

/// Which dimensions vary by more than f32 rounds their values.
pub(crate) fn varying_dimensions(features: &Tensor) -> Result<Vec<bool>> {
    let variance = centred("redundancy", features)?.sqr()?.mean(0)?.to_vec1::<f64>()?;
    let square = features.to_dtype(DType::F64)?.sqr()?.mean(0)?.to_vec1::<f64>()?;
    let rounding = f64::from(f32::EPSILON).powi(2);
    Ok(variance.iter().zip(&square).map(|(v, s)| *v > rounding * s).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn copies_are_redundant_and_a_constant_says_nothing() -> Result<()> {
        // Orthogonal a and b; then −2 a + 1, a constant, and a + b with correlation 1/√2.
        let (a, b) = ([1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]);
        let rows: Vec<[f64; 5]> =
            a.iter().zip(b).map(|(&a, b)| [a, b, 1.0 - 2.0 * a, 7.1, a + b]).collect();
        let features = Tensor::from_slice(rows.as_flattened(), (4, 5), &Device::Cpu)?;
        let found = redundancy(&features)?;
        let half = 0.5f64.sqrt();
        let expected = [
            [1.0, 0.0, 1.0, 0.0, half],
            [0.0, 1.0, 0.0, 0.0, half],
            [1.0, 0.0, 1.0, 0.0, half],
            [0.0; 5],
            [half, half, half, 0.0, 1.0],
        ];
        for (got, expected) in found.absolute_correlation.iter().zip(expected.as_flattened()) {
            assert!((got - expected).abs() < 1e-12, "{found:?}");
        }
        assert_eq!((found.dim, found.varying), (5, 4));
        // Pairs of the four: 1 and three times 1/√2, of six.
        let mean = found.mean_off_diagonal.expect("several vary");
        assert!((mean - (1.0 + 3.0 * half) / 6.0).abs() < 1e-12);
        assert_eq!(redundancy(&features.narrow(1, 2, 2)?)?.mean_off_diagonal, None);
        Ok(())
    }
}

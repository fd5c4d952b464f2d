//! Participation ratio: the effective number of directions by second moments.

use candle_core::{Result, Tensor};

use crate::dimensions::centred;

/// Participation ratio of the covariance matrix, from 1 to dim; 0 if all features are
/// equal.
///
/// ```text
/// (Σₖ λₖ)² / Σₖ λₖ² = (tr C)² / tr C²
/// ```
/// λ are the eigenvalues of the covariance C. k equal ones and no others give k.
/// Squares weigh the large ones: it lies below [`effective_rank`](crate::effective_rank),
/// and a single loud direction brings it near 1.
///
/// # Shapes
/// `features`: `[n, dim]`, n ≥ 2. Computed in f64 from the traces, without eigenvalues.
/// # Errors
/// If there are fewer than two features, or one is not finite.
/// # Source
/// Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and
/// measurement", bioRxiv 214262.
pub fn participation_ratio(features: &Tensor) -> Result<f64> {
    let x = centred("participation_ratio", features)?;
    let (n, dim) = x.dims2()?;
    // n tr C = Σ x², and (n C)'s squared norm is that of the smaller Gram matrix.
    let gram = match n < dim {
        true => x.matmul(&x.t()?)?,
        false => x.t()?.matmul(&x)?,
    };
    let trace = x.sqr()?.sum_all()?.to_scalar::<f64>()?;
    let squares = gram.sqr()?.sum_all()?.to_scalar::<f64>()?;
    if squares == 0.0 {
        return Ok(0.0);
    }
    Ok(trace * trace / squares)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn equal_directions_are_counted() -> Result<()> {
        // Orthogonal columns of mean 0; variances 1, 1, s²: (2 + s²)² / (2 + s⁴).
        for (s, expected) in [(1.0, 3.0), (0.0, 2.0), (2.0, 2.0), (3.0, 121.0 / 83.0)] {
            let rows = [[1.0, 1.0, s], [1.0, -1.0, -s], [-1.0, 1.0, -s], [-1.0, -1.0, s]];
            let ratio = participation_ratio(&Tensor::new(&rows, &Device::Cpu)?)?;
            assert!((ratio - expected).abs() < 1e-12, "{ratio} {expected}");
        }
        let equal = Tensor::new(&[[1.0, 2.0], [1.0, 2.0]], &Device::Cpu)?;
        assert_eq!(participation_ratio(&equal)?, 0.0);
        Ok(())
    }
}

//! RankMe (Garrido et al. 2023, arXiv:2210.02885): how many directions the
//! features fill, as a number that needs no label.

use candle_core::{DType, Result, Tensor};

use crate::checked_features;
use crate::eigenvalues::singular_values;

/// RankMe: the entropy of the singular values as a number of directions.
///
/// ```text
/// exp(−Σₖ pₖ ln pₖ)      pₖ = σₖ / ‖σ‖₁ + ε,  ε = 1e-7
/// ```
/// σ are the min(n, dim) singular values of the features *as they are*. That is
/// what tells it from [`effective_rank`](crate::effective_rank), which takes the
/// mean off first: behind a ReLU the mean is the largest direction, and RankMe
/// counts it.
///
/// # Shapes
/// `features`: `[n, dim]`. Computed in f64. From about 1 to min(n, dim); 0 if all are 0.
/// # Errors
/// If a feature is not finite.
/// # Source
/// Garrido et al. 2023, arXiv:2210.02885, equation 1; they ask for n of 25,600.
pub fn rank_me(features: &Tensor) -> Result<f64> {
    const EPSILON: f64 = 1e-7;
    let features = checked_features("rank_me", features)?.to_dtype(DType::F64)?;
    let singular = singular_values(&features)?;
    let sum: f64 = singular.iter().sum();
    if sum == 0.0 {
        return Ok(0.0);
    }
    let shares = singular.iter().map(|sigma| sigma / sum + EPSILON);
    Ok((-shares.map(|share| share * share.ln()).sum::<f64>()).exp())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_mean_is_a_direction_and_scale_is_none() -> Result<()> {
        // Orthogonal columns of equal length: three directions, one of them the mean.
        let rows = [[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [1.0, -1.0, -1.0]];
        let features = Tensor::new(&rows, &Device::Cpu)?;
        for scale in [1.0, 1e-3, 1e5] {
            let rank = rank_me(&(&features * scale)?)?;
            // ε adds 3 · 1e-7 · (ln 3 − 1) to the entropy.
            assert!((rank - 3.0).abs() < 1e-5, "{rank}");
        }
        assert!((crate::effective_rank(&features)? - 2.0).abs() < 1e-6);
        assert_eq!(rank_me(&(&features * 0.0)?)?, 0.0);
        Ok(())
    }
}

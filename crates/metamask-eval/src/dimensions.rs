//! What the dimensions of a representation do: how many are in use, how evenly.

use candle_core::{DType, Result, Tensor, bail};

use crate::checked_features;
use crate::eigenvalues::singular_values;

/// Effective rank: how many dimensions the features fill, from 1 to dim; 0 if all
/// are equal.
///
/// ```text
/// exp(−Σₖ pₖ ln pₖ)      pₖ = σₖ / Σⱼ σⱼ
/// ```
/// σ are the singular values of the features with their mean taken off.
///
/// # Shapes
/// `features`: `[n, dim]`, n ≥ 2. Computed in f64.
/// # Errors
/// If there are fewer than two features, or one is not finite.
/// # Source
/// Roy & Vetterli 2007, "The effective rank"; as a measure of representations
/// Garrido et al. 2023, arXiv:2210.02885.
/// Departs: centred, so that a common mean does not count as a dimension.
pub fn effective_rank(features: &Tensor) -> Result<f64> {
    let centred = centred("effective_rank", features)?;
    // What squaring loses changes the entropy by less than 1e-6 a dimension.
    let singular = singular_values(&centred)?;
    let sum: f64 = singular.iter().sum();
    if sum == 0.0 {
        return Ok(0.0);
    }
    let shares = singular.iter().map(|value| value / sum).filter(|&share| share > 0.0);
    Ok((-shares.map(|share| share * share.ln()).sum::<f64>()).exp())
}

/// Standard deviation (over n) of each dimension of `features` `[n, dim]`.
///
/// # Errors
/// If there are fewer than two features, or one is not finite.
pub fn dimension_std(features: &Tensor) -> Result<Vec<f64>> {
    centred("dimension_std", features)?.sqr()?.mean(0)?.sqrt()?.to_vec1()
}

/// Number of dimensions whose std is below `share` of the largest one
/// (0.01 is a common choice); all of them if none varies.
///
/// # Errors
/// If there are fewer than two features, or one is not finite.
pub fn dead_dimensions(features: &Tensor, share: f64) -> Result<usize> {
    let std = dimension_std(features)?;
    let largest = std.iter().copied().fold(0.0, f64::max);
    Ok(std.iter().filter(|&&value| value <= share * largest).count())
}

/// Spread of L2-normalised features, against that of a uniform sphere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DimensionSpread {
    /// Mean over dimensions of the std of x / ‖x‖: 0 when collapsed.
    pub std: f64,
    /// 1 / √dim, what features spread evenly over the sphere have.
    pub even: f64,
}

/// How far `features` `[n, dim]` are from having collapsed to a point.
///
/// # Errors
/// If there are fewer than two features, or one is not finite.
/// # Source
/// Chen & He 2021, arXiv:2011.10566, figure 2.
pub fn embedding_spread(features: &Tensor) -> Result<DimensionSpread> {
    let features = checked_features("embedding_spread", features)?.to_dtype(DType::F64)?;
    let norm = features.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?; // [N, 1]
    let std = dimension_std(&features.broadcast_div(&norm)?)?;
    let dim = std.len() as f64;
    Ok(DimensionSpread { std: std.iter().sum::<f64>() / dim, even: dim.sqrt().recip() })
}

/// Features in f64 with the mean over them taken off.
pub(crate) fn centred(operation: &str, features: &Tensor) -> Result<Tensor> {
    let features = checked_features(operation, features)?.to_dtype(DType::F64)?;
    let n = features.dim(0)?;
    if n < 2 {
        bail!("{operation}: there must be several features, expected at least 2, got {n}");
    }
    features.broadcast_sub(&features.mean_keepdim(0)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    const ATOL: f64 = 1e-10;

    fn features(rows: &[[f64; 4]]) -> Result<Tensor> {
        Tensor::from_slice(rows.as_flattened(), (rows.len(), 4), &Device::Cpu)
    }

    #[test]
    fn effective_rank_counts_equal_directions() -> Result<()> {
        // Columns of a Hadamard matrix: orthogonal, of equal length, of mean 0.
        let rank = |scale: [f64; 4]| {
            let signs = |row: usize, column: usize| {
                if (row & (column + 1)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
            };
            let rows: Vec<[f64; 4]> =
                (0..8).map(|row| std::array::from_fn(|c| 7.0 + scale[c] * signs(row, c))).collect();
            effective_rank(&features(&rows)?)
        };
        assert!((rank([1.0; 4])? - 4.0).abs() < ATOL);
        assert!((rank([3.0, 0.0, 3.0, 0.0])? - 2.0).abs() < 1e-6);
        assert!((rank([0.0, 2.0, 0.0, 0.0])? - 1.0).abs() < 1e-6);
        // Shares 1/2, 1/4, 1/8, 1/8: entropy (7/4) ln 2.
        assert!((rank([4.0, 2.0, 1.0, 1.0])? - 2f64.powf(1.75)).abs() < ATOL);
        assert_eq!(rank([0.0; 4])?, 0.0);
        Ok(())
    }

    #[test]
    fn effective_rank_does_not_see_dimensions_that_do_not_vary() -> Result<()> {
        // Fewer features than dimensions take the other product; adding constant
        // dimensions changes nothing.
        let rows: Vec<[f64; 4]> = (0..5u32)
            .map(|row| std::array::from_fn(|c| f64::from((row * 7 + c as u32 * 5) % 11)))
            .collect();
        let narrow = features(&rows)?;
        let constant = Tensor::ones((5, 20), candle_core::DType::F64, narrow.device())?;
        let wide = Tensor::cat(&[&narrow, &constant], 1)?;
        assert!((effective_rank(&narrow)? - effective_rank(&wide)?).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn dead_dimensions_are_those_that_hardly_vary() -> Result<()> {
        let features = features(&[[0.0, 5.0, 1.0, 0.0], [2.0, 5.0, 1.01, 4.0]])?;
        let std = dimension_std(&features)?;
        let expected = [1.0, 0.0, 0.005, 2.0];
        assert!(std.iter().zip(expected).all(|(a, b)| (a - b).abs() < ATOL), "{std:?}");
        assert_eq!(dead_dimensions(&features, 0.01)?, 2);
        assert_eq!(dead_dimensions(&features, 0.001)?, 1);
        Ok(())
    }

    #[test]
    fn collapsed_features_have_no_spread_and_even_ones_the_sphere_s() -> Result<()> {
        let collapsed = features(&[[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]])?;
        assert!(embedding_spread(&collapsed)?.std < ATOL);

        let mut stream = Key::new(6, Purpose::Test).stream();
        let values: Vec<f64> = (0..64 * 2000).map(|_| stream.normal()).collect();
        let even = embedding_spread(&Tensor::from_vec(values, (2000, 64), &Device::Cpu)?)?;
        // Standard error of a std from 2000 draws: 1 / √4000 = 1.6 %, over 64 of them 0.2 %.
        assert!((even.std / even.even - 1.0).abs() < 0.01, "{even:?}");
        Ok(())
    }
}

//! Variance within and between groups of features, dimension by dimension: the
//! classes of a task, or the values of a nuisance factor.

use candle_core::{DType, Result, Tensor, bail};

use crate::redundancy::varying_dimensions;
use crate::{check_labels, checked_features};

/// Conditional variance of each dimension, Φ(xᵏ|y).
///
/// ```text
/// Φ(xᵏ|y) = E_y E_{x|y} (xᵏ − E[xᵏ|y])²        Φ(x|y) = Σₖ Φ(xᵏ|y)
/// ```
/// Classes weigh as often as they occur; each variance divides by its class's
/// number of features.
///
/// # Shapes
/// `features`: `[n, dim]` with `n` labels. Returns `dim` values, computed in f64.
/// # Errors
/// If the labels do not fit, or a feature is not finite.
/// # Source
/// Li et al. 2022, arXiv:2209.07902, theorems 5.1 and 5.2.
pub fn conditional_variance(
    features: &Tensor,
    labels: &[u32],
    n_classes: usize,
) -> Result<Vec<f64>> {
    let groups = Groups::of("conditional_variance", features, labels, n_classes)?;
    Ok(groups.squares_within.iter().map(|sum| sum / groups.n as f64).collect())
}

/// Share of each dimension's variance that lies between the groups, η².
///
/// ```text
/// η²ₖ = Σ_g n_g (x̄ₖ_g − x̄ₖ)² / Σᵢ (xᵢₖ − x̄ₖ)²        in [0, 1]
/// ```
/// 1: the group alone decides the value. 0: groups have equal means; so does a
/// dimension that does not vary. Groups without any meaning explain
/// [`variance_share_by_chance`]. Scaling a dimension changes nothing.
///
/// # Shapes
/// `features`: `[n, dim]`, a group below `n_groups` for each of the n. Returns `dim`
/// values, computed in f64.
/// # Errors
/// If the groups do not fit, or a feature is not finite.
/// # Source
/// Fisher 1925, the correlation ratio of an analysis of variance.
pub fn variance_share(features: &Tensor, groups: &[u32], n_groups: usize) -> Result<Vec<f64>> {
    let varies = varying_dimensions(features)?;
    let groups = Groups::of("variance_share", features, groups, n_groups)?;
    let share = |k: usize| match varies[k] {
        true => 1.0 - (groups.squares_within[k] / groups.squares[k]).clamp(0.0, 1.0),
        false => 0.0,
    };
    Ok((0..varies.len()).map(share).collect())
}

/// Mean η² of a group assignment that means nothing: (occupied − 1) / (n − 1).
///
/// # Errors
/// If there are fewer than two assignments.
pub fn variance_share_by_chance(groups: &[u32]) -> Result<f64> {
    let n = groups.len();
    if n < 2 {
        bail!("variance_share_by_chance: groups must be of several features, got {n}");
    }
    let occupied = groups.iter().collect::<std::collections::BTreeSet<_>>().len();
    Ok((occupied - 1) as f64 / (n - 1) as f64)
}

/// Mean of each group, and sums of squared distances from the means.
pub(crate) struct Groups {
    /// Number of features.
    pub n: usize,
    /// How many there are of each group.
    pub count: Vec<usize>,
    /// x̄ₖ, `[dim]`.
    pub mean: Vec<f64>,
    /// `[n_groups, dim]` row by row; 0 in a group of none.
    pub means: Vec<f64>,
    /// Σᵢ (xᵢₖ − x̄ₖ)², `[dim]`.
    pub squares: Vec<f64>,
    /// The same about the mean of each one's group.
    pub squares_within: Vec<f64>,
}

impl Groups {
    pub(crate) fn of(
        operation: &str,
        features: &Tensor,
        groups: &[u32],
        n_groups: usize,
    ) -> Result<Self> {
        let features = checked_features(operation, features)?.to_dtype(DType::F64)?;
        let (n, dim) = features.dims2()?;
        check_labels(operation, groups, n, n_groups)?;
        let values = features.flatten_all()?.to_vec1::<f64>()?;
        let rows = || values.chunks_exact(dim).zip(groups.iter().map(|&group| group as usize));

        let mut count = vec![0usize; n_groups];
        let mut means = vec![0.0; n_groups * dim];
        let mut mean = vec![0.0; dim];
        for (row, group) in rows() {
            count[group] += 1;
            for k in 0..dim {
                means[group * dim + k] += row[k];
                mean[k] += row[k] / n as f64;
            }
        }
        for (sums, &count) in means.chunks_exact_mut(dim).zip(&count) {
            sums.iter_mut().for_each(|sum| *sum /= count.max(1) as f64);
        }
        let (mut squares, mut squares_within) = (vec![0.0; dim], vec![0.0; dim]);
        for (row, group) in rows() {
            for k in 0..dim {
                squares[k] += (row[k] - mean[k]).powi(2);
                squares_within[k] += (row[k] - means[group * dim + k]).powi(2);
            }
        }
        Ok(Self { n, count, mean, means, squares, squares_within })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    #[test]
    fn groups_that_decide_mean_nothing_or_do_half() -> Result<()> {
        // Dimension 0 is the group, 1 is independent of it, 2 is their sum, 3 a constant.
        let rows = [[0.0, 1.0, 1.0, 0.1], [0.0, -1.0, -1.0, 0.1]];
        let more = [[2.0, 1.0, 3.0, 0.1], [2.0, -1.0, 1.0, 0.1]];
        let features = Tensor::new(&[rows[0], rows[1], more[0], more[1]], &Device::Cpu)?;
        let groups = [0, 0, 2, 2];
        assert_eq!(variance_share(&features, &groups, 3)?, [1.0, 0.0, 0.5, 0.0]);
        assert_eq!(conditional_variance(&features, &groups, 3)?[..3], [0.0, 1.0, 1.0]);
        assert_eq!(variance_share_by_chance(&groups)?, 1.0 / 3.0);
        Ok(())
    }

    #[test]
    fn gaussian_classes_have_their_own_variance_whatever_their_means() -> Result<()> {
        // N(μ_y, diag(σ²)): Φ(xᵏ|y) = σₖ². n σ̂² / σ² is χ² of n − 3: relative sd √(2 / n) = 0.7 %.
        const N: usize = 40_000;
        let sigma = [0.1, 1.0, 5.0];
        let mut stream = Key::new(11, Purpose::Test).stream();
        let labels: Vec<u32> = (0..N as u32).map(|i| i % 3).collect();
        let values: Vec<f64> = labels
            .iter()
            .flat_map(|&y| sigma.map(|sigma| 10.0 * f64::from(y) + sigma * stream.normal()))
            .collect();
        let features = Tensor::from_vec(values, (N, 3), &Device::Cpu)?;
        let found = conditional_variance(&features, &labels, 3)?;
        for (found, sigma) in found.iter().zip(sigma) {
            assert!((found / (sigma * sigma) - 1.0).abs() < 0.03, "{found} {sigma}");
        }
        // The means 0, 10, 20 have variance 200 / 3.
        for (share, sigma) in variance_share(&features, &labels, 3)?.iter().zip(sigma) {
            let expected = (200.0 / 3.0) / (200.0 / 3.0 + sigma * sigma);
            assert!((share - expected).abs() < 0.01, "{share} {expected}");
        }
        Ok(())
    }

    #[test]
    fn chance_explains_what_is_foretold() -> Result<()> {
        const DIM: usize = 400;
        let mut stream = Key::new(12, Purpose::Test).stream();
        let groups: Vec<u32> = (0..200).map(|_| stream.below(8)).collect();
        let values: Vec<f64> = (0..200 * DIM).map(|_| stream.normal()).collect();
        let features = Tensor::from_vec(values, (200, DIM), &Device::Cpu)?;
        let shares = variance_share(&features, &groups, 8)?;
        let mean = shares.iter().sum::<f64>() / DIM as f64;
        // A share is Beta(7/2, 192/2): sd 0.0183, over 400 of them 0.0009.
        let expected = variance_share_by_chance(&groups)?;
        assert!((mean - expected).abs() < 4.0 * 0.0009, "{mean} {expected}");
        Ok(())
    }
}

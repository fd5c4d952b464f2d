//! How far a class lies from the others along each dimension.

use candle_core::{Result, Tensor};

use crate::redundancy::varying_dimensions;
use crate::variance::Groups;

/// Distance of each class's mean from the mean of all, in standard deviations of the dimension.
///
/// ```text
/// dₖ_c = |E[xᵏ|y = c] − E[xᵏ]| / σ(xᵏ)
/// ```
/// 0 for a dimension that does not vary and a class that does not occur. Scaling a dimension
/// changes nothing.
///
/// # Shapes
/// `features`: `[n, dim]` with `n` labels. Returns `[n_classes, dim]` row by row, in f64.
/// # Errors
/// If the labels do not fit, or a feature is not finite.
/// # Source
/// Ours: the "contribution" of the paper's figure 1a is not defined there.
pub fn class_distances(features: &Tensor, labels: &[u32], n_classes: usize) -> Result<Vec<f64>> {
    let varies = varying_dimensions(features)?;
    let Groups { n, count, mean, means, squares, .. } =
        Groups::of("class_distances", features, labels, n_classes)?;
    let dim = varies.len();
    let distance = |(i, class_mean): (usize, &f64)| {
        let (class, k) = (i / dim, i % dim);
        match varies[k] && count[class] > 0 {
            true => (class_mean - mean[k]).abs() / (squares[k] / n as f64).sqrt(),
            false => 0.0,
        }
    };
    Ok(means.iter().enumerate().map(distance).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn distances_are_those_of_the_definition() -> Result<()> {
        // By hand: dimension 0 has mean 2, variance (4 + 4 + 1 + 9) / 4 = 4.5; class means
        // 0 and 4. Dimension 1 does not vary; class 2 does not occur.
        let x = Tensor::new(&[[0f64, 7.0], [0.0, 7.0], [3.0, 7.0], [5.0, 7.0]], &Device::Cpu)?;
        let got = class_distances(&x, &[0, 0, 1, 1], 3)?;
        let far = 2.0 / 4.5f64.sqrt();
        for (got, expected) in got.iter().zip([far, 0.0, far, 0.0, 0.0, 0.0]) {
            assert!((got - expected).abs() < 1e-12, "{got}, expected {expected}");
        }
        assert_eq!(got.len(), 6);
        assert!(class_distances(&x, &[0, 0, 1], 3).is_err());
        Ok(())
    }
}

//! The redundancy-reduction loss of Barlow Twins (Zbontar et al. 2021), L_drr in
//! MetaMask.
//!
//! Knows nothing of encoders or masks: two batches of embeddings in, a scalar out.

use candle_core::Result;
use metamask_ops::{Differentiable, standardize};

use crate::compared_dims2;

/// Redundancy-reduction loss: matching dimensions agree, different ones decorrelate.
///
/// ```text
/// L = Σₖ (1 − Cₖₖ)² + λ Σₖ Σ_{l≠k} Cₖₗ²        C = ẑ_aᵀ ẑ_b / N
/// ```
/// ẑ is z standardized over the batch (std with N−1, 1e-12 added under the
/// root); λ > 0, 0.005 in the paper. A plain sum: its size grows with the width.
///
/// # Shapes
/// `z_a`, `z_b`: `[batch, dim]`, batch N ≥ 2. Returns a scalar.
/// # Errors
/// If the shapes differ or the batch holds fewer than two samples.
/// # Source
/// Zbontar et al. 2021, algorithm 1, arXiv:2103.03230.
/// Departs: the standard deviation divides by N−1 as in MetaMask's code, where
/// the released Barlow Twins code divides by N. So two identical views have
/// Cₖₖ = (N−1)/N.
pub fn barlow_twins<T: Differentiable>(z_a: &T, z_b: &T, lambda: f64) -> Result<T> {
    let (batch, dim) = compared_dims2("barlow_twins", z_a.value(), z_b.value())?;
    let (z_a, z_b) = (standardize(z_a)?, standardize(z_b)?); // [N, D]
    let per_sample = 1.0 / batch as f64;

    let diagonal = z_a.mul(&z_b)?.sum_keepdim(0)?.affine(per_sample, 0.0)?; // [1, D]
    let invariance = diagonal.affine(-1.0, 1.0)?.sqr()?.sum_all()?;

    // Σ Cₖₗ² = ‖ẑ_aᵀ ẑ_b‖² / N² = ⟨ẑ_a ẑ_aᵀ, ẑ_b ẑ_bᵀ⟩ / N²: the smaller matrices are taken.
    let squares = match batch < dim {
        true => z_a.matmul(&z_a.t()?)?.mul(&z_b.matmul(&z_b.t()?)?)?, // [N, N]
        false => z_a.t()?.matmul(&z_b)?.sqr()?,                       // [D, D]
    };
    let squares = squares.sum_all()?.affine(per_sample * per_sample, 0.0)?;
    let redundancy = squares.sub(&diagonal.sqr()?.sum_all()?)?;
    invariance.add(&redundancy.affine(lambda, 0.0)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::reference::{
        Embeddings, Matrix, Slope, check_against_reference, check_one_sample_is_refused,
        check_shape_errors, check_tangents, normal, value_of,
    };

    const LAMBDA: f64 = 5e-3;

    /// The equation, written out as loops.
    fn reference(z_a: &Matrix, z_b: &Matrix, lambda: f64) -> Slope {
        let (n, dim) = (z_a.len(), z_a[0].len());
        let standardized = |z: &Matrix, k: usize| -> Vec<Slope> {
            let mean = z.iter().map(|z| z[k]).sum::<Slope>() / (n as f64).into();
            let squares: Slope = z.iter().map(|z| (z[k] - mean) * (z[k] - mean)).sum();
            let std = (squares / (n as f64 - 1.0).into() + 1e-12.into()).sqrt();
            z.iter().map(|z| (z[k] - mean) / std).collect()
        };
        let mut loss = Slope::from(0.0);
        for k in 0..dim {
            for l in 0..dim {
                let (a, b) = (standardized(z_a, k), standardized(z_b, l));
                let c = a.iter().zip(&b).map(|(&x, &y)| x * y).sum::<Slope>() / (n as f64).into();
                let miss = Slope::from(1.0) - c;
                loss = loss + if k == l { miss * miss } else { c * c * lambda.into() };
            }
        }
        loss
    }

    #[test]
    fn equals_the_written_out_sum_in_value_and_gradient() -> Result<()> {
        for lambda in [LAMBDA, 1.0] {
            for case in Embeddings::CASES {
                check_against_reference(
                    case,
                    |a, b| barlow_twins(a, b, lambda),
                    |a, b| reference(a, b, lambda),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn its_tangent_and_second_derivative_equal_central_differences() -> Result<()> {
        check_tangents(|a, b| barlow_twins(a, b, 0.1))
    }

    #[test]
    fn ignores_affine_rescaling_of_a_view() -> Result<()> {
        let (a, b) = Embeddings::OddBatch.views()?;
        let loss = value_of(&barlow_twins(&a, &b, LAMBDA)?)?;
        let moved = value_of(&barlow_twins(&a, &b.affine(2.0, 4.0)?, LAMBDA)?)?;
        assert!((loss - moved).abs() < 1e-9, "{loss} {moved}");
        Ok(())
    }

    #[test]
    fn identical_views_have_diagonal_one_minus_one_over_the_batch() -> Result<()> {
        // One dimension leaves the diagonal alone: L = (1 − (N−1)/N)² = 1/N².
        let z = normal(&[8, 1], 0)?;
        let loss = value_of(&barlow_twins(&z, &z, LAMBDA)?)?;
        assert!((loss - 1.0 / 64.0).abs() < 1e-9, "{loss}");
        Ok(())
    }

    #[test]
    fn a_dead_dimension_costs_one_and_breaks_nothing() -> Result<()> {
        let (a, b) = Embeddings::OddBatch.views()?;
        let dead = Tensor::ones((a.dim(0)?, 1), a.dtype(), a.device())?;
        let loss = value_of(&barlow_twins(&a, &b, LAMBDA)?)?;
        let with_dead =
            barlow_twins(&Tensor::cat(&[&a, &dead], 1)?, &Tensor::cat(&[&b, &dead], 1)?, LAMBDA)?;
        assert!((value_of(&with_dead)? - loss - 1.0).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn independent_normal_embeddings_give_what_theory_says() -> Result<()> {
        // C is then D x D independent entries of variance (N−1)/N² (the diagonal
        // of the expectation of (1 − C)² is 1 + that): D + D v + λ D (D−1) v.
        // At N = 512, D = 256, λ = 5e-3: 256 + 0.499 + 0.636, sd 2 sqrt(D v).
        let (n, dim) = (512.0, 256.0);
        let (a, b) = (normal(&[512, 256], 1)?, normal(&[512, 256], 2)?);
        let loss = value_of(&barlow_twins(&a, &b, LAMBDA)?)?;
        let variance = (n - 1.0) / (n * n);
        let expected = dim + dim * variance + LAMBDA * dim * (dim - 1.0) * variance;
        let deviation = 2.0 * (dim * variance).sqrt();
        assert!((loss - expected).abs() < 3.0 * deviation, "{loss} expected {expected}");
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        check_shape_errors("barlow_twins", |a, b| barlow_twins(a, b, LAMBDA));
        check_one_sample_is_refused("barlow_twins", |a, b| barlow_twins(a, b, LAMBDA));
    }
}

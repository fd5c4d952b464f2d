//! NT-Xent, the contrastive loss of SimCLR (Chen et al. 2020, eq. 1), L_c in
//! SimCLR + MetaMask.
//!
//! Knows nothing of encoders or masks: two batches of embeddings in, a scalar out.

use candle_core::Result;
use metamask_ops::{Differentiable, l2_normalize, log_sum_exp};

use crate::compared_dims2;
use crate::similarity::{Excluded, cosines, excluding};

/// Normalised temperature-scaled cross-entropy: each view must find its partner
/// among all other views of the batch.
///
/// ```text
/// L = 1/2N Σᵢ −ln( exp(sᵢₚ) / Σ_{j≠i} exp(sᵢⱼ) )        sᵢⱼ = ⟨uᵢ, uⱼ⟩ / τ
/// ```
/// i, j run over the 2N views of the batch, p is i's partner (the other view of
/// the same sample), u = z / ‖z‖ with ‖z‖ bounded below by 1e-12; τ > 0, 0.07 in
/// MetaMask's code, 0.5 in SimCLR's CIFAR-10 experiments.
///
/// # Shapes
/// `z_a`, `z_b`: `[batch, dim]`, batch N ≥ 2. Returns a scalar.
/// # Errors
/// If the shapes differ or the batch holds fewer than two samples.
/// # Source
/// Chen et al. 2020, equation 1 and algorithm 1, arXiv:2002.05709.
pub fn nt_xent<T: Differentiable>(z_a: &T, z_b: &T, tau: f64) -> Result<T> {
    let (batch, _) = compared_dims2("nt_xent", z_a.value(), z_b.value())?;
    let (u_a, u_b) = (l2_normalize(z_a)?, l2_normalize(z_b)?); // [N, P]

    let similarity = cosines(&u_a, &u_b)?.affine(1.0 / tau, 0.0)?; // [2N, 2N]
    let others = similarity.add(&excluding(Excluded::Itself, &similarity)?)?;
    let normaliser = log_sum_exp(&others, 1)?.sum_all()?;

    // sᵢₚ = sₚᵢ: each pair counts twice among the 2N views.
    let partner = u_a.mul(&u_b)?.sum_all()?.affine(2.0 / tau, 0.0)?;
    normaliser.sub(&partner)?.affine(0.5 / batch as f64, 0.0)
}

/// The loss of embeddings that say nothing of their sample: ln(2N − 1).
pub fn nt_xent_chance_level(batch: usize) -> f64 {
    ((2 * batch - 1) as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{
        Embeddings, Matrix, Slope, check_against_reference, check_one_sample_is_refused,
        check_shape_errors, check_tangents, cosine, largest, unit, value_of,
    };

    /// Equation 1, written out as loops.
    fn reference(z_a: &Matrix, z_b: &Matrix, tau: f64) -> Slope {
        let u: Matrix = z_a.iter().chain(z_b).map(|z| unit(z)).collect();
        let n = z_a.len();
        let cross_entropy = |i: usize| {
            let similarity = |j: usize| cosine(&u[i], &u[j]) / tau.into();
            let others: Vec<Slope> = (0..2 * n).filter(|&j| j != i).map(similarity).collect();
            let shift = largest(&others);
            let sum: Slope = others.iter().map(|&s| (s - shift).exp()).sum();
            sum.ln() + shift - similarity((i + n) % (2 * n))
        };
        (0..2 * n).map(cross_entropy).sum::<Slope>() / (2.0 * n as f64).into()
    }

    #[test]
    fn equals_the_written_out_sum_in_value_and_gradient() -> Result<()> {
        let check = |case, tau| {
            check_against_reference(case, |a, b| nt_xent(a, b, tau), |a, b| reference(a, b, tau))
        };
        for tau in [0.07, 0.5] {
            for case in Embeddings::CASES {
                check(case, tau)?;
            }
        }
        // Similarities up to ±2000: no exponential may overflow or vanish. Not with
        // identical views: their loss is the difference of two logits of 2000, of
        // which f32 keeps 1e-4.
        for case in Embeddings::CASES {
            if !matches!(case, Embeddings::IdenticalViews) {
                check(case, 5e-4)?;
            }
        }
        Ok(())
    }

    #[test]
    fn its_tangent_and_second_derivative_equal_central_differences() -> Result<()> {
        check_tangents(|a, b| nt_xent(a, b, 0.5))
    }

    #[test]
    fn equal_embeddings_give_the_chance_level() -> Result<()> {
        let z = Embeddings::OddBatch.views()?.0.ones_like()?;
        let chance = nt_xent_chance_level(z.dim(0)?);
        assert_eq!(chance, 13f64.ln());
        assert!((value_of(&nt_xent(&z, &z, 0.07)?)? - chance).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn scale_of_an_embedding_and_order_of_the_views_do_not_matter() -> Result<()> {
        let (a, b) = Embeddings::OddBatch.views()?;
        let loss = value_of(&nt_xent(&a, &b, 0.1)?)?;
        let scaled = value_of(&nt_xent(&(&a * 3.0)?, &(&b * 0.01)?, 0.1)?)?;
        let swapped = value_of(&nt_xent(&b, &a, 0.1)?)?;
        assert!((loss - scaled).abs() < 1e-12 && (loss - swapped).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        check_shape_errors("nt_xent", |a, b| nt_xent(a, b, 0.5));
        check_one_sample_is_refused("nt_xent", |a, b| nt_xent(a, b, 0.5));
    }
}

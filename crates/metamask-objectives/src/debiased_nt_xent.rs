//! DCL, the *debiased* contrastive loss (Chuang et al. 2020): NT-Xent whose
//! negatives are corrected for those of the anchor's own class among them.
//!
//! Not the *decoupled* contrastive loss (Yeh et al. 2022), which goes by the
//! same letters and takes the positive out of NT-Xent's denominator.

use candle_core::Result;
use metamask_ops::{Differentiable, l2_normalize, log_sum_exp};

use crate::compared_dims2;
use crate::similarity::{Excluded, cosines, excluding, partner_cosines};

/// Debiased contrastive loss: NT-Xent with the negatives' sum estimated as if
/// none were of the anchor's class.
///
/// ```text
/// L = 1/2N Σᵢ −ln( exp(sᵢₚ) / (exp(sᵢₚ) + Gᵢ) )        sᵢⱼ = ⟨uᵢ, uⱼ⟩ / τ
///
/// Gᵢ = max( (Σⱼ exp(sᵢⱼ) − τ⁺ n exp(sᵢₚ)) / (1 − τ⁺),  n exp(−1/τ) )
/// ```
/// i runs over the 2N views of the batch, p is i's partner (the other view of
/// the same sample), j runs over the n = 2N − 2 views of other samples;
/// u = z / ‖z‖ with ‖z‖ bounded below by 1e-12; τ > 0, 0.5 in the paper;
/// τ⁺ ∈ [0, 1) is the probability that another sample is of the anchor's class,
/// 0.1 in the released code. The floor is the least
/// that n negatives can sum to; where it is reached, the negatives get no
/// gradient. At τ⁺ = 0 this is NT-Xent, and chance is its ln(2N − 1).
///
/// # Shapes
/// `z_a`, `z_b`: `[batch, dim]`, batch N ≥ 2. Returns a scalar.
/// # Errors
/// If the shapes differ or the batch holds fewer than two samples.
/// # Source
/// Chuang et al. 2020, the debiased loss with estimator g at M = 1,
/// arXiv:2007.00224, and its released code: the batch's other views are the n
/// negatives.
pub fn debiased_nt_xent<T: Differentiable>(z_a: &T, z_b: &T, tau: f64, tau_plus: f64) -> Result<T> {
    compared_dims2("debiased_nt_xent", z_a.value(), z_b.value())?;
    let (u_a, u_b) = (l2_normalize(z_a)?, l2_normalize(z_b)?); // [N, P]

    let similarity = cosines(&u_a, &u_b)?.affine(1.0 / tau, 0.0)?; // [2N, 2N]
    let negatives = similarity.add(&excluding(Excluded::ItselfAndPartner, &similarity)?)?;
    let log_sum = log_sum_exp(&negatives, 1)?; // [2N, 1]

    let positive = partner_cosines(&u_a, &u_b)?.affine(1.0 / tau, 0.0)?; // [2N, 1]
    debiased_cross_entropy(&positive, &log_sum, tau, tau_plus)
}

/// L from sᵢₚ and the logarithm of the negatives' sum, `[2N, 1]` each.
pub(crate) fn debiased_cross_entropy<T: Differentiable>(
    positive: &T,
    log_sum: &T,
    tau: f64,
    tau_plus: f64,
) -> Result<T> {
    let n_views = positive.value().dim(0)? as f64;
    let n = n_views - 2.0;
    // Every exponential is taken relative to the larger of the two, which becomes
    // 1. The shift cancels, so it may stand outside of differentiation.
    let shift = T::constant(positive.value().maximum(log_sum.value())?);
    let exp_positive = positive.sub(&shift)?.exp()?;
    let sum = log_sum.sub(&shift)?.exp()?;
    let floor = T::constant(shift.value().affine(-1.0, n.ln() - 1.0 / tau)?.exp()?);

    let bias = exp_positive.affine(tau_plus * n, 0.0)?;
    let estimate = sum.sub(&bias)?.affine(1.0 / (1.0 - tau_plus), 0.0)?;
    let debiased = estimate.sub(&floor)?.relu()?.add(&floor)?;

    let log_denominator = exp_positive.add(&debiased)?.log()?.add(&shift)?;
    log_denominator.sub(positive)?.sum_all()?.affine(1.0 / n_views, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nt_xent;
    use crate::reference::{
        Embeddings, Matrix, Slope, check_against_reference, check_one_sample_is_refused,
        check_same, check_shape_errors, check_tangents, cosine, largest, rows, unit, value_of,
    };

    /// The equation, written out as loops, and how many views reach the floor.
    fn reference(z_a: &Matrix, z_b: &Matrix, tau: f64, tau_plus: f64) -> (Slope, usize) {
        let u: Matrix = z_a.iter().chain(z_b).map(|z| unit(z)).collect();
        let n_views = u.len();
        let n = Slope::from(n_views as f64 - 2.0);
        let (mut loss, mut n_at_floor) = (Slope::from(0.0), 0);
        for i in 0..n_views {
            let partner = (i + n_views / 2) % n_views;
            let s: Vec<Slope> = u.iter().map(|v| cosine(&u[i], v) / tau.into()).collect();
            // exp(s − shift), so that tau 5e-4 stays within f64.
            let others: Vec<Slope> = (0..n_views).filter(|&j| j != i).map(|j| s[j]).collect();
            let shift = largest(&others);
            let exp = |s: Slope| (s - shift).exp();
            let sum: Slope =
                (0..n_views).filter(|&j| j != i && j != partner).map(|j| exp(s[j])).sum();

            let positive = exp(s[partner]);
            let estimate = (sum - n * positive * tau_plus.into()) / Slope::from(1.0 - tau_plus);
            let floor = n * exp((-1.0 / tau).into());
            n_at_floor += usize::from(estimate.value < floor.value);
            loss = loss + (positive + estimate.max(floor)).ln() + shift - s[partner];
        }
        (loss / (n_views as f64).into(), n_at_floor)
    }

    #[test]
    fn equals_the_written_out_sum_in_value_and_gradient() -> Result<()> {
        let check = |case, tau, tau_plus| {
            check_against_reference(
                case,
                |a, b| debiased_nt_xent(a, b, tau, tau_plus),
                |a, b| reference(a, b, tau, tau_plus).0,
            )
        };
        for (tau, tau_plus) in [(0.5, 0.1), (0.5, 0.6), (0.07, 0.1), (0.07, 0.0)] {
            for case in Embeddings::CASES {
                check(case, tau, tau_plus)?;
            }
        }
        // Similarities up to ±2000: no exponential may overflow or vanish.
        for case in Embeddings::CASES {
            check(case, 5e-4, 0.1)?;
        }
        Ok(())
    }

    #[test]
    fn the_cases_reach_the_floor_and_stay_above_it() -> Result<()> {
        let (a, b) = Embeddings::OddBatch.views()?;
        let n_at_floor = |tau_plus| Result::Ok(reference(&rows(&a)?, &rows(&b)?, 0.5, tau_plus).1);
        assert_eq!(n_at_floor(0.0)?, 0);
        assert!((1..14).contains(&n_at_floor(0.6)?), "{}", n_at_floor(0.6)?);
        Ok(())
    }

    #[test]
    fn its_tangent_and_second_derivative_equal_central_differences() -> Result<()> {
        check_tangents(|a, b| debiased_nt_xent(a, b, 0.5, 0.1))?;
        check_tangents(|a, b| debiased_nt_xent(a, b, 0.5, 0.6))
    }

    #[test]
    fn without_a_bias_it_is_nt_xent_with_all_its_derivatives() -> Result<()> {
        for tau in [0.07, 0.5] {
            check_same(|a, b| debiased_nt_xent(a, b, tau, 0.0), |a, b| nt_xent(a, b, tau))?;
        }
        Ok(())
    }

    #[test]
    fn perfect_positives_leave_the_floor_alone() -> Result<()> {
        // Identical views at a low temperature: the bias exceeds the sum, so
        // G = n exp(−1/τ) against exp(1/τ), L = ln(1 + n exp(−2/τ)).
        let (a, b) = Embeddings::IdenticalViews.views()?;
        let loss = value_of(&debiased_nt_xent(&a, &b, 0.2, 0.5)?)?;
        let expected = (12.0 * (-2.0f64 / 0.2).exp()).ln_1p();
        assert!((loss - expected).abs() < 1e-12, "{loss} {expected}");
        Ok(())
    }

    #[test]
    fn equal_embeddings_give_the_chance_level() -> Result<()> {
        let z = Embeddings::OddBatch.views()?.0.ones_like()?;
        for tau_plus in [0.0, 0.1, 0.9] {
            let loss = value_of(&debiased_nt_xent(&z, &z, 0.07, tau_plus)?)?;
            assert!((loss - 13f64.ln()).abs() < 1e-11, "{loss}");
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        check_shape_errors("debiased_nt_xent", |a, b| debiased_nt_xent(a, b, 0.5, 0.1));
        check_one_sample_is_refused("debiased_nt_xent", |a, b| debiased_nt_xent(a, b, 0.5, 0.1));
    }
}

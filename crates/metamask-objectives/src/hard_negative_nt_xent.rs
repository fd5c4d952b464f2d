//! HCL, contrastive learning with hard negatives (Robinson et al. 2021): the
//! debiased loss whose negatives weigh the more, the nearer they are.

use candle_core::Result;
use metamask_ops::{Differentiable, l2_normalize, log_sum_exp};

use crate::compared_dims2;
use crate::debiased_nt_xent::debiased_cross_entropy;
use crate::similarity::{Excluded, cosines, excluding, partner_cosines};

/// Contrastive loss with hard negatives: the debiased loss with the negatives
/// drawn in proportion to exp(β s) instead of evenly.
///
/// ```text
/// L = 1/2N Σᵢ −ln( exp(sᵢₚ) / (exp(sᵢₚ) + Gᵢ) )        sᵢⱼ = ⟨uᵢ, uⱼ⟩ / τ
///
/// Gᵢ = max( (Σⱼ ωᵢⱼ exp(sᵢⱼ) − τ⁺ n exp(sᵢₚ)) / (1 − τ⁺),  n exp(−1/τ) )
///
/// ωᵢⱼ = exp(β sᵢⱼ) / (1/n Σₖ exp(β sᵢₖ))
/// ```
/// i, p, u, τ, τ⁺ are those of [`debiased_nt_xent`](crate::debiased_nt_xent);
/// j and k run over the n = 2N − 2 views of other samples; β ≥ 0 is the
/// concentration, 1 in the released code. At β = 0 this is the debiased loss;
/// as β grows, only each view's nearest negative counts. Chance is NT-Xent's
/// ln(2N − 1).
///
/// The weights ω are part of what is differentiated, as in the released code:
/// a negative's pull is not ω times its pull in the debiased loss.
///
/// # Shapes
/// `z_a`, `z_b`: `[batch, dim]`, batch N ≥ 2. Returns a scalar.
/// # Errors
/// If the shapes differ or the batch holds fewer than two samples.
/// # Source
/// Robinson et al. 2021, section 3, arXiv:2010.04592, with the importance weights
/// of the released code: there β multiplies s = ⟨u, u⟩ / τ as here, so its
/// strength depends on τ.
pub fn hard_negative_nt_xent<T: Differentiable>(
    z_a: &T,
    z_b: &T,
    tau: f64,
    tau_plus: f64,
    beta: f64,
) -> Result<T> {
    let (batch, _) = compared_dims2("hard_negative_nt_xent", z_a.value(), z_b.value())?;
    let (u_a, u_b) = (l2_normalize(z_a)?, l2_normalize(z_b)?); // [N, P]
    let n = (2 * batch - 2) as f64;

    let cosines = cosines(&u_a, &u_b)?; // [2N, 2N]
    let excluding = excluding(Excluded::ItselfAndPartner, &cosines)?;
    // ln Σⱼ exp(scale · sᵢⱼ)
    let log_sum = |scale: f64| {
        log_sum_exp(&cosines.affine(scale / tau, 0.0)?.add(&excluding)?, 1) // [2N, 1]
    };
    let weighted = log_sum(1.0 + beta)?.sub(&log_sum(beta)?)?.affine(1.0, n.ln())?;

    let positive = partner_cosines(&u_a, &u_b)?.affine(1.0 / tau, 0.0)?; // [2N, 1]
    debiased_cross_entropy(&positive, &weighted, tau, tau_plus)
}

/// β after a share of the training, going down to 0 in the released code's steps.
///
/// ```text
/// β(x) = β (1 − max(⌊9x⌋ − 1, 0) / 8)        x = epochs done / epochs
/// ```
/// Nine values evenly apart from β to 0, the next one at each ninth of the
/// training. The first of these steps takes the first value, which is β again:
/// so β holds for two ninths, and 0 is reached at the very end. `progress` x is
/// brought into [0, 1].
///
/// # Source
/// Robinson et al. 2021, `--anneal down` of the released code (an option; the
/// default is a constant β). Departs: there a ninth is ⌊epochs / 9⌋ epochs, so
/// that a training whose length is no multiple of 9 runs through the values
/// sooner, and one whose remainder holds another step stops with an error.
pub fn annealed_beta(beta: f64, progress: f64) -> f64 {
    const VALUES: f64 = 9.0;
    let steps = (VALUES * progress.clamp(0.0, 1.0)).floor();
    beta * (1.0 - (steps - 1.0).max(0.0) / (VALUES - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debiased_nt_xent;
    use crate::reference::{
        Embeddings, Matrix, Slope, check_against_reference, check_one_sample_is_refused,
        check_same, check_shape_errors, check_tangents, cosine, largest, unit, value_of,
    };

    /// The equation, written out as loops.
    fn reference(z_a: &Matrix, z_b: &Matrix, tau: f64, tau_plus: f64, beta: f64) -> Slope {
        let u: Matrix = z_a.iter().chain(z_b).map(|z| unit(z)).collect();
        let n_views = u.len();
        let n = Slope::from(n_views as f64 - 2.0);
        let mut loss = Slope::from(0.0);
        for i in 0..n_views {
            let partner = (i + n_views / 2) % n_views;
            let s: Vec<Slope> = u.iter().map(|v| cosine(&u[i], v) / tau.into()).collect();
            let negatives: Vec<Slope> =
                (0..n_views).filter(|&j| j != i && j != partner).map(|j| s[j]).collect();
            // exp(s − shift), so that tau 5e-4 stays within f64; in ω, where any
            // shift cancels, that of the negatives alone.
            let shift = largest(&negatives).max(largest(&[s[partner]]));
            let exp = |s: Slope| (s - shift).exp();
            let hardness: Vec<Slope> = negatives
                .iter()
                .map(|&s| ((s - largest(&negatives)) * beta.into()).exp())
                .collect();
            let mean = hardness.iter().copied().sum::<Slope>() / n;
            let sum: Slope =
                negatives.iter().zip(&hardness).map(|(&s, &h)| h / mean * exp(s)).sum();

            let positive = exp(s[partner]);
            let estimate = (sum - n * positive * tau_plus.into()) / Slope::from(1.0 - tau_plus);
            let floor = n * exp((-1.0 / tau).into());
            loss = loss + (positive + estimate.max(floor)).ln() + shift - s[partner];
        }
        loss / (n_views as f64).into()
    }

    #[test]
    fn equals_the_written_out_sum_in_value_and_gradient() -> Result<()> {
        let check = |case, tau, tau_plus, beta| {
            check_against_reference(
                case,
                |a, b| hard_negative_nt_xent(a, b, tau, tau_plus, beta),
                |a, b| reference(a, b, tau, tau_plus, beta),
            )
        };
        let settings =
            [(0.5, 0.1, 1.0), (0.5, 0.6, 0.5), (0.07, 0.1, 1.0), (0.07, 0.0, 2.0), (0.5, 0.1, 0.0)];
        for (tau, tau_plus, beta) in settings {
            for case in Embeddings::CASES {
                check(case, tau, tau_plus, beta)?;
            }
        }
        // Similarities up to ±2000: no exponential may overflow or vanish.
        for case in Embeddings::CASES {
            check(case, 5e-4, 0.1, 1.0)?;
        }
        Ok(())
    }

    #[test]
    fn its_tangent_and_second_derivative_equal_central_differences() -> Result<()> {
        check_tangents(|a, b| hard_negative_nt_xent(a, b, 0.5, 0.1, 1.0))?;
        check_tangents(|a, b| hard_negative_nt_xent(a, b, 0.5, 0.6, 0.5))
    }

    #[test]
    fn without_concentration_it_is_the_debiased_loss_with_all_its_derivatives() -> Result<()> {
        for (tau, tau_plus) in [(0.07, 0.0), (0.5, 0.1), (0.5, 0.6)] {
            check_same(
                |a, b| hard_negative_nt_xent(a, b, tau, tau_plus, 0.0),
                |a, b| debiased_nt_xent(a, b, tau, tau_plus),
            )?;
        }
        Ok(())
    }

    #[test]
    fn a_large_concentration_leaves_each_view_its_nearest_negative() -> Result<()> {
        // G = n exp(max s) then, at tau_plus 0.
        let (a, b) = Embeddings::OddBatch.views()?;
        let loss = value_of(&hard_negative_nt_xent(&a, &b, 0.5, 0.0, 1e4)?)?;
        let u: Vec<Vec<f64>> = [metamask_ops::l2_normalize(&a)?, metamask_ops::l2_normalize(&b)?]
            .iter()
            .map(|u| u.to_vec2::<f64>())
            .collect::<Result<Vec<_>>>()?
            .concat();
        let s = |i: usize, j: usize| u[i].iter().zip(&u[j]).map(|(x, y)| x * y).sum::<f64>() / 0.5;
        let expected: f64 = (0..14)
            .map(|i| {
                let nearest =
                    (0..14).filter(|j| j % 7 != i % 7).map(|j| s(i, j)).fold(-2.0, f64::max);
                (12.0 * (nearest - s(i, (i + 7) % 14)).exp()).ln_1p() / 14.0
            })
            .sum();
        assert!((loss - expected).abs() < 1e-10, "{loss} {expected}");
        Ok(())
    }

    #[test]
    fn equal_embeddings_give_the_chance_level() -> Result<()> {
        let z = Embeddings::OddBatch.views()?.0.ones_like()?;
        for (tau_plus, beta) in [(0.0, 1.0), (0.1, 0.5), (0.9, 2.0)] {
            let loss = value_of(&hard_negative_nt_xent(&z, &z, 0.07, tau_plus, beta)?)?;
            assert!((loss - 13f64.ln()).abs() < 1e-11, "{loss}");
        }
        Ok(())
    }

    #[test]
    fn beta_goes_down_in_the_released_code_s_steps() {
        // linspace(2, 0, 9) of which the first value is taken twice; 18 epochs.
        let expected = [
            2.0, 2.0, 2.0, 2.0, 1.75, 1.75, 1.5, 1.5, 1.25, 1.25, 1.0, 1.0, 0.75, 0.75, 0.5, 0.5,
            0.25, 0.25, 0.0,
        ];
        for (epoch, expected) in expected.into_iter().enumerate() {
            assert_eq!(annealed_beta(2.0, epoch as f64 / 18.0), expected, "epoch {epoch}");
        }
        assert_eq!((annealed_beta(2.0, -1.0), annealed_beta(2.0, 7.0)), (2.0, 0.0));
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let name = "hard_negative_nt_xent";
        check_shape_errors(name, |a, b| hard_negative_nt_xent(a, b, 0.5, 0.1, 1.0));
        check_one_sample_is_refused(name, |a, b| hard_negative_nt_xent(a, b, 0.5, 0.1, 1.0));
    }
}

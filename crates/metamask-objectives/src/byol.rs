//! The cosine loss of BYOL (Grill et al. 2020, eq. 2): each view's prediction
//! against the other view's target.
//!
//! The predictor and the networks belong to others; the target network's
//! exponential average is in `target_network.rs`.

use candle_core::{Result, Tensor};
use metamask_ops::{Differentiable, l2_normalize};

use crate::{check_constants, matching_dims2};

/// Cosine distance between each view's prediction and the other view's target.
///
/// ```text
/// L = 1/N Σᵢ [2 − 2 cos(p_aᵢ, t_bᵢ)] + [2 − 2 cos(p_bᵢ, t_aᵢ)]
/// ```
/// p = predictor(z) of the online network, t the target network's embedding,
/// which is a constant (the paper's stop-gradient); 2 − 2 cos is the squared
/// distance of the two after each is scaled to unit length, with lengths
/// bounded below by 1e-12. L lies in [0, 8]; a zero vector counts as orthogonal.
///
/// # Shapes
/// All four: `[batch, dim]`, batch N ≥ 1. Returns a scalar.
/// # Errors
/// If the shapes differ or the batch is empty.
/// # Source
/// Grill et al. 2020, equation 2 and algorithm 1, arXiv:2006.07733: the sum of
/// both directions, as there, not their mean.
pub fn byol_cosine<T: Differentiable>(
    p_a: &T,
    p_b: &T,
    target_a: &Tensor,
    target_b: &Tensor,
) -> Result<T> {
    let (batch, _) = matching_dims2("byol_cosine", p_a.value(), p_b.value())?;
    check_constants("byol_cosine", "targets", p_a.value(), [target_a, target_b])?;
    let cosines = |p: &T, target: &Tensor| {
        let target = T::constant(l2_normalize(&target.detach())?); // [N, P]
        l2_normalize(p)?.mul(&target)?.sum_all()
    };
    let agreement = cosines(p_a, target_b)?.add(&cosines(p_b, target_a)?)?;
    agreement.affine(-2.0 / batch as f64, 4.0)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::reference::{
        Embeddings, Matrix, Slope, check_against_reference, check_constants_errors,
        check_shape_errors, check_tangents, cosine, rows, unit, value_of,
    };

    /// Equation 2 in both directions, written out as loops.
    fn reference(p_a: &Matrix, p_b: &Matrix, target_a: &Matrix, target_b: &Matrix) -> Slope {
        let mut loss = Slope::from(0.0);
        for (p, target) in [(p_a, target_b), (p_b, target_a)] {
            for (p, target) in p.iter().zip(target) {
                let cosine = cosine(&unit(p), &unit(target));
                loss = loss + Slope::from(2.0) - Slope::from(2.0) * cosine;
            }
        }
        loss / (p_a.len() as f64).into()
    }

    #[test]
    fn equals_the_written_out_sum_in_value_and_gradient() -> Result<()> {
        for case in Embeddings::CASES {
            let (t_a, t_b) = case.targets()?;
            let (rows_a, rows_b) = (rows(&t_a)?, rows(&t_b)?);
            check_against_reference(
                case,
                |a, b| byol_cosine(a, b, &t_a.to_dtype(a.dtype())?, &t_b.to_dtype(a.dtype())?),
                |a, b| reference(a, b, &rows_a, &rows_b),
            )?;
        }
        Ok(())
    }

    #[test]
    fn its_tangent_and_second_derivative_equal_central_differences() -> Result<()> {
        let (t_a, t_b) = Embeddings::OddBatch.targets()?;
        check_tangents(|a, b| byol_cosine(a, b, &t_a, &t_b))
    }

    #[test]
    fn is_0_where_predictions_meet_the_other_view_s_target_and_8_where_they_oppose() -> Result<()> {
        let (a, b) = Embeddings::OddBatch.views()?;
        assert!(value_of(&byol_cosine(&a, &b, &(&b * 3.0)?, &(&a * 0.1)?)?)?.abs() < 1e-14);
        assert!((value_of(&byol_cosine(&a, &b, &b.neg()?, &a.neg()?)?)? - 8.0).abs() < 1e-14);
        // One sample is a batch: nothing is compared within it.
        let (a, b) = (a.narrow(0, 0, 1)?, b.narrow(0, 0, 1)?);
        assert!(value_of(&byol_cosine(&a, &b, &b, &a)?)?.abs() < 1e-14);
        Ok(())
    }

    #[test]
    fn targets_get_no_gradient() -> Result<()> {
        let (a, b) = Embeddings::OddBatch.views()?;
        let vars =
            [&a, &b, &a, &b].map(Var::from_tensor).into_iter().collect::<Result<Vec<_>>>()?;
        let gradients = byol_cosine(
            vars[0].as_tensor(),
            vars[1].as_tensor(),
            vars[2].as_tensor(),
            vars[3].as_tensor(),
        )?
        .backward()?;
        let has_one: Vec<bool> = vars.iter().map(|var| gradients.get(var).is_some()).collect();
        assert_eq!(has_one, [true, true, false, false]);
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        check_shape_errors("byol_cosine", |a, b| byol_cosine(a, b, a, b));
        check_constants_errors("byol_cosine", "targets", byol_cosine);
    }
}

//! The loss of NNCLR (Dwibedi et al. 2021): NT-Xent whose anchors are not the
//! views but their nearest neighbours among earlier embeddings.
//!
//! The predictor belongs to others; the neighbours come from a support queue
//! (`support_queue.rs`).

use candle_core::{Result, Tensor};
use metamask_ops::{Differentiable, l2_normalize, log_sum_exp};

use crate::{check_constants, compared_dims2};

/// Each view's nearest neighbour must find the other view's prediction of its
/// sample among those of the whole batch.
///
/// ```text
/// L = 1/2N Σᵢ ℓᵢ(nn_a, p_b) + ℓᵢ(nn_b, p_a)
///
/// ℓᵢ(nn, p) = −ln( exp(sᵢᵢ) / Σⱼ exp(sᵢⱼ) )        sᵢⱼ = cos(nnᵢ, pⱼ) / τ
/// ```
/// nn_a holds the nearest neighbours of view a's embeddings in the support set,
/// p_b = predictor(z_b); neighbours are constants. Lengths are bounded below by
/// 1e-12; τ > 0, 0.1 in the paper, 0.2 in solo-learn's 32 px recipe.
///
/// # Shapes
/// All four: `[batch, dim]`, batch N ≥ 2. Returns a scalar.
/// # Errors
/// If the shapes differ or the batch holds fewer than two samples.
/// # Source
/// Dwibedi et al. 2021, the loss with its pseudocode, arXiv:2104.14548: a
/// neighbour is compared with the predictions of one view only, so N compete
/// where NT-Xent has 2N − 1.
pub fn nearest_neighbour_nt_xent<T: Differentiable>(
    p_a: &T,
    p_b: &T,
    nn_a: &Tensor,
    nn_b: &Tensor,
    tau: f64,
) -> Result<T> {
    const NAME: &str = "nearest_neighbour_nt_xent";
    let (batch, _) = compared_dims2(NAME, p_a.value(), p_b.value())?;
    check_constants(NAME, "neighbours", p_a.value(), [nn_a, nn_b])?;

    let cross_entropy = |nn: &Tensor, p: &T| {
        let (nn, p) = (T::constant(l2_normalize(&nn.detach())?), l2_normalize(p)?); // [N, P]
        let similarity = nn.matmul(&p.t()?)?.affine(1.0 / tau, 0.0)?; // [N, N]
        let normaliser = log_sum_exp(&similarity, 1)?.sum_all()?;
        let partner = nn.mul(&p)?.sum_all()?.affine(1.0 / tau, 0.0)?;
        normaliser.sub(&partner)
    };
    cross_entropy(nn_a, p_b)?.add(&cross_entropy(nn_b, p_a)?)?.affine(0.5 / batch as f64, 0.0)
}

/// The loss of predictions that say nothing of their sample: ln N.
pub fn nnclr_chance_level(batch: usize) -> f64 {
    (batch as f64).ln()
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::reference::{
        Embeddings, Matrix, Slope, check_against_reference, check_constants_errors,
        check_one_sample_is_refused, check_shape_errors, check_tangents, cosine, largest, rows,
        unit, value_of,
    };

    /// The equation, written out as loops.
    fn reference(p: [&Matrix; 2], nn: [&Matrix; 2], tau: f64) -> Slope {
        let n = p[0].len();
        let mut loss = Slope::from(0.0);
        for (nn, p) in [(nn[0], p[1]), (nn[1], p[0])] {
            for i in 0..n {
                let similarity = |j: usize| cosine(&unit(&nn[i]), &unit(&p[j])) / tau.into();
                let all: Vec<Slope> = (0..n).map(similarity).collect();
                let shift = largest(&all);
                let sum: Slope = all.iter().map(|&s| (s - shift).exp()).sum();
                loss = loss + sum.ln() + shift - all[i];
            }
        }
        loss / (2.0 * n as f64).into()
    }

    #[test]
    fn equals_the_written_out_sum_in_value_and_gradient() -> Result<()> {
        let check = |case: Embeddings, tau: f64| {
            let (nn_a, nn_b) = case.targets()?;
            let (rows_a, rows_b) = (rows(&nn_a)?, rows(&nn_b)?);
            check_against_reference(
                case,
                |a, b| {
                    let (nn_a, nn_b) = (nn_a.to_dtype(a.dtype())?, nn_b.to_dtype(a.dtype())?);
                    nearest_neighbour_nt_xent(a, b, &nn_a, &nn_b, tau)
                },
                |a, b| reference([a, b], [&rows_a, &rows_b], tau),
            )
        };
        // At 5e-4 similarities reach ±2000: no exponential may overflow or vanish.
        for tau in [0.07, 0.5, 5e-4] {
            for case in Embeddings::CASES {
                check(case, tau)?;
            }
        }
        Ok(())
    }

    #[test]
    fn its_tangent_and_second_derivative_equal_central_differences() -> Result<()> {
        let (nn_a, nn_b) = Embeddings::OddBatch.targets()?;
        check_tangents(|a, b| nearest_neighbour_nt_xent(a, b, &nn_a, &nn_b, 0.5))
    }

    #[test]
    fn views_change_places_together_with_their_neighbours() -> Result<()> {
        let ((a, b), (nn_a, nn_b)) =
            (Embeddings::OddBatch.views()?, Embeddings::OddBatch.targets()?);
        let loss = value_of(&nearest_neighbour_nt_xent(&a, &b, &nn_a, &nn_b, 0.2)?)?;
        let swapped = value_of(&nearest_neighbour_nt_xent(&b, &a, &nn_b, &nn_a, 0.2)?)?;
        let mixed_up = value_of(&nearest_neighbour_nt_xent(&b, &a, &nn_a, &nn_b, 0.2)?)?;
        assert!((loss - swapped).abs() < 1e-12 && (loss - mixed_up).abs() > 1e-3);
        Ok(())
    }

    #[test]
    fn equal_embeddings_give_the_chance_level() -> Result<()> {
        let z = Embeddings::OddBatch.views()?.0.ones_like()?;
        let chance = nnclr_chance_level(z.dim(0)?);
        assert_eq!(chance, 7f64.ln());
        assert!(
            (value_of(&nearest_neighbour_nt_xent(&z, &z, &z, &z, 0.07)?)? - chance).abs() < 1e-12
        );
        Ok(())
    }

    #[test]
    fn neighbours_get_no_gradient() -> Result<()> {
        let (a, b) = Embeddings::OddBatch.views()?;
        let vars =
            [&a, &b, &a, &b].map(Var::from_tensor).into_iter().collect::<Result<Vec<_>>>()?;
        let [p_a, p_b, nn_a, nn_b] = [0, 1, 2, 3].map(|i: usize| vars[i].as_tensor());
        let gradients = nearest_neighbour_nt_xent(p_a, p_b, nn_a, nn_b, 0.2)?.backward()?;
        let has_one: Vec<bool> = vars.iter().map(|var| gradients.get(var).is_some()).collect();
        assert_eq!(has_one, [true, true, false, false]);
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let name = "nearest_neighbour_nt_xent";
        check_shape_errors(name, |a, b| nearest_neighbour_nt_xent(a, b, a, b, 0.2));
        check_one_sample_is_refused(name, |a, b| nearest_neighbour_nt_xent(a, b, a, b, 0.2));
        check_constants_errors(name, "neighbours", |a, b, nn_a, nn_b| {
            nearest_neighbour_nt_xent(a, b, nn_a, nn_b, 0.2)
        });
    }
}

//! Normalisations and the log-sum-exp that the objectives are made of, as
//! expressions over [`Differentiable`]: on a dual they carry the tangent along.
//!
//! Batch normalisation with its parameters and running statistics is not here;
//! these have none.

use candle_core::{Result, bail};

use crate::Differentiable;

/// ‖x‖² is bounded below by this, that is ‖x‖ by 1e-12, as in PyTorch's `normalize`.
const LEAST_SQUARED_NORM: f64 = 1e-24;

/// Added to a dimension's variance, so that a dead one becomes 0 and not NaN.
const VARIANCE_FLOOR: f64 = 1e-12;

/// Scales each row to unit length.
///
/// ```text
/// uᵢ = xᵢ / max(‖xᵢ‖, 1e-12)
/// ```
/// A zero row stays zero; its gradient is that of x / 1e-12.
///
/// # Shapes
/// `x`: `[batch, dim]`. Returns the same.
/// # Errors
/// If x is not a matrix.
pub fn l2_normalize<T: Differentiable>(x: &T) -> Result<T> {
    x.value().dims2()?;
    // The floor lies under the root: the root's derivative at 0 is infinite.
    let norm = x.sqr()?.sum_keepdim(1)?.at_least(LEAST_SQUARED_NORM)?.sqrt()?; // [B, 1]
    x.div(&norm)
}

/// Centres each dimension over the batch and scales it to unit standard deviation.
///
/// ```text
/// ẑᵢₖ = (zᵢₖ − meanₖ) / sqrt(varₖ + 1e-12)        varₖ = Σᵢ (zᵢₖ − meanₖ)² / (B − 1)
/// ```
/// A dimension that does not vary becomes 0.
///
/// # Shapes
/// `z`: `[batch, dim]`, batch ≥ 2. Returns the same.
/// # Errors
/// If z is not a matrix or the batch holds fewer than two samples.
pub fn standardize<T: Differentiable>(z: &T) -> Result<T> {
    let (batch, _) = z.value().dims2()?;
    if batch < 2 {
        bail!("standardize: a variance needs two samples, expected batch >= 2, got {batch}");
    }
    let centred = z.sub(&z.mean_keepdim(0)?)?;
    let variance = centred.sqr()?.sum_keepdim(0)?.affine(1.0 / (batch - 1) as f64, 0.0)?; // [1, D]
    centred.div(&variance.affine(1.0, VARIANCE_FLOOR)?.sqrt()?)
}

/// Logarithm of the sum of exponentials over `dim`, which stays with size 1.
///
/// ```text
/// lseᵢ = ln Σⱼ exp(xᵢⱼ) = maxⱼ xᵢⱼ + ln Σⱼ exp(xᵢⱼ − maxⱼ xᵢⱼ)
/// ```
/// An entry of −∞ counts as absent and gets gradient 0; each sum must hold one
/// that is finite.
///
/// # Errors
/// If x has no dimension `dim`.
pub fn log_sum_exp<T: Differentiable>(x: &T, dim: usize) -> Result<T> {
    // The shift cancels, so it may stand outside of differentiation.
    let largest = T::constant(x.value().max_keepdim(dim)?);
    x.sub(&largest)?.exp()?.sum_keepdim(dim)?.log()?.add(&largest)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor, Var};

    use super::*;
    use crate::differentiable::tests::{check_derivatives, max_difference, normal};

    #[test]
    fn rows_get_unit_length_whatever_their_scale() -> Result<()> {
        for scale in [1e-9, 1.0, 1e9] {
            let u = l2_normalize(&normal(&[5, 7], 1)?.affine(scale, 0.0)?)?;
            let squared = u.sqr()?.sum(1)?;
            assert!(max_difference(&squared, &squared.ones_like()?)? < 1e-14);
        }
        Ok(())
    }

    #[test]
    fn a_zero_row_stays_zero_and_keeps_a_finite_gradient() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let x = Var::zeros((2, 3), dtype, &Device::Cpu)?;
            let u = l2_normalize(x.as_tensor())?;
            assert_eq!(u.to_dtype(DType::F64)?.to_vec2::<f64>()?, [[0.0; 3]; 2]);
            let gradient = u.sum_all()?.backward()?.remove(&x).expect("x is a variable");
            let gradient = gradient.to_dtype(DType::F64)?;
            let expected = gradient.ones_like()?.affine(1e12, 0.0)?;
            assert!(max_difference(&gradient, &expected)? < 1e12 * 1e-6);
        }
        Ok(())
    }

    #[test]
    fn standardized_dimensions_have_mean_0_and_variance_1_and_dead_ones_are_0() -> Result<()> {
        let dead = Tensor::new(&[[3.0f64], [3.0], [3.0], [3.0], [3.0], [3.0]], &Device::Cpu)?;
        let live = normal(&[6, 4], 2)?.affine(5.0, -2.0)?;
        let z = standardize(&Tensor::cat(&[&live, &dead], 1)?)?;
        let (mean, variance) = (z.mean(0)?, (z.sqr()?.sum(0)? / 5.0)?);
        assert!(max_difference(&mean, &mean.zeros_like()?)? < 1e-14);
        let expected = Tensor::new(&[1.0, 1.0, 1.0, 1.0, 0.0], &Device::Cpu)?;
        assert!(max_difference(&variance, &expected)? < 1e-12);
        Ok(())
    }

    #[test]
    fn standardize_refuses_a_batch_of_one() {
        let error = standardize(&normal(&[1, 3], 3).unwrap()).unwrap_err().to_string();
        assert!(error.contains("expected batch >= 2, got 1"), "{error}");
    }

    #[test]
    fn log_sum_exp_survives_large_entries_and_skips_minus_infinity() -> Result<()> {
        let x = Tensor::new(
            &[[1000.0f64, 1000.0, f64::NEG_INFINITY], [-1e4, -2e4, -3e4]],
            &Device::Cpu,
        )?;
        let lse = log_sum_exp(&x, 1)?.flatten_all()?.to_vec1::<f64>()?;
        assert_eq!(lse, [1000.0 + 2f64.ln(), -1e4]);
        Ok(())
    }

    #[test]
    fn their_tangents_and_second_derivatives_equal_central_differences() -> Result<()> {
        check_derivatives("l2_normalize", &[&[4, 6]], |x| l2_normalize(&x[0]))?;
        check_derivatives("standardize", &[&[5, 3]], |x| standardize(&x[0]))?;
        check_derivatives("log_sum_exp over rows", &[&[4, 6]], |x| log_sum_exp(&x[0], 1))?;
        check_derivatives("log_sum_exp over columns", &[&[4, 6]], |x| log_sum_exp(&x[0], 0))
    }
}

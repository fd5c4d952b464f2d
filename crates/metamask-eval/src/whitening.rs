//! Features turned and scaled until no direction is louder than another.

use candle_core::{DType, Device, Result, Tensor};

use crate::dimensions::centred;

/// The whitening of some features, for these and for others.
///
/// ```text
/// C = (1/n) Σᵢ (xᵢ − x̄)(xᵢ − x̄)ᵀ + ε I = L Lᵀ        y = L⁻¹ (x − x̄)        ε = 1e-6 tr C / D
/// ```
/// L is Cholesky's. Any other whitening, by PCA for one, is a rotation of this one, and
/// gives the same cosines.
pub(crate) struct Whitening {
    mean: Tensor,
    /// L⁻ᵀ, `[dim, dim]`
    inverse: Tensor,
}

impl Whitening {
    /// Of features `[n, dim]`.
    ///
    /// # Errors
    /// If there are fewer than two, or one is not finite.
    pub(crate) fn of(features: &Tensor) -> Result<Self> {
        let x = centred("whitening", features)?;
        let (n, dim) = x.dims2()?;
        let c = (x.t()?.matmul(&x)? / n as f64)?.flatten_all()?.to_vec1::<f64>()?;
        let trace: f64 = (0..dim).map(|k| c[k * dim + k]).sum();
        // Features that are all alike have nothing to be whitened; they stay 0.
        let ridge = (1e-6 * trace / dim as f64).max(f64::MIN_POSITIVE);
        let inverse = inverse_of_cholesky(c, dim, ridge);
        let inverse = Tensor::from_vec(inverse, (dim, dim), &Device::Cpu)?.t()?.contiguous()?;
        Ok(Self { mean: features.to_dtype(DType::F64)?.mean_keepdim(0)?, inverse })
    }

    /// y of each feature, in f64.
    pub(crate) fn apply(&self, features: &Tensor) -> Result<Tensor> {
        features.to_dtype(DType::F64)?.broadcast_sub(&self.mean)?.matmul(&self.inverse)
    }
}

/// L⁻¹ of C + ridge · I = L Lᵀ, row by row (Golub & Van Loan, sections 4.2.5 and 3.1.2).
fn inverse_of_cholesky(c: Vec<f64>, dim: usize, ridge: f64) -> Vec<f64> {
    let mut l = c;
    for i in 0..dim {
        l[i * dim + i] += ridge;
        for j in 0..=i {
            let (row_i, row_j) = (&l[i * dim..i * dim + j], &l[j * dim..j * dim + j]);
            let rest = l[i * dim + j] - row_i.iter().zip(row_j).map(|(a, b)| a * b).sum::<f64>();
            // Rounding can leave less than the ridge.
            l[i * dim + j] = if i == j { rest.max(ridge).sqrt() } else { rest / l[j * dim + j] };
        }
    }
    let mut inverse = vec![0.0; dim * dim];
    for j in 0..dim {
        for i in j..dim {
            let known: f64 = (j..i).map(|k| l[i * dim + k] * inverse[k * dim + j]).sum();
            let right = if i == j { 1.0 } else { 0.0 };
            inverse[i * dim + j] = (right - known) / l[i * dim + i];
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use metamask_random::{Key, Purpose};

    use super::*;

    #[test]
    fn the_covariance_of_whitened_features_is_the_identity() -> Result<()> {
        let (n, dim) = (200, 5);
        let mut stream = Key::new(8, Purpose::Test).stream();
        let mut values = Vec::new();
        for _ in 0..n {
            let shared = stream.normal();
            values.extend((0..dim).map(|k| 7.0 + f64::from(k) * (stream.normal() + 2.0 * shared)));
            // Dimension 0 is still, and stays so.
        }
        let x = Tensor::from_vec(values, (n, dim as usize), &Device::Cpu)?;
        let y = Whitening::of(&x)?.apply(&x)?;
        let covariance = (y.t()?.matmul(&y)? / n as f64)?.to_vec2::<f64>()?;
        for (i, row) in covariance.iter().enumerate() {
            for (j, &value) in row.iter().enumerate() {
                let expected = if i == j && i > 0 { 1.0 } else { 0.0 };
                assert!((value - expected).abs() < 1e-4, "{i} {j}: {value}");
            }
        }
        Ok(())
    }
}

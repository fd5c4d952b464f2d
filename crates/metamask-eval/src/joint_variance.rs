//! How much of each dimension several factors explain together.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::check_labels;
use crate::dimensions::centred;
use crate::redundancy::varying_dimensions;

/// What a group of factors explains together.
#[derive(Clone, Debug, PartialEq)]
pub struct JointVarianceShare {
    /// R² of each dimension, 0 to 1; 0 where it does not vary.
    pub shares: Vec<f64>,
    /// What factors without any meaning explain in the mean: rank / (n − 1).
    pub by_chance: f64,
}

/// Share of each dimension's variance that grouped factors explain additively.
///
/// ```text
/// R²ₖ = 1 − min_a Σᵢ (x̃ᵢₖ − Σ_f a_f[gᵢ_f])² / Σᵢ x̃ᵢₖ²        x̃ = x − x̄
/// ```
/// g_f is the group of factor f, a_f a free number for each of its groups. For one factor
/// that is η² ([`variance_share`](crate::variance_share)). Of several it counts what they
/// share once, where a sum of their η² would count it for each; interactions between
/// factors are left out.
///
/// # Shapes
/// `features`: `[n, dim]`; for each factor n groups and how many there are. Returns
/// `dim` shares, computed in f64.
/// # Errors
/// If a factor does not fit, a feature is not finite, or there is no factor.
/// # Source
/// Multiple regression on indicator variables, by orthogonal projection (Golub & Van
/// Loan, section 5.2.8: Gram–Schmidt, done twice).
pub fn joint_variance_share(
    features: &Tensor,
    factors: &[(&[u32], usize)],
) -> Result<JointVarianceShare> {
    let x = centred("joint_variance_share", features)?;
    let n = x.dim(0)?;
    if factors.is_empty() {
        bail!("joint_variance_share: there must be factors, expected at least 1, got 0");
    }
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for &(groups, n_groups) in factors {
        check_labels("joint_variance_share", groups, n, n_groups)?;
        for group in 0..n_groups as u32 {
            let count = groups.iter().filter(|&&g| g == group).count();
            let mean = count as f64 / n as f64;
            let indicator =
                groups.iter().map(|&g| f64::from(u8::from(g == group)) - mean).collect();
            basis.extend(orthonormal_to(&basis, indicator));
        }
    }
    let rank = basis.len();
    let by_chance = rank as f64 / (n - 1) as f64;
    let total = x.sqr()?.sum(0)?.to_vec1::<f64>()?;
    let explained = match rank {
        0 => vec![0.0; total.len()],
        _ => {
            let q = Tensor::from_vec(basis.concat(), (rank, n), &Device::Cpu)?; // [r, N]
            q.matmul(&x)?.to_dtype(DType::F64)?.sqr()?.sum(0)?.to_vec1::<f64>()?
        }
    };
    let varies = varying_dimensions(features)?;
    let share = |k: usize| if varies[k] { (explained[k] / total[k]).min(1.0) } else { 0.0 };
    Ok(JointVarianceShare { shares: (0..total.len()).map(share).collect(), by_chance })
}

/// What of a vector is orthogonal to the basis, of length 1; none if only rounding is.
fn orthonormal_to(basis: &[Vec<f64>], mut vector: Vec<f64>) -> Option<Vec<f64>> {
    let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let before = length(&vector);
    for _ in 0..2 {
        for q in basis {
            let along: f64 = q.iter().zip(&vector).map(|(q, v)| q * v).sum();
            vector.iter_mut().zip(q).for_each(|(v, q)| *v -= along * q);
        }
    }
    let rest = length(&vector);
    if rest <= 1e-9 * before || rest == 0.0 {
        return None;
    }
    vector.iter_mut().for_each(|x| *x /= rest);
    Some(vector)
}

#[cfg(test)]
mod tests {
    use metamask_random::{Key, Purpose};

    use super::*;
    use crate::variance_share;

    #[test]
    fn one_factor_is_eta_squared_and_a_copy_adds_nothing() -> Result<()> {
        let mut stream = Key::new(31, Purpose::Test).stream();
        let a: Vec<u32> = (0..300).map(|_| stream.below(5)).collect();
        let b: Vec<u32> = (0..300).map(|_| stream.below(3)).collect();
        let values: Vec<f64> = (0..300)
            .flat_map(|i| {
                let noise = [stream.normal(), stream.normal()];
                [f64::from(a[i]), f64::from(a[i]) + f64::from(b[i]), noise[0], 2.0 + noise[1], 7.0]
            })
            .collect();
        let features = Tensor::from_vec(values, (300, 5), &Device::Cpu)?;
        let eta = variance_share(&features, &a, 5)?;
        for factors in [&[(&a[..], 5)][..], &[(&a[..], 5), (&a[..], 9)][..]] {
            let found = joint_variance_share(&features, factors)?;
            assert_eq!(found.by_chance, 4.0 / 299.0, "four free numbers");
            for (joint, eta) in found.shares.iter().zip(&eta) {
                assert!((joint - eta).abs() < 1e-12, "{joint} {eta}");
            }
        }
        let both = joint_variance_share(&features, &[(&a, 5), (&b, 3)])?.shares;
        assert!((both[0] - 1.0).abs() < 1e-12 && (both[1] - 1.0).abs() < 1e-12, "{both:?}");
        assert!(both[2] < 0.1 && both[4] == 0.0, "{both:?}");
        assert!(joint_variance_share(&features, &[]).is_err());
        assert!(joint_variance_share(&features, &[(&a, 4)]).is_err());
        Ok(())
    }
}

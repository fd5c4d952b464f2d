//! What the dimensions of a representation do: how many are in use, how evenly.

use candle_core::{DType, Result, Tensor, bail};

use crate::checked_features;

/// Effective rank: how many dimensions the features fill, from 1 to dim; 0 if all
/// are equal.
///
/// ```text
/// exp(−Σₖ pₖ ln pₖ)      pₖ = σₖ / Σⱼ σⱼ
/// ```
/// σ are the singular values of the features with their mean taken off.
///
/// # Shapes
/// `features`: `[n, dim]`, n ≥ 2. Computed in f64.
/// # Errors
/// If there are fewer than two features, or one is not finite.
/// # Source
/// Roy & Vetterli 2007, "The effective rank"; as a measure of representations
/// Garrido et al. 2023, arXiv:2210.02885.
/// Departs: centred, so that a common mean does not count as a dimension.
pub fn effective_rank(features: &Tensor) -> Result<f64> {
    let centred = centred("effective_rank", features)?;
    let (n, dim) = centred.dims2()?;
    // σ² are the eigenvalues of XᵀX, and but for zeros of XXᵀ: the smaller one is
    // taken. Squaring loses σ below 1e-8 of the largest, which changes the entropy
    // by less than 1e-6 a dimension.
    let gram = match n < dim {
        true => centred.matmul(&centred.t()?)?,
        false => centred.t()?.matmul(&centred)?,
    };
    let gram = gram.flatten_all()?.to_vec1::<f64>()?;
    let singular: Vec<f64> = symmetric_eigenvalues(gram, n.min(dim))
        .into_iter()
        .map(|value| value.max(0.0).sqrt())
        .collect();
    let sum: f64 = singular.iter().sum();
    if sum == 0.0 {
        return Ok(0.0);
    }
    let shares = singular.iter().map(|value| value / sum).filter(|&share| share > 0.0);
    Ok((-shares.map(|share| share * share.ln()).sum::<f64>()).exp())
}

/// Standard deviation (over n) of each dimension of `features` `[n, dim]`.
///
/// # Errors
/// If there are fewer than two features, or one is not finite.
pub fn dimension_std(features: &Tensor) -> Result<Vec<f64>> {
    centred("dimension_std", features)?.sqr()?.mean(0)?.sqrt()?.to_vec1()
}

/// Number of dimensions whose std is below `share` of the largest one
/// (0.01 is a common choice); all of them if none varies.
///
/// # Errors
/// If there are fewer than two features, or one is not finite.
pub fn dead_dimensions(features: &Tensor, share: f64) -> Result<usize> {
    let std = dimension_std(features)?;
    let largest = std.iter().copied().fold(0.0, f64::max);
    Ok(std.iter().filter(|&&value| value <= share * largest).count())
}

/// Spread of L2-normalised features, against that of a uniform sphere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DimensionSpread {
    /// Mean over dimensions of the std of x / ‖x‖: 0 when collapsed.
    pub std: f64,
    /// 1 / √dim, what features spread evenly over the sphere have.
    pub even: f64,
}

/// How far `features` `[n, dim]` are from having collapsed to a point.
///
/// # Errors
/// If there are fewer than two features, or one is not finite.
/// # Source
/// Chen & He 2021, arXiv:2011.10566, figure 2.
pub fn embedding_spread(features: &Tensor) -> Result<DimensionSpread> {
    let features = checked_features("embedding_spread", features)?.to_dtype(DType::F64)?;
    let norm = features.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?; // [N, 1]
    let std = dimension_std(&features.broadcast_div(&norm)?)?;
    let dim = std.len() as f64;
    Ok(DimensionSpread { std: std.iter().sum::<f64>() / dim, even: dim.sqrt().recip() })
}

/// Features in f64 with the mean over them taken off.
fn centred(operation: &str, features: &Tensor) -> Result<Tensor> {
    let features = checked_features(operation, features)?.to_dtype(DType::F64)?;
    let n = features.dim(0)?;
    if n < 2 {
        bail!("{operation}: there must be several features, expected at least 2, got {n}");
    }
    features.broadcast_sub(&features.mean_keepdim(0)?)
}

/// Eigenvalues of a symmetric `n` x `n` matrix, in no order: Householder's
/// reduction to a tridiagonal one, then QL with implicit shifts (Golub & Van
/// Loan, sections 8.3.1 and 8.3.3). Only the lower triangle is read.
fn symmetric_eigenvalues(matrix: Vec<f64>, n: usize) -> Vec<f64> {
    let (mut diagonal, mut below) = tridiagonal(matrix, n);
    below.push(0.0);
    for first in 0..n {
        for sweep in 0.. {
            // Where the matrix splits: the block is first..=last.
            let negligible = |i: usize| {
                below[i].abs() <= f64::EPSILON * (diagonal[i].abs() + diagonal[i + 1].abs())
            };
            let last = (first..n - 1).find(|&i| negligible(i)).unwrap_or(n - 1);
            if last == first {
                break;
            }
            assert!(sweep < 100, "QL takes two or three sweeps an eigenvalue");
            ql_sweep(&mut diagonal, &mut below, first, last);
        }
    }
    diagonal
}

/// One implicit QL sweep over the block `first..=last`, shifted by Wilkinson's
/// estimate of the eigenvalue at `first`.
fn ql_sweep(diagonal: &mut [f64], below: &mut [f64], first: usize, last: usize) {
    let half = (diagonal[first + 1] - diagonal[first]) / (2.0 * below[first]);
    let root = half.hypot(1.0).copysign(half);
    let mut g = diagonal[last] - diagonal[first] + below[first] / (half + root);
    let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
    for i in (first..last).rev() {
        let f = sine * below[i];
        let b = cosine * below[i];
        let radius = f.hypot(g);
        below[i + 1] = radius;
        if radius == 0.0 {
            // Split inside the block: the rest of the sweep is another one.
            diagonal[i + 1] -= shift;
            below[last] = 0.0;
            return;
        }
        sine = f / radius;
        cosine = g / radius;
        g = diagonal[i + 1] - shift;
        let r = (diagonal[i] - g) * sine + 2.0 * cosine * b;
        shift = sine * r;
        diagonal[i + 1] = g + shift;
        g = cosine * r - b;
    }
    diagonal[first] -= shift;
    below[first] = g;
    below[last] = 0.0;
}

/// Diagonal and subdiagonal of the tridiagonal matrix that Householder
/// reflections turn a symmetric one into.
fn tridiagonal(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut below = Vec::with_capacity(n);
    for k in 0..n.saturating_sub(1) {
        // v reflects column k below the diagonal onto its first axis.
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        below.push(-length.copysign(v[0]));
        v[0] += length.copysign(v[0]);
        let square: f64 = v.iter().map(|x| x * x).sum();
        if square == 0.0 {
            continue;
        }
        // A ← H A H with H = I − 2 v vᵀ / vᵀv is A − v wᵀ − w vᵀ.
        let m = v.len();
        let at = |i: usize, j: usize| (k + 1 + i.max(j)) * n + k + 1 + i.min(j);
        let p: Vec<f64> = (0..m)
            .map(|i| (0..m).map(|j| a[at(i, j)] * v[j]).sum::<f64>() * 2.0 / square)
            .collect();
        let projection = p.iter().zip(&v).map(|(p, v)| p * v).sum::<f64>() / square;
        let w: Vec<f64> = p.iter().zip(&v).map(|(p, v)| p - projection * v).collect();
        for i in 0..m {
            for j in 0..=i {
                a[at(i, j)] -= v[i] * w[j] + w[i] * v[j];
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), below)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::{Key, Purpose};

    use super::*;

    const ATOL: f64 = 1e-10;

    fn features(rows: &[[f64; 4]]) -> Result<Tensor> {
        Tensor::from_slice(rows.as_flattened(), (rows.len(), 4), &Device::Cpu)
    }

    #[test]
    fn eigenvalues_of_the_second_difference_are_known() {
        // tridiag(−1, 2, −1), spread over a full matrix by a reflection; its
        // eigenvalues are 2 − 2 cos(kπ / (n + 1)).
        for n in [1, 2, 3, 10, 65] {
            let base = |i: usize, j: usize| match i.abs_diff(j) {
                0 => 2.0,
                1 => -1.0,
                _ => 0.0,
            };
            let mut stream = Key::new(5, Purpose::Test).stream();
            let v: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
            let square: f64 = v.iter().map(|x| x * x).sum();
            let h = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * v[i] * v[j] / square;
            let mut matrix = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..n {
                    for k in 0..n {
                        for l in k.saturating_sub(1)..(k + 2).min(n) {
                            matrix[i * n + j] += h(i, k) * base(k, l) * h(l, j);
                        }
                    }
                }
            }
            let mut eigenvalues = symmetric_eigenvalues(matrix, n);
            eigenvalues.sort_by(f64::total_cmp);
            for (k, value) in eigenvalues.iter().enumerate() {
                let angle = (k + 1) as f64 * std::f64::consts::PI / (n + 1) as f64;
                assert!((value - (2.0 - 2.0 * angle.cos())).abs() < ATOL, "n {n}, k {k}: {value}");
            }
        }
    }

    #[test]
    fn effective_rank_counts_equal_directions() -> Result<()> {
        // Columns of a Hadamard matrix: orthogonal, of equal length, of mean 0.
        let rank = |scale: [f64; 4]| {
            let signs = |row: usize, column: usize| {
                if (row & (column + 1)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
            };
            let rows: Vec<[f64; 4]> =
                (0..8).map(|row| std::array::from_fn(|c| 7.0 + scale[c] * signs(row, c))).collect();
            effective_rank(&features(&rows)?)
        };
        assert!((rank([1.0; 4])? - 4.0).abs() < ATOL);
        assert!((rank([3.0, 0.0, 3.0, 0.0])? - 2.0).abs() < 1e-6);
        assert!((rank([0.0, 2.0, 0.0, 0.0])? - 1.0).abs() < 1e-6);
        // Shares 1/2, 1/4, 1/8, 1/8: entropy (7/4) ln 2.
        assert!((rank([4.0, 2.0, 1.0, 1.0])? - 2f64.powf(1.75)).abs() < ATOL);
        assert_eq!(rank([0.0; 4])?, 0.0);
        Ok(())
    }

    #[test]
    fn effective_rank_does_not_see_dimensions_that_do_not_vary() -> Result<()> {
        // Fewer features than dimensions take the other product; adding constant
        // dimensions changes nothing.
        let rows: Vec<[f64; 4]> = (0..5u32)
            .map(|row| std::array::from_fn(|c| f64::from((row * 7 + c as u32 * 5) % 11)))
            .collect();
        let narrow = features(&rows)?;
        let wide =
            Tensor::cat(&[&narrow, &Tensor::ones((5, 20), DType::F64, narrow.device())?], 1)?;
        assert!((effective_rank(&narrow)? - effective_rank(&wide)?).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn dead_dimensions_are_those_that_hardly_vary() -> Result<()> {
        let features = features(&[[0.0, 5.0, 1.0, 0.0], [2.0, 5.0, 1.01, 4.0]])?;
        let std = dimension_std(&features)?;
        let expected = [1.0, 0.0, 0.005, 2.0];
        assert!(std.iter().zip(expected).all(|(a, b)| (a - b).abs() < ATOL), "{std:?}");
        assert_eq!(dead_dimensions(&features, 0.01)?, 2);
        assert_eq!(dead_dimensions(&features, 0.001)?, 1);
        Ok(())
    }

    #[test]
    fn collapsed_features_have_no_spread_and_even_ones_the_sphere_s() -> Result<()> {
        let collapsed = features(&[[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]])?;
        assert!(embedding_spread(&collapsed)?.std < ATOL);

        let mut stream = Key::new(6, Purpose::Test).stream();
        let values: Vec<f64> = (0..64 * 2000).map(|_| stream.normal()).collect();
        let even = embedding_spread(&Tensor::from_vec(values, (2000, 64), &Device::Cpu)?)?;
        // Standard error of a std from 2000 draws: 1 / √4000 = 1.6 %, over 64 of them 0.2 %.
        assert!((even.std / even.even - 1.0).abs() < 0.01, "{even:?}");
        Ok(())
    }
}

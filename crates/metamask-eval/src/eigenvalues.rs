//! Singular values of features, by the eigenvalues of their Gram matrix.

use candle_core::{Result, Tensor};

/// The min(n, dim) singular values of an f64 matrix `[n, dim]`, in no order.
///
/// σ² are the eigenvalues of XᵀX, and but for zeros of XXᵀ: the smaller one is
/// taken. Squaring loses what is below 1e-8 of the largest.
pub(crate) fn singular_values(x: &Tensor) -> Result<Vec<f64>> {
    let (n, dim) = x.dims2()?;
    let gram = match n < dim {
        true => x.matmul(&x.t()?)?,
        false => x.t()?.matmul(x)?,
    };
    let gram = gram.flatten_all()?.to_vec1::<f64>()?;
    let eigenvalues = symmetric_eigenvalues(gram, n.min(dim)).into_iter();
    Ok(eigenvalues.map(|value| value.max(0.0).sqrt()).collect())
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
    use metamask_random::{Key, Purpose};

    use super::*;

    const ATOL: f64 = 1e-10;

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
}

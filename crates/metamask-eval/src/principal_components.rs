//! The directions in which features vary most.

use candle_core::{DType, Result, Tensor};
use metamask_random::{Key, Purpose};

use crate::dimensions::centred;

/// Iterations at most; two directions of nearly equal variance are then as good as each other.
const ITERATIONS: usize = 300;

/// Coordinates of each feature along the two directions of the largest variance.
///
/// ```text
/// C = (1/n) Σᵢ (xᵢ − x̄)(xᵢ − x̄)ᵀ        C v₁ = λ₁ v₁,  C v₂ = λ₂ v₂        yᵢ = (v₁ᵀ(xᵢ − x̄), v₂ᵀ(xᵢ − x̄))
/// ```
/// By orthogonal iteration from fixed random directions (Golub & Van Loan, section 8.2.4),
/// in f64. A direction points to where its largest coordinate is positive.
///
/// # Shapes
/// `features`: `[n, dim]`, n ≥ 2. Returns n points; with one dimension the second is 0.
/// # Errors
/// If there are fewer than two features, or one is not finite.
pub fn principal_components(features: &Tensor) -> Result<Vec<[f64; 2]>> {
    let x = centred("principal_components", features)?;
    let (n, dim) = x.dims2()?;
    let mut stream = Key::new(0, Purpose::Evaluation).stream();
    let random: Vec<f64> = (0..2 * dim).map(|_| stream.normal()).collect();
    let mut v = orthonormal(random, dim);
    for _ in 0..ITERATIONS {
        let moved = x.t()?.matmul(&x.matmul(&columns(&v, dim, &x)?)?)?;
        let moved = moved.t()?.contiguous()?.flatten_all()?.to_vec1::<f64>()?;
        let next = orthonormal(moved, dim);
        let still = v.iter().zip(&next).all(|(old, new)| (old - new).abs() < 1e-9);
        v = next;
        if still {
            break;
        }
    }
    for direction in v.chunks_exact_mut(dim) {
        let largest =
            direction.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        direction.iter_mut().for_each(|value| *value *= largest.signum());
    }
    let y = x.matmul(&columns(&v, dim, &x)?)?.to_vec2::<f64>()?;
    debug_assert_eq!(y.len(), n);
    Ok(y.into_iter().map(|row| [row[0], row[1]]).collect())
}

/// Two rows of `dim` as the columns of a matrix `[dim, 2]`.
fn columns(v: &[f64], dim: usize, like: &Tensor) -> Result<Tensor> {
    Tensor::from_slice(v, (2, dim), like.device())?.to_dtype(DType::F64)?.t()?.contiguous()
}

/// Two directions made orthogonal and of length one, in their order; one that vanishes is 0.
fn orthonormal(mut v: Vec<f64>, dim: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let (first, second) = v.split_at_mut(dim);
    let scale = |direction: &mut [f64], length: f64| {
        let factor = if length > 0.0 { 1.0 / length } else { 0.0 };
        direction.iter_mut().for_each(|value| *value *= factor);
    };
    scale(first, dot(first, first).sqrt());
    let (before, along) = (dot(second, second).sqrt(), dot(first, second));
    second.iter_mut().zip(&*first).for_each(|(b, a)| *b -= along * a);
    let length = dot(second, second).sqrt();
    // What is left of a parallel one is rounding.
    scale(second, if length > 1e-12 * before { length } else { 0.0 });
    v
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_turned_ellipse_is_turned_back() -> Result<()> {
        // 3 cos t along (3, 4, 0) / 5, sin t along (−4, 3, 0) / 5, around (7, −2, 1).
        let n = 40;
        let angle = |i: usize| std::f64::consts::TAU * i as f64 / n as f64;
        let points: Vec<[f64; 3]> = (0..n)
            .map(|i| {
                let (a, b) = (3.0 * angle(i).cos() / 5.0, angle(i).sin() / 5.0);
                [7.0 + 3.0 * a - 4.0 * b, -2.0 + 4.0 * a + 3.0 * b, 1.0]
            })
            .collect();
        let features = Tensor::from_slice(points.as_flattened(), (n, 3), &Device::Cpu)?;
        let found = principal_components(&features)?;
        for (i, [x, y]) in found.into_iter().enumerate() {
            // (−4, 3, 0) / 5 points to where its largest coordinate is positive: turned round.
            let expected = [3.0 * angle(i).cos(), -angle(i).sin()];
            assert!(
                (x - expected[0]).abs() < 1e-6 && (y - expected[1]).abs() < 1e-6,
                "{i}: {x} {y}"
            );
        }
        Ok(())
    }

    #[test]
    fn features_that_do_not_vary_and_one_dimension_lie_on_a_line() -> Result<()> {
        let line = principal_components(&Tensor::new(&[[1f32], [3.0], [2.0]], &Device::Cpu)?)?;
        assert_eq!(line.iter().map(|p| p[1]).collect::<Vec<_>>(), [0.0; 3]);
        assert!((line[1][0] - line[0][0] - 2.0).abs() < 1e-12);
        let same = principal_components(&Tensor::ones((4, 3), DType::F32, &Device::Cpu)?)?;
        assert_eq!(same, [[0.0; 2]; 4]);
        assert!(principal_components(&Tensor::ones((1, 3), DType::F32, &Device::Cpu)?).is_err());
        Ok(())
    }
}

//! ReLU and addition. Memory decides their speed, not instructions: plain
//! loops over blocks that fit the cache.

use rayon::prelude::*;

use super::Real;

/// Elements a task handles at least.
const BLOCK: usize = 1 << 15;

/// `y = max(x, 0)`. A NaN stays one.
pub(crate) fn relu<T: Real>(x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), y.len(), "relu: lengths must be equal");
    y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if x < T::ZERO { T::ZERO } else { x };
        }
    });
}

/// `out = d ⊙ 1[y > 0]`: ReLU's gradient and, being diagonal, its tangent too.
///
/// `y` is ReLU's output (or input: the sign says the same), `d` the gradient of
/// the output (or the tangent of the input). relu'(0) = 0, as in PyTorch.
pub(crate) fn relu_backward<T: Real>(y: &[T], d: &[T], out: &mut [T]) {
    assert!(y.len() == out.len() && d.len() == out.len(), "relu: lengths must be equal");
    out.par_chunks_mut(BLOCK).zip(y.par_chunks(BLOCK).zip(d.par_chunks(BLOCK))).for_each(
        |(out, (y, d))| {
            for (out, (&y, &d)) in out.iter_mut().zip(y.iter().zip(d)) {
                *out = if y > T::ZERO { d } else { T::ZERO };
            }
        },
    );
}

/// `y = a + b`.
pub(crate) fn add<T: Real>(a: &[T], b: &[T], y: &mut [T]) {
    assert!(a.len() == y.len() && b.len() == y.len(), "add: lengths must be equal");
    y.par_chunks_mut(BLOCK).zip(a.par_chunks(BLOCK).zip(b.par_chunks(BLOCK))).for_each(
        |(y, (a, b))| {
            for (y, (&a, &b)) in y.iter_mut().zip(a.iter().zip(b)) {
                *y = a + b;
            }
        },
    );
}

/// `y += x`.
pub(crate) fn add_assign<T: Real>(y: &mut [T], x: &[T]) {
    assert_eq!(x.len(), y.len(), "add: lengths must be equal");
    y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_has_value_and_derivative_0_at_0_and_lets_a_nan_through() {
        let x = [-1.0, -0.0, 0.0, 2.0, f64::NAN];
        let mut y = [7.0; 5];
        relu(&x, &mut y);
        assert_eq!(y[..4], [0.0, 0.0, 0.0, 2.0]);
        assert!(y[4].is_nan());
        let mut dx = [7.0; 4];
        relu_backward(&y[..4], &[1.0, 2.0, 3.0, 4.0], &mut dx);
        assert_eq!(dx, [0.0, 0.0, 0.0, 4.0]);
    }

    #[test]
    fn additions_reach_every_element_of_more_than_a_block() {
        let a: Vec<f64> = (0..BLOCK + 3).map(|i| i as f64).collect();
        let b = vec![0.5; a.len()];
        let mut y = vec![0.0; a.len()];
        add(&a, &b, &mut y);
        add_assign(&mut y, &a);
        assert!(y.iter().enumerate().all(|(i, &y)| y == 2.0 * i as f64 + 0.5));
    }
}

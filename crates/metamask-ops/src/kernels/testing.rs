//! What the kernels' tests share: reproducible values, comparisons, pools.

use metamask_random::{Key, Purpose};

use super::simd::Real;

/// `len` values, uniform in (−1, 1); another `seed`, other values.
pub(super) fn values<T: Real>(len: usize, seed: u64) -> Vec<T> {
    let mut stream = Key::new(seed, Purpose::Test).stream();
    (0..len).map(|_| T::from_f64(2.0 * stream.uniform_f64() - 1.0)).collect()
}

/// The same values in f64.
pub(super) fn widen<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

/// Panics unless every |got − expected| is at most `tolerance` times the root
/// mean square of what is expected (a sum's rounding error goes with the size
/// of its terms, not with its own).
#[track_caller]
pub(super) fn assert_close<T: Real>(what: &str, got: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths differ");
    let square: f64 = expected.iter().map(|e| e * e).sum();
    let scale = (square / expected.len().max(1) as f64).sqrt().max(1e-30);
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let error = (g.to_f64() - e).abs() / scale;
        assert!(error <= tolerance, "{what}: element {i}: expected {e}, got {g:?} ({error:.1e})");
    }
}

/// What `f` returns in pools of 1, 2, 3 and 4 threads must be the same bits.
#[track_caller]
pub(super) fn assert_same_for_any_threads<R: PartialEq + Send>(
    what: &str,
    f: impl Fn() -> R + Sync,
) {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a small thread pool can be built").install(&f)
    };
    let one = run(1);
    assert!(
        [2, 3, 4].into_iter().all(|threads| run(threads) == one),
        "{what}: results depend on the number of threads"
    );
}

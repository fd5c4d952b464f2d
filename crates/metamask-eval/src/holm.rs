//! Several tests at once.

/// Holm's adjusted p-values: each is below α only if its test holds among all of them, the
/// probability of one false finding or more being at most α.
///
/// ```text
/// p̃₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎)        p₍₁₎ ≤ … ≤ p₍ₘ₎
/// ```
///
/// # Source
/// Holm 1979, "A simple sequentially rejective multiple test procedure".
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let m = p_values.len();
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let (mut adjusted, mut highest) = (vec![0.0; m], 0f64);
    for (i, k) in order.into_iter().enumerate() {
        highest = highest.max(((m - i) as f64 * p_values[k]).min(1.0));
        adjusted[k] = highest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_is_multiplied_by_their_number_and_none_falls_below_a_smaller_one() {
        // Written out: 3 · 0.01, 2 · 0.02, then 0.03 raised to what stands before it.
        let expected = [0.04, 0.03, 0.04];
        for (found, expected) in holm(&[0.02, 0.01, 0.03]).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
        assert_eq!(holm(&[0.7, 0.6]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}

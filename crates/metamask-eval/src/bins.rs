//! Numbers into groups: what turns a continuous factor into one that
//! [`variance_share`](crate::variance_share) takes.

/// Bins that hold about equally many values each; equal values share a bin.
///
/// ```text
/// bin(x) = ⌊n_bins · #{y < x} / n⌋
/// ```
/// Many equal values, such as the zeros behind a ReLU, leave bins empty.
/// `n_bins` ≥ 1; NaN lies above every number.
pub fn equal_count_bins(values: &[f64], n_bins: usize) -> Vec<u32> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut bins = vec![0; values.len()];
    let mut below = 0;
    for place in 0..order.len() {
        if place > 0 && values[order[place]] != values[order[place - 1]] {
            below = place;
        }
        bins[order[place]] = (n_bins * below / values.len()) as u32;
    }
    bins
}

/// Equal arcs of a circle of circumference 1, for factors such as a hue.
///
/// `n_arcs` ≥ 1; a value means its fractional part.
pub fn equal_arcs(values: &[f64], n_arcs: usize) -> Vec<u32> {
    let arc = |value: &f64| (value.rem_euclid(1.0) * n_arcs as f64) as u32;
    values.iter().map(|value| arc(value).min(n_arcs as u32 - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_equally_full_unless_values_are_equal() {
        assert_eq!(equal_count_bins(&[5.0, 1.0, 3.0, 9.0], 2), [1, 0, 0, 1]);
        assert_eq!(equal_count_bins(&[0.0, 0.0, 0.0, 2.0, 1.0, 0.0], 3), [0, 0, 0, 2, 2, 0]);
        let values: Vec<f64> = (0..100).map(|i| f64::from(i * 37 % 100)).collect();
        let bins = equal_count_bins(&values, 7);
        for bin in 0..7 {
            let n = bins.iter().filter(|&&b| b == bin).count();
            assert!((14..=15).contains(&n), "{n} in bin {bin}");
        }
        assert!(equal_count_bins(&[], 3).is_empty());
    }

    #[test]
    fn a_circle_is_closed() {
        assert_eq!(
            equal_arcs(&[0.0, 0.249, 0.25, 0.999_999_999, 1.0, -0.1], 4),
            [0, 0, 1, 3, 0, 3]
        );
        assert_eq!(equal_arcs(&[-1e-18], 4), [3]);
    }
}

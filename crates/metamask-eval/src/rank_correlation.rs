//! Do two quantities rise together? Spearman's rank correlation, and how often
//! chance would do as well.

use metamask_random::Key;
use serde::{Deserialize, Serialize};

/// A rank correlation with its test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankCorrelation {
    /// Spearman's ρ, −1 to 1.
    pub rho: f64,
    /// Share of the permutations, the observed one counted, whose |ρ| is as large.
    pub p_value: f64,
    /// Permutations drawn.
    pub permutations: u32,
}

/// Spearman's ρ: the correlation of the ranks, of equal values their mean rank.
///
/// ```text
/// ρ = Σᵢ (rᵢ − r̄)(sᵢ − s̄) / √(Σᵢ (rᵢ − r̄)² Σᵢ (sᵢ − s̄)²)
/// ```
/// `None` if either takes a single value only, or there are fewer than two pairs.
///
/// # Panics
/// If the lengths differ.
/// # Source
/// Spearman 1904, "The proof and measurement of association between two things".
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (r, s) = (standardised_ranks(a)?, standardised_ranks(b)?);
    assert_eq!(r.len(), s.len(), "spearman: values come in pairs");
    Some(r.iter().zip(&s).map(|(r, s)| r * s).sum::<f64>().clamp(-1.0, 1.0))
}

/// Spearman's ρ with a two-sided permutation test.
///
/// ```text
/// p = (1 + #{π : |ρ(a, π b)| ≥ |ρ(a, b)|}) / (1 + permutations)
/// ```
/// The test takes the pairs to be exchangeable. Dimensions that copy one another are
/// not: with redundant ones p comes out too small.
///
/// `None` as [`spearman`].
///
/// # Panics
/// If the lengths differ.
/// # Source
/// Phipson & Smyth 2010, "Permutation p-values should never be zero", arXiv:1603.05766.
pub fn spearman_test(a: &[f64], b: &[f64], permutations: u32, key: Key) -> Option<RankCorrelation> {
    let (r, s) = (standardised_ranks(a)?, standardised_ranks(b)?);
    assert_eq!(r.len(), s.len(), "spearman_test: values come in pairs");
    let rho: f64 = r.iter().zip(&s).map(|(r, s)| r * s).sum();
    let n = r.len() as u32;
    let as_large = (0..permutations)
        .filter(|&i| {
            let order = key.sample(i).stream().permutation(n);
            let permuted: f64 = r.iter().zip(order).map(|(r, j)| r * s[j as usize]).sum();
            // What is equal but for rounding counts as equal.
            permuted.abs() >= rho.abs() - 1e-12
        })
        .count();
    let p_value = (1 + as_large) as f64 / f64::from(1 + permutations);
    Some(RankCorrelation { rho: rho.clamp(-1.0, 1.0), p_value, permutations })
}

/// Ranks with their mean taken off and of length 1.
fn standardised_ranks(values: &[f64]) -> Option<Vec<f64>> {
    let ranks = mean_ranks(values);
    let mean = (values.len() as f64 + 1.0) / 2.0;
    let length = ranks.iter().map(|rank| (rank - mean).powi(2)).sum::<f64>().sqrt();
    (length > 0.0).then(|| ranks.iter().map(|rank| (rank - mean) / length).collect())
}

/// Ranks from 1, equal values sharing the mean of theirs.
pub(crate) fn mean_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    for ties in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let below = order.partition_point(|&i| values[i].total_cmp(&values[ties[0]]).is_lt());
        for &i in ties {
            ranks[i] = below as f64 + (ties.len() as f64 + 1.0) / 2.0;
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use metamask_random::Purpose;

    use super::*;

    const KEY: Key = Key::new(2, Purpose::Test);

    #[test]
    fn equal_values_share_the_mean_of_their_ranks() {
        assert_eq!(mean_ranks(&[3.0, 1.0, 3.0, 0.0, -0.0]), [4.5, 3.0, 4.5, 1.5, 1.5]);
    }

    #[test]
    fn order_is_all_that_counts() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0];
        let rho = |b: &[f64]| spearman(&a, b).expect("they vary");
        assert!((rho(&[-9.0, 0.1, 0.2, 7.0, 8e9]) - 1.0).abs() < 1e-12);
        assert!((rho(&[5.0, 4.0, 3.0, 2.0, 1.0]) + 1.0).abs() < 1e-12);
        // 1 − 6 Σ d² / (n (n² − 1)) with d = (1, −1, 1, −1, 0).
        assert!((rho(&[2.0, 1.0, 4.0, 3.0, 5.0]) - 0.8).abs() < 1e-12);
        assert_eq!(spearman(&a, &[1.0; 5]), None);
        assert_eq!(spearman(&[], &[]), None);
    }

    #[test]
    fn the_p_value_is_that_of_all_permutations() {
        // Of 24 orders two are as far from 0 as a perfect one.
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]);
        let test = spearman_test(&a, &b, 20_000, KEY).expect("they vary");
        // sd of the share: √(1/12 · 11/12 / 20000) = 0.002.
        assert!((test.p_value - 1.0 / 12.0).abs() < 0.008, "{test:?}");
        assert_eq!(spearman_test(&a, &b, 20_000, KEY), Some(test));
    }

    #[test]
    fn p_is_uniform_where_nothing_is_related() {
        let mut stream = KEY.view(1).stream();
        let mut draw = || -> Vec<f64> { (0..30).map(|_| stream.normal()).collect() };
        let small = (0..400)
            .filter(|&i| {
                let test = spearman_test(&draw(), &draw(), 99, KEY.epoch(i)).expect("they vary");
                test.p_value <= 0.1
            })
            .count();
        // 40 ± 6 of 400.
        assert!((16..=64).contains(&small), "{small} of 400");
    }
}

//! How a gradient is spread over the dimensions of a representation, and whether it goes
//! where the task is or where the nuisances are.

use metamask_random::Key;
use serde::{Deserialize, Serialize};

use crate::{
    relevance::{PERMUTATIONS, upper_half},
    spearman, spearman_test,
};

/// A gradient's spread over the dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientProfile {
    /// √(Σ_k g_k²)
    pub norm: f64,
    /// 1 / Σ_k s_k²: as many dimensions with equal shares are as uneven; 0 for no gradient.
    pub effective_dimensions: f64,
    /// Σ s_k over the half of the dimensions that the mask closes most; none without a mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_half_share: Option<f64>,
    /// What it goes with.
    pub alignments: Vec<Alignment>,
}

/// Whether a gradient goes with a measure of the dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// The measure's name.
    pub measure: String,
    /// Σ_k s_k r_k: the measure r where the gradient is.
    pub weighted_mean: f64,
    /// √(Σ g_k²) over the dimensions whose r is above the median: how much of it they get.
    pub upper_half_norm: f64,
    /// Spearman's ρ of g and r; none where either is constant.
    pub rho: Option<f64>,
    /// Its two-sided permutation test, where one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
}

/// The profile of a gradient whose root mean square in dimension k is g_k.
///
/// ```text
/// s_k = g_k² / Σ_l g_l²         the share of dimension k in the squared norm
/// ```
/// `closed` tells which dimensions a mask closes ([`closed_half`]); `measures` have a name
/// and a value r_k for each dimension. With a key every ρ is tested, the i-th measure's
/// under the key's epoch i; ρ of g and of s are the same.
///
/// # Panics
/// If the lengths differ.
pub fn gradient_profile(
    g: &[f64],
    closed: Option<&[bool]>,
    measures: &[(&'static str, Vec<f64>)],
    key: Option<Key>,
) -> GradientProfile {
    let sum: f64 = g.iter().map(|g| g * g).sum();
    let share = |g: &f64| if sum > 0.0 { g * g / sum } else { 0.0 };
    let shares: Vec<f64> = g.iter().map(share).collect();
    let squares: f64 = shares.iter().map(|s| s * s).sum();
    let weighted = |values: &[f64]| -> f64 {
        assert_eq!(values.len(), g.len(), "gradient_profile: a value for each dimension");
        shares.iter().zip(values).map(|(s, r)| s * r).sum()
    };
    let alignment = |(i, (name, values)): (u32, &(&'static str, Vec<f64>))| {
        let tested = key.and_then(|key| spearman_test(g, values, PERMUTATIONS, key.epoch(i)));
        Alignment {
            measure: (*name).to_owned(),
            weighted_mean: weighted(values),
            upper_half_norm: g
                .iter()
                .zip(upper_half(values))
                .filter_map(|(g, upper)| upper.then_some(g * g))
                .sum::<f64>()
                .sqrt(),
            rho: tested.map_or_else(|| spearman(g, values), |tested| Some(tested.rho)),
            p_value: tested.map(|tested| tested.p_value),
        }
    };
    let closed = closed.map(|closed| -> Vec<f64> {
        closed.iter().map(|&closed| f64::from(u8::from(closed))).collect()
    });
    GradientProfile {
        norm: sum.sqrt(),
        effective_dimensions: if squares > 0.0 { 1.0 / squares } else { 0.0 },
        closed_half_share: closed.map(|closed| weighted(&closed)),
        alignments: (0..).zip(measures).map(alignment).collect(),
    }
}

/// The mean of profiles of the same measures, without a test; none of none. A ρ that one of
/// them lacks is lacking.
pub fn mean_profile(profiles: &[GradientProfile]) -> Option<GradientProfile> {
    let first = profiles.first()?;
    let n = profiles.len() as f64;
    let mean =
        |value: &dyn Fn(&GradientProfile) -> f64| profiles.iter().map(value).sum::<f64>() / n;
    let mean_of_some = |value: &dyn Fn(&GradientProfile) -> Option<f64>| {
        let values: Option<Vec<f64>> = profiles.iter().map(value).collect();
        values.map(|values| values.iter().sum::<f64>() / n)
    };
    let alignment = |(i, alignment): (usize, &Alignment)| Alignment {
        measure: alignment.measure.clone(),
        weighted_mean: mean(&|profile| profile.alignments[i].weighted_mean),
        upper_half_norm: mean(&|profile| profile.alignments[i].upper_half_norm),
        rho: mean_of_some(&|profile| profile.alignments[i].rho),
        p_value: None,
    };
    Some(GradientProfile {
        norm: mean(&|profile| profile.norm),
        effective_dimensions: mean(&|profile| profile.effective_dimensions),
        closed_half_share: mean_of_some(&|profile| profile.closed_half_share),
        alignments: first.alignments.iter().enumerate().map(alignment).collect(),
    })
}

/// Which ⌊D/2⌋ dimensions have the lowest |m|; of equal values the first ones.
pub fn closed_half(mask: &[f64]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..mask.len()).collect();
    order.sort_by(|&a, &b| mask[a].abs().total_cmp(&mask[b].abs()));
    let mut closed = vec![false; mask.len()];
    order[..mask.len() / 2].iter().for_each(|&k| closed[k] = true);
    closed
}

#[cfg(test)]
mod tests {
    use metamask_random::Purpose;

    use super::*;

    const KEY: Key = Key::new(4, Purpose::Test);

    fn alignment(profile: &GradientProfile) -> (f64, Option<f64>, Option<f64>) {
        let Alignment { weighted_mean, rho, p_value, .. } = profile.alignments[0];
        (weighted_mean, rho, p_value)
    }

    #[test]
    fn shares_are_of_the_squared_norm() {
        // Squares 9, 16, 0, 0 of 25: shares 0.36 and 0.64.
        let g = [3.0, 4.0, 0.0, 0.0];
        let measures = [("r", vec![0.5, 1.0, 7.0, 9.0])];
        let closed = closed_half(&[0.1, 0.9, -0.2, 0.8]);
        assert_eq!(closed, [true, false, true, false]);
        let profile = gradient_profile(&g, Some(&closed), &measures, Some(KEY));
        assert!((profile.norm - 5.0).abs() < 1e-15);
        let effective = 1.0 / (0.36f64.powi(2) + 0.64f64.powi(2));
        assert!((profile.effective_dimensions - effective).abs() < 1e-12);
        assert!((profile.closed_half_share.expect("a mask") - 0.36).abs() < 1e-15);
        let (weighted, rho, p_value) = alignment(&profile);
        assert!((weighted - (0.36 * 0.5 + 0.64)).abs() < 1e-15);
        // The upper half of r are the two dimensions without a gradient.
        assert_eq!(profile.alignments[0].upper_half_norm, 0.0);
        let falling = [("r", vec![9.0, 7.0, 1.0, 0.5])];
        let profile = gradient_profile(&g, None, &falling, None);
        assert_eq!(profile.alignments[0].upper_half_norm, 5.0);
        // Ranks 3, 4, 1.5, 1.5 and 1, 2, 3, 4, less 2.5: the sum of their products is
        // −0.75 − 0.75 − 0.5 − 1.5, the sums of their squares 4.5 and 5.
        assert!((rho.expect("both vary") + 3.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12);
        assert!((1e-4..=1.0).contains(&p_value.expect("tested")));

        let untested = gradient_profile(&g, None, &measures, None);
        assert_eq!(alignment(&untested), (weighted, rho, None));
        assert_eq!(untested.closed_half_share, None);
    }

    #[test]
    fn equal_gradients_fill_every_dimension_and_none_fills_none() {
        let even = gradient_profile(&[-2.0, 2.0, 2.0, 2.0], None, &[], None);
        assert!((even.effective_dimensions - 4.0).abs() < 1e-12);
        let nothing = gradient_profile(&[0.0; 4], Some(&[true; 4]), &[("r", vec![1.0; 4])], None);
        assert_eq!((nothing.norm, nothing.effective_dimensions), (0.0, 0.0));
        assert_eq!(nothing.closed_half_share, Some(0.0));
        assert_eq!(alignment(&nothing), (0.0, None, None));
    }

    #[test]
    fn a_mean_is_that_of_each_number() {
        let measures = [("r", vec![0.0, 1.0, 2.0])];
        let of = |g: [f64; 3]| gradient_profile(&g, Some(&[true, false, false]), &measures, None);
        let (rising, falling) = (of([1.0, 2.0, 3.0]), of([3.0, 2.0, 1.0]));
        let mean = mean_profile(&[rising, falling]).expect("two");
        // (0·1 + 1·4 + 2·9)/14 and (0·9 + 1·4 + 2·1)/14; ρ of +1 and −1.
        let (weighted, rho, p_value) = alignment(&mean);
        assert!((weighted - 1.0).abs() < 1e-12 && p_value.is_none());
        assert!(rho.expect("both vary").abs() < 1e-12);
        assert!((mean.closed_half_share.expect("a mask") - 10.0 / 28.0).abs() < 1e-12);
        assert!((mean.norm - 14f64.sqrt()).abs() < 1e-12);
        assert_eq!(mean_profile(&[]), None);
    }
}

//! What each dimension tells about the task and about the nuisances, and whether
//! something else goes with it.

use candle_core::{Result, Tensor};
use metamask_random::Key;

use crate::{
    Agreement, JointVarianceShare, NuisanceFactor, Sharing, auc, joint_variance_share,
    spearman_test, variance_share,
};

pub(crate) const PERMUTATIONS: u32 = 9999;

/// Shares of each dimension's variance.
pub(crate) struct Relevance {
    /// η² of the class.
    pub class: Vec<f64>,
    /// R² of the factors that both views share, together; none where none are known.
    pub shared: Option<JointVarianceShare>,
    /// R² of the factors that differ between the views, together.
    pub differing: Option<JointVarianceShare>,
}

impl Relevance {
    /// Of features `[n, dim]` whose images have these labels and factors.
    pub(crate) fn of(
        features: &Tensor,
        (labels, n_classes): (&[u32], usize),
        factors: &[NuisanceFactor],
    ) -> Result<Self> {
        let of_group = |sharing: Sharing| -> Result<Option<JointVarianceShare>> {
            let members = factors.iter().filter(|factor| factor.sharing == sharing);
            let members: Vec<_> = members.map(|f| (&f.groups[..], f.n_groups)).collect();
            match members.is_empty() {
                true => Ok(None),
                false => joint_variance_share(features, &members).map(Some),
            }
        };
        Ok(Self {
            class: variance_share(features, labels, n_classes)?,
            shared: of_group(Sharing::SharedByViews)?,
            differing: of_group(Sharing::DiffersBetweenViews)?,
        })
    }

    /// The measures by their names in a report: shares, and what the class's has over each
    /// group of nuisances.
    pub(crate) fn measures(&self) -> Vec<(&'static str, Vec<f64>)> {
        let over = |n: &JointVarianceShare| -> Vec<f64> {
            self.class.iter().zip(&n.shares).map(|(c, n)| c - n).collect()
        };
        let (shared, differing) = (self.shared.as_ref(), self.differing.as_ref());
        [
            ("class_share", Some(self.class.clone())),
            ("shared_nuisance_share", shared.map(|n| n.shares.clone())),
            ("differing_nuisance_share", differing.map(|n| n.shares.clone())),
            ("class_share - shared_nuisance_share", shared.map(over)),
            ("class_share - differing_nuisance_share", differing.map(over)),
        ]
        .into_iter()
        .filter_map(|(name, values)| Some((name, values?)))
        .collect()
    }

    /// Task over nuisance: the class's share less those of both groups of nuisances.
    pub(crate) fn task_over_nuisance(&self) -> Vec<f64> {
        let mut relevance = self.class.clone();
        for nuisance in [&self.shared, &self.differing].into_iter().flatten() {
            relevance.iter_mut().zip(&nuisance.shares).for_each(|(r, share)| *r -= share);
        }
        relevance
    }
}

/// What each dimension's variance is about, by name: `class_share` (η² of the class) and,
/// where factors are known, `shared_nuisance_share` and `differing_nuisance_share` (R² of the
/// factors that both views share, and of those that differ between them).
///
/// # Shapes
/// `features`: `[n, dim]`, with n labels below the number of classes.
/// # Errors
/// If shapes, labels or factors do not fit, or a feature is not finite.
pub fn variance_shares(
    features: &Tensor,
    labels: (&[u32], usize),
    factors: &[NuisanceFactor],
) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let mut measures = Relevance::of(features, labels, factors)?.measures();
    measures.retain(|(name, _)| !name.contains(" - "));
    Ok(measures)
}

/// How measures go with a scale over the dimensions. The i-th is tested under the key's epoch i.
pub(crate) fn agreements(
    scale: &[f64],
    measures: &[(&'static str, Vec<f64>)],
    key: Key,
) -> Vec<Agreement> {
    let of = |(i, (name, values)): (u32, &(&'static str, Vec<f64>))| Agreement {
        measure: (*name).to_owned(),
        correlation: spearman_test(scale, values, PERMUTATIONS, key.epoch(i)),
        auc: auc(scale, &upper_half(values)),
    };
    (0..).zip(measures).map(of).collect()
}

/// Which values are above the median.
pub(crate) fn upper_half(values: &[f64]) -> Vec<bool> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
    values.iter().map(|&value| value > median).collect()
}

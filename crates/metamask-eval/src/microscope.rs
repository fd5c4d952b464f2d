//! The dimension microscope: every measure of this crate, dimension by dimension, and
//! whether a mask goes with them.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, bail};
use metamask_random::Key;
use serde::{Deserialize, Serialize};

use crate::alpha_req::{ALPHA_REQ_RANKS, PowerLaw};
use crate::relevance::{Relevance, agreements};
use crate::{
    JointVarianceShare, Knn, LinearProbe, RankCorrelation, Redundancy, alpha_req,
    class_information, covariance_spectrum, dead_dimensions, dimension_std, effective_rank,
    information_bins, leave_one_out, participation_ratio, rank_me, redundancy, variance_share,
    variance_share_by_chance,
};

/// Frozen features and what is known about the images they come from.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// `[n, dim]` with `n` labels, without the mask: what probes learn from.
    pub train: (&'a Tensor, &'a [u32]),
    /// `[m, dim]` with `m` labels, without the mask: what everything is measured on.
    pub test: (&'a Tensor, &'a [u32]),
    /// Classes of the task.
    pub n_classes: usize,
    /// m, a value for each dimension, where there is a mask on the features.
    pub mask: Option<&'a [f64]>,
    /// What is known of the test images beside their class.
    pub factors: &'a [NuisanceFactor],
    /// kNN for the dimensions left out; k is lowered to the bank's size.
    pub knn: Knn,
    /// Permutations of the tests are drawn from it.
    pub key: Key,
}

/// A factor of variation that is not the class, its values in groups.
#[derive(Clone, Debug, PartialEq)]
pub struct NuisanceFactor {
    /// Its name.
    pub name: String,
    /// Whether two views of an image agree in it.
    pub sharing: Sharing,
    /// The group of each test image.
    pub groups: Vec<u32>,
    /// How many groups there are.
    pub n_groups: usize,
}

/// Whether two views of an image agree in a factor.
///
/// A factor that both share tells images apart just as the object does, so nothing that
/// learns without labels can be expected to drop it. The two are never added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Both views show the same value.
    SharedByViews,
    /// Augmentation changes the value from view to view.
    DiffersBetweenViews,
}

/// How many dimensions are in use, by several measures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// [`effective_rank`]
    pub effective_rank: f64,
    /// [`rank_me`]
    pub rank_me: f64,
    /// [`participation_ratio`]
    pub participation_ratio: f64,
    /// [`alpha_req`] over [`ALPHA_REQ_RANKS`], where enough eigenvalues are there.
    pub alpha_req: Option<PowerLaw>,
    /// [`dead_dimensions`] below a hundredth of the largest spread.
    pub dead_dimensions: usize,
    /// [`covariance_spectrum`]
    pub spectrum: Vec<f64>,
}

impl Usage {
    /// Of features `[n, dim]`.
    ///
    /// # Errors
    /// If there are fewer than two, or one is not finite.
    pub fn of(features: &Tensor) -> Result<Self> {
        let spectrum = covariance_spectrum(features)?;
        Ok(Self {
            effective_rank: effective_rank(features)?,
            rank_me: rank_me(features)?,
            participation_ratio: participation_ratio(features)?,
            alpha_req: alpha_req(&spectrum, ALPHA_REQ_RANKS),
            dead_dimensions: dead_dimensions(features, 0.01)?,
            spectrum,
        })
    }
}

/// One dimension. Shares are of its variance, 0 to 1; a mask changes none of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DimensionRow {
    /// Its place in the representation, from 0.
    pub dimension: usize,
    /// m, where there is a mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<f64>,
    /// Standard deviation without the mask.
    pub std: f64,
    /// η² of the class.
    pub class_share: f64,
    /// [`class_information`] in nats.
    pub class_information_nats: f64,
    /// Share of the linear probe's squared weights.
    pub probe_weight_share: f64,
    /// Points of the right class's kNN vote share lost without it.
    pub knn_vote_drop: f64,
    /// Points of kNN accuracy lost without it.
    pub knn_accuracy_drop: f64,
    /// Joint share of the factors that both views share, where factors are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_nuisance_share: Option<f64>,
    /// Joint share of the factors that differ between the views, where factors are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differing_nuisance_share: Option<f64>,
    /// η² of each factor.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub factor_shares: BTreeMap<String, f64>,
}

/// Whether a measure goes with the mask over the dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The measure, by its name in [`DimensionRow`], or a difference of two.
    pub measure: String,
    /// Spearman's ρ with its test; none where either is constant.
    #[serde(flatten)]
    pub correlation: Option<RankCorrelation>,
    /// Probability that a dimension of the measure's upper half has the higher mask value.
    pub auc: Option<f64>,
}

/// What the microscope shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DimensionReport {
    /// Images that were measured.
    pub images: usize,
    /// Without the mask.
    pub usage: Usage,
    /// With it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked_usage: Option<Usage>,
    /// Mean |correlation| of different dimensions; none where fewer than two vary.
    pub mean_absolute_correlation: Option<f64>,
    /// |correlation|, `[dim, dim]` row by row.
    #[serde(skip)]
    pub redundancy: Redundancy,
    /// η² that a class without meaning would have.
    pub class_share_by_chance: f64,
    /// Joint share that as many factors without meaning would have, where they are known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nuisance_share_by_chance: BTreeMap<Sharing, f64>,
    /// Bins of the information estimate.
    pub information_bins: usize,
    /// Images in the kNN bank of the dimensions left out, and queries.
    pub knn_images: [usize; 2],
    /// kNN accuracy with all dimensions (masked, if there is a mask) on those.
    pub knn_accuracy_percent: f64,
    /// What the agreements are with: the mask's values or, without a mask, the std.
    pub agreement_with: &'static str,
    /// How each measure goes with it.
    pub agreements: Vec<Agreement>,
    /// Every dimension.
    pub dimensions: Vec<DimensionRow>,
}

/// More would take minutes and change little: a drop's standard error is then some
/// tenths of a point.
const MOST_KNN_IMAGES: [usize; 2] = [5000, 1000];

/// Looks at every dimension of a representation. `watch` hears what is being done.
///
/// The parts are defined where they are computed: [`variance_share`], [`class_information`],
/// [`LinearProbe`], [`leave_one_out`], [`spearman_test`](crate::spearman_test),
/// [`auc`](crate::auc).
/// Dimensions are left out of the *masked* features where there is a mask, as evaluation
/// sees them; everything else does not depend on a positive mask.
///
/// Nuisance is what the factors of a group explain together
/// ([`joint_variance_share`](crate::joint_variance_share)).
///
/// # Errors
/// If shapes, labels or factors do not fit, or a feature is not finite.
pub fn inspect_dimensions(
    subject: &Subject<'_>,
    watch: &mut dyn FnMut(&str),
) -> Result<DimensionReport> {
    let Subject { train, test, n_classes, mask, factors, knn, key } = *subject;
    let (images, dim) = test.0.dims2()?;
    if mask.is_some_and(|mask| mask.len() != dim) {
        bail!("inspect_dimensions: expected a mask of {dim} values, got another number");
    }
    let masked = |features: &Tensor| match mask {
        None => Ok(features.clone()),
        Some(mask) => {
            let m = Tensor::from_slice(mask, (1, dim), &Device::Cpu)?;
            features.broadcast_mul(&m.to_dtype(features.dtype())?)
        }
    };

    watch("the spectrum");
    let usage = Usage::of(test.0)?;
    let masked_usage = match mask {
        Some(_) => Some(Usage::of(&masked(test.0)?)?),
        None => None,
    };
    let redundancy = redundancy(test.0)?;

    watch("what each dimension tells about the class");
    let std = dimension_std(test.0)?;
    let bins = information_bins(images, n_classes);
    let information = class_information(test.0, test.1, n_classes, bins)?;

    watch("the linear probe");
    let probe = LinearProbe::default().fit(train.0, train.1, n_classes)?;
    let weights = squared_column_shares(&probe.weight, dim);

    watch("kNN without each dimension in turn");
    let first =
        |(features, labels): (&Tensor, &[u32]), most: usize| -> Result<(Tensor, Vec<u32>)> {
            let n = features.dim(0)?.min(most);
            Ok((masked(&features.narrow(0, 0, n)?)?, labels[..n].to_vec()))
        };
    let [most_bank, most_queries] = MOST_KNN_IMAGES;
    let (bank, queries) = (first(train, most_bank)?, first(test, most_queries)?);
    let knn = Knn { k: knn.k.min(bank.1.len()), ..knn };
    let left_out = leave_one_out((&bank.0, &bank.1), (&queries.0, &queries.1), n_classes, knn)?;

    watch("what each dimension tells about the nuisance factors");
    let shares = |factor: &NuisanceFactor| variance_share(test.0, &factor.groups, factor.n_groups);
    let factor_shares: Vec<Vec<f64>> = factors.iter().map(shares).collect::<Result<_>>()?;
    let relevance = Relevance::of(test.0, (test.1, n_classes), factors)?;
    let nuisance_share_by_chance = [
        (Sharing::SharedByViews, &relevance.shared),
        (Sharing::DiffersBetweenViews, &relevance.differing),
    ]
    .into_iter()
    .filter_map(|(sharing, found)| Some((sharing, found.as_ref()?.by_chance)))
    .collect();

    watch("the agreement with the mask");
    let mut measures = relevance.measures();
    let others = [
        ("class_information_nats", information.clone()),
        ("probe_weight_share", weights.clone()),
        ("knn_vote_drop", left_out.vote_drop.clone()),
    ];
    measures.splice(1..1, others);
    let (agreement_with, scale) = match mask {
        Some(mask) => ("mask", mask),
        None => ("std", &std[..]),
    };
    let agreements = agreements(scale, &measures, key);
    let nuisance = |found: &Option<JointVarianceShare>, k: usize| Some(found.as_ref()?.shares[k]);

    let row = |k: usize| DimensionRow {
        dimension: k,
        mask: mask.map(|mask| mask[k]),
        std: std[k],
        class_share: relevance.class[k],
        class_information_nats: information[k],
        probe_weight_share: weights[k],
        knn_vote_drop: left_out.vote_drop[k],
        knn_accuracy_drop: left_out.accuracy_drop[k],
        shared_nuisance_share: nuisance(&relevance.shared, k),
        differing_nuisance_share: nuisance(&relevance.differing, k),
        factor_shares: factors
            .iter()
            .zip(&factor_shares)
            .map(|(factor, shares)| (factor.name.clone(), shares[k]))
            .collect(),
    };
    Ok(DimensionReport {
        images,
        usage,
        masked_usage,
        mean_absolute_correlation: redundancy.mean_off_diagonal,
        redundancy,
        class_share_by_chance: variance_share_by_chance(test.1)?,
        nuisance_share_by_chance,
        information_bins: bins,
        knn_images: [bank.1.len(), queries.1.len()],
        knn_accuracy_percent: left_out.accuracy_percent,
        agreement_with,
        agreements,
        dimensions: (0..dim).map(row).collect(),
    })
}

/// ‖W_k‖² / ‖W‖² for each column of W, `[n_classes, dim]` row by row; 0 if W is.
fn squared_column_shares(weight: &[f64], dim: usize) -> Vec<f64> {
    let total: f64 = weight.iter().map(|w| w * w).sum();
    let column = |k: usize| weight.iter().skip(k).step_by(dim).map(|w| w * w).sum::<f64>();
    (0..dim).map(|k| if total > 0.0 { column(k) / total } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use metamask_random::Purpose;

    use super::*;

    /// Six kinds of dimension, eight of each: the class with noise, a shared nuisance with
    /// noise, a differing one with noise, noise, next to nothing, copies of the first.
    const KINDS: usize = 6;
    const DIM: usize = 8 * KINDS;

    struct Planted {
        features: Tensor,
        labels: Vec<u32>,
        shared: Vec<u32>,
        differing: Vec<u32>,
    }

    fn planted(n: usize, key: Key) -> Result<Planted> {
        let mut stream = key.stream();
        let mut groups = || -> Vec<u32> { (0..n).map(|_| stream.below(4)).collect() };
        let (labels, shared, differing) = (groups(), groups(), groups());
        let mut values = Vec::with_capacity(n * DIM);
        for i in 0..n {
            let row: Vec<f64> = (0..DIM)
                .map(|k| {
                    let noise = 0.7 * stream.normal();
                    // Which of the four groups the dimension is high for.
                    let high = |group: u32| f64::from(u8::from(group as usize == k % 4)) * 2.0;
                    match k / 8 {
                        0 => high(labels[i]) + noise,
                        1 => high(shared[i]) + noise,
                        2 => high(differing[i]) + noise,
                        3 => noise,
                        _ => 1e-3 * noise,
                    }
                })
                .collect();
            values.extend(&row[..40]);
            values.extend(row[..8].iter().map(|x| 3.0 - 2.0 * x));
        }
        let features = Tensor::from_vec(values, (n, DIM), &Device::Cpu)?;
        Ok(Planted { features, labels, shared, differing })
    }

    #[test]
    fn planted_dimensions_are_told_apart() -> Result<()> {
        let key = Key::new(21, Purpose::Test);
        let (train, test) = (planted(600, key)?, planted(400, key.view(1))?);
        let factor = |name: &str, sharing, groups: &Vec<u32>| NuisanceFactor {
            name: name.to_owned(),
            sharing,
            groups: groups.clone(),
            n_groups: 4,
        };
        let factors = [
            factor("hue", Sharing::SharedByViews, &test.shared),
            factor("place", Sharing::DiffersBetweenViews, &test.differing),
        ];
        // Keeps the class (kinds 0 and 5), dims what differs more than the rest.
        let level = [0.9, 0.5, 0.1, 0.4, 0.3, 0.8];
        let mask: Vec<f64> = (0..DIM).map(|k| level[k / 8] + 1e-3 * (k % 8) as f64).collect();
        let subject = Subject {
            train: (&train.features, &train.labels),
            test: (&test.features, &test.labels),
            n_classes: 4,
            mask: Some(&mask),
            factors: &factors,
            knn: Knn::default(),
            key,
        };
        let mut heard = Vec::new();
        let report = inspect_dimensions(&subject, &mut |what| heard.push(what.to_owned()))?;
        assert!(heard.len() > 3);

        let of_kind = |kind: usize| &report.dimensions[8 * kind..8 * (kind + 1)];
        // 4 σ² of the group's share p(1 − p) = 3/16 against 0.49: η² = 0.6.
        for (kind, expected) in [(0, [0.6, 0.0, 0.0]), (1, [0.0, 0.6, 0.0]), (2, [0.0, 0.0, 0.6])] {
            for row in of_kind(kind) {
                let shares = [
                    row.class_share,
                    row.shared_nuisance_share.expect("known"),
                    row.differing_nuisance_share.expect("known"),
                ];
                for (share, expected) in shares.iter().zip(expected) {
                    assert!((share - expected).abs() < 0.12, "{row:?}");
                }
            }
        }
        assert_eq!(of_kind(4).iter().filter(|row| row.std < 1e-2).count(), 8);
        assert_eq!(report.usage.dead_dimensions, 8);
        let total: f64 = report.dimensions.iter().map(|row| row.probe_weight_share).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert!(report.redundancy.absolute_correlation[40] > 0.999, "dimension 40 copies 0");

        let of = |name: &str| {
            let found = report.agreements.iter().find(|found| found.measure == name);
            let found = found.unwrap_or_else(|| panic!("{name}"));
            (found.correlation.expect("varies"), found.auc.expect("two halves"))
        };
        let (class, class_auc) = of("class_share");
        assert!(class.rho > 0.4 && class.p_value < 0.01 && class_auc > 0.7, "{class:?}");
        let (differing, differing_auc) = of("differing_nuisance_share");
        assert!(differing.rho < -0.2 && differing_auc < 0.5, "{differing:?}");
        let (contrast, _) = of("class_share - differing_nuisance_share");
        assert!(contrast.rho > class.rho, "{contrast:?} {class:?}");

        // Without a mask and factors the spread takes the mask's place.
        let bare = Subject { mask: None, factors: &[], ..subject };
        let report = inspect_dimensions(&bare, &mut |_| ())?;
        assert_eq!((report.agreement_with, report.agreements.len()), ("std", 4));
        assert!(report.masked_usage.is_none() && report.dimensions[0].mask.is_none());
        let wrong = Subject { mask: Some(&mask[1..]), ..subject };
        assert!(inspect_dimensions(&wrong, &mut |_| ()).is_err());
        Ok(())
    }
}

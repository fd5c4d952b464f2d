//! Is it the order of a mask's values that helps? The learned mask beside masks of the
//! same values in other orders.

use candle_core::{DType, Device, Error, Result, Tensor, bail};
use metamask_random::Key;
use serde::{Deserialize, Serialize};

use crate::dimensions::centred;
use crate::relevance::{Relevance, agreements};
use crate::whitening::Whitening;
use crate::{
    Agreement, Knn, LinearProbe, NuisanceFactor, Protocol, Sharing, accuracy_percent,
    dimension_std, nearest,
};

/// Frozen features, without the mask, and what is known of their images.
#[derive(Clone, Copy, Debug)]
pub struct ControlSubject<'a> {
    /// `[n, dim]` with n labels: the bank of kNN, and what every order is made from.
    pub train: (&'a Tensor, &'a [u32]),
    /// `[m, dim]` with m labels: what accuracies are of.
    pub test: (&'a Tensor, &'a [u32]),
    /// Classes of the task.
    pub n_classes: usize,
    /// `[v, dim]` of two views of the same v training images.
    pub views: [&'a Tensor; 2],
    /// m, where there is a mask.
    pub mask: Option<&'a [f64]>,
    /// What is known of the training and of the test images beside their class: the same
    /// factors, with groups alike.
    pub factors: [&'a [NuisanceFactor]; 2],
    /// kNN's settings.
    pub knn: Knn,
    /// How many random orders are drawn.
    pub draws: u16,
    /// They are drawn from it.
    pub key: Key,
}

/// Which dimensions get the highest values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskOrder {
    /// Those of the learned mask.
    Learned,
    /// Those where the learned mask is lowest.
    Reversed,
    /// Those that tell most about the class beyond what they tell about the nuisances.
    /// It takes labels and factors. No upper bound: other orders can be better.
    Oracle,
    /// Those of the largest standard deviation.
    Variance,
    /// Those in which two views of an image agree best, by their correlation.
    ViewAgreement,
}

/// What can be done to frozen features beside a mask of the learned values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rescaling {
    /// h − h̄
    Centred,
    /// (h − h̄) / σ, dimension by dimension.
    Standardised,
    /// L⁻¹ (h − h̄), L Lᵀ the covariance: no direction is louder than another. As PCA's.
    Whitened,
    /// m ⊙ h with m_k = √(η²_k / (1 − η²_k)) / σ_k, η² the class's share of the variance:
    /// the diagonal of Fisher's discriminant. It takes labels. No upper bound either.
    Fisher,
}

/// What an order is worth, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderedMask {
    /// kNN under the mask's own values in this order.
    pub soft_knn_percent: f64,
    /// kNN on the first half of the dimensions alone.
    pub half_knn_percent: f64,
    /// Linear probe on these. (A positive mask it cannot see: it standardises.)
    pub half_linear_percent: f64,
}

/// How well a factor can be read off the features, in percent of the test images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decodability {
    /// The factor, or `class`.
    pub factor: String,
    /// Whether two views of an image agree in it; none for the class.
    pub sharing: Option<Sharing>,
    /// Share of the largest group: what a guess reaches.
    pub chance_percent: f64,
    /// kNN without the mask.
    pub knn_percent: f64,
    /// kNN with it.
    pub masked_knn_percent: Option<f64>,
    /// Linear probe.
    pub linear_percent: f64,
}

/// The learned mask among others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskControls {
    /// kNN with all dimensions alike.
    pub knn_percent: f64,
    /// Linear probe on all of them.
    pub linear_percent: f64,
    /// kNN on features that are rescaled by what is known of the training features.
    pub rescaled: Vec<(Rescaling, f64)>,
    /// Orders that are made from something.
    pub orders: Vec<(MaskOrder, OrderedMask)>,
    /// Orders that are drawn.
    pub random: Vec<OrderedMask>,
    /// Whether what the dimensions tell about the test images goes with the mask's values
    /// (without a mask: with their standard deviation).
    pub agreements: Vec<Agreement>,
    /// The class and every factor.
    pub decodability: Vec<Decodability>,
}

impl MaskControls {
    /// The masks of an order.
    pub fn of(&self, order: MaskOrder) -> Option<&OrderedMask> {
        self.orders.iter().find(|(known, _)| *known == order).map(|(_, found)| found)
    }

    /// kNN on features that are rescaled, in percent.
    pub fn rescaled(&self, rescaling: Rescaling) -> Option<f64> {
        self.rescaled.iter().find(|(known, _)| *known == rescaling).map(|(_, found)| *found)
    }
}

/// Holds a mask against masks of the same values in other orders. `watch` hears what is
/// being done.
///
/// ```text
/// m^π_k = m_(rank_π(k))       m_(1) ≥ m_(2) ≥ …       soft: m^π ⊙ h       half: 1 where rank_π(k) ≤ ⌈D/2⌉, else 0
/// ```
/// Spread and number of the values are then equal, so that only the order π is left to
/// explain a difference. Where there is no mask the values are a ramp, (D − k + ½)/D for
/// the k-th. Every order is made on the training features, every accuracy is of the test
/// features. Scaling a whole mask changes no cosine, so no normalised one is here.
///
/// # Shapes
/// As in [`ControlSubject`].
/// # Errors
/// If shapes, labels, factors or settings do not fit, or a feature is not finite.
pub fn mask_controls(
    subject: &ControlSubject<'_>,
    watch: &mut dyn FnMut(&str),
) -> Result<MaskControls> {
    let ControlSubject { train, test, n_classes, views, mask, factors, knn, draws, key } = *subject;
    let dim = train.0.dim(1)?;
    if mask.is_some_and(|mask| mask.len() != dim) {
        bail!("mask_controls: expected a mask of {dim} values, got another number");
    }
    let names = |factors: &[NuisanceFactor]| -> Vec<(String, usize)> {
        factors.iter().map(|factor| (factor.name.clone(), factor.n_groups)).collect()
    };
    if names(factors[0]) != names(factors[1]) {
        bail!("mask_controls: training and test images must have the same factors");
    }
    let probe = Protocol::LinearProbe(LinearProbe::default());
    let knn = Protocol::Knn(Knn { k: knn.k.min(train.1.len()), ..knn });
    let accuracy = |protocol: &Protocol, (train_h, test_h): (&Tensor, &Tensor)| {
        protocol.accuracy_percent((train_h, train.1), (test_h, test.1), n_classes)
    };

    let mut values: Vec<f64> = match mask {
        Some(mask) => mask.to_vec(),
        None => (0..dim).map(|k| (k as f64 + 0.5) / dim as f64).collect(),
    };
    values.sort_by(|a, b| b.total_cmp(a));
    let half = dim.div_ceil(2);
    let worth = |order: &[u32]| -> Result<OrderedMask> {
        let mut soft = vec![0.0; dim];
        order.iter().zip(&values).for_each(|(&k, &value)| soft[k as usize] = value);
        let (soft_train, soft_test) = (masked(train.0, &soft)?, masked(test.0, &soft)?);
        let kept = Tensor::new(&order[..half], &Device::Cpu)?;
        let part = |h: &Tensor| h.index_select(&kept, 1);
        let (half_train, half_test) = (part(train.0)?, part(test.0)?);
        Ok(OrderedMask {
            soft_knn_percent: accuracy(&knn, (&soft_train, &soft_test))?,
            half_knn_percent: accuracy(&knn, (&half_train, &half_test))?,
            half_linear_percent: accuracy(&probe, (&half_train, &half_test))?,
        })
    };

    watch("masks in other orders");
    let relevance = Relevance::of(train.0, (train.1, n_classes), factors[0])?;
    let scores = [
        (MaskOrder::Learned, mask.map(<[f64]>::to_vec)),
        (MaskOrder::Reversed, mask.map(|mask| mask.iter().map(|m| -m).collect())),
        (MaskOrder::Oracle, Some(relevance.task_over_nuisance())),
        (MaskOrder::Variance, Some(dimension_std(train.0)?)),
        (MaskOrder::ViewAgreement, Some(view_agreement(views)?)),
    ];
    let orders = scores
        .into_iter()
        .filter_map(|(order, scores)| Some((order, scores?)))
        .map(|(order, scores)| Ok((order, worth(&descending(&scores))?)))
        .collect::<Result<_>>()?;
    watch("masks in random orders");
    let permutation = |draw: u16| key.view(draw).stream().permutation(dim as u32);
    let random = (0..draws).map(|draw| worth(&permutation(draw))).collect::<Result<_>>()?;

    watch("what can be read off the features");
    let rescaled = rescaled(train.0, test.0, &relevance.class)?
        .into_iter()
        .map(|(rescaling, [train, test])| Ok((rescaling, accuracy(&knn, (&train, &test))?)))
        .collect::<Result<_>>()?;
    let decodability = decodability(subject)?;
    let class = &decodability[0];
    let of_test = Relevance::of(test.0, (test.1, n_classes), factors[1])?;
    let std;
    let scale = match mask {
        Some(mask) => mask,
        None => {
            std = dimension_std(test.0)?;
            &std
        }
    };
    Ok(MaskControls {
        knn_percent: class.knn_percent,
        linear_percent: class.linear_percent,
        rescaled,
        orders,
        random,
        agreements: agreements(scale, &of_test.measures(), key.sample(1)),
        decodability,
    })
}

/// How often [`mask_controls`] looks through all features, by nearest neighbours and by fitting a
/// linear probe: what to multiply the time of one with. Half of the dimensions are half a look.
///
/// ```text
/// masks = orders + draws        kNN = 3/2 masks + rescalings + [1 with a mask] + 1        probes = 1/2 masks + factors + 1
/// ```
pub fn control_looks(has_mask: bool, draws: usize, n_factors: usize) -> [f64; 2] {
    /// Orders that take no mask.
    const ORDERS: usize = 3;
    const RESCALINGS: usize = 4;
    let mask = usize::from(has_mask);
    // The learned order and its reverse.
    let masks = (ORDERS + 2 * mask + draws) as f64;
    [1.5 * masks + (RESCALINGS + mask + 1) as f64, 0.5 * masks + (n_factors + 1) as f64]
}

/// Training and test features under each rescaling, all of which the training features say.
fn rescaled(train: &Tensor, test: &Tensor, class: &[f64]) -> Result<[(Rescaling, [Tensor; 2]); 4]> {
    let both = |f: &dyn Fn(&Tensor) -> Result<Tensor>| Ok::<_, Error>([f(train)?, f(test)?]);
    let mean = train.mean_keepdim(0)?;
    let std = dimension_std(train)?;
    let inverse = |k: usize| if std[k] > 0.0 { 1.0 / std[k] } else { 0.0 };
    let standardising: Vec<f64> = (0..std.len()).map(inverse).collect();
    // A dimension that is nothing but the class gets a large weight, not an infinite one.
    let fisher = |(k, eta): (usize, &f64)| (eta / (1.0 - eta).max(1e-6)).sqrt() * inverse(k);
    let fisher: Vec<f64> = class.iter().enumerate().map(fisher).collect();
    let whitening = Whitening::of(train)?;
    let centred = |h: &Tensor| h.broadcast_sub(&mean);
    Ok([
        (Rescaling::Centred, both(&centred)?),
        (Rescaling::Standardised, both(&|h| masked(&centred(h)?, &standardising))?),
        (Rescaling::Whitened, both(&|h| whitening.apply(h))?),
        (Rescaling::Fisher, both(&|h| masked(h, &fisher))?),
    ])
}

/// The class first, then every factor, read off the same features.
fn decodability(subject: &ControlSubject<'_>) -> Result<Vec<Decodability>> {
    let ControlSubject { train, test, n_classes, mask, factors, knn, .. } = *subject;
    let knn = Knn { k: knn.k.min(train.1.len()), ..knn };
    let plain = nearest(train.0, test.0, knn.k)?;
    let under_mask = match mask {
        Some(mask) => Some(nearest(&masked(train.0, mask)?, &masked(test.0, mask)?, knn.k)?),
        None => None,
    };
    let of = |factor: &str, sharing, groups: [&[u32]; 2], n_groups: usize| {
        let voted = |neighbours: &[Vec<(f32, usize)>]| {
            let votes = neighbours.iter().map(|nearest| knn.vote(nearest, groups[0], n_groups));
            accuracy_percent(&votes.collect::<Vec<_>>(), groups[1])
        };
        let probe = LinearProbe::default().fit(train.0, groups[0], n_groups)?;
        let mut sizes = vec![0usize; n_groups];
        groups[1].iter().for_each(|&group| sizes[group as usize] += 1);
        let largest = sizes.into_iter().max().unwrap_or(0);
        Ok(Decodability {
            factor: factor.to_owned(),
            sharing,
            chance_percent: 100.0 * largest as f64 / groups[1].len() as f64,
            knn_percent: voted(&plain)?,
            masked_knn_percent: under_mask.as_deref().map(voted).transpose()?,
            linear_percent: accuracy_percent(&probe.predict(test.0)?, groups[1])?,
        })
    };
    let class = of("class", None, [train.1, test.1], n_classes);
    let of_factors = factors[0]
        .iter()
        .zip(factors[1])
        .map(|(a, b)| of(&a.name, Some(a.sharing), [&a.groups, &b.groups], a.n_groups));
    std::iter::once(class).chain(of_factors).collect()
}

/// m ⊙ h
fn masked(features: &Tensor, mask: &[f64]) -> Result<Tensor> {
    let mask = Tensor::from_slice(mask, (1, mask.len()), &Device::Cpu)?;
    features.broadcast_mul(&mask.to_dtype(features.dtype())?)
}

/// The dimensions by their scores, the highest first; of equal ones the first in its place.
fn descending(scores: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
    order
}

/// Correlation of each dimension over the images between the two views; 0 where it does not
/// vary.
///
/// ```text
/// ρ_k = Σᵢ ãᵢₖ b̃ᵢₖ / √(Σᵢ ãᵢₖ² Σᵢ b̃ᵢₖ²)        ã = a − ā
/// ```
fn view_agreement([a, b]: [&Tensor; 2]) -> Result<Vec<f64>> {
    let (a, b) = (centred("view_agreement", a)?, centred("view_agreement", b)?);
    let sum = |x: Tensor| x.sum(0)?.to_dtype(DType::F64)?.to_vec1::<f64>();
    let (ab, aa, bb) = (sum((&a * &b)?)?, sum(a.sqr()?)?, sum(b.sqr()?)?);
    let spread = aa.iter().zip(&bb).map(|(aa, bb)| (aa * bb).sqrt());
    Ok(ab.iter().zip(spread).map(|(ab, s)| if s > 0.0 { ab / s } else { 0.0 }).collect())
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use metamask_random::Purpose;

    use super::*;

    const DIM: usize = 12;

    /// Four dimensions of the class, four of a shared nuisance, an angle, far louder, and four
    /// of noise that is another one in each view.
    struct Planted {
        features: Tensor,
        views: [Tensor; 2],
        labels: Vec<u32>,
        factor: Vec<NuisanceFactor>,
    }

    fn planted(n: usize, key: Key) -> Result<Planted> {
        let mut stream = key.stream();
        let labels: Vec<u32> = (0..n).map(|_| stream.below(4)).collect();
        let hue: Vec<f64> = (0..n).map(|_| 4.0 * stream.uniform_f64()).collect();
        let mut draw = || {
            let mut values = Vec::with_capacity(n * DIM);
            for (&label, &hue) in labels.iter().zip(&hue) {
                for k in 0..DIM {
                    let high = |group: u32| f64::from(u8::from(group as usize == k % 4));
                    values.push(match k / 4 {
                        0 => 2.0 * high(label) + stream.normal(),
                        1 => {
                            12.0 * ((hue / 4.0 + (k % 4) as f64 / 8.0) * TAU).cos()
                                + 0.5 * stream.normal()
                        }
                        _ => stream.normal(),
                    });
                }
            }
            Tensor::from_vec(values, (n, DIM), &Device::Cpu)
        };
        let (features, views) = (draw()?, [draw()?, draw()?]);
        let factor = NuisanceFactor {
            name: "hue".to_owned(),
            sharing: Sharing::SharedByViews,
            groups: hue.into_iter().map(|hue| hue as u32).collect(),
            n_groups: 4,
        };
        Ok(Planted { features, views, labels, factor: vec![factor] })
    }

    fn subject<'a>(
        train: &'a Planted,
        test: &'a Planted,
        mask: Option<&'a [f64]>,
    ) -> ControlSubject<'a> {
        ControlSubject {
            train: (&train.features, &train.labels),
            test: (&test.features, &test.labels),
            n_classes: 4,
            views: [&train.views[0], &train.views[1]],
            mask,
            factors: [&train.factor, &test.factor],
            knn: Knn::default(),
            draws: 20,
            key: Key::new(3, Purpose::Evaluation),
        }
    }

    #[test]
    fn a_good_order_beats_random_ones_and_a_reversed_one_loses() -> Result<()> {
        let (train, test) =
            (planted(500, Key::new(1, Purpose::Test))?, planted(300, Key::new(2, Purpose::Test))?);
        // Opens what knows the class, and shuts the nuisance most of all.
        let level = [1.0, 0.05, 0.2];
        let mask: Vec<f64> = (0..DIM).map(|k| level[k / 4] - 1e-3 * (k % 4) as f64).collect();
        let found = mask_controls(&subject(&train, &test, Some(&mask)), &mut |_| ())?;
        let soft = |order| found.of(order).expect("an order").soft_knn_percent;
        // Of the three orders these two are the learned one: the nuisance lowest, the class first.
        assert!((soft(MaskOrder::Learned) - soft(MaskOrder::Oracle)).abs() < 3.0);
        assert!(soft(MaskOrder::Learned) > found.knn_percent + 5.0, "{found:?}");
        assert!(soft(MaskOrder::Reversed) < found.knn_percent - 2.0);
        // What is loud and what both views share is the nuisance first.
        assert!(soft(MaskOrder::Variance) < soft(MaskOrder::Learned) - 5.0);
        assert!(soft(MaskOrder::ViewAgreement) < soft(MaskOrder::Learned));
        assert_eq!(found.random.len(), 20);
        let above = found.random.iter().filter(|m| m.soft_knn_percent > soft(MaskOrder::Learned));
        assert_eq!(above.count(), 0);
        // The half that the oracle keeps holds all four dimensions of the class.
        let half = found.of(MaskOrder::Oracle).expect("an order");
        assert!(half.half_linear_percent > 72.0 && half.half_knn_percent > 70.0, "{half:?}");
        let half = found.of(MaskOrder::Reversed).expect("an order");
        assert!(half.half_linear_percent < 40.0, "{half:?}");

        let [class, hue] = &found.decodability[..] else { panic!("the class and one factor") };
        // By another way through the same functions.
        let accuracy = |protocol: Protocol| {
            let (train, test) =
                ((&train.features, &train.labels[..]), (&test.features, &test.labels[..]));
            protocol.accuracy_percent(train, test, 4)
        };
        assert_eq!(
            (&*class.factor, class.knn_percent),
            ("class", accuracy(Protocol::Knn(Knn::default()))?)
        );
        assert_eq!(class.linear_percent, accuracy(Protocol::LinearProbe(LinearProbe::default()))?);
        assert_eq!(
            (found.knn_percent, found.linear_percent),
            (class.knn_percent, class.linear_percent)
        );
        assert_eq!(class.masked_knn_percent, Some(soft(MaskOrder::Learned)));
        assert!(hue.masked_knn_percent.expect("a mask") < hue.knn_percent - 10.0, "{hue:?}");
        assert!(hue.linear_percent > 95.0 && hue.chance_percent < 35.0);
        let rho = |name: &str| {
            let found = found.agreements.iter().find(|found| found.measure == name);
            found.expect("a measure").correlation.expect("varies").rho
        };
        assert!(rho("class_share") > 0.6 && rho("shared_nuisance_share") < -0.4);

        // What is in the answer has been looked for.
        let masks = (found.orders.len() + found.random.len()) as f64;
        let decoded = found.decodability.len() as f64;
        let looks = [1.5 * masks + found.rescaled.len() as f64 + 2.0, 0.5 * masks + decoded];
        assert_eq!(control_looks(true, 20, 1), looks);

        // The nuisance is the loudest: what makes all equal helps, what knows the class more.
        let rescaled = |rescaling| found.rescaled(rescaling).expect("each");
        assert!(rescaled(Rescaling::Standardised) > found.knn_percent + 2.0, "{found:?}");
        assert!(rescaled(Rescaling::Whitened) > found.knn_percent + 2.0);
        assert!(rescaled(Rescaling::Fisher) > rescaled(Rescaling::Standardised) + 1.0);
        Ok(())
    }

    #[test]
    fn without_a_mask_the_values_are_a_ramp_and_without_factors_the_oracle_takes_the_class()
    -> Result<()> {
        let (train, test) =
            (planted(300, Key::new(1, Purpose::Test))?, planted(200, Key::new(2, Purpose::Test))?);
        let subject = ControlSubject { factors: [&[], &[]], ..subject(&train, &test, None) };
        let found = mask_controls(&subject, &mut |_| ())?;
        let orders: Vec<MaskOrder> = found.orders.iter().map(|(order, _)| *order).collect();
        assert_eq!(orders, [MaskOrder::Oracle, MaskOrder::Variance, MaskOrder::ViewAgreement]);
        assert_eq!(found.decodability.len(), 1);
        let masks = (found.orders.len() + found.random.len()) as f64;
        let looks = [1.5 * masks + found.rescaled.len() as f64 + 1.0, 0.5 * masks + 1.0];
        assert_eq!(control_looks(false, 20, 0), looks);
        assert_eq!(found.decodability[0].masked_knn_percent, None);
        let oracle = found.of(MaskOrder::Oracle).expect("an order");
        assert!(oracle.soft_knn_percent > found.knn_percent, "{oracle:?}");
        let wrong = [0.5; DIM - 1];
        assert!(
            mask_controls(&ControlSubject { mask: Some(&wrong), ..subject }, &mut |_| ()).is_err()
        );
        let other = ControlSubject { factors: [&train.factor, &[]], ..subject };
        assert!(mask_controls(&other, &mut |_| ()).is_err());
        Ok(())
    }

    #[test]
    fn views_agree_in_what_they_share() -> Result<()> {
        let planted = planted(2000, Key::new(5, Purpose::Test))?;
        let found = view_agreement([&planted.views[0], &planted.views[1]])?;
        // Signal p(1 − p) s² over signal and noise: 4 · 3/16 over + 1, 144/2 over + 1/4, none.
        for (k, rho) in found.iter().enumerate() {
            let expected = [3.0 / 7.0, 288.0 / 289.0, 0.0][k / 4];
            assert!((rho - expected).abs() < 0.08, "{k}: {rho} {expected}");
        }
        let still = Tensor::zeros((4, 2), DType::F64, &Device::Cpu)?;
        assert_eq!(view_agreement([&still, &still])?, [0.0, 0.0]);
        Ok(())
    }
}

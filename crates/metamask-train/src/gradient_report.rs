//! What measured gradients say of a run: how the mask spreads them over the dimensions,
//! and whether what it takes them from is a nuisance.

use std::collections::BTreeMap;

use metamask_eval::{GradientProfile, closed_half, gradient_profile, mean_profile};
use metamask_random::Key;
use serde::Serialize;

use crate::gradients::{ByMask, Gradients, LossGradient};

/// The gradients of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientReport {
    /// Mean of each measure over the dimensions, all alike.
    pub mean_measures: BTreeMap<&'static str, f64>,
    /// Of B.
    pub base: LossReport,
    /// Of L_drr, where it has a weight beside B.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<LossReport>,
    /// Of B by the encoder's last weights, where there are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_layer: Option<LayerReport>,
    /// Every dimension.
    pub dimensions: Vec<GradientRow>,
}

/// One loss. Without a mask there is only `none`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LossReport {
    /// Under the learned mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<LossProfile>,
    /// By m ⊙ h under the learned mask: the same without the factor m. Of B alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<GradientProfile>,
    /// Under no mask, by the same weights.
    pub none: LossProfile,
    /// Under the learned values in random orders: means over these. The closed half is
    /// each order's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shuffled: Option<LossProfile>,
}

/// A loss with the profile of its gradient.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LossProfile {
    /// The loss, mean over the batches.
    pub loss: f64,
    /// Its gradient's.
    #[serde(flatten)]
    pub profile: GradientProfile,
}

/// The gradient of B by the last weights, a norm for each dimension that they make.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// PyTorch's name of the weights.
    pub name: String,
    /// Under the learned mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<GradientProfile>,
    /// Under none.
    pub none: GradientProfile,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientRow {
    /// Its place in the representation, from 0.
    pub dimension: usize,
    /// m, where there is a mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<f64>,
    /// What it is, such as what its variance is about.
    #[serde(flatten)]
    pub measures: BTreeMap<&'static str, f64>,
    /// g of B.
    pub base: RowGradient,
    /// g of L_drr.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<RowGradient>,
    /// ‖∂B/∂W_k‖ of the last weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_layer: Option<RowGradient>,
}

/// A dimension's gradient under each mask.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RowGradient {
    /// The learned one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<f64>,
    /// None.
    pub none: f64,
    /// Mean over the random orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shuffled: Option<f64>,
}

/// Puts gradients beside what the dimensions are about.
///
/// In the closed half are the dimensions that the learned mask closes most, also for the
/// gradient under no mask: what it gives them when nobody closes them. `layer` is the last
/// weights' name. ρs are tested under the key.
///
/// # Panics
/// If a measure has not a value for each dimension.
pub fn gradient_report(
    found: &ByMask<Gradients>,
    layer: Option<&str>,
    measures: &[(&'static str, Vec<f64>)],
    key: Key,
) -> GradientReport {
    let closed = found.learned.as_ref().map(|learned| closed_half(&learned.mask));
    let tested = |g: &[f64]| gradient_profile(g, closed.as_deref(), measures, Some(key));
    let with_loss = |gradient: &LossGradient| LossProfile {
        loss: gradient.loss,
        profile: tested(&gradient.rms),
    };
    let of_loss = |of: &dyn Fn(&Gradients) -> Option<LossGradient>| -> Option<LossReport> {
        let none = with_loss(&of(&found.none)?);
        let learned = found.learned.as_ref().and_then(of);
        let shuffled: Vec<_> =
            found.shuffled.iter().filter_map(|found| Some((found, of(found)?))).collect();
        let profiles: Vec<GradientProfile> = shuffled
            .iter()
            .map(|(found, gradient)| {
                let closed = closed_half(&found.mask);
                gradient_profile(&gradient.rms, Some(&closed), measures, None)
            })
            .collect();
        let losses: f64 = shuffled.iter().map(|(_, gradient)| gradient.loss).sum();
        Some(LossReport {
            learned: learned.as_ref().map(with_loss),
            behind: None,
            none,
            shuffled: mean_profile(&profiles)
                .map(|profile| LossProfile { loss: losses / profiles.len() as f64, profile }),
        })
    };
    let mut base = of_loss(&|found| Some(found.base.clone())).expect("every run has a base loss");
    if let Some(learned) = &found.learned {
        base.behind = learned.behind.as_ref().map(|gradient| tested(&gradient.rms));
    }
    let last_layer = layer.and_then(|name| {
        Some(LayerReport {
            name: name.to_owned(),
            learned: found
                .learned
                .as_ref()
                .and_then(|found| found.last_layer.as_deref())
                .map(tested),
            none: tested(found.none.last_layer.as_deref()?),
        })
    });

    let row_gradient = |of: &dyn Fn(&Gradients) -> Option<f64>| -> Option<RowGradient> {
        let shuffled: Vec<f64> = found.shuffled.iter().filter_map(of).collect();
        let mean = || shuffled.iter().sum::<f64>() / shuffled.len() as f64;
        Some(RowGradient {
            learned: found.learned.as_ref().and_then(of),
            none: of(&found.none)?,
            shuffled: (!shuffled.is_empty()).then(mean),
        })
    };
    let row = |k: usize| GradientRow {
        dimension: k,
        mask: found.learned.as_ref().map(|learned| learned.mask[k]),
        measures: measures.iter().map(|(name, values)| (*name, values[k])).collect(),
        base: row_gradient(&|found| Some(found.base.rms[k])).expect("a base loss"),
        redundancy: row_gradient(&|found| Some(found.redundancy.as_ref()?.rms[k])),
        last_layer: row_gradient(&|found| Some(found.last_layer.as_ref()?[k])),
    };
    let dim = found.none.base.rms.len();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    GradientReport {
        mean_measures: measures.iter().map(|(name, values)| (*name, mean(values))).collect(),
        base,
        redundancy: of_loss(&|found| found.redundancy.clone()),
        last_layer,
        dimensions: (0..dim).map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use metamask_random::Purpose;

    use super::*;

    fn gradients(mask: [f64; 4], rms: [f64; 4], last_layer: Option<[f64; 4]>) -> Gradients {
        let base = LossGradient { loss: mask[0], rms: rms.to_vec() };
        let last_layer = last_layer.map(|norms| norms.to_vec());
        let (mask, redundancy) = (mask.to_vec(), Some(base.clone()));
        Gradients { mask, base, behind: None, redundancy, last_layer }
    }

    #[test]
    fn each_mask_has_its_profile_and_each_dimension_its_numbers() {
        // Squares over 10: with the mask 1, 4, 4, 1; without 4, 4, 1, 1; the orders
        // 1, 1, 4, 4 and 4, 4, 1, 1.
        let found = ByMask {
            learned: Some(Gradients {
                behind: Some(LossGradient { loss: 0.1, rms: vec![3.0, 1.0, 0.0, 1.0] }),
                ..gradients([0.1, 0.8, 0.9, 0.2], [1.0, 2.0, 2.0, 1.0], Some([1.0; 4]))
            }),
            none: gradients([1.0; 4], [2.0, 2.0, 1.0, 1.0], Some([2.0; 4])),
            shuffled: vec![
                gradients([0.2, 0.1, 0.8, 0.9], [1.0, 1.0, 2.0, 2.0], None),
                gradients([0.9, 0.2, 0.8, 0.1], [2.0, 2.0, 1.0, 1.0], None),
            ],
        };
        let measures = [("class_share", vec![1.0, 0.0, 0.0, 0.0])];
        let key = Key::new(0, Purpose::Test);
        let report = gradient_report(&found, Some("w"), &measures, key);
        let LossReport { learned, behind, none, shuffled } = &report.base;
        let learned = learned.as_ref().expect("a mask");
        let shuffled = shuffled.as_ref().expect("orders");
        let check = |profile: &GradientProfile, closed: f64, class: f64| {
            let found = profile.closed_half_share.expect("a mask");
            assert!((found - closed).abs() < 1e-12, "{found} {closed}");
            let found = profile.alignments[0].weighted_mean;
            assert!((found - class).abs() < 1e-12, "{found} {class}");
        };
        // The learned mask closes dimensions 0 and 3; the orders 0 and 1, and 1 and 3.
        check(&learned.profile, 0.2, 0.1);
        check(&none.profile, 0.5, 0.4);
        check(&shuffled.profile, (0.2 + 0.5) / 2.0, (0.1 + 0.4) / 2.0);
        assert_eq!((learned.loss, none.loss), (0.1, 1.0));
        assert!((shuffled.loss - 0.55).abs() < 1e-12);
        assert!(shuffled.profile.alignments[0].p_value.is_none());
        check(behind.as_ref().expect("a mask"), 10.0 / 11.0, 9.0 / 11.0);
        assert!(report.redundancy.expect("a weight").behind.is_none());
        assert_eq!(report.mean_measures["class_share"], 0.25);

        let layer = report.last_layer.expect("weights");
        assert_eq!((layer.name.as_str(), layer.none.norm), ("w", 4.0));
        let row = &report.dimensions[3];
        assert_eq!((row.mask, row.measures["class_share"]), (Some(0.2), 0.0));
        let RowGradient { learned, none, shuffled } = row.base;
        assert_eq!((learned, none, shuffled), (Some(1.0), 1.0, Some(1.5)));
        let last = row.last_layer.expect("weights");
        assert_eq!((last.learned, last.none, last.shuffled), (Some(1.0), 2.0, None));
    }

    #[test]
    fn a_run_without_mask_labels_and_l_drr_has_one_profile() {
        let plain =
            Gradients { redundancy: None, ..gradients([1.0; 4], [2.0, 2.0, 1.0, 1.0], None) };
        let found = ByMask { learned: None, none: plain, shuffled: Vec::new() };
        let report = gradient_report(&found, None, &[], Key::new(0, Purpose::Test));
        let LossReport { learned, behind, none, shuffled } = &report.base;
        assert!(learned.is_none() && behind.is_none() && shuffled.is_none());
        assert_eq!(none.profile.closed_half_share, None);
        assert!(none.profile.alignments.is_empty() && report.mean_measures.is_empty());
        assert!(report.redundancy.is_none() && report.last_layer.is_none());
        assert!(report.dimensions.iter().all(|row| row.mask.is_none()));
    }
}

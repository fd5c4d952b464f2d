//! What a representation is worth where nobody knows the classes: how many of its
//! dimensions the images fill. Neighbours, which are for the eye, are in
//! [`crate::neighbours`].

use metamask_eval::ALPHA_REQ_RANKS;
use metamask_eval::{PowerLaw, alpha_req, covariance_spectrum, effective_rank, rank_me};
use metamask_random::{Key, Purpose};
use serde::{Deserialize, Serialize};

use crate::{
    evaluate::{
        Evaluated, MaskRange, Results, Row, Start, begin, features_of_images, trained_rows,
    },
    failure::Failure,
    learner::Learner,
    observer::Observer,
};

/// How features use their dimensions; larger is not always better
/// (docs/diagnostics.md says when to distrust each).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DimensionUse {
    /// Entropy of the singular values, mean taken off, as a number of directions.
    pub effective_rank: f64,
    /// The same with the mean left in.
    pub rank_me: f64,
    /// Exponent of the power law that the covariance's eigenvalues follow, where
    /// there are enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha_req: Option<f64>,
    /// Share of the logarithms' variance that this law explains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha_req_r_squared: Option<f64>,
}

/// As many features as RankMe's authors ask for (Garrido et al. 2023, arXiv:2210.02885).
const ENOUGH: usize = 25_600;

/// Evaluates a run on images without labels.
pub(crate) fn evaluate_unlabelled(
    evaluated: &Evaluated<'_>,
    observer: &mut dyn Observer,
) -> anyhow::Result<Results> {
    let Evaluated { config, data, learner, at: (step, epoch), places } = *evaluated;
    let images = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
    let (images, n) = (images.images(), images.len());
    let samples = some_of(n, ENOUGH, config.run.seed);
    let size = config.augmentation.size;

    let mut rows = Vec::new();
    let mut add = |named: Vec<(String, Option<candle_core::Tensor>)>, learner: &Learner| {
        let h = features_of_images(learner, images, Some(&samples), size)?;
        for (name, mask) in named {
            let h = match mask {
                Some(m) => h.broadcast_mul(&m)?,
                None => h.clone(),
            };
            let spectrum = covariance_spectrum(&h)?;
            let law: Option<PowerLaw> = alpha_req(&spectrum, ALPHA_REQ_RANKS);
            let dimensions = DimensionUse {
                effective_rank: effective_rank(&h)?,
                rank_me: rank_me(&h)?,
                alpha_req: law.as_ref().map(|law| law.alpha),
                alpha_req_r_squared: law.as_ref().map(|law| law.r_squared),
            };
            rows.push(Row { dimensions: Some(dimensions), ..Row::new(name) });
        }
        candle_core::Result::Ok(())
    };
    if samples.len() > 1 {
        for start in Start::of(config) {
            let name = start.name(config);
            begin(step, &name, observer)?;
            if let Some(learner) = start.learner(config, learner.device(), places, observer)? {
                add(vec![(name, None)], &learner)?;
            }
        }
        begin(step, "trained encoder", observer)?;
        add(trained_rows(config, learner)?, learner)?;
    }

    let looked_at = match samples.len() == n {
        true => String::new(),
        false => format!(", {} of them looked at", samples.len()),
    };
    let (first, last) = (ALPHA_REQ_RANKS.start(), ALPHA_REQ_RANKS.end());
    let protocols = vec![
        "effective rank: exp of the entropy of the singular values, mean taken off".to_owned(),
        "RankMe: the same, mean left in; neither exceeds the number of images".to_owned(),
        format!(
            "alpha-ReQ: exponent of the eigenvalues' power law, ranks {first} to {last}; R² is its fit"
        ),
    ];
    Ok(Results {
        step,
        epoch,
        split: format!("{}: {n} images without labels{looked_at}", data.name),
        protocols,
        chance_percent: 0.0,
        rows,
        mask: learner.meta.as_ref().map(|_| MaskRange::of(learner)).transpose()?,
        mask_controls: None,
    })
}

/// At most `n_wanted` of `n` images, rising, drawn by the seed.
pub(crate) fn some_of(n: usize, n_wanted: usize, seed: u64) -> Vec<u32> {
    let mut order = match n <= n_wanted {
        true => return (0..n as u32).collect(),
        false => Key::new(seed, Purpose::Evaluation).view(SOME).stream().permutation(n as u32),
    };
    order.truncate(n_wanted);
    order.sort_unstable();
    order
}

/// The draws of [`crate::fine_tune`] are views 1 to 3 of their key, the microscope's 0.
const SOME: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_drawn_once_each_by_the_seed_and_few_are_all() {
        assert_eq!(some_of(3, 10, 0), [0, 1, 2]);
        let some = some_of(1000, 10, 0);
        assert!(some.len() == 10 && some.is_sorted_by(|a, b| a < b), "{some:?}");
        assert_eq!(some, some_of(1000, 10, 0));
        assert_ne!(some, some_of(1000, 10, 1));
    }
}

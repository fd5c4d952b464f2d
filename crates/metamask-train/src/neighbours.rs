//! The nearest neighbours of some images: what a representation takes for alike, which
//! needs no label to be looked at.

use candle_core::Tensor;
use metamask_data::{Dataset, Images};
use metamask_eval::nearest;
use metamask_random::{Key, Purpose};

use crate::{
    config::Config,
    evaluate::features_of_images,
    failure::{Code, Failure},
    learner::Learner,
    observer::Observer,
    unlabelled::some_of,
};

/// Some images with their neighbours among others.
#[derive(Clone, Debug)]
pub struct Neighbours {
    /// Where the queries are from: the test images, or for images without labels the bank.
    pub queries: Images,
    /// Where the neighbours are from: the training images, or those without labels.
    pub bank: Images,
    /// Whether both are the same; a query is then not its own neighbour.
    pub is_one_set: bool,
    /// The images of the bank that were looked at.
    pub n_looked_at: usize,
    /// Whether features were masked.
    pub with_mask: bool,
    /// For each query its index, and the nearest with their cosines, the nearest first.
    pub found: Vec<(usize, Vec<(f32, usize)>)>,
}

/// As many images as are looked at in [`crate::unlabelled`].
const ENOUGH: usize = 25_600;
/// The draws of [`crate::unlabelled`] are view 4.
const QUERIES: u16 = 5;

/// The `k` nearest by the cosine of features of `n` images, which are drawn by the seed.
///
/// Features are masked if the run's own number is (`mask.at_test_time`).
///
/// # Errors
/// With a [`Failure`] inside if there are too few images; if a feature is not finite.
pub fn neighbours(
    (config, learner): (&Config, &Learner),
    data: &Dataset,
    (n, k): (usize, usize),
    observer: &mut dyn Observer,
) -> anyhow::Result<Neighbours> {
    let is_one_set = data.train.is_empty() || data.test.is_empty();
    let (queries, bank) = match is_one_set {
        true => {
            let all = data.pretraining(data.pretraining_split()).map_err(Failure::from_data)?;
            (all.images().clone(), all.images().clone())
        }
        false => (data.test.images.clone(), data.train.images.clone()),
    };
    let (seed, size) = (config.run.seed, config.augmentation.size);
    let samples = some_of(bank.len(), ENOUGH, seed);
    // A query is among its own neighbours where both are one set.
    let wanted = k + usize::from(is_one_set);
    if samples.len() < wanted {
        let message = format!("{}: {} images, expected more than {k}", data.name, samples.len());
        return Err(Failure::new(Code::Data, message).into());
    }
    let key = Key::new(seed, Purpose::Evaluation).view(QUERIES);
    let mut chosen = key.stream().permutation(queries.len() as u32);
    chosen.truncate(n);

    let mask = learner.feature_mask()?.filter(|_| config.mask.at_test_time);
    let features = |images: &Images, samples: &[u32]| -> candle_core::Result<Tensor> {
        let h = features_of_images(learner, images, Some(samples), size)?;
        match &mask {
            Some(m) => h.broadcast_mul(m),
            None => Ok(h),
        }
    };
    observer.evaluating("features");
    let bank_features = features(&bank, &samples)?;
    let found = nearest(&bank_features, &features(&queries, &chosen)?, wanted)?;
    let found = chosen.iter().zip(found).map(|(&query, nearest)| {
        let named = nearest.into_iter().map(|(cosine, i)| (cosine, samples[i] as usize));
        let others = named.filter(|&(_, i)| !(is_one_set && i == query as usize));
        (query as usize, others.take(k).collect())
    });
    let found = found.collect();
    let (n_looked_at, with_mask) = (samples.len(), mask.is_some());
    Ok(Neighbours { queries, bank, is_one_set, n_looked_at, with_mask, found })
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use metamask_data::{DatasetSpec, LoadOptions, load};

    use super::*;
    use crate::observer::Silent;

    #[test]
    fn neighbours_are_the_written_out_nearest_and_never_the_query() -> anyhow::Result<()> {
        let set = ["augmentation.size=16", "encoder.width=2"].map(String::from);
        let config = Config::read("", "test", &set)?;
        let some = LoadOptions { train: Some(60), test: Some(20), ..LoadOptions::default() };
        let labelled = load(&DatasetSpec::GarmentsPlain, &some)?;
        let mut unlabelled = labelled.clone();
        unlabelled.unlabelled = Some(unlabelled.train.images.clone().into());
        unlabelled.train = unlabelled.train.slice(0..0);
        unlabelled.test = unlabelled.test.slice(0..0);
        let learner = Learner::new(&config, DType::F32)?;
        for data in [&labelled, &unlabelled] {
            let of = |seed: u64| {
                let mut config = config.clone();
                config.run.seed = seed;
                neighbours((&config, &learner), data, (5, 4), &mut Silent)
            };
            let found = of(0)?;
            assert_eq!(found.is_one_set, data.train.is_empty());
            let features = |images| -> anyhow::Result<Vec<Vec<f32>>> {
                let h = features_of_images(&learner, images, None, 16)?;
                Ok(h.broadcast_mul(&learner.feature_mask()?.expect("a mask"))?.to_vec2()?)
            };
            let (queries, bank) = (features(&found.queries)?, features(&found.bank)?);
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            assert_eq!(found.found.len(), 5);
            for (query, nearest) in &found.found {
                let q = &queries[*query];
                let cosine = |b: &[f32]| dot(q, b) / (dot(q, q) * dot(b, b)).sqrt();
                let mut all: Vec<(f64, usize)> =
                    bank.iter().enumerate().map(|(i, b)| (cosine(b), i)).collect();
                all.retain(|&(_, i)| !(found.is_one_set && i == *query));
                all.sort_by(|a, b| b.0.total_cmp(&a.0));
                for ((found, _), (expected, _)) in nearest.iter().zip(&all) {
                    assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
                }
                assert_eq!(nearest.len(), 4);
            }
            let other = |seed| of(seed).map(|n| n.found.iter().map(|f| f.0).collect::<Vec<_>>());
            assert_eq!(other(0)?, other(0)?);
            assert_ne!(other(0)?, other(1)?);
            let few = neighbours((&config, &learner), data, (5, 60 + 1), &mut Silent);
            assert!(few.is_err(), "sixty images have fewer neighbours");
        }
        Ok(())
    }
}

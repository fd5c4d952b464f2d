//! What the base loss sees of images: embeddings of two views, as in a training step.

use candle_core::{Result, Tensor};
use metamask_data::{Images, Unlabelled};
use metamask_ops::BatchStats;

use crate::{config::Config, learner::Learner, views};

/// Whether embeddings go through the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithMask {
    /// z = g(m ⊙ h), as the run trains it.
    Yes,
    /// z = g(h), by the same head, which was trained behind the mask.
    No,
}

/// z of two views of each image by the head of the base loss.
///
/// Views are drawn by the run's recipe and seed; batches are the training's, in order,
/// or one of all images if there are fewer. Every batch is normalised by its own
/// statistics as in training, so that the loss of these is the loss of a step; with
/// running ones a head that was trained behind the mask would see features of another
/// scale without it. Images that fill no batch at the end are left out.
///
/// # Shapes
/// Returns both views `[n, P]` and the batch's size; n is a multiple of it.
/// # Errors
/// If there are fewer than two images, or the recipe does not suit them.
pub fn embeddings_of(
    config: &Config,
    learner: &Learner,
    images: &Images,
    mask: WithMask,
) -> Result<([Tensor; 2], usize)> {
    let batch = config.training.batch_size.min(images.len());
    if batch < 2 {
        candle_core::bail!("embeddings_of: expected at least 2 images, got {}", images.len());
    }
    let recipe = views::recipe(&config.augmentation)?;
    let images = Unlabelled::from(images.clone());
    let theta = learner.theta();
    let detached = |theta: &[Tensor]| -> Vec<Tensor> { theta.iter().map(Tensor::detach).collect() };
    let (theta_f, theta_g) = (detached(&theta.encoder), detached(&theta.head));
    let m = match mask {
        WithMask::Yes => learner.mask.values()?.detach(),
        WithMask::No => learner.mask.values()?.detach().ones_like()?,
    };
    let theta_g = &theta_g[..learner.head.parameters().len()];

    let samples: Vec<u32> = (0..images.len() as u32).collect();
    let mut parts = [Vec::new(), Vec::new()];
    for samples in samples.chunks_exact(batch) {
        let views = views::make(&images, &recipe, samples, config.run.seed, 0)?;
        let features = learner.features(&views, &theta_f, BatchStats::BatchOnly)?;
        for (part, h) in parts.iter_mut().zip(features) {
            part.push(learner.embedding(&h.detach(), theta_g, &m, BatchStats::BatchOnly)?);
        }
    }
    let [a, b] = parts;
    Ok(([Tensor::cat(&a, 0)?, Tensor::cat(&b, 0)?], batch))
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use metamask_data::Images;
    use metamask_objectives::nt_xent;
    use metamask_ops::{Differentiable as _, Dual};

    use super::*;

    #[test]
    fn their_loss_is_that_of_a_step_and_the_mask_matters() -> Result<()> {
        let set = ["augmentation.size=8", "encoder.width=2", "training.batch_size=4"];
        let set = set.map(String::from);
        let config = Config::read("", "test", &set).expect("valid");
        let learner = Learner::new(&config, DType::F32)?;
        let bytes: Vec<u8> = (0..10 * 8 * 8 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let images = Images::new(bytes, 8, 8).expect("ten images");

        let ([a, b], batch) = embeddings_of(&config, &learner, &images, WithMask::Yes)?;
        assert_eq!((batch, a.dims()), (4, &[8, config.contrastive_head.output][..]));
        // The second batch on its own, by the training's loss.
        let recipe = views::recipe(&config.augmentation)?;
        let unlabelled = Unlabelled::from(images.clone());
        let views = views::make(&unlabelled, &recipe, &[4, 5, 6, 7], config.run.seed, 0)?;
        let given = learner.given(&views, 1.0)?;
        let loss = learner.base_loss(BatchStats::BatchOnly, &given, None);
        let theta = learner.theta();
        let features = learner.features(&views, &theta.encoder, BatchStats::BatchOnly)?;
        let dual = |x: &Tensor| Dual::constant(x.clone());
        let constants = |tensors: &[Tensor]| tensors.iter().map(dual).collect::<Vec<_>>();
        let expected =
            loss(&constants(&features), &constants(&theta.head), &dual(&learner.mask.values()?))?;
        let expected = expected.value.to_scalar::<f32>()?;
        let tau = config.objective.temperature;
        let got = nt_xent(&a.narrow(0, 4, 4)?, &b.narrow(0, 4, 4)?, tau)?.to_scalar::<f32>()?;
        assert!((got - expected).abs() < 1e-5, "{got}, expected {expected}");

        // A constant mask only scales features before a batch norm: half is as good as one.
        let ([without, _], _) = embeddings_of(&config, &learner, &images, WithMask::No)?;
        let apart = (&without - &a)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(apart < 0.05, "{apart}");
        assert!(embeddings_of(&config, &learner, &images.slice(0..1), WithMask::No).is_err());
        Ok(())
    }
}

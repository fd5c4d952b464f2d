//! What must not matter to the meta step, bit by bit.

use candle_core::{DType, Tensor};
use metamask_optim::{Activations, MetaGradient, VirtualStep};
use metamask_train::{
    Config, Moment,
    algorithm::iteration,
    checkpoint::{NamedTensors, State},
};

use crate::{
    cell::{Cell, ITERATIONS, learner_at, views},
    fixture::Fixture,
};

const DTYPE: DType = DType::F32;

fn bits(x: &Tensor) -> anyhow::Result<Vec<u32>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}

fn all_bits(tensors: &NamedTensors) -> anyhow::Result<Vec<(String, Vec<u32>)>> {
    tensors.iter().map(|(name, x)| Ok((name.clone(), bits(x)?))).collect()
}

#[test]
fn activations_that_are_computed_again_give_the_bits_of_those_kept() -> anyhow::Result<()> {
    let start = Fixture::read("metamask_step_start")?;
    for cell in Cell::exact() {
        let expected = Fixture::read(&cell.name())?;
        let run = |activations| -> anyhow::Result<_> {
            let mut config = cell.config(&expected)?;
            config.meta.activations = activations;
            let mut learner = learner_at(&start, &config, DTYPE)?;
            let mut gradients = Vec::new();
            for t in 0..ITERATIONS {
                let views = views(&start, t, DTYPE)?;
                let found = iteration(&mut learner, &views, &Cell::moment(&expected)?)?;
                gradients.extend(found.meta.map(|meta| bits(&meta.total)).transpose()?);
            }
            let end = learner.to_checkpoint(State::default())?;
            let state = [&end.model, &end.optim, &end.mask, &end.departure];
            let state = state.into_iter().map(all_bits).collect::<anyhow::Result<Vec<_>>>()?;
            Ok((gradients, state))
        };
        let (kept, again) = (run(Activations::Keep)?, run(Activations::Recompute)?);
        assert!(kept.0.len() >= 2, "{}: the mask moves", cell.name());
        assert!(kept == again, "{}", cell.name());
    }
    Ok(())
}

#[test]
fn every_second_step_moves_the_mask_as_that_step_would_anyway() -> anyhow::Result<()> {
    let start = Fixture::read("metamask_step_start")?;
    for cell in Cell::exact() {
        let expected = Fixture::read(&cell.name())?;
        let config = cell.config(&expected)?;
        let rates = Cell::moment(&expected)?;
        let with_every = |every: usize| {
            let mut config = Config::default();
            config.meta.every = every;
            move |t: usize| {
                let Moment { mask_moves, mask_moves_next, .. } = Moment::of(&config, t as u64, 10);
                Moment { mask_moves, mask_moves_next, ..rates }
            }
        };
        let (every_second, every_step) = (with_every(2), with_every(1));
        let mut learner = learner_at(&start, &config, DTYPE)?;
        let mut states = Vec::new();
        for t in 0..4 {
            states.push(learner.to_checkpoint(State::default())?);
            let w = bits(learner.mask.logits.as_tensor())?;
            let found = iteration(&mut learner, &views(&start, t, DTYPE)?, &every_second(t))?;
            let moved = w != bits(learner.mask.logits.as_tensor())?;
            let moves = t % 2 == 1;
            assert_eq!((found.meta.is_some(), moved), (moves, moves), "{}, {t}", cell.name());
            let Some(MetaGradient { total, .. }) = found.meta else { continue };

            // One that moves its mask whenever it can, from where that step begins. A
            // lookahead's begins an iteration earlier, in which it cannot move yet.
            let from = if cell.virtual_step == VirtualStep::Lookahead { t - 1 } else { t };
            let mut other = learner_at(&start, &config, DTYPE)?;
            other.restore(&states[from])?;
            let mut last = None;
            for t in from..=t {
                last = iteration(&mut other, &views(&start, t, DTYPE)?, &every_step(t))?.meta;
            }
            let last = last.expect("its mask moves");
            assert!(bits(&last.total)? == bits(&total)?, "{}, {t}", cell.name());
        }
    }
    Ok(())
}

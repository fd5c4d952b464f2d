//! Random binary masks over a frozen representation: how much a mask can help that knows
//! nothing (the paper's figure 2), and how much of that is the luck of choosing.

use candle_core::{Result, Tensor, bail};
use metamask_random::Key;

use crate::{Knn, accuracy_percent, check_labels, knn_predict};

/// What random masks are held against.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomMasks {
    /// Accuracy without a mask, in percent: on the half that chooses, and on the other.
    pub unmasked: [f64; 2],
    /// Every mask, rate by rate.
    pub draws: Vec<MaskDraw>,
}

/// A random binary mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskDraw {
    /// Share of the dimensions that are masked out.
    pub rate: f64,
    /// Accuracy with it, in percent: on the half that chooses, and on the other.
    pub accuracy: [f64; 2],
}

impl RandomMasks {
    /// The mask of a rate that is best on the half that chooses, the first of equal ones. Its
    /// accuracy on the other half is what choosing among so many is worth.
    pub fn chosen(&self, rate: f64) -> Option<MaskDraw> {
        let of_rate = self.draws.iter().filter(|draw| draw.rate == rate);
        of_rate.fold(None, |best: Option<MaskDraw>, &draw| match best {
            Some(best) if best.accuracy[0] >= draw.accuracy[0] => Some(best),
            _ => Some(draw),
        })
    }
}

/// kNN accuracy under `draws` random binary masks of each rate.
///
/// ```text
/// mₖ ∈ {0, 1}, round(rate · D) of them 0, every such mask as likely        kNN on m ⊙ h
/// ```
/// The queries are cut into two halves at random. The best of many draws beats the unmasked
/// representation by chance on the queries that it was chosen on; only its accuracy on the
/// others says anything. `begins` hears of each rate.
///
/// # Shapes
/// `bank`: `[n, D]` with `n` labels, `queries`: `[m, D]` with `m` labels, m ≥ 2; rates in
/// `[0, 1)`, and at least one dimension is always left.
/// # Errors
/// If shapes, labels or settings do not fit, or a feature is not finite.
pub fn random_masks(
    (bank, bank_labels): (&Tensor, &[u32]),
    (queries, query_labels): (&Tensor, &[u32]),
    (n_classes, knn): (usize, Knn),
    (rates, draws): (&[f64], u16),
    key: Key,
    begins: &mut dyn FnMut(f64),
) -> Result<RandomMasks> {
    let (m, dim) = queries.dims2()?;
    if m < 2 || dim == 0 {
        bail!("random_masks: expected at least 2 queries of some width, got [{m}, {dim}]");
    }
    check_labels("random_masks", query_labels, m, n_classes)?;
    if let Some(rate) = rates.iter().find(|rate| !(0.0..1.0).contains(*rate)) {
        bail!("random_masks: rates must be from 0 to below 1, got {rate}");
    }
    let order = key.stream().permutation(m as u32);
    let halves = order.split_at(m / 2);
    let accuracy = |mask: Option<&Tensor>| -> Result<[f64; 2]> {
        let masked = |h: &Tensor| match mask {
            Some(mask) => h.broadcast_mul(mask),
            None => Ok(h.clone()),
        };
        let guessed = knn_predict(&masked(bank)?, bank_labels, &masked(queries)?, knn, n_classes)?;
        let of = |half: &[u32]| {
            let pick = |all: &[u32]| half.iter().map(|&i| all[i as usize]).collect::<Vec<_>>();
            accuracy_percent(&pick(&guessed), &pick(query_labels))
        };
        Ok([of(halves.0)?, of(halves.1)?])
    };

    let unmasked = accuracy(None)?;
    let mut found = Vec::with_capacity(rates.len() * usize::from(draws));
    for (i, &rate) in (0..).zip(rates) {
        begins(rate);
        let n_out = ((rate * dim as f64).round() as usize).min(dim - 1);
        for draw in 0..draws {
            // The halves are drawn by the key of epoch 0.
            let stream = &mut key.epoch(1 + i).view(draw).stream();
            let mut mask = vec![1f32; dim];
            for &k in &stream.permutation(dim as u32)[..n_out] {
                mask[k as usize] = 0.0;
            }
            let mask = Tensor::from_vec(mask, dim, bank.device())?.to_dtype(bank.dtype())?;
            found.push(MaskDraw { rate, accuracy: accuracy(Some(&mask))? });
        }
    }
    Ok(RandomMasks { unmasked, draws: found })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use metamask_random::Purpose;

    use super::*;

    /// Two classes that only dimension 0 of four tells apart; the others are large noise.
    fn planted(n: usize, seed: u64) -> Result<(Tensor, Vec<u32>)> {
        let mut stream = Key::new(seed, Purpose::Test).stream();
        let labels: Vec<u32> = (0..n as u32).map(|i| i % 2).collect();
        let rows: Vec<f32> = labels
            .iter()
            .flat_map(|&label| {
                let sign = 2.0 * f64::from(label) - 1.0;
                [
                    sign + 0.3 * stream.normal(),
                    2.0 * stream.normal(),
                    2.0 * stream.normal(),
                    2.0 * stream.normal(),
                ]
            })
            .map(|x| x as f32)
            .collect();
        Ok((Tensor::from_vec(rows, (n, 4), &Device::Cpu)?, labels))
    }

    #[test]
    fn a_mask_that_leaves_the_planted_dimension_is_chosen_and_right_elsewhere() -> Result<()> {
        let ((bank, bank_labels), (queries, labels)) = (planted(200, 1)?, planted(100, 2)?);
        let knn = Knn { k: 5, temperature: 0.1 };
        let key = Key::new(0, Purpose::Evaluation);
        let (bank, queries) = ((&bank, &bank_labels[..]), (&queries, &labels[..]));
        let found = random_masks(bank, queries, (2, knn), (&[0.0, 0.75], 40), key, &mut |_| {})?;
        assert_eq!(found.draws.len(), 80);
        // Nothing masked is the unmasked representation, draw by draw.
        assert!(found.draws[..40].iter().all(|draw| draw.accuracy == found.unmasked));
        // One dimension of four left: a fourth of the draws is right, the others guess.
        let chosen = found.chosen(0.75).expect("draws");
        assert!(chosen.accuracy.iter().all(|&accuracy| accuracy > 95.0), "{chosen:?}");
        assert!(chosen.accuracy[1] > found.unmasked[1] + 3.0, "{:?}", found.unmasked);
        let guesses = found.draws[40..].iter().filter(|draw| draw.accuracy[1] < 75.0).count();
        assert!((20..40).contains(&guesses), "{guesses} of 40 guess");
        assert_eq!(found.chosen(0.5), None);
        let same = random_masks(bank, queries, (2, knn), (&[0.0, 0.75], 40), key, &mut |_| {})?;
        assert_eq!(found, same);
        assert!(random_masks(bank, queries, (2, knn), (&[1.0], 1), key, &mut |_| {}).is_err());
        Ok(())
    }

    #[test]
    fn choosing_among_masks_of_noise_is_luck_and_gone_on_the_other_half() -> Result<()> {
        // Classes that no dimension knows of: 50 % whatever the mask, but for chance.
        let noise = |seed: u64| -> Result<(Tensor, Vec<u32>)> {
            let mut stream = Key::new(seed, Purpose::Test).stream();
            let values: Vec<f32> = (0..200 * 8).map(|_| stream.normal() as f32).collect();
            let labels = (0..200).map(|_| stream.below(2)).collect();
            Ok((Tensor::from_vec(values, (200, 8), &Device::Cpu)?, labels))
        };
        let knn = Knn { k: 5, temperature: 0.1 };
        let mut gains = [0.0; 2];
        let n = 8;
        for seed in 0..n {
            let ((bank, bank_labels), (queries, labels)) = (noise(seed)?, noise(100 + seed)?);
            let key = Key::new(seed, Purpose::Evaluation);
            let (bank, queries) = ((&bank, &bank_labels[..]), (&queries, &labels[..]));
            let found = random_masks(bank, queries, (2, knn), (&[0.5], 40), key, &mut |_| {})?;
            let chosen = found.chosen(0.5).expect("draws");
            for half in [0, 1] {
                gains[half] += (chosen.accuracy[half] - found.unmasked[half]) / n as f64;
            }
        }
        // A gain on 100 queries spreads by about 6 points; the best of 40 lies two above 0.
        assert!(gains[0] > 6.0, "the best of 40: {gains:?}");
        assert!(gains[1].abs() < 5.0, "and elsewhere nothing: {gains:?}");
        Ok(())
    }
}

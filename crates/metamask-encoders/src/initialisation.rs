//! PyTorch's default initial values, drawn from counter-based streams.
//!
//! Every parameter has a stream of its own, so a layer's values depend on its
//! place in the network but not on how many numbers the layers before it drew.

use candle_core::{DType, Device, Result, Tensor};
use metamask_ops::{ParameterEntry, ParameterKind};
use metamask_random::Key;

/// Initial values of `entries`, flat, as their spans lay them out.
///
/// ```text
/// convolution, linear, their biases   uniform in (−b, b), b = 1 / √fan_in
/// normalisation                       scale 1, shift 0
/// ```
/// That is PyTorch's Kaiming uniform with a = √5. A bias takes the fan-in of the
/// weight before it. Entry i reads the stream `key.epoch(i)` in f64, in the
/// order of PyTorch's layout (a convolution's out, in, height, width), and is
/// then cast, so f32 holds the rounded f64 values. Modules with one key would
/// draw the same numbers: tell them apart by `key.sample(..)`.
///
/// # Errors
/// If the device fails.
/// # Panics
/// If an entry is no parameter of an encoder or a head, or a bias has no weight before it.
pub fn initial_parameters(
    entries: &[ParameterEntry],
    key: Key,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let mut values = vec![0.0; entries.last().map_or(0, |entry| entry.span.end)];
    let mut fan_in = None;
    for (idx, entry) in entries.iter().enumerate() {
        let values = &mut values[entry.span.clone()];
        match entry.kind {
            ParameterKind::Convolution => {
                let [height, width, n_in, n_out] = entry.shape[..] else {
                    unreachable!("convolution weights are [height, width, in, out]")
                };
                fan_in = Some(height * width * n_in);
                let drawn = uniform(key.epoch(idx as u32), values.len(), fan_in);
                for (place, value) in drawn.enumerate() {
                    // place = ((out · n_in + in) · height + h) · width + w
                    let (kernel, pixel) = (place / (height * width), place % (height * width));
                    values[(pixel * n_in + kernel % n_in) * n_out + kernel / n_in] = value;
                }
            }
            ParameterKind::Linear => {
                fan_in = Some(entry.shape[1]);
                let drawn = uniform(key.epoch(idx as u32), values.len(), fan_in);
                values.iter_mut().zip(drawn).for_each(|(slot, value)| *slot = value);
            }
            ParameterKind::Bias => {
                let drawn = uniform(key.epoch(idx as u32), values.len(), fan_in);
                values.iter_mut().zip(drawn).for_each(|(slot, value)| *slot = value);
            }
            ParameterKind::NormScale => values.fill(1.0),
            ParameterKind::NormShift => {}
            ParameterKind::RunningMean
            | ParameterKind::RunningVariance
            | ParameterKind::MaskLogits => {
                unreachable!("`{}` is no parameter of an encoder or a head", entry.name)
            }
        }
    }
    let len = values.len();
    Tensor::from_vec(values, len, device)?.to_dtype(dtype)
}

/// Initial running statistics of `entries`, flat: mean 0, variance 1.
///
/// # Errors
/// If the device fails.
/// # Panics
/// If an entry is none.
pub fn initial_running_statistics(
    entries: &[ParameterEntry],
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let mut values = vec![0.0; entries.last().map_or(0, |entry| entry.span.end)];
    for entry in entries {
        match entry.kind {
            ParameterKind::RunningMean => {}
            ParameterKind::RunningVariance => values[entry.span.clone()].fill(1.0),
            _ => unreachable!("`{}` is no running statistic", entry.name),
        }
    }
    let len = values.len();
    // There may be none, which a GPU does not convert.
    Tensor::from_vec(values, len, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// `n` numbers uniform in (−b, b), b = 1 / √fan_in.
fn uniform(key: Key, n: usize, fan_in: Option<usize>) -> impl Iterator<Item = f64> {
    let fan_in = fan_in.expect("a bias follows its weight");
    let bound = (fan_in as f64).sqrt().recip();
    let mut stream = key.stream();
    (0..n).map(move |_| bound * (2.0 * stream.uniform_f64() - 1.0))
}

#[cfg(test)]
mod tests {
    use metamask_random::Purpose;

    use super::*;

    const KEY: Key = Key::new(11, Purpose::Initialisation);

    fn entry(shape: &[usize], start: usize, kind: ParameterKind) -> ParameterEntry {
        let span = start..start + shape.iter().product::<usize>();
        ParameterEntry { name: "layer".into(), shape: shape.to_vec(), span, kind }
    }

    fn values(entries: &[ParameterEntry]) -> Result<Vec<f64>> {
        initial_parameters(entries, KEY, DType::F64, &Device::Cpu)?.to_vec1()
    }

    #[test]
    fn weights_and_biases_fill_their_bounds_evenly() -> Result<()> {
        let check = |entries: &[ParameterEntry], fan_in: usize| -> Result<()> {
            let bound = 1.0 / (fan_in as f64).sqrt();
            for entry in entries {
                let values = &values(entries)?[entry.span.clone()];
                let n = values.len() as f64;
                let mean = values.iter().sum::<f64>() / n / bound;
                let square = values.iter().map(|x| x * x).sum::<f64>() / n / bound.powi(2);
                let largest = values.iter().fold(0.0, |max: f64, x| max.max(x.abs())) / bound;
                // Of the unit's uniform: variance 1/3, variance of the square 4/45.
                assert!(mean.abs() < 4.0 * (1.0 / 3.0 / n).sqrt(), "{entry:?}: mean {mean}");
                assert!((square - 1.0 / 3.0).abs() < 4.0 * (4.0 / 45.0 / n).sqrt(), "{entry:?}");
                assert!((0.99..1.0).contains(&largest), "{entry:?}: largest {largest}");
            }
            Ok(())
        };
        check(&[entry(&[3, 3, 16, 32], 0, ParameterKind::Convolution)], 9 * 16)?;
        check(
            &[
                entry(&[1000, 50], 0, ParameterKind::Linear),
                entry(&[1000], 50_000, ParameterKind::Bias),
            ],
            50,
        )
    }

    #[test]
    fn convolutions_are_drawn_in_pytorch_s_order() -> Result<()> {
        let (height, width, n_in, n_out) = (2, 3, 4, 5);
        let stored =
            values(&[entry(&[height, width, n_in, n_out], 0, ParameterKind::Convolution)])?;
        let mut stream = KEY.stream();
        let bound = 1.0 / 24f64.sqrt();
        for o in 0..n_out {
            for i in 0..n_in {
                for h in 0..height {
                    for w in 0..width {
                        let expected = bound * (2.0 * stream.uniform_f64() - 1.0);
                        assert_eq!(stored[((h * width + w) * n_in + i) * n_out + o], expected);
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn every_parameter_has_its_own_stream() -> Result<()> {
        let second = |first_size: usize| {
            let first = entry(&[first_size, 4], 0, ParameterKind::Linear);
            let second = entry(&[3, 4], first.span.end, ParameterKind::Linear);
            let span = second.span.clone();
            Ok::<_, candle_core::Error>(values(&[first, second])?[span].to_vec())
        };
        assert_eq!(second(1)?, second(7)?);
        let both = values(&[
            entry(&[3, 4], 0, ParameterKind::Linear),
            entry(&[3, 4], 12, ParameterKind::Linear),
        ])?;
        assert_ne!(both[..12], both[12..]);
        Ok(())
    }

    #[test]
    fn f32_values_are_the_rounded_f64_ones() -> Result<()> {
        let entries = [entry(&[8, 8], 0, ParameterKind::Linear)];
        let single = initial_parameters(&entries, KEY, DType::F32, &Device::Cpu)?;
        let rounded: Vec<f32> = values(&entries)?.into_iter().map(|x| x as f32).collect();
        assert_eq!(single.to_vec1::<f32>()?, rounded);
        Ok(())
    }

    #[test]
    fn normalisations_start_as_the_identity() -> Result<()> {
        let entries =
            [entry(&[2], 0, ParameterKind::NormScale), entry(&[2], 2, ParameterKind::NormShift)];
        assert_eq!(values(&entries)?, [1.0, 1.0, 0.0, 0.0]);
        let entries = [
            entry(&[2], 0, ParameterKind::RunningMean),
            entry(&[2], 2, ParameterKind::RunningVariance),
        ];
        let running = initial_running_statistics(&entries, DType::F64, &Device::Cpu)?;
        assert_eq!(running.to_vec1::<f64>()?, [0.0, 0.0, 1.0, 1.0]);
        Ok(())
    }
}

//! Whether a device computes what the CPU does: whole iterations of every method on both, and all
//! that they leave.

use candle_core::{DType, Device, Tensor};
use metamask_random::{Key, Purpose};

use crate::algorithm::iteration;
use crate::checkpoint::{Checkpoint, NamedTensors, State};
use crate::config::Config;
use crate::failure::Failure;
use crate::learner::Learner;
use crate::moment::Moment;

/// What is computed on both.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it is, in words.
    pub name: &'static str,
    /// Its settings, beside those of a network of some hundred numbers.
    settings: &'static [&'static str],
}

/// Every method, every form of the meta step, three optimisers, two encoders.
pub const CASES: [Case; 8] = [
    Case {
        name: "SimCLR, L_drr, mask shared exact",
        settings: &["objective.redundancy_weight=0.01", "mask.learning_rate=1"],
    },
    Case {
        name: "SimCLR, mask lookahead exact",
        settings: &["meta.virtual_step=lookahead", "mask.learning_rate=1"],
    },
    Case {
        name: "SimCLR, L_drr, the authors' mask",
        settings: &[
            "objective.redundancy_weight=1",
            "objective.alpha=10",
            "meta.virtual_step=after-regular",
            "meta.hypergradient=finite-difference",
        ],
    },
    Case {
        name: "Barlow Twins by LARS",
        settings: &["objective.method=barlow-twins", "optimizer.rule=lars", "mask.mode=off"],
    },
    Case {
        name: "BYOL, mask lookahead first-order",
        settings: &[
            "objective.method=byol",
            "meta.virtual_step=lookahead",
            "meta.hypergradient=first-order",
        ],
    },
    Case {
        name: "DCL by Adam, mask shared exact",
        settings: &["objective.method=dcl", "optimizer.rule=adam", "optimizer.learning_rate=0.001"],
    },
    Case {
        name: "HCL on a ResNet-18, recomputed",
        settings: &[
            "objective.method=hcl",
            "encoder.architecture=resnet",
            "encoder.stem=cifar",
            "meta.activations=recompute",
        ],
    },
    Case { name: "NNCLR, mask shared exact", settings: &["objective.method=nnclr"] },
];

const SMALL: [&str; 9] = [
    "encoder.architecture=conv",
    "encoder.width=2",
    "contrastive_head.hidden=[4]",
    "contrastive_head.output=4",
    "redundancy_head.hidden=[4]",
    "redundancy_head.output=4",
    "predictor.hidden=[4]",
    "queue.size=8",
    "training.batch_size=4",
];

/// Images of a batch and their side.
const BATCH: usize = 4;
const SIDE: usize = 8;

/// A tensor that is this small is all but zero: a difference is then taken over this.
const FLOOR: f64 = 1e-3;

/// The largest difference that there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Disagreement {
    /// Over the largest number of its tensor.
    pub relative: f64,
    /// Which tensor, or which number.
    pub at: String,
}

/// Two iterations of a case on the CPU in f64.
pub struct Reference<'a> {
    case: &'a Case,
    left: Left,
}

impl Case {
    /// What the CPU makes of it.
    ///
    /// # Errors
    /// If it cannot be computed.
    pub fn reference(&self) -> anyhow::Result<Reference<'_>> {
        let left = two_iterations(&self.config("exact")?, &Device::Cpu, DType::F64)?;
        Ok(Reference { case: self, left })
    }

    fn config(&self, precision: &str) -> Result<Config, Failure> {
        let precision = format!("engine.precision={precision}");
        let settings = SMALL.iter().chain(self.settings).copied().chain([precision.as_str()]);
        let settings: Vec<String> = settings.map(str::to_owned).collect();
        Config::read("", self.name, &settings)
    }
}

/// Two iterations of a case on `device` in `dtype` and with `precision` (`exact`, `fast`, `bf16`),
/// against the reference: all that they leave, and the loss of the first alone.
///
/// The networks are small and normalise by four images, which makes much of a rounding: in bfloat16
/// only the first loss can be compared.
///
/// # Errors
/// If one of them cannot be computed there.
pub fn disagreements(
    Reference { case, left: expected }: &Reference<'_>,
    device: &Device,
    dtype: DType,
    precision: &str,
) -> anyhow::Result<(Disagreement, f64)> {
    let found = two_iterations(&case.config(precision)?, device, dtype)?;
    let mut largest = Disagreement { relative: 0.0, at: "nothing".to_owned() };
    let mut meet = |difference: f64, scale: f64, at: &str| {
        let relative = difference / scale.max(FLOOR);
        if is_less(largest.relative, relative) {
            largest = Disagreement { relative, at: at.to_owned() };
        }
        relative
    };
    let mut first_loss = f64::NAN;
    for (i, (found, expected)) in found.numbers.iter().zip(&expected.numbers).enumerate() {
        let name = ["loss", "base loss", "gradient's norm"][i % 3];
        let at = format!("{name} of step {}", i / 3 + 1);
        let relative = meet((found - expected).abs(), expected.abs(), &at);
        if i == 0 {
            first_loss = relative;
        }
    }
    for (found, expected) in found.tensors().into_iter().zip(expected.tensors()) {
        anyhow::ensure!(found.keys().eq(expected.keys()), "{}: other tensors", case.name);
        for (name, expected) in expected {
            anyhow::ensure!(found[name].dims() == expected.dims(), "{name}: another shape");
            if expected.elem_count() > 0 && expected.dtype().is_float() {
                let (difference, scale) = distance(&found[name], expected)?;
                meet(difference, scale, name);
            }
        }
    }
    Ok((largest, first_loss))
}

/// What two iterations leave.
struct Left {
    /// Loss, base loss and the gradient's norm of each.
    numbers: Vec<f64>,
    checkpoint: Checkpoint,
}

impl Left {
    fn tensors(&self) -> [&NamedTensors; 4] {
        let Checkpoint { model, optim, mask, departure, .. } = &self.checkpoint;
        [model, optim, mask, departure]
    }
}

fn two_iterations(config: &Config, device: &Device, dtype: DType) -> anyhow::Result<Left> {
    let mut learner = Learner::on(device, config, dtype)?;
    let mut numbers = Vec::new();
    for step in 0..2 {
        let views = learner.take_views(&random_views(step as u32, dtype)?)?;
        let found = iteration(&mut learner, &views, &Moment::of(config, step, 10))?;
        numbers.extend([found.loss, found.base_loss, found.gradient_norm]);
    }
    Ok(Left { numbers, checkpoint: learner.to_checkpoint(State::default())? })
}

fn random_views(sample: u32, dtype: DType) -> candle_core::Result<[Tensor; 2]> {
    let view = |view: u16| {
        let mut stream = Key::new(0, Purpose::Test).sample(sample).view(view).stream();
        let pixels: Vec<f64> = (0..BATCH * SIDE * SIDE * 3).map(|_| stream.normal()).collect();
        Tensor::from_vec(pixels, (BATCH, SIDE, SIDE, 3), &Device::Cpu)?.to_dtype(dtype)
    };
    Ok([view(0)?, view(1)?])
}

/// Whether a < b, where a NaN is the largest of all.
fn is_less(a: f64, b: f64) -> bool {
    !a.is_nan() && (b.is_nan() || a < b)
}

/// The largest difference of two tensors, and the largest number of the second.
fn distance(found: &Tensor, expected: &Tensor) -> candle_core::Result<(f64, f64)> {
    let numbers = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
    let (found, expected) = (numbers(found)?, numbers(expected)?);
    let largest = |a: f64, b: f64| if is_less(a, b) { b } else { a };
    let difference = found.iter().zip(&expected).map(|(f, e)| (f - e).abs());
    Ok((difference.fold(0.0, largest), expected.iter().map(|e| e.abs()).fold(0.0, largest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_agrees_with_itself() -> anyhow::Result<()> {
        let (found, first_loss) =
            disagreements(&CASES[0].reference()?, &Device::Cpu, DType::F64, "exact")?;
        assert_eq!(found, Disagreement { relative: 0.0, at: "nothing".to_owned() });
        assert_eq!(first_loss, 0.0);
        Ok(())
    }

    #[test]
    fn rounding_is_seen_in_every_case_and_is_small() -> anyhow::Result<()> {
        for case in &CASES {
            let reference = case.reference()?;
            let (found, _) = disagreements(&reference, &Device::Cpu, DType::F32, "exact")?;
            assert!(found.relative > 1e-9 && found.relative < 0.1, "{}: {found:?}", case.name);
            for (precision, bound) in [("fast", 1e-3), ("bf16", 0.1)] {
                let (_, first) = disagreements(&reference, &Device::Cpu, DType::F32, precision)?;
                assert!(first < bound, "{}: {first:.1e} in {precision}", case.name);
            }
        }
        Ok(())
    }

    #[test]
    fn a_nan_is_the_largest_difference() -> candle_core::Result<()> {
        let tensor = |numbers: &[f64]| Tensor::new(numbers, &Device::Cpu);
        let (difference, scale) =
            distance(&tensor(&[1.0, f64::NAN, 7.0])?, &tensor(&[1.0, -2.0, 3.0])?)?;
        assert!(difference.is_nan());
        assert_eq!(scale, 3.0);
        Ok(())
    }
}

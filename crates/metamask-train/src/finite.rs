//! Numbers that are not finite: found in the step in which they arise, and the tensor named.

use std::fmt;

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};
use metamask_ops::ParameterEntry;
use metamask_optim::MetaGradient;

use crate::{
    algorithm::{Iteration, scalars, square},
    learner::Learner,
};

/// What of a step a tensor is, in the order in which a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The two views of the batch.
    Views,
    /// Features and embeddings.
    Forward,
    /// The losses.
    Losses,
    /// ∇_θ L, a parameter at a time; the layers next to the loss first.
    Gradient,
    /// d, the second-order term and G.
    Hypergradient,
    /// Parameters, mask and running statistics after the step.
    After,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 6] = [
        Self::Views,
        Self::Forward,
        Self::Losses,
        Self::Gradient,
        Self::Hypergradient,
        Self::After,
    ];

    /// Its name as it is printed.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Views => "views",
            Self::Forward => "features, embeddings",
            Self::Losses => "losses",
            Self::Gradient => "gradient",
            Self::Hypergradient => "hypergradient",
            Self::After => "after the step",
        }
    }
}

/// A tensor of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What of the step it is.
    pub stage: Stage,
    /// Its name, such as `gradient of encoder.conv1.weight`.
    pub name: String,
    /// How many of its numbers are NaN or infinite.
    pub bad: usize,
    /// How many numbers it has.
    pub of: usize,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bad, of, .. } = self;
        write!(f, "{name} has {bad} of {of} values that are not finite, expected none")
    }
}

/// Every tensor of a step, in the order in which it is computed; the first that is not
/// finite is where the number was lost.
///
/// # Errors
/// If a tensor cannot be read.
pub fn examine(learner: &Learner, views: &[Tensor; 2], found: &Iteration) -> Result<Vec<Part>> {
    let mut parts = Parts(Vec::new());
    parts.look(Stage::Views, "view a", &views[0])?;
    parts.look(Stage::Views, "view b", &views[1])?;
    parts.look(Stage::Forward, "features of view a", &found.features)?;
    parts.look(Stage::Forward, "embedding of view a", &found.embeddings[0])?;
    parts.look(Stage::Forward, "embedding of view b", &found.embeddings[1])?;

    parts.look_at_number("the base loss", found.base_loss);
    if let Some(loss) = found.redundancy_loss {
        parts.look_at_number("the redundancy loss", loss);
    }
    parts.look_at_number("the loss", found.loss);

    let groups = learner.groups.iter().zip(learner.prefixes());
    let gradient: Vec<_> = groups.zip(&found.gradient).collect();
    for ((group, prefix), gradient) in gradient.into_iter().rev() {
        let flat = gradient.flatten_all()?;
        for ParameterEntry { name, span, .. } in group.entries.iter().rev() {
            let part = flat.narrow(0, span.start, span.len())?;
            parts.look(Stage::Gradient, &format!("gradient of {prefix}{name}"), &part)?;
        }
    }
    if let Some(MetaGradient { direct, second_order, total, .. }) = &found.meta {
        let stage = Stage::Hypergradient;
        parts.look(stage, "the hypergradient's direct part", direct)?;
        if let Some(second_order) = second_order {
            parts.look(stage, "the hypergradient's second-order part", second_order)?;
        }
        parts.look(stage, "the hypergradient", total)?;
    }
    for (group, prefix) in learner.named_groups() {
        let flat = group.tensor().flatten_all()?;
        for ParameterEntry { name, span, .. } in &group.entries {
            let part = flat.narrow(0, span.start, span.len())?;
            parts.look(Stage::After, &format!("{prefix}{name} after the step"), &part)?;
        }
    }
    parts.look(Stage::After, "mask.logits after the step", &learner.mask.logits)?;
    Ok(parts.0)
}

struct Parts(Vec<Part>);

impl Parts {
    fn look(&mut self, stage: Stage, name: &str, tensor: &Tensor) -> Result<()> {
        let (bad, of) = (count_not_finite(tensor)?, tensor.elem_count());
        self.0.push(Part { stage, name: name.to_owned(), bad, of });
        Ok(())
    }

    fn look_at_number(&mut self, name: &str, number: f64) {
        let bad = usize::from(!number.is_finite());
        self.0.push(Part { stage: Stage::Losses, name: name.to_owned(), bad, of: 1 });
    }
}

/// Whether a step is sound, from its norms and from what it leaves: one pass over the
/// parameters, next to nothing beside the step.
///
/// # Errors
/// If a tensor cannot be read.
pub fn is_finite(learner: &Learner, found: &Iteration) -> Result<bool> {
    if !(found.loss.is_finite() && found.gradient_norm.is_finite()) {
        return Ok(false);
    }
    let groups = learner.named_groups();
    let kept = groups.iter().map(|(group, _)| group.tensor().clone());
    let mut tensors: Vec<Tensor> = kept.chain([learner.mask.logits.as_detached_tensor()]).collect();
    if let Some(meta) = &found.meta {
        // Squares that overflow are as bad.
        tensors.push(square(&meta.total)?);
    }
    Ok(counts_not_finite(&tensors)? == 0)
}

/// How many of a tensor's numbers are NaN or infinite.
pub(crate) fn count_not_finite(tensor: &Tensor) -> Result<usize> {
    counts_not_finite(std::slice::from_ref(tensor))
}

/// How many of the numbers of all of them are; a GPU is waited for once.
fn counts_not_finite(tensors: &[Tensor]) -> Result<usize> {
    let (mut count, mut there) = (0, Vec::new());
    for tensor in tensors.iter().filter(|tensor| tensor.elem_count() > 0) {
        match tensor.dtype() {
            DType::F32 | DType::F64 if tensor.device().is_cpu() => count += count_here(tensor)?,
            // 0 x is 0 for every number, and for nothing else.
            DType::F32 | DType::F64 => {
                there.push((tensor * 0.0)?.ne(0.0)?.to_dtype(DType::F32)?.sum_all()?);
            }
            _ => {} // counts
        }
    }
    if !there.is_empty() {
        count += scalars(&there)?.iter().map(|count| count.ceil() as usize).sum::<usize>();
    }
    Ok(count)
}

fn count_here(tensor: &Tensor) -> Result<usize> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = (layout.start_offset(), layout.start_offset() + tensor.elem_count());
    // Sums without a branch, which compilers turn into vector code.
    match &*storage {
        Storage::Cpu(CpuStorage::F32(x)) => {
            Ok(x[start..end].iter().map(|x| usize::from(!x.is_finite())).sum())
        }
        Storage::Cpu(CpuStorage::F64(x)) => {
            Ok(x[start..end].iter().map(|x| usize::from(!x.is_finite())).sum())
        }
        _ => candle_core::bail!("count of what is not finite: expected a tensor on the CPU"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::{Config, Moment, algorithm::iteration};

    fn learner(overrides: &[&str]) -> (Config, Learner) {
        let text = "
            [augmentation]
            size = 8
            [encoder]
            width = 2
            [contrastive_head]
            hidden = [4]
            output = 4
            [redundancy_head]
            hidden = [4]
            output = 4
            [objective]
            redundancy_weight = 0.01
            [training]
            epochs = 1
            batch_size = 4";
        let overrides: Vec<String> = overrides.iter().map(|&set| set.to_owned()).collect();
        let config = Config::read(text, "test", &overrides).expect("valid");
        let learner = Learner::new(&config, DType::F32).expect("a learner");
        (config, learner)
    }

    fn views(value: impl Fn(usize) -> f32) -> [Tensor; 2] {
        let view = |offset: usize| {
            let numbers: Vec<f32> = (0..4 * 8 * 8 * 3).map(|i| value(i + offset)).collect();
            Tensor::from_vec(numbers, (4, 8, 8, 3), &Device::Cpu).expect("a view")
        };
        [view(0), view(3)]
    }

    fn noise(i: usize) -> f32 {
        ((i * 7919 % 1009) as f32 / 500.0) - 1.0
    }

    /// The first tensor of a step that is not finite.
    fn first_lost(learner: &mut Learner, config: &Config, views: &[Tensor; 2]) -> Option<String> {
        let found = iteration(learner, views, &Moment::of(config, 0, 1)).expect("a step");
        let parts = examine(learner, views, &found).expect("readable");
        assert!(parts.is_sorted_by_key(|part| part.stage), "{parts:?}");
        let lost = parts.into_iter().find(|part| part.bad > 0);
        assert_eq!(is_finite(learner, &found).expect("readable"), lost.is_none(), "{lost:?}");
        lost.map(|part| part.to_string())
    }

    #[test]
    fn a_sound_step_has_nothing_to_tell() {
        for step in ["shared", "after-regular", "lookahead"] {
            let (config, mut learner) = learner(&[&format!("meta.virtual_step={step}")]);
            assert_eq!(first_lost(&mut learner, &config, &views(noise)), None);
        }
    }

    #[test]
    fn images_of_one_colour_have_no_variance_and_lose_nothing() {
        let (config, mut learner) = learner(&[]);
        assert_eq!(first_lost(&mut learner, &config, &views(|_| 0.5)), None);
    }

    #[test]
    fn a_number_lost_in_the_input_is_named_there() {
        let (config, mut learner) = learner(&[]);
        let lost =
            first_lost(&mut learner, &config, &views(|i| if i == 5 { f32::NAN } else { noise(i) }));
        let expected = "view a has 1 of 768 values that are not finite, expected none";
        assert_eq!(lost.as_deref(), Some(expected));
    }

    #[test]
    fn a_number_lost_in_a_weight_shows_in_the_features() {
        let (config, mut learner) = learner(&[]);
        let group = &learner.groups[0];
        group.var.set(&group.tensor().affine(1.0, f64::INFINITY).expect("inf")).expect("set");
        let lost = first_lost(&mut learner, &config, &views(noise)).expect("lost");
        assert!(lost.starts_with("features of view a has 64 of 64"), "{lost}");
    }

    #[test]
    fn a_number_lost_in_the_loss_is_named_there() {
        let (config, mut learner) = learner(&["objective.temperature=1e-300", "mask.mode=off"]);
        let lost = first_lost(&mut learner, &config, &views(noise)).expect("lost");
        assert!(lost.starts_with("the base loss has 1 of 1"), "{lost}");
    }

    #[test]
    fn a_number_lost_by_the_step_is_named_with_its_parameter() {
        let (config, mut learner) = learner(&["optimizer.learning_rate=1e39", "mask.mode=off"]);
        let lost = first_lost(&mut learner, &config, &views(noise)).expect("lost");
        assert!(lost.starts_with("encoder.conv1.weight after the step"), "{lost}");
    }

    #[test]
    fn a_number_lost_in_a_gradient_is_named_with_its_parameter() {
        let (config, mut learner) = learner(&[]);
        let views = views(noise);
        let mut found =
            iteration(&mut learner, &views, &Moment::of(&config, 0, 1)).expect("a step");
        let poison = |tensor: &Tensor, at: usize| {
            let mut numbers: Vec<f32> = tensor.flatten_all().expect("flat").to_vec1().expect("f32");
            numbers[at] = f32::NAN;
            Tensor::from_vec(numbers, tensor.shape(), &Device::Cpu).expect("a tensor")
        };
        let first = |found: &Iteration| {
            let parts = examine(&learner, &views, found).expect("readable");
            parts.into_iter().find(|part| part.bad > 0).expect("lost").to_string()
        };
        let meta = found.meta.as_mut().expect("the mask moved");
        meta.total = poison(&meta.total, 3);
        assert!(first(&found).starts_with("the hypergradient has 1 of 16"), "{}", first(&found));
        let entry = learner.groups[0].entries.iter().find(|e| e.name == "layer3.0.conv2.weight");
        let at = entry.expect("a ResNet").span.start;
        found.gradient[0] = poison(&found.gradient[0], at);
        assert_eq!(
            first(&found),
            "gradient of encoder.layer3.0.conv2.weight has 1 of 576 values that are not finite, \
             expected none"
        );
    }

    #[test]
    fn what_is_counted_is_the_tensor_s_own_part_of_its_storage() {
        let numbers = [f32::NAN, 1.0, f32::INFINITY, 2.0];
        let all = Var::new(&numbers, &Device::Cpu).expect("a tensor");
        let count = |from, n| count_not_finite(&all.narrow(0, from, n).expect("a part"));
        assert_eq!(count(0, 4).expect("f32"), 2);
        assert_eq!(count(1, 1).expect("f32"), 0);
        let transposed = all.reshape((2, 2)).expect("square").t().expect("square");
        assert_eq!(count_not_finite(&transposed.narrow(0, 1, 1).expect("a row")).expect("f32"), 0);
        assert_eq!(
            count_not_finite(&Tensor::new(&[1i64], &Device::Cpu).expect("one")).expect("i64"),
            0
        );
    }
}

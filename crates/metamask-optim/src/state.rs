//! What an optimiser remembers from step to step, on its way to a checkpoint and back.

use candle_core::{Result, Tensor, bail};
use metamask_ops::ParameterGroup;

/// Everything that an optimiser remembers.
#[derive(Clone, Debug)]
pub struct OptimizerState {
    /// Steps taken, for the rules that count them (Adam, AdamW); 0 for others.
    pub steps: u64,
    /// A tensor for each parameter group, of its shape, under a name:
    /// `velocity`, or `first_moment` and `second_moment`.
    pub tensors: Vec<(String, Vec<Tensor>)>,
}

impl OptimizerState {
    /// A copy of the tensors: later steps do not reach into it.
    pub(crate) fn of(steps: u64, tensors: &[(&str, &[Tensor])]) -> Result<Self> {
        let copy = |&(name, tensors): &(&str, &[Tensor])| Ok((name.to_owned(), copied(tensors)?));
        Ok(Self { steps, tensors: tensors.iter().map(copy).collect::<Result<_>>()? })
    }

    /// Copies of the tensors under `names`, in that order, checked against
    /// `like`, whose shapes and types they must have.
    pub(crate) fn take<const N: usize>(
        &self,
        operation: &str,
        names: [&str; N],
        like: &[Tensor],
    ) -> Result<[Vec<Tensor>; N]> {
        let got: Vec<&str> = self.tensors.iter().map(|(name, _)| &**name).collect();
        if got != names {
            bail!(
                "{operation}: the state must be of this optimiser, expected {names:?}, got {got:?}"
            );
        }
        for (name, tensors) in &self.tensors {
            check_shapes(operation, name, like, tensors)?;
            if let Some((like, other)) =
                like.iter().zip(tensors).find(|(like, other)| like.dtype() != other.dtype())
            {
                let (expected, got) = (like.dtype(), other.dtype());
                bail!(
                    "{operation}: `{name}` must be of the parameters' type, expected {expected:?}, got {got:?}"
                );
            }
        }
        let mut taken = std::array::from_fn(|_| Vec::new());
        for (slot, (_, tensors)) in taken.iter_mut().zip(&self.tensors) {
            *slot = copied(tensors)?;
        }
        Ok(taken)
    }
}

/// A state at rest: zeros of each group's shape and type.
pub(crate) fn at_rest(groups: &[ParameterGroup]) -> Result<Vec<Tensor>> {
    groups.iter().map(|group| group.var.zeros_like()).collect()
}

pub(crate) fn copied(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    tensors.iter().map(Tensor::copy).collect()
}

/// The groups' own tensors, outside of autograd, after a check of the gradients' shapes.
pub(crate) fn checked(
    operation: &str,
    groups: &[ParameterGroup],
    gradients: &[Tensor],
    state: &[Tensor],
) -> Result<Vec<Tensor>> {
    let theta: Vec<Tensor> = groups.iter().map(|group| group.tensor().clone()).collect();
    check_shapes(operation, "gradients", &theta, gradients)?;
    check_shapes(operation, "the optimiser's state", &theta, state)?;
    Ok(theta)
}

pub(crate) fn check_shapes(
    operation: &str,
    what: &str,
    expected: &[Tensor],
    got: &[Tensor],
) -> Result<()> {
    let shapes = |tensors: &[Tensor]| tensors.iter().map(|t| t.dims().to_vec()).collect::<Vec<_>>();
    if !expected.iter().map(Tensor::dims).eq(got.iter().map(Tensor::dims)) {
        let (expected, got) = (shapes(expected), shapes(got));
        bail!(
            "{operation}: {what} must have the parameters' shapes, \
             expected {expected:?}, got {got:?}"
        );
    }
    Ok(())
}

/// Refuses a setting outside `range`, which `holds` says.
pub(crate) fn check_setting(
    operation: &str,
    name: &str,
    value: f64,
    range: &str,
    holds: bool,
) -> Result<()> {
    if !holds || !value.is_finite() {
        bail!("{operation}: {name} must be {range}, got {value}");
    }
    Ok(())
}

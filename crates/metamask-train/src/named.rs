//! The edge between training and checkpoints: flat variables in our layouts on
//! one side, PyTorch's names and layouts on the other.

use candle_core::{Result, Tensor};
use metamask_ops::{ParameterEntry, ParameterGroup, ParameterKind};

use crate::{
    checkpoint::{Checkpoint, NamedTensors, State},
    learner::Learner,
};

/// What the names of the encoder's parameters begin with; the heads' names hold theirs.
const ENCODER: &str = "encoder.";

impl Learner {
    /// Everything that training changes, as a checkpoint keeps it.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn to_checkpoint(&self, state: State) -> Result<Checkpoint> {
        let mut model = NamedTensors::new();
        let mut optim = NamedTensors::new();
        for (group, prefix) in self.named_groups() {
            to_named(&group, group.tensor(), prefix, &mut model)?;
        }
        let mut mask = NamedTensors::new();
        let prefixes = self.theta_prefixes();
        for ((group, velocity), prefix) in
            self.groups.iter().zip(self.optimizer.velocity()).zip(prefixes)
        {
            to_named(group, velocity, prefix, &mut optim)?;
        }
        if self.meta.is_some() {
            let group = self.mask.parameter_group();
            to_named(&group, group.tensor(), "", &mut mask)?;
            to_named(&group, &self.mask_optimizer.velocity()[0], "", &mut optim)?;
        }
        Ok(Checkpoint { state, model, optim, mask })
    }

    /// Takes everything from a checkpoint of the same names and shapes.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        for (group, prefix) in self.named_groups() {
            group.var.set(&from_named(&group, prefix, &checkpoint.model)?)?;
        }
        let velocity: Vec<Tensor> = self
            .groups
            .iter()
            .zip(self.theta_prefixes())
            .map(|(group, prefix)| from_named(group, prefix, &checkpoint.optim))
            .collect::<Result<_>>()?;
        self.optimizer.set_velocity(&velocity)?;
        if self.meta.is_some() {
            let group = self.mask.parameter_group();
            group.var.set(&from_named(&group, "", &checkpoint.mask)?)?;
            self.mask_optimizer.set_velocity(&[from_named(&group, "", &checkpoint.optim)?])?;
        }
        Ok(())
    }

    /// The groups of weights and running statistics with what their names begin with.
    fn named_groups(&self) -> Vec<(ParameterGroup, &'static str)> {
        let heads = [Some(&self.contrastive_head), self.redundancy_head.as_ref()];
        let encoder = self.encoder.parameters().iter().chain(self.encoder.running_statistics());
        let heads = heads.into_iter().flatten();
        let heads =
            heads.flat_map(|head| head.parameters().iter().chain(head.running_statistics()));
        encoder
            .map(|group| (group.clone(), ENCODER))
            .chain(heads.map(|group| (group.clone(), "")))
            .collect()
    }

    /// What the names of each of [`Self::groups`] begin with.
    fn theta_prefixes(&self) -> impl Iterator<Item = &'static str> {
        let n_encoder = self.encoder.parameters().len();
        (0..self.groups.len()).map(move |i| if i < n_encoder { ENCODER } else { "" })
    }
}

/// Cuts a group's tensor into PyTorch's parameters: its names, OIHW.
fn to_named(
    group: &ParameterGroup,
    tensor: &Tensor,
    prefix: &str,
    into: &mut NamedTensors,
) -> Result<()> {
    let flat = tensor.detach().flatten_all()?;
    for ParameterEntry { name, shape, span, kind } in &group.entries {
        let part = flat.narrow(0, span.start, span.len())?.reshape(shape.as_slice())?;
        let part = match kind {
            ParameterKind::Convolution => part.permute((3, 2, 0, 1))?.contiguous()?, // HWIO → OIHW
            _ => part.copy()?,
        };
        into.insert(format!("{prefix}{name}"), part);
    }
    Ok(())
}

/// The group's tensor from PyTorch's parameters.
fn from_named(group: &ParameterGroup, prefix: &str, from: &NamedTensors) -> Result<Tensor> {
    let part = |ParameterEntry { name, kind, .. }: &ParameterEntry| {
        let name = format!("{prefix}{name}");
        let Some(part) = from.get(&name) else {
            candle_core::bail!("restore: expected a tensor `{name}`, got none");
        };
        match kind {
            ParameterKind::Convolution => part.permute((2, 3, 1, 0))?.flatten_all(), // OIHW → HWIO
            _ => part.flatten_all(),
        }
    };
    let parts: Vec<Tensor> = group.entries.iter().map(part).collect::<Result<_>>()?;
    Tensor::cat(&parts, 0)?.reshape(group.tensor().shape())
}

//! The edge between training and checkpoints: flat variables in our layouts on
//! one side, PyTorch's names and layouts on the other.

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use metamask_encoders::Encoder;
use metamask_objectives::SupportQueue;
use metamask_ops::{ParameterEntry, ParameterGroup, ParameterKind};
use metamask_optim::{DimensionMask, Hypergradient, Optimizer, OptimizerState, VirtualStep};

use crate::{
    checkpoint::{Checkpoint, NamedTensors, State},
    learner::Learner,
    lookahead::Departure,
    losses::Given,
    moment::Moment,
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
        for (group, prefix) in self.named_groups() {
            to_named(&group, group.tensor(), &prefix, &mut model)?;
        }
        if let Some(queue) = &self.queue {
            queue_to_named(queue, "", &mut model)?;
        }
        let mut optim = NamedTensors::new();
        self.optimizer_to_named(&self.optimizer, &self.groups, "optimizer", &mut optim)?;
        let mut mask = NamedTensors::new();
        if self.meta.is_some() {
            let group = self.mask.parameter_group();
            to_named(&group, group.tensor(), "", &mut mask)?;
            let groups = [group];
            self.optimizer_to_named(&self.mask_optimizer, &groups, "mask_optimizer", &mut optim)?;
        }
        let mut departure = NamedTensors::new();
        if let Some(Departure { theta, mask, given, .. }) = &self.departure {
            let theta = [&theta.encoder[..], &theta.head, &theta.redundancy].concat();
            for ((group, theta), prefix) in self.groups.iter().zip(&theta).zip(self.prefixes()) {
                to_named(group, theta, prefix, &mut departure)?;
            }
            to_named(&mask.parameter_group(), mask.logits.as_tensor(), "", &mut departure)?;
            if let Some([a, b]) = &given.targets {
                departure.insert("target_embeddings.a".to_owned(), on_cpu(a)?);
                departure.insert("target_embeddings.b".to_owned(), on_cpu(b)?);
            }
            if let Some(queue) = &given.queue {
                queue_to_named(queue, "", &mut departure)?;
            }
        }
        Ok(Checkpoint { state, model, optim, mask, departure })
    }

    /// What a checkpoint of this learner looks like: its names, shapes and dtypes.
    /// The departure of a lookahead, which not every checkpoint has, is in it if
    /// the learner ever has one.
    ///
    /// # Errors
    /// As [`Self::to_checkpoint`].
    pub fn like_checkpoint(&self, batch: usize) -> Result<Checkpoint> {
        let mut like = self.to_checkpoint(State::default())?;
        let departs = self.meta.is_some_and(|meta| {
            meta.virtual_step == VirtualStep::Lookahead
                && meta.hypergradient != Hypergradient::FirstOrder
        });
        if departs && self.departure.is_none() {
            for (group, prefix) in self.groups.iter().zip(self.prefixes()) {
                to_named(group, group.tensor(), prefix, &mut like.departure)?;
            }
            let group = self.mask.parameter_group();
            to_named(&group, group.tensor(), "", &mut like.departure)?;
            if let Some(target) = &self.target {
                let width = target.last().map_or(0, |group| group.tensor().elem_count());
                let embeddings = Tensor::zeros((batch, width), self.dtype(), &Device::Cpu)?;
                like.departure.insert("target_embeddings.a".to_owned(), embeddings.clone());
                like.departure.insert("target_embeddings.b".to_owned(), embeddings);
            }
            if let Some(queue) = &self.queue {
                queue_to_named(queue, "", &mut like.departure)?;
            }
        }
        Ok(like)
    }

    /// Takes everything from a checkpoint of the same names and shapes, but for the
    /// departure of a lookahead: that is [`Self::restore_departure`].
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        for (group, prefix) in self.named_groups() {
            group.var.set(&from_named(&group, &prefix, &checkpoint.model)?)?;
        }
        if self.queue.is_some() {
            self.queue = Some(queue_from_named("", &checkpoint.model, self.mask.logits.device())?);
        }
        let prefixes: Vec<&str> = self.prefixes().collect();
        let optim = &checkpoint.optim;
        let state = state_from_named(&self.optimizer, &self.groups, &prefixes, "optimizer", optim)?;
        self.optimizer.set_state(&state)?;
        if self.meta.is_some() {
            let group = self.mask.parameter_group();
            group.var.set(&from_named(&group, "", &checkpoint.mask)?)?;
            let groups = [group];
            let name = "mask_optimizer";
            let state = state_from_named(&self.mask_optimizer, &groups, &[""], name, optim)?;
            self.mask_optimizer.set_state(&state)?;
        }
        self.departure = None;
        Ok(())
    }

    /// Takes the regular step that the next iteration judges, if the checkpoint has
    /// one. `views` are those of its batch, the last one before the checkpoint, and
    /// `moment` is its moment.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn restore_departure(
        &mut self,
        checkpoint: &Checkpoint,
        views: [Tensor; 2],
        moment: &Moment,
    ) -> Result<()> {
        let from = &checkpoint.departure;
        if from.is_empty() {
            return Ok(());
        }
        let variable = |(group, prefix): (&ParameterGroup, &str)| {
            Ok(Var::from_tensor(&from_named(group, prefix, from)?)?.into_inner())
        };
        let theta = self.groups.iter().zip(self.prefixes()).map(variable);
        let theta = self.by_part(theta.collect::<Result<_>>()?);
        let logits = from_named(&self.mask.parameter_group(), "", from)?;
        let targets = match self.target {
            Some(_) => {
                let embeddings = |view| {
                    find(from, &format!("target_embeddings.{view}"))?.to_device(self.device())
                };
                Some([embeddings("a")?, embeddings("b")?])
            }
            None => None,
        };
        let queue = match self.queue {
            Some(_) => Some(queue_from_named("", from, self.device())?),
            None => None,
        };
        self.departure = Some(Departure {
            theta,
            mask: DimensionMask { logits: Var::from_tensor(&logits)?, ..self.mask },
            given: Given { targets, queue, beta: moment.beta },
            views,
            learning_rate: moment.learning_rate,
            features: None,
        });
        Ok(())
    }

    fn dtype(&self) -> DType {
        self.mask.logits.dtype()
    }

    /// The groups of weights and running statistics with what their names begin with.
    pub(crate) fn named_groups(&self) -> Vec<(ParameterGroup, String)> {
        let heads = [Some(&self.head), self.predictor.as_ref(), self.redundancy_head.as_ref()];
        let encoder = self.encoder.parameters().iter().chain(self.encoder.running_statistics());
        let heads = heads.into_iter().flatten();
        let heads =
            heads.flat_map(|head| head.parameters().iter().chain(head.running_statistics()));
        let target = self.target.iter().flatten().zip(self.prefixes());
        encoder
            .map(|group| (group.clone(), ENCODER.to_owned()))
            .chain(heads.map(|group| (group.clone(), String::new())))
            .chain(target.map(|(group, prefix)| (group.clone(), format!("target.{prefix}"))))
            .collect()
    }

    /// What the names of each of [`Self::groups`] begin with.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &'static str> {
        let n_encoder = self.encoder.parameters().len();
        (0..self.groups.len()).map(move |i| if i < n_encoder { ENCODER } else { "" })
    }

    fn optimizer_to_named(
        &self,
        optimizer: &Optimizer,
        groups: &[ParameterGroup],
        name: &str,
        into: &mut NamedTensors,
    ) -> Result<()> {
        let OptimizerState { steps, tensors } = optimizer.state()?;
        let is_mask = groups.len() != self.groups.len();
        for (kind, tensors) in &tensors {
            for (i, (group, tensor)) in groups.iter().zip(tensors).enumerate() {
                let prefix = match is_mask {
                    true => "",
                    false => self.prefixes().nth(i).expect("one a group"),
                };
                to_named(group, tensor, &format!("{}{prefix}", kind_prefix(kind)), into)?;
            }
        }
        if counts_steps(optimizer) {
            into.insert(format!("{name}.steps"), count_to_tensor(steps)?);
        }
        Ok(())
    }
}

/// An encoder's weights and running statistics under PyTorch's names, OIHW.
pub(crate) fn encoder_to_named(encoder: &dyn Encoder) -> Result<NamedTensors> {
    let mut named = NamedTensors::new();
    for group in encoder.parameters().iter().chain(encoder.running_statistics()) {
        to_named(group, group.tensor(), "", &mut named)?;
    }
    Ok(named)
}

/// Puts such tensors into an encoder.
pub(crate) fn set_encoder(encoder: &dyn Encoder, tensors: &NamedTensors) -> Result<()> {
    for group in encoder.parameters().iter().chain(encoder.running_statistics()) {
        group.var.set(&from_named(group, "", tensors)?)?;
    }
    Ok(())
}

/// What the names of an optimiser's tensors begin with: a velocity bears its parameter's name.
fn kind_prefix(kind: &str) -> String {
    match kind {
        "velocity" => String::new(),
        other => format!("{other}."),
    }
}

fn counts_steps(optimizer: &Optimizer) -> bool {
    optimizer.kind().state_names().len() > 1
}

fn state_from_named(
    optimizer: &Optimizer,
    groups: &[ParameterGroup],
    prefixes: &[&str],
    name: &str,
    from: &NamedTensors,
) -> Result<OptimizerState> {
    let tensors = |kind: &&str| {
        let tensors = groups.iter().zip(prefixes).map(|(group, prefix)| {
            from_named(group, &format!("{}{prefix}", kind_prefix(kind)), from)
        });
        Ok((kind.to_string(), tensors.collect::<Result<_>>()?))
    };
    let steps = match counts_steps(optimizer) {
        true => count_from_tensor(find(from, &format!("{name}.steps"))?)?,
        false => 0,
    };
    let tensors = optimizer.kind().state_names().iter().map(tensors).collect::<Result<_>>()?;
    Ok(OptimizerState { steps, tensors })
}

fn queue_to_named(queue: &SupportQueue, prefix: &str, into: &mut NamedTensors) -> Result<()> {
    into.insert(format!("{prefix}queue.entries"), on_cpu(queue.entries())?);
    into.insert(format!("{prefix}queue.pointer"), count_to_tensor(queue.pointer() as u64)?);
    Ok(())
}

fn queue_from_named(prefix: &str, from: &NamedTensors, device: &Device) -> Result<SupportQueue> {
    let entries = find(from, &format!("{prefix}queue.entries"))?.to_device(device)?;
    let pointer = count_from_tensor(find(from, &format!("{prefix}queue.pointer"))?)?;
    SupportQueue::from_state(entries, pointer as usize)
}

/// A copy on the CPU.
fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_device(&Device::Cpu)?.copy()
}

fn count_to_tensor(count: u64) -> Result<Tensor> {
    Tensor::new(&[count as i64], &Device::Cpu)
}

fn count_from_tensor(tensor: &Tensor) -> Result<u64> {
    match tensor.to_vec1::<i64>()?[..] {
        [count] if count >= 0 => Ok(count as u64),
        ref other => bail!("restore: expected a count, got {other:?}"),
    }
}

fn find<'a>(tensors: &'a NamedTensors, name: &str) -> Result<&'a Tensor> {
    match tensors.get(name) {
        Some(tensor) => Ok(tensor),
        None => bail!("restore: expected a tensor `{name}`, got none"),
    }
}

/// Cuts a group's tensor into PyTorch's parameters: its names, OIHW.
fn to_named(
    group: &ParameterGroup,
    tensor: &Tensor,
    prefix: &str,
    into: &mut NamedTensors,
) -> Result<()> {
    let flat = tensor.detach().flatten_all()?.to_device(&Device::Cpu)?;
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
        let part = find(from, &format!("{prefix}{name}"))?;
        match kind {
            ParameterKind::Convolution => part.permute((2, 3, 1, 0))?.flatten_all(), // OIHW → HWIO
            _ => part.flatten_all(),
        }
    };
    let parts: Vec<Tensor> = group.entries.iter().map(part).collect::<Result<_>>()?;
    let whole = Tensor::cat(&parts, 0)?.reshape(group.tensor().shape())?;
    whole.to_device(group.tensor().device())
}

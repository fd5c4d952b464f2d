//! What is trained: encoder, heads, mask and their optimisers, and how they lie
//! in a checkpoint.

use candle_core::{DType, Device, Result, Tensor};
use metamask_encoders::{Encoder, Mlp, MlpConfig, ResNet, ResNetConfig};
use metamask_ops::{ParameterEntry, ParameterGroup, ParameterKind};
use metamask_optim::{DimensionMask, MaskForm, Sgd};
use metamask_random::{Key, Purpose};

use crate::{
    checkpoint::{Checkpoint, NamedTensors, State},
    config::{Config, MaskMode, Meta, Objective},
};

/// Encoder, heads, mask and optimisers of one run.
pub struct Learner {
    /// f
    pub encoder: Box<dyn Encoder>,
    /// g_c
    pub contrastive_head: Mlp,
    /// g_r, where L_drr has a weight.
    pub redundancy_head: Option<Mlp>,
    /// m(w). Without a mask: ones that stay (1 · h is h, bit for bit).
    pub mask: DimensionMask,
    /// The groups of θ: the encoder's, then the contrastive head's, then the redundancy head's.
    pub groups: Vec<ParameterGroup>,
    /// SGD on θ.
    pub optimizer: Sgd,
    /// SGD on w.
    pub mask_optimizer: Sgd,
    /// The weights of the losses.
    pub objective: Objective,
    /// How the meta step is taken that moves the mask; `None` where there is no mask.
    pub meta: Option<Meta>,
}

impl Learner {
    /// A learner at its seeded start.
    ///
    /// # Errors
    /// If the configuration asks for a network that cannot be.
    pub fn new(config: &Config, dtype: DType) -> Result<Self> {
        let device = Device::Cpu;
        let key = Key::new(config.run.seed, Purpose::Initialisation);
        let encoder = ResNet::new(
            &ResNetConfig {
                depth: config.encoder.depth,
                stem: config.encoder.stem,
                width: config.encoder.width,
                stem_relu: config.encoder.stem_relu,
            },
            key,
            dtype,
            &device,
        )?;
        let dim = encoder.feature_dim();
        // Modules of one key would start with the same numbers.
        let head = |prefix: &str, sample: u32, hidden: &[usize], output: usize| {
            let hidden = hidden.to_vec();
            let config = MlpConfig { input: dim, hidden, output, final_norm: true };
            Mlp::new(prefix, &config, key.sample(sample), dtype, &device)
        };
        let (c, r) = (&config.contrastive_head, &config.redundancy_head);
        let contrastive_head = head("contrastive_head", 1, &c.hidden, c.output)?;
        let redundancy_head = match config.objective.redundancy_weight > 0.0 {
            true => Some(head("redundancy_head", 2, &r.hidden, r.output)?),
            false => None,
        };
        let (meta, form) = match config.mask.mode {
            MaskMode::On => (Some(config.meta), config.mask.form),
            MaskMode::Off => (None, MaskForm::Free),
        };
        let mask = DimensionMask::new(form, dim, dtype, &device)?;
        let mut groups = [encoder.parameters(), contrastive_head.parameters()].concat();
        groups.extend(redundancy_head.iter().flat_map(Mlp::parameters).cloned());
        let (o, m) = (&config.optimizer, &config.mask);
        Ok(Self {
            optimizer: Sgd::new(&groups, o.momentum, o.weight_decay)?,
            mask_optimizer: Sgd::new(&[mask.parameter_group()], m.momentum, m.weight_decay)?,
            encoder: Box::new(encoder),
            contrastive_head,
            redundancy_head,
            mask,
            groups,
            objective: config.objective.clone(),
            meta,
        })
    }

    /// θ_f, the encoder's parameters.
    pub fn theta_f(&self) -> Vec<Tensor> {
        tensors(self.encoder.parameters())
    }

    /// θ_c, the contrastive head's parameters.
    pub fn theta_c(&self) -> Vec<Tensor> {
        tensors(self.contrastive_head.parameters())
    }

    /// θ_r, the redundancy head's parameters.
    pub fn theta_r(&self) -> Vec<Tensor> {
        self.redundancy_head.iter().flat_map(|head| tensors(head.parameters())).collect()
    }

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

/// What the names of the encoder's parameters begin with; the heads' names hold theirs.
const ENCODER: &str = "encoder.";

fn tensors(groups: &[ParameterGroup]) -> Vec<Tensor> {
    groups.iter().map(|group| group.tensor().clone()).collect()
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

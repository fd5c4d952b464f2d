//! What is trained: encoder, heads, mask, their losses and their optimisers.

use candle_core::{DType, Device, Result, Tensor};
use metamask_encoders::{Encoder, Mlp, MlpConfig, ResNet, ResNetConfig};
use metamask_objectives::{barlow_twins, nt_xent};
use metamask_ops::{BatchStats, Differentiable, Dual, Linearized, ParameterGroup};
use metamask_optim::{DimensionMask, MaskForm, Sgd};
use metamask_random::{Key, Purpose};

use crate::config::{Config, MaskMode, Meta, Objective};

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

    /// h = f(x) of both views at θ, with their tangents where these are wanted.
    ///
    /// # Errors
    /// If a shape or dtype does not fit.
    pub fn features(
        &self,
        views: &[Tensor; 2],
        stats: BatchStats,
        with_tangent: bool,
    ) -> Result<Vec<Linearized>> {
        let theta = self.theta_f();
        let encode = |x: &Tensor| match with_tangent {
            true => self.encoder.linearize(x, &theta, stats),
            false => Ok(Linearized::new(self.encoder.forward(x, &theta, stats)?, |_| {
                candle_core::bail!("features: this pass kept no tangent")
            })),
        };
        views.iter().map(encode).collect()
    }

    /// L_c as a function of both views' features, θ_c and m: NT-Xent of g_c(m ⊙ h).
    pub fn contrastive_loss(
        &self,
        stats: BatchStats,
    ) -> impl Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> {
        move |h, theta, m| {
            let z = |h: &Dual| self.contrastive_head.forward(&h.mul(m)?, theta, stats);
            nt_xent(&z(&h[0])?, &z(&h[1])?, self.objective.temperature)
        }
    }

    /// L_drr as a function of both views' features, θ_r and m: the loss of g_r(m ⊙ h).
    pub fn redundancy_loss(
        &self,
        head: &Mlp,
        stats: BatchStats,
    ) -> impl Fn(&[Dual], &[Dual], &Dual) -> Result<Dual> {
        move |h, theta, m| {
            let z = |h: &Dual| head.forward(&h.mul(m)?, theta, stats);
            barlow_twins(&z(&h[0])?, &z(&h[1])?, self.objective.redundancy_lambda)
        }
    }
}

fn tensors(groups: &[ParameterGroup]) -> Vec<Tensor> {
    groups.iter().map(|group| group.tensor().clone()).collect()
}

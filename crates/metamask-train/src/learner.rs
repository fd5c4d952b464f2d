//! What is trained: encoder, heads, mask, and what the base method keeps beside them.

use candle_core::{DType, Device, Result, Tensor, Var};
use metamask_encoders::{
    Architecture, ConvNetConfig, Encoder, EncoderConfig, FullyConnectedConfig, Mlp, MlpConfig,
    ResNetConfig,
};
use metamask_objectives::{SupportQueue, target_parameters};
use metamask_ops::{BatchStats, Linearized, ParameterGroup};
use metamask_optim::{DimensionMask, MaskForm, Optimizer, OptimizerConfig, Sgd};
use metamask_random::{Key, Purpose};

use crate::{
    config::{self, Config, Experimental, MaskMode, MaskPlace, Meta, Method, Objective},
    lookahead::Departure,
};

/// Encoder, heads, mask and optimisers of one run.
pub struct Learner {
    /// f
    pub encoder: Box<dyn Encoder>,
    /// g, the head of the base loss; Barlow Twins' is the redundancy head.
    pub head: Mlp,
    /// q, of BYOL and NNCLR.
    pub predictor: Option<Mlp>,
    /// g_r, where L_drr has a weight beside the base loss.
    pub redundancy_head: Option<Mlp>,
    /// m(w). Without a mask: ones that stay (1 · h is h, bit for bit).
    pub mask: DimensionMask,
    /// The groups of θ: the encoder's, the head's, the predictor's, the redundancy head's.
    pub groups: Vec<ParameterGroup>,
    /// Moves θ.
    pub optimizer: Optimizer,
    /// Moves w.
    pub mask_optimizer: Optimizer,
    /// The losses and their weights.
    pub objective: Objective,
    /// How the meta step is taken that moves the mask; `None` where there is no mask.
    pub meta: Option<Meta>,
    /// What only studies need.
    pub experimental: Experimental,
    /// Ones, where the network trains without the mask that learns beside it.
    pub(crate) beside: Option<DimensionMask>,
    /// Whose hypergradient moves each dimension of the mask, where that is not its own.
    pub(crate) shuffle: Option<Tensor>,
    /// BYOL's target ξ: the encoder's groups, then the head's.
    pub target: Option<Vec<ParameterGroup>>,
    /// NNCLR's support set.
    pub queue: Option<SupportQueue>,
    /// The regular step that a lookahead still has to judge.
    pub(crate) departure: Option<Departure>,
    /// An SGD at rest, where the network's own optimiser is none.
    pub(crate) sgd_at_rest: Option<Sgd>,
}

impl Learner {
    /// A learner on the CPU at its seeded start, whatever `encoder.init` says:
    /// [`crate::init::start`] looks at that.
    ///
    /// # Errors
    /// If the configuration asks for a network that cannot be.
    pub fn new(config: &Config, dtype: DType) -> Result<Self> {
        Self::on(&Device::Cpu, config, dtype)
    }

    /// The same on any device. The start is the same numbers everywhere.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on(device: &Device, config: &Config, dtype: DType) -> Result<Self> {
        Self::with_encoder(config, seeded_encoder(config, dtype, device)?, dtype)
    }

    /// The same around an encoder of one's own, which may be anything that implements
    /// [`Encoder`]; the settings of `[encoder]` are then not looked at. The rest goes to the
    /// encoder's device.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_encoder(config: &Config, encoder: Box<dyn Encoder>, dtype: DType) -> Result<Self> {
        let device = device_of(&*encoder);
        let objective = config.objective;
        let key = Key::new(config.run.seed, Purpose::Initialisation);
        let dim = encoder.feature_dim();
        // Modules of one key would start with the same numbers.
        let mlp = |prefix: &str, sample: u32, config: MlpConfig| {
            Mlp::new(prefix, &config, key.sample(sample), dtype, &device)
        };
        let (c, r) = (&config.contrastive_head, &config.redundancy_head);
        let redundancy = || {
            let (hidden, output) = (r.hidden.clone(), r.output);
            mlp("redundancy_head", 2, MlpConfig { input: dim, hidden, output, final_norm: true })
        };
        let (head, embedding) = match objective.method {
            Method::BarlowTwins => (redundancy()?, r.output),
            _ => {
                let (hidden, output) = (c.hidden.clone(), c.output);
                let config = MlpConfig { input: dim, hidden, output, final_norm: c.final_norm };
                (mlp("contrastive_head", 1, config)?, output)
            }
        };
        let predictor = match objective.method.has_predictor() {
            true => {
                let hidden = config.predictor.hidden.clone();
                let config =
                    MlpConfig { input: embedding, hidden, output: embedding, final_norm: false };
                Some(mlp("predictor", 3, config)?)
            }
            false => None,
        };
        let redundancy_head = match objective.redundancy_weight > 0.0 {
            true => Some(redundancy()?),
            false => None,
        };
        let (meta, form) = match config.mask.mode {
            MaskMode::On => (Some(config.meta), config.mask.form),
            MaskMode::Off => (None, MaskForm::Free),
        };
        let experimental = config.mask.experimental;
        let mask_dim = match experimental.place {
            MaskPlace::Representation => dim,
            MaskPlace::Embedding => embedding,
        };
        let mut mask = DimensionMask::new(form, mask_dim, dtype, &device)?;
        if meta.is_some() {
            mask = mask.with_shape(experimental.shape);
        }

        let beside = match meta.is_some() && experimental.beside {
            true => Some(DimensionMask::new(MaskForm::Free, mask_dim, dtype, &device)?),
            false => None,
        };
        let shuffle = match meta.is_some() && experimental.shuffled {
            true => {
                let key = Key::new(config.run.seed, Purpose::MaskShuffle);
                let order = key.stream().permutation(mask_dim as u32);
                Some(Tensor::from_vec(order, mask_dim, &device)?)
            }
            false => None,
        };

        let mut groups = [encoder.parameters(), head.parameters()].concat();
        let target = match objective.method {
            Method::Byol => Some(target_parameters(&groups)?),
            _ => None,
        };
        let queue = match objective.method {
            Method::Nnclr => {
                let key = Key::new(config.run.seed, Purpose::SupportQueue);
                Some(SupportQueue::new(config.queue.size, embedding, key, dtype, &device)?)
            }
            _ => None,
        };
        let rest = [&predictor, &redundancy_head];
        groups.extend(rest.into_iter().flatten().flat_map(Mlp::parameters).cloned());
        let optimizer = Optimizer::new(&groups, &optimizer_config(&config.optimizer))?;
        let m = &config.mask;
        let mask_optimizer = OptimizerConfig {
            momentum: m.momentum,
            weight_decay: m.weight_decay,
            ..OptimizerConfig::new(m.rule)
        };
        let sgd_at_rest = match (&meta, optimizer.as_sgd()) {
            (Some(_), None) => Some(Sgd::new(&groups, 0.0, config.optimizer.weight_decay)?),
            _ => None,
        };
        Ok(Self {
            optimizer,
            mask_optimizer: Optimizer::new(&[mask.parameter_group()], &mask_optimizer)?,
            encoder,
            head,
            predictor,
            redundancy_head,
            mask,
            groups,
            objective,
            meta,
            experimental,
            beside,
            shuffle,
            target,
            queue,
            departure: None,
            sgd_at_rest,
        })
    }

    /// Where everything of it is.
    pub fn device(&self) -> &Device {
        self.mask.logits.device()
    }

    /// Views from the CPU where the learner is.
    ///
    /// # Errors
    /// If they do not fit there.
    pub fn take_views(&self, views: &[Tensor; 2]) -> Result<[Tensor; 2]> {
        let [a, b] = views;
        Ok([a.to_device(self.device())?, b.to_device(self.device())?])
    }

    /// The mask that the network trains under.
    pub(crate) fn training_mask(&self) -> &DimensionMask {
        self.beside.as_ref().unwrap_or(&self.mask)
    }

    /// m, `[D]` in f32 on the CPU, where there is a mask and it lies over the features.
    ///
    /// # Errors
    /// If the mask cannot be read.
    pub fn feature_mask(&self) -> Result<Option<Tensor>> {
        let on_features = self.experimental.place == MaskPlace::Representation;
        match self.meta.is_some() && on_features {
            true => {
                let m = self.mask.values()?.detach();
                m.to_device(&Device::Cpu)?.to_dtype(DType::F32).map(Some)
            }
            false => Ok(None),
        }
    }

    /// θ as the optimiser moves it.
    pub fn theta(&self) -> Theta {
        self.by_part(self.groups.iter().map(|group| group.tensor().clone()).collect())
    }

    /// θ in variables of its own, which stay when the optimiser moves the learner's.
    ///
    /// # Errors
    /// If a copy cannot be allocated.
    pub fn copy_of_theta(&self) -> Result<Theta> {
        let copy = |group: &ParameterGroup| {
            Ok(Var::from_tensor(&group.tensor().detach().copy()?)?.into_inner())
        };
        Ok(self.by_part(self.groups.iter().map(copy).collect::<Result<_>>()?))
    }

    /// A tensor for each of [`Self::groups`], by what they belong to.
    pub(crate) fn by_part(&self, mut encoder: Vec<Tensor>) -> Theta {
        let mut head = encoder.split_off(self.encoder.parameters().len());
        let n_head = self.head.parameters().len()
            + self.predictor.as_ref().map_or(0, |predictor| predictor.parameters().len());
        let redundancy = head.split_off(n_head);
        Theta { encoder, head, redundancy }
    }

    /// The SGD whose step the virtual step is: the optimiser itself, or where that is
    /// another rule, an SGD at rest (V = 0).
    pub fn virtual_sgd(&self) -> &Sgd {
        match (self.optimizer.as_sgd(), &self.sgd_at_rest) {
            (Some(sgd), _) => sgd,
            (None, Some(sgd)) => sgd,
            (None, None) => unreachable!("a mask with another rule has an SGD at rest"),
        }
    }

    /// h = f(x) of both views at θ_f.
    ///
    /// # Errors
    /// If a shape or dtype does not fit.
    pub fn features(
        &self,
        views: &[Tensor; 2],
        theta: &[Tensor],
        stats: BatchStats,
    ) -> Result<Vec<Tensor>> {
        views.iter().map(|x| self.encoder.forward(x, theta, stats)).collect()
    }

    /// The same with the tangents.
    ///
    /// # Errors
    /// As [`Self::features`], and if the encoder brings no tangent.
    pub fn linearize(
        &self,
        views: &[Tensor; 2],
        theta: &[Tensor],
        stats: BatchStats,
    ) -> Result<Vec<Linearized>> {
        views.iter().map(|x| self.encoder.linearize(x, theta, stats)).collect()
    }
}

/// θ, or a gradient or direction in it, a tensor for each parameter group.
#[derive(Clone, Debug)]
pub struct Theta {
    /// θ_f, the encoder's.
    pub encoder: Vec<Tensor>,
    /// θ_g, those of the base loss's head and predictor.
    pub head: Vec<Tensor>,
    /// θ_r, the redundancy head's.
    pub redundancy: Vec<Tensor>,
}

/// Where an encoder is.
pub(crate) fn device_of(encoder: &dyn Encoder) -> Device {
    match encoder.parameters() {
        [group, ..] => group.tensor().device().clone(),
        [] => Device::Cpu,
    }
}

/// The encoder of a configuration at its seeded start.
pub(crate) fn seeded_encoder(
    config: &Config,
    dtype: DType,
    device: &Device,
) -> Result<Box<dyn Encoder>> {
    let key = Key::new(config.run.seed, Purpose::Initialisation);
    encoder_config(config).build(key, dtype, device)
}

/// The encoder that a configuration asks for.
fn encoder_config(config: &Config) -> EncoderConfig {
    let config::Encoder { architecture, depth, stem, width, stem_relu, .. } = config.encoder;
    let precision = config.engine.precision.into();
    match architecture {
        Architecture::ResNet => {
            EncoderConfig::ResNet(ResNetConfig { depth, stem, width, stem_relu, precision })
        }
        Architecture::Conv => EncoderConfig::Conv(ConvNetConfig { width, precision }),
        Architecture::Fc => EncoderConfig::Fc(FullyConnectedConfig {
            image_size: config.augmentation.size,
            ..Default::default()
        }),
    }
}

fn optimizer_config(o: &config::Optimizer) -> OptimizerConfig {
    OptimizerConfig {
        kind: o.rule,
        momentum: o.momentum,
        nesterov: o.nesterov,
        weight_decay: o.weight_decay,
        trust_coefficient: o.trust_coefficient,
        clipping: o.lars_clipping,
        exclude_biases_and_norms: o.lars_excludes_biases_and_norms,
        beta1: o.betas[0],
        beta2: o.betas[1],
        epsilon: o.epsilon,
    }
}

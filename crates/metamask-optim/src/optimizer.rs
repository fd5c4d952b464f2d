//! Any of the optimisers, chosen by a configuration.

use candle_core::{Result, Tensor};
use metamask_ops::ParameterGroup;
use serde::{Deserialize, Serialize};

use crate::state::check_setting;
use crate::{Adam, AdamConfig, AdamW, Lars, LarsClipping, LarsConfig, OptimizerState, Sgd};

/// The rule by which parameters move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// [`Sgd`], MetaMask's.
    Sgd,
    /// [`Lars`]
    Lars,
    /// [`AdamW`]
    #[serde(rename = "adamw")]
    AdamW,
    /// [`Adam`]
    Adam,
}

impl OptimizerKind {
    /// The names of the tensors that [`Optimizer::state`] gives.
    pub fn state_names(self) -> &'static [&'static str] {
        match self {
            Self::Sgd | Self::Lars => &["velocity"],
            Self::Adam | Self::AdamW => &["first_moment", "second_moment"],
        }
    }
}

/// Settings of an [`Optimizer`]; each kind reads its own and leaves the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// The rule.
    pub kind: OptimizerKind,
    /// Momentum μ of SGD and LARS, at least 0 and below 1; default 0.9.
    pub momentum: f64,
    /// Whether their momentum is Nesterov's; μ is above 0 then. Default false.
    pub nesterov: bool,
    /// Weight decay ω of any, at least 0. Default 5e-4 for SGD and LARS, 0 for
    /// Adam, 0.01 for AdamW.
    pub weight_decay: f64,
    /// LARS's trust coefficient η, above 0; default 1e-3.
    pub trust_coefficient: f64,
    /// Whether LARS bounds its local rate; default [`LarsClipping::None`].
    pub clipping: LarsClipping,
    /// Whether LARS neither adapts nor decays biases and norms; default true.
    pub exclude_biases_and_norms: bool,
    /// Adam's and AdamW's β₁, at least 0 and below 1; default 0.9.
    pub beta1: f64,
    /// Adam's and AdamW's β₂, at least 0 and below 1; default 0.999.
    pub beta2: f64,
    /// ε of LARS, Adam and AdamW, at least 0; default 1e-8.
    pub epsilon: f64,
}

impl OptimizerConfig {
    /// The defaults of a kind.
    pub fn new(kind: OptimizerKind) -> Self {
        let weight_decay = match kind {
            OptimizerKind::Sgd | OptimizerKind::Lars => 5e-4,
            OptimizerKind::Adam => 0.0,
            OptimizerKind::AdamW => 0.01,
        };
        Self {
            kind,
            momentum: 0.9,
            nesterov: false,
            weight_decay,
            trust_coefficient: 1e-3,
            clipping: LarsClipping::None,
            exclude_biases_and_norms: true,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }

    fn lars(&self) -> LarsConfig {
        let Self { trust_coefficient, clipping, exclude_biases_and_norms, .. } = *self;
        let Self { momentum, nesterov, weight_decay, epsilon, .. } = *self;
        LarsConfig {
            trust_coefficient,
            clipping,
            exclude_biases_and_norms,
            momentum,
            nesterov,
            weight_decay,
            epsilon,
        }
    }

    fn adam(&self) -> AdamConfig {
        let Self { beta1, beta2, epsilon, weight_decay, .. } = *self;
        AdamConfig { beta1, beta2, epsilon, weight_decay }
    }
}

/// One of the optimisers, on a list of parameter groups.
#[derive(Debug)]
pub enum Optimizer {
    /// SGD
    Sgd(Sgd),
    /// LARS
    Lars(Lars),
    /// AdamW
    AdamW(AdamW),
    /// Adam
    Adam(Adam),
}

impl Optimizer {
    /// An optimiser at rest.
    ///
    /// # Errors
    /// If a setting is out of its range or a state cannot be allocated.
    pub fn new(groups: &[ParameterGroup], config: &OptimizerConfig) -> Result<Self> {
        Ok(match config.kind {
            OptimizerKind::Sgd => {
                let OptimizerConfig { momentum, weight_decay, nesterov, .. } = *config;
                let in_range = (0.0..1.0).contains(&momentum);
                check_setting("sgd", "momentum", momentum, "at least 0 and below 1", in_range)?;
                let in_range = weight_decay >= 0.0;
                check_setting("sgd", "weight_decay", weight_decay, "at least 0", in_range)?;
                Self::Sgd(match nesterov {
                    true => Sgd::nesterov(groups, momentum, weight_decay)?,
                    false => Sgd::new(groups, momentum, weight_decay)?,
                })
            }
            OptimizerKind::Lars => Self::Lars(Lars::new(groups, config.lars())?),
            OptimizerKind::AdamW => Self::AdamW(AdamW::new(groups, config.adam())?),
            OptimizerKind::Adam => Self::Adam(Adam::new(groups, config.adam())?),
        })
    }

    /// Which one it is.
    pub fn kind(&self) -> OptimizerKind {
        match self {
            Self::Sgd(_) => OptimizerKind::Sgd,
            Self::Lars(_) => OptimizerKind::Lars,
            Self::AdamW(_) => OptimizerKind::AdamW,
            Self::Adam(_) => OptimizerKind::Adam,
        }
    }

    /// Takes one step: moves its state and the groups' variables, in place.
    ///
    /// # Errors
    /// If groups and gradients are not those of [`Self::new`] in number, shape and dtype.
    pub fn step(
        &mut self,
        groups: &[ParameterGroup],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<()> {
        match self {
            Self::Sgd(sgd) => sgd.step(groups, gradients, learning_rate),
            Self::Lars(lars) => lars.step(groups, gradients, learning_rate),
            Self::AdamW(adamw) => adamw.step(groups, gradients, learning_rate),
            Self::Adam(adam) => adam.step(groups, gradients, learning_rate),
        }
    }

    /// Everything that it remembers, copied, for a checkpoint.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn state(&self) -> Result<OptimizerState> {
        match self {
            Self::Sgd(sgd) => sgd.state(),
            Self::Lars(lars) => lars.state(),
            Self::AdamW(adamw) => adamw.state(),
            Self::Adam(adam) => adam.state(),
        }
    }

    /// Goes on from what [`Self::state`] gave, as if it had never stopped.
    ///
    /// # Errors
    /// If names, shapes or types are not this optimiser's; nothing is changed then.
    pub fn set_state(&mut self, state: &OptimizerState) -> Result<()> {
        match self {
            Self::Sgd(sgd) => sgd.set_state(state),
            Self::Lars(lars) => lars.set_state(state),
            Self::AdamW(adamw) => adamw.set_state(state),
            Self::Adam(adam) => adam.set_state(state),
        }
    }

    /// The SGD that it is, whose step is also a virtual one; else `None`.
    pub fn as_sgd(&self) -> Option<&Sgd> {
        match self {
            Self::Sgd(sgd) => Some(sgd),
            _ => None,
        }
    }
}

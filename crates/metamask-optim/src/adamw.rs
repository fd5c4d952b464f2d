//! AdamW: Adam whose weight decay is apart from the gradient, as PyTorch has it.

use candle_core::{Result, Tensor};
use metamask_ops::ParameterGroup;

use crate::adam::{AdamConfig, Decay, Moments};
use crate::state::OptimizerState;

/// AdamW on a list of parameter groups.
///
/// ```text
/// θ ← (1 − l ω) θ
/// M ← β₁ M + (1 − β₁) g        S ← β₂ S + (1 − β₂) g²        t ← t + 1
/// θ ← θ − l · M / (1 − β₁ᵗ) / (√S / √(1 − β₂ᵗ) + ε)
/// ```
/// M, S and t start at 0. Every parameter decays, biases and norms too.
///
/// # Source
/// Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2. Equals
/// `torch.optim.AdamW(betas, eps, weight_decay)`: decay scales with the learning
/// rate l, the paper's with the schedule alone.
#[derive(Debug)]
pub struct AdamW(Moments);

impl AdamW {
    /// An optimiser at rest.
    ///
    /// # Errors
    /// If a setting is out of its range or a moment cannot be allocated.
    pub fn new(groups: &[ParameterGroup], config: AdamConfig) -> Result<Self> {
        Ok(Self(Moments::new("adamw", groups, config)?))
    }

    /// Takes one step: moves the moments and the groups' variables, in place.
    ///
    /// # Errors
    /// If groups and gradients are not those of [`Self::new`] in number, shape and dtype.
    pub fn step(
        &mut self,
        groups: &[ParameterGroup],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<()> {
        let kept = 1.0 - learning_rate * self.0.config.weight_decay;
        self.0.step("adamw", groups, gradients, learning_rate, Decay { l2: 0.0, kept })
    }

    /// What it remembers, copied: M as `first_moment`, S as `second_moment`, t.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn state(&self) -> Result<OptimizerState> {
        self.0.state()
    }

    /// Goes on from what [`Self::state`] gave.
    ///
    /// # Errors
    /// If names, shapes or types are not this optimiser's.
    pub fn set_state(&mut self, state: &OptimizerState) -> Result<()> {
        self.0.set_state("adamw", state)
    }
}

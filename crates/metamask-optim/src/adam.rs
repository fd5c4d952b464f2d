//! Adam with bias correction, as PyTorch has it; weight decay is part of the gradient.

use candle_core::{Result, Tensor};
use metamask_ops::ParameterGroup;

use crate::fused::{Real, for_dtype_of, update_two_states, with_two_states};
use crate::state::{OptimizerState, at_rest, check_setting, checked};

/// Settings of [`Adam`] and [`AdamW`](crate::AdamW).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConfig {
    /// β₁, share of the old in the first moment, at least 0 and below 1; PyTorch's default is 0.9.
    pub beta1: f64,
    /// β₂, share of the old in the second moment, at least 0 and below 1; PyTorch's default is 0.999.
    pub beta2: f64,
    /// ε in the denominator, at least 0; PyTorch's default is 1e-8.
    pub epsilon: f64,
    /// Weight decay ω, at least 0; PyTorch's default is 0 for Adam, 0.01 for AdamW.
    pub weight_decay: f64,
}

impl AdamConfig {
    /// PyTorch's defaults but for the weight decay, which the two have apart.
    pub fn with_weight_decay(weight_decay: f64) -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay }
    }
}

/// Adam on a list of parameter groups.
///
/// ```text
/// g′ = g + ω θ
/// M ← β₁ M + (1 − β₁) g′        S ← β₂ S + (1 − β₂) g′²        t ← t + 1
/// θ ← θ − l · M / (1 − β₁ᵗ) / (√S / √(1 − β₂ᵗ) + ε)
/// ```
/// M, S and t start at 0. Every parameter decays, biases and norms too.
///
/// # Source
/// Kingma and Ba 2015, arXiv:1412.6980, algorithm 1. Equals
/// `torch.optim.Adam(betas, eps, weight_decay)`, without `amsgrad`.
#[derive(Debug)]
pub struct Adam(Moments);

impl Adam {
    /// An optimiser at rest.
    ///
    /// # Errors
    /// If a setting is out of its range or a moment cannot be allocated.
    pub fn new(groups: &[ParameterGroup], config: AdamConfig) -> Result<Self> {
        Ok(Self(Moments::new("adam", groups, config)?))
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
        let l2 = self.0.config.weight_decay;
        self.0.step("adam", groups, gradients, learning_rate, Decay { l2, kept: 1.0 })
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
        self.0.set_state("adam", state)
    }
}

/// What Adam and AdamW have in common: everything but the weight decay.
#[derive(Debug)]
pub(crate) struct Moments {
    pub config: AdamConfig,
    first: Vec<Tensor>,
    second: Vec<Tensor>,
    /// t
    steps: u64,
}

/// The two ways of weight decay, one of which does nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decay {
    /// Added to the gradient, in units of θ.
    pub l2: f64,
    /// The share of θ that remains before the step.
    pub kept: f64,
}

impl Moments {
    pub fn new(operation: &str, groups: &[ParameterGroup], config: AdamConfig) -> Result<Self> {
        let AdamConfig { beta1, beta2, epsilon, weight_decay } = config;
        let check = |name, value, range, holds| check_setting(operation, name, value, range, holds);
        check("beta1", beta1, "at least 0 and below 1", (0.0..1.0).contains(&beta1))?;
        check("beta2", beta2, "at least 0 and below 1", (0.0..1.0).contains(&beta2))?;
        check("epsilon", epsilon, "at least 0", epsilon >= 0.0)?;
        check("weight_decay", weight_decay, "at least 0", weight_decay >= 0.0)?;
        Ok(Self { config, first: at_rest(groups)?, second: at_rest(groups)?, steps: 0 })
    }

    pub fn step(
        &mut self,
        operation: &str,
        groups: &[ParameterGroup],
        gradients: &[Tensor],
        learning_rate: f64,
        decay: Decay,
    ) -> Result<()> {
        let theta = checked(operation, groups, gradients, &self.first)?;
        self.steps += 1;
        let t = self.steps as f64;
        let AdamConfig { beta1, beta2, epsilon, .. } = self.config;
        let rule = Rule {
            beta1,
            beta2,
            epsilon,
            decay,
            // libm: the same bits on every platform.
            step_size: learning_rate / (1.0 - libm::pow(beta1, t)),
            root_correction: (1.0 - libm::pow(beta2, t)).sqrt(),
        };
        let moments = self.first.iter_mut().zip(&mut self.second);
        let state = theta.iter().zip(gradients).zip(moments);
        for (group, ((x, gradient), (first, second))) in groups.iter().zip(state) {
            if x.device().is_cpu() {
                for_dtype_of!(x, "adam", step(x, gradient, [first, second], rule))?;
                continue;
            }
            let moved;
            (moved, [*first, *second]) = rule.expression(x, gradient, [first, second])?;
            group.var.set(&moved)?;
        }
        Ok(())
    }

    pub fn state(&self) -> Result<OptimizerState> {
        let moments: [(&str, &[Tensor]); 2] =
            [("first_moment", &self.first), ("second_moment", &self.second)];
        OptimizerState::of(self.steps, &moments)
    }

    pub fn set_state(&mut self, operation: &str, state: &OptimizerState) -> Result<()> {
        let names = ["first_moment", "second_moment"];
        [self.first, self.second] = state.take(operation, names, &self.first)?;
        self.steps = state.steps;
        Ok(())
    }
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
struct Rule {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    decay: Decay,
    /// l / (1 − β₁ᵗ)
    step_size: f64,
    /// √(1 − β₂ᵗ)
    root_correction: f64,
}

impl Rule {
    /// θ and the moments after the step, as tensors, for devices other than the CPU.
    fn expression(
        self,
        x: &Tensor,
        gradient: &Tensor,
        [first, second]: [&Tensor; 2],
    ) -> Result<(Tensor, [Tensor; 2])> {
        let x = (x * self.decay.kept)?;
        let g = (gradient + (&x * self.decay.l2)?)?;
        let first = (first + ((&g - first)? * (1.0 - self.beta1))?)?;
        let second = ((second * self.beta2)? + (g.sqr()? * (1.0 - self.beta2))?)?;
        let root = ((second.sqrt()? / self.root_correction)? + self.epsilon)?;
        let moved = (x - ((&first * self.step_size)? / root)?)?;
        Ok((moved, [first, second]))
    }
}

fn step<T: Real>(x: &Tensor, gradient: &Tensor, moments: [&Tensor; 2], rule: Rule) -> Result<()> {
    let number = T::from_f64;
    let (beta2, one_minus_beta2) = (number(rule.beta2), number(1.0 - rule.beta2));
    let one_minus_beta1 = number(1.0 - rule.beta1);
    let (l2, kept) = (number(rule.decay.l2), number(rule.decay.kept));
    let (step_size, root_correction) = (number(rule.step_size), number(rule.root_correction));
    let epsilon = number(rule.epsilon);
    with_two_states(x, gradient, moments, |x, g, m, s| {
        update_two_states(x, g, [m, s], |x, g, m, s| {
            *x *= kept;
            let g = g + l2 * *x;
            *m += one_minus_beta1 * (g - *m);
            *s = beta2 * *s + one_minus_beta2 * g * g;
            *x -= step_size * *m / (s.sqrt() / root_correction + epsilon);
        });
    })
}

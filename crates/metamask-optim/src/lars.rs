//! LARS: SGD with momentum whose every weight tensor has a rate of its own,
//! by the ratio of its norm to its gradient's.

use candle_core::{Result, Tensor};
use metamask_ops::{ParameterEntry, ParameterGroup, ParameterKind};
use serde::{Deserialize, Serialize};

use crate::fused::{Real, for_dtype_of, squared_norm_of, update_one_state, with_one_state};
use crate::state::{OptimizerState, at_rest, check_setting, checked};

/// Settings of [`Lars`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LarsConfig {
    /// Trust coefficient η, above 0; default 1e-3. solo-learn's recipes for CIFAR have 0.02.
    pub trust_coefficient: f64,
    /// Whether the local rate is bounded; default [`LarsClipping::None`].
    pub clipping: LarsClipping,
    /// Whether biases, norms and mask logits take plain SGD steps, neither
    /// adapted nor decayed; default true.
    pub exclude_biases_and_norms: bool,
    /// Momentum μ, at least 0 and below 1; default 0.9.
    pub momentum: f64,
    /// Whether the momentum is Nesterov's; μ is above 0 then. Default false.
    pub nesterov: bool,
    /// Weight decay ω, at least 0; default 5e-4, the source's.
    pub weight_decay: f64,
    /// ε in the denominator, at least 0; default 1e-8.
    pub epsilon: f64,
}

impl Default for LarsConfig {
    fn default() -> Self {
        Self {
            trust_coefficient: 1e-3,
            clipping: LarsClipping::None,
            exclude_biases_and_norms: true,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 5e-4,
            epsilon: 1e-8,
        }
    }
}

/// Whether LARS bounds its local rate s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LarsClipping {
    /// s = η ‖p‖ / (‖g‖ + ω ‖p‖ + ε), the source's.
    None,
    /// min(s / l, 1): the step's rate, s l, never exceeds the learning rate l.
    /// solo-learn's `clip_lr` (`clip_lars_lr` in its class), `clip` of Apex's LARC.
    LearningRate,
}

/// LARS on the parameters (not the groups) of a list of parameter groups.
///
/// ```text
/// s = η ‖p‖ / (‖g‖ + ω ‖p‖ + ε)          or min(s / l, 1) with clipping
/// d = s (g + ω p)        V ← μ V + d
/// p ← p − l V                             classical
/// p ← p − l (d + μ V)                     Nesterov, V the new one
/// ```
/// p is one named parameter, such as a convolution's weight; V starts at 0.
/// d = g, neither adapted nor decayed, where ‖p‖ or ‖g‖ is 0, and for biases,
/// norms and mask logits unless they are included. Norms are summed in f64.
///
/// # Source
/// You et al. 2017, arXiv:1708.03888, in the form of solo-learn's class `LARS`
/// (after Lightning Bolts): the learning rate multiplies V when p moves, the
/// paper has it inside V.
#[derive(Debug)]
pub struct Lars {
    config: LarsConfig,
    velocity: Vec<Tensor>,
}

impl Lars {
    /// An optimiser at rest: V = 0 for each group.
    ///
    /// # Errors
    /// If a setting is out of its range or a velocity cannot be allocated.
    pub fn new(groups: &[ParameterGroup], config: LarsConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { config, velocity: at_rest(groups)? })
    }

    /// Takes one step: moves the velocities and the groups' variables, in place.
    ///
    /// # Errors
    /// If groups and gradients are not those of [`Self::new`] in number, shape and dtype.
    pub fn step(
        &mut self,
        groups: &[ParameterGroup],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<()> {
        let theta = checked("lars", groups, gradients, &self.velocity)?;
        let tensors = theta.iter().zip(gradients).zip(&mut self.velocity);
        for (group, ((x, gradient), velocity)) in groups.iter().zip(tensors) {
            let (config, entries) = (&self.config, &group.entries);
            if !x.device().is_cpu() {
                let moved;
                (moved, *velocity) =
                    config.expression(entries, [x, gradient, velocity], learning_rate)?;
                group.var.set(&moved)?;
                continue;
            }
            for_dtype_of!(x, "lars", step(x, gradient, velocity, entries, config, learning_rate))?;
        }
        Ok(())
    }

    /// What it remembers, copied: V as `velocity`.
    ///
    /// # Errors
    /// If a tensor cannot be copied.
    pub fn state(&self) -> Result<OptimizerState> {
        OptimizerState::of(0, &[("velocity", &self.velocity)])
    }

    /// Goes on from what [`Self::state`] gave.
    ///
    /// # Errors
    /// If names, shapes or types are not this optimiser's.
    pub fn set_state(&mut self, state: &OptimizerState) -> Result<()> {
        let [velocity] = state.take("lars", ["velocity"], &self.velocity)?;
        self.velocity = velocity;
        Ok(())
    }
}

impl LarsConfig {
    fn check(&self) -> Result<()> {
        let check = |name, value, range, holds| check_setting("lars", name, value, range, holds);
        let Self { trust_coefficient: eta, momentum, weight_decay, epsilon, .. } = *self;
        check("trust_coefficient", eta, "above 0", eta > 0.0)?;
        check("momentum", momentum, "at least 0 and below 1", (0.0..1.0).contains(&momentum))?;
        check("Nesterov's momentum", momentum, "above 0", !self.nesterov || momentum > 0.0)?;
        check("weight_decay", weight_decay, "at least 0", weight_decay >= 0.0)?;
        check("epsilon", epsilon, "at least 0", epsilon >= 0.0)
    }

    /// s and ω for a parameter p with gradient g.
    fn local_rate<T: Real>(
        &self,
        kind: ParameterKind,
        p: &[T],
        g: &[T],
        learning_rate: f64,
    ) -> (f64, f64) {
        let plain_sgd = (1.0, 0.0);
        if self.exclude_biases_and_norms && is_bias_or_norm(kind) {
            return plain_sgd;
        }
        let (p, g) = (squared_norm_of(p).sqrt(), squared_norm_of(g).sqrt());
        if p == 0.0 || g == 0.0 {
            return plain_sgd;
        }
        let rate = self.trust_coefficient * p / (g + self.weight_decay * p + self.epsilon);
        let rate = match self.clipping {
            LarsClipping::None => rate,
            LarsClipping::LearningRate => (rate / learning_rate).min(1.0),
        };
        (rate, self.weight_decay)
    }

    /// p and V of a whole group after the step, as tensors, for devices other than the CPU: nothing
    /// waits for a norm.
    fn expression(
        &self,
        entries: &[ParameterEntry],
        [x, gradient, velocity]: [&Tensor; 3],
        learning_rate: f64,
    ) -> Result<(Tensor, Tensor)> {
        let flat = (x.flatten_all()?, gradient.flatten_all()?, velocity.flatten_all()?);
        let (mut moved, mut velocities) = (Vec::new(), Vec::new());
        for ParameterEntry { span, kind, .. } in entries {
            let part = |t: &Tensor| t.narrow(0, span.start, span.len());
            let (p, g, v) = (part(&flat.0)?, part(&flat.1)?, part(&flat.2)?);
            let d = match self.exclude_biases_and_norms && is_bias_or_norm(*kind) {
                true => g,
                false => self.adapted(&p, &g, learning_rate)?,
            };
            let v = ((v * self.momentum)? + &d)?;
            let direction = match self.nesterov {
                true => (d + (&v * self.momentum)?)?,
                false => v.clone(),
            };
            moved.push((p - (direction * learning_rate)?)?);
            velocities.push(v);
        }
        let whole = |parts: &[Tensor]| Tensor::cat(parts, 0)?.reshape(x.shape());
        Ok((whole(&moved)?, whole(&velocities)?))
    }

    /// s (g + ω p), or g where a norm is 0.
    fn adapted(&self, p: &Tensor, g: &Tensor, learning_rate: f64) -> Result<Tensor> {
        let norm = |t: &Tensor| t.sqr()?.sum_keepdim(0)?.sqrt();
        let (p_norm, g_norm) = (norm(p)?, norm(g)?);
        let below = ((&g_norm + (&p_norm * self.weight_decay)?)? + self.epsilon)?;
        let rate = ((&p_norm * self.trust_coefficient)? / below)?;
        let rate = match self.clipping {
            LarsClipping::None => rate,
            LarsClipping::LearningRate => (rate / learning_rate)?.minimum(1.0)?,
        };
        let both = (p_norm * g_norm)?.gt(0.0)?;
        let rate = both.where_cond(&rate, &rate.ones_like()?)?;
        let decay = both.to_dtype(p.dtype())?.affine(self.weight_decay, 0.0)?;
        (g + p.broadcast_mul(&decay)?)?.broadcast_mul(&rate)
    }
}

/// Vectors, as solo-learn tells them by their one axis; mask logits are one, too.
fn is_bias_or_norm(kind: ParameterKind) -> bool {
    !matches!(kind, ParameterKind::Convolution | ParameterKind::Linear)
}

fn step<T: Real>(
    x: &Tensor,
    gradient: &Tensor,
    velocity: &Tensor,
    entries: &[ParameterEntry],
    config: &LarsConfig,
    learning_rate: f64,
) -> Result<()> {
    let momentum = T::from_f64(config.momentum);
    let l = T::from_f64(learning_rate);
    let nesterov = config.nesterov;
    with_one_state(x, gradient, velocity, |x: &mut [T], g, v| {
        for ParameterEntry { span, kind, .. } in entries {
            let (x, v) = (&mut x[span.clone()], &mut v[span.clone()]);
            let g = &g[span.clone()];
            let (rate, decay) = config.local_rate(*kind, x, g, learning_rate);
            let (rate, decay) = (T::from_f64(rate), T::from_f64(decay));
            update_one_state(x, g, v, |x, g, v| {
                let d = rate * (g + decay * *x);
                *v = momentum * *v + d;
                *x -= l * if nesterov { d + momentum * *v } else { *v };
            });
        }
    })
}

//! Stochastic gradient descent with momentum and weight decay, as PyTorch has
//! it, and the same step as a pure function (the virtual step).

use candle_core::{Result, Tensor, Var, bail};
use metamask_ops::ParameterGroup;

use crate::fused::{Real, for_dtype_of, mapped, update_one_state, with_one_state};
use crate::state::{OptimizerState, at_rest, check_shapes, checked, copied};

/// SGD with momentum μ and weight decay ω on a list of parameter groups.
///
/// ```text
/// g′ = g + ω θ        V ← μ V + g′
/// θ ← θ − l V                          classical
/// θ ← θ − l (g′ + μ V)                 Nesterov, V the new one
/// ```
/// V starts at 0, l is the current learning rate. Every parameter decays,
/// biases and norms too.
///
/// # Source
/// Equals `torch.optim.SGD(momentum, weight_decay, nesterov)` with dampening 0;
/// MetaMask uses the classical form with μ = 0.9, ω = 5e-4.
#[derive(Debug)]
pub struct Sgd {
    rule: Rule,
    velocity: Vec<Tensor>,
}

/// The equations without their state.
#[derive(Clone, Copy, Debug)]
struct Rule {
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
}

impl Sgd {
    /// An optimiser at rest, V = 0 for each group, with classical momentum.
    ///
    /// # Errors
    /// If a velocity cannot be allocated.
    pub fn new(groups: &[ParameterGroup], momentum: f64, weight_decay: f64) -> Result<Self> {
        let rule = Rule { momentum, weight_decay, nesterov: false };
        Ok(Self { rule, velocity: at_rest(groups)? })
    }

    /// The same with Nesterov's momentum, which must be above 0.
    ///
    /// # Errors
    /// If the momentum is not, or a velocity cannot be allocated.
    pub fn nesterov(groups: &[ParameterGroup], momentum: f64, weight_decay: f64) -> Result<Self> {
        if momentum.is_nan() || momentum <= 0.0 {
            bail!("sgd: Nesterov's momentum must be above 0, got {momentum}");
        }
        let rule = Rule { momentum, weight_decay, nesterov: true };
        Ok(Self { rule, velocity: at_rest(groups)? })
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
        let theta = checked("sgd", groups, gradients, &self.velocity)?;
        let state = theta.iter().zip(gradients).zip(&mut self.velocity);
        for (group, ((x, gradient), velocity)) in groups.iter().zip(state) {
            if x.device().is_cpu() {
                for_dtype_of!(x, "sgd", step(x, gradient, velocity, self.rule, learning_rate))?;
                continue;
            }
            let direction;
            (*velocity, direction) = self.rule.expression(velocity, gradient, x)?;
            group.var.set(&(x - (direction * learning_rate)?)?)?;
        }
        Ok(())
    }

    /// Where a step from `theta` would lead, as fresh variables; changes nothing.
    ///
    /// ```text
    /// θ′ = θ − l (μ V + g + ω θ)                        classical
    /// θ′ = θ − l (g′ + μ (μ V + g′)),  g′ = g + ω θ     Nesterov
    /// ```
    /// `velocity` holds V of the groups that theta is made of, a part of
    /// [`Self::velocity`]: the meta loss need not depend on all of them.
    ///
    /// # Errors
    /// If the lists differ in number or shape.
    pub fn virtual_step(
        &self,
        theta: &[Tensor],
        gradients: &[Tensor],
        velocity: &[Tensor],
        learning_rate: f64,
    ) -> Result<Vec<Tensor>> {
        check_shapes("virtual_step", "gradients", theta, gradients)?;
        check_shapes("virtual_step", "velocities", theta, velocity)?;
        let moved = |((x, g), v): ((&Tensor, &Tensor), &Tensor)| {
            if x.device().is_cpu() {
                return for_dtype_of!(
                    x,
                    "virtual_step",
                    descended(x, g, v, self.rule, learning_rate)
                );
            }
            let (_, direction) = self.rule.expression(v, g, &x.detach())?;
            let moved = (x.detach() - (direction * learning_rate)?)?;
            Ok(Var::from_tensor(&moved)?.into_inner())
        };
        theta.iter().zip(gradients).zip(velocity).map(moved).collect()
    }

    /// How much of g is in the virtual step: ∂θ′/∂g = −l · factor.
    ///
    /// 1 for classical momentum, 1 + μ for Nesterov's. The hypergradient's
    /// second-order term carries it.
    pub fn virtual_gradient_factor(&self) -> f64 {
        match self.rule.nesterov {
            true => 1.0 + self.rule.momentum,
            false => 1.0,
        }
    }

    /// V, a tensor for each group. The next step changes it in place: copy what
    /// is to be kept.
    pub fn velocity(&self) -> &[Tensor] {
        &self.velocity
    }

    /// Puts back velocities that a checkpoint kept.
    ///
    /// # Errors
    /// If they are not those of [`Self::new`] in number and shape.
    pub fn set_velocity(&mut self, velocity: &[Tensor]) -> Result<()> {
        check_shapes("set_velocity", "velocities", &self.velocity, velocity)?;
        // Copied, so that no step reaches into the caller's tensors.
        self.velocity = copied(velocity)?;
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
        let [velocity] = state.take("sgd", ["velocity"], &self.velocity)?;
        self.velocity = velocity;
        Ok(())
    }
}

impl Rule {
    /// (V, g, θ) to the next V and the direction of descent, in PyTorch's order of operations.
    fn function<T: Real>(self) -> impl Fn(T, T, T) -> (T, T) + Sync + Send + Copy {
        let (momentum, decay) = (T::from_f64(self.momentum), T::from_f64(self.weight_decay));
        move |velocity, gradient, x| {
            let decayed = gradient + decay * x;
            let velocity = momentum * velocity + decayed;
            match self.nesterov {
                true => (velocity, decayed + momentum * velocity),
                false => (velocity, velocity),
            }
        }
    }

    /// The same as tensors, for devices other than the CPU.
    fn expression(
        self,
        velocity: &Tensor,
        gradient: &Tensor,
        x: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let decayed = (gradient + (x * self.weight_decay)?)?;
        let velocity = ((velocity * self.momentum)? + &decayed)?;
        let direction = match self.nesterov {
            true => (decayed + (&velocity * self.momentum)?)?,
            false => velocity.clone(),
        };
        Ok((velocity, direction))
    }
}

fn step<T: Real>(
    x: &Tensor,
    gradient: &Tensor,
    velocity: &Tensor,
    rule: Rule,
    learning_rate: f64,
) -> Result<()> {
    let (rule, learning_rate) = (rule.function::<T>(), T::from_f64(learning_rate));
    with_one_state(x, gradient, velocity, |x, g, v| {
        update_one_state(x, g, v, |x, g, v| {
            let direction;
            (*v, direction) = rule(*v, g, *x);
            *x -= learning_rate * direction;
        });
    })
}

fn descended<T: Real>(
    x: &Tensor,
    gradient: &Tensor,
    velocity: &Tensor,
    rule: Rule,
    learning_rate: f64,
) -> Result<Tensor> {
    let (rule, learning_rate) = (rule.function::<T>(), T::from_f64(learning_rate));
    mapped(x, gradient, velocity, |x, g, v| x - learning_rate * rule(v, g, x).1)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use metamask_ops::ParameterKind;

    use super::*;

    fn groups(dtype: DType, sizes: &[usize]) -> Result<Vec<ParameterGroup>> {
        let group = |(i, &n): (usize, &usize)| {
            let values: Vec<f64> = (0..n).map(|k| (1.3 * k as f64 + i as f64).sin()).collect();
            let values = Tensor::from_vec(values, n, &Device::Cpu)?.to_dtype(dtype)?;
            let var = Var::from_tensor(&values)?;
            Ok(ParameterGroup::single(format!("p{i}"), ParameterKind::Bias, var))
        };
        sizes.iter().enumerate().map(group).collect()
    }

    type New = fn(&[ParameterGroup], f64, f64) -> Result<Sgd>;

    /// Gradient of Σ x⁴/4 − x, so that the path is not a geometric series.
    fn gradients(groups: &[ParameterGroup]) -> Result<Vec<Tensor>> {
        groups.iter().map(|group| group.var.powf(3.0)? - 1.0).collect()
    }

    fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
        tensor.to_dtype(DType::F64)?.to_vec1()
    }

    #[test]
    fn fifty_steps_equal_pytorch() -> Result<()> {
        // torch 2.15.0, float64:
        //   x = torch.tensor([0.0, 0.5, -1.5], dtype=torch.float64, requires_grad=True)
        //   sgd = torch.optim.SGD([x], lr=0.05, momentum=0.9, weight_decay=5e-4)
        //   for _ in range(50): sgd.zero_grad(); (x**4 / 4 - x).sum().backward(); sgd.step()
        let expected_x = [0.9447082279529162, 0.9755493854281713, 0.8965292003754579];
        let expected_v = [0.025739334700777522, -0.14370848357867347, 0.46908090219302967];
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-5)] {
            let start = Tensor::new(&[0.0f64, 0.5, -1.5], &Device::Cpu)?.to_dtype(dtype)?;
            let var = Var::from_tensor(&start)?;
            let groups = [ParameterGroup::single("x", ParameterKind::Bias, var)];
            let mut sgd = Sgd::new(&groups, 0.9, 5e-4)?;
            for _ in 0..50 {
                sgd.step(&groups, &gradients(&groups)?, 0.05)?;
            }
            let got = [numbers(&groups[0].var)?, numbers(&sgd.velocity()[0])?].concat();
            for (got, expected) in got.iter().zip([expected_x, expected_v].concat()) {
                assert!((got - expected).abs() < tolerance, "{dtype:?}: {got} {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn steps_equal_the_written_out_recurrence_over_several_groups() -> Result<()> {
        // The second group is longer than a chunk of the parallel loop.
        let groups = groups(DType::F64, &[3, 40_000])?;
        let (mut x, mut v) = (Vec::new(), Vec::new());
        for group in &groups {
            x.extend(numbers(&group.var)?);
            v.extend(vec![0.0; group.var.elem_count()]);
        }
        let mut sgd = Sgd::new(&groups, 0.8, 1e-2)?;
        for step in 0..5 {
            let learning_rate = 0.1 / (1.0 + step as f64);
            sgd.step(&groups, &gradients(&groups)?, learning_rate)?;
            for (x, v) in x.iter_mut().zip(&mut v) {
                *v = 0.8 * *v + (x.powi(3) - 1.0) + 1e-2 * *x;
                *x -= learning_rate * *v;
            }
        }
        let got = [numbers(&groups[0].var)?, numbers(&groups[1].var)?].concat();
        let largest = got.iter().zip(&x).fold(0.0, |max: f64, (a, b)| max.max((a - b).abs()));
        assert!(largest < 1e-14, "{largest:e}");
        Ok(())
    }

    #[test]
    fn the_virtual_step_leads_where_the_step_does_and_changes_nothing() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            for new in [Sgd::new, Sgd::nesterov] {
                let groups = groups(dtype, &[3, 40_000])?;
                let mut sgd = new(&groups, 0.9, 5e-4)?;
                sgd.step(&groups, &gradients(&groups)?, 0.1)?;
                let g = gradients(&groups)?;
                let theta: Vec<Tensor> =
                    groups.iter().map(|group| group.tensor().clone()).collect();
                let before = (numbers(&theta[1])?, numbers(&sgd.velocity()[1])?);

                let virtual_theta = sgd.virtual_step(&theta, &g, sgd.velocity(), 0.1)?;
                assert_eq!(before, (numbers(&theta[1])?, numbers(&sgd.velocity()[1])?));
                assert!(virtual_theta.iter().all(Tensor::is_variable));

                sgd.step(&groups, &g, 0.1)?;
                for (virtual_theta, group) in virtual_theta.iter().zip(&groups) {
                    assert_eq!(numbers(virtual_theta)?, numbers(&group.var)?);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_transposed_gradient_is_read_in_its_own_order() -> Result<()> {
        let var = Var::zeros((2, 3), DType::F64, &Device::Cpu)?;
        let groups = [ParameterGroup::single("w", ParameterKind::Linear, var)];
        let gradient = Tensor::new(&[[1.0f64, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu)?.t()?;
        Sgd::new(&groups, 0.9, 0.0)?.step(&groups, &[gradient], 1.0)?;
        let expected = [[-1.0, -3.0, -5.0], [-2.0, -4.0, -6.0]];
        assert_eq!(groups[0].var.to_vec2::<f64>()?, expected);
        Ok(())
    }

    #[test]
    fn a_run_continued_from_kept_velocities_equals_one_that_went_on() -> Result<()> {
        let (straight, resumed) = (groups(DType::F32, &[5])?, groups(DType::F32, &[5])?);
        let mut sgd = Sgd::new(&straight, 0.9, 5e-4)?;
        let mut first = Sgd::new(&resumed, 0.9, 5e-4)?;
        for (sgd, groups) in [(&mut sgd, &straight), (&mut first, &resumed)] {
            sgd.step(groups, &gradients(groups)?, 0.1)?;
        }
        let mut second = Sgd::new(&resumed, 0.9, 5e-4)?;
        second.set_velocity(first.velocity())?;
        for (sgd, groups) in [(&mut sgd, &straight), (&mut second, &resumed)] {
            sgd.step(groups, &gradients(groups)?, 0.1)?;
        }
        assert_eq!(numbers(&straight[0].var)?, numbers(&resumed[0].var)?);
        // The restored optimiser must not reach into the tensors it was given.
        assert_ne!(numbers(&first.velocity()[0])?, numbers(&second.velocity()[0])?);
        Ok(())
    }

    #[test]
    fn the_virtual_step_moves_with_the_gradient_by_its_factor() -> Result<()> {
        for (new, factor) in [(Sgd::new as New, 1.0), (Sgd::nesterov, 1.75)] {
            let groups = groups(DType::F64, &[4])?;
            let mut sgd = new(&groups, 0.75, 1e-2)?;
            sgd.step(&groups, &gradients(&groups)?, 0.1)?;
            assert_eq!(sgd.virtual_gradient_factor(), factor);

            let theta = [groups[0].tensor().clone()];
            let g = gradients(&groups)?;
            let further = [(&g[0] + 1.0)?];
            let lead = |g: &[Tensor]| sgd.virtual_step(&theta, g, sgd.velocity(), 0.1);
            let moved = numbers(&(&lead(&further)?[0] - &lead(&g)?[0])?)?;
            assert!(moved.iter().all(|moved| (moved + 0.1 * factor).abs() < 1e-15), "{moved:?}");
        }
        Ok(())
    }

    #[test]
    fn nesterov_without_momentum_is_refused() -> Result<()> {
        let groups = groups(DType::F32, &[3])?;
        assert!(Sgd::nesterov(&groups, 0.0, 0.0).is_err());
        assert!(Sgd::nesterov(&groups, f64::NAN, 0.0).is_err());
        Ok(())
    }

    #[test]
    fn gradients_of_other_shapes_are_refused() -> Result<()> {
        let groups = groups(DType::F32, &[3])?;
        let wrong = Tensor::zeros(4, DType::F32, &Device::Cpu)?;
        let error = Sgd::new(&groups, 0.9, 0.0)?.step(&groups, &[wrong], 0.1).unwrap_err();
        assert!(error.to_string().contains("expected [[3]], got [[4]]"), "{error}");
        Ok(())
    }
}

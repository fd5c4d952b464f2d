//! Stochastic gradient descent with momentum and weight decay, as PyTorch has
//! it, and the same step as a pure function (the virtual step).

use candle_core::{Result, Tensor, bail};
use metamask_ops::ParameterGroup;

use crate::fused::{Descend, UpdateVelocity, descended};

/// SGD with momentum μ and weight decay λ on a list of parameter groups.
///
/// ```text
/// V ← μ V + (g + λ θ)        θ ← θ − l V
/// ```
/// V starts at 0, l is the current learning rate. Every parameter decays,
/// biases and norms too.
///
/// # Source
/// Equals `torch.optim.SGD(momentum, weight_decay)` with dampening 0, not
/// Nesterov; MetaMask uses μ = 0.9, λ = 5e-4.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    velocity: Vec<Tensor>,
}

impl Sgd {
    /// An optimiser at rest: V = 0 for each group.
    ///
    /// # Errors
    /// If a velocity cannot be allocated.
    pub fn new(groups: &[ParameterGroup], momentum: f64, weight_decay: f64) -> Result<Self> {
        let velocity = groups.iter().map(|group| group.var.zeros_like()).collect::<Result<_>>()?;
        Ok(Self { momentum, weight_decay, velocity })
    }

    /// Takes one step: moves the velocities, then the groups' variables, in place.
    ///
    /// # Errors
    /// If groups and gradients are not those of [`Self::new`] in number, shape and dtype.
    pub fn step(
        &mut self,
        groups: &[ParameterGroup],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<()> {
        let theta: Vec<Tensor> = groups.iter().map(|group| group.var.as_tensor().clone()).collect();
        check_shapes("sgd", &theta, gradients, &self.velocity)?;
        for ((theta, gradient), velocity) in theta.iter().zip(gradients).zip(&self.velocity) {
            velocity.inplace_op3(&gradient.contiguous()?, theta, &self.rule())?;
            theta.inplace_op2(velocity, &Descend { learning_rate })?;
        }
        Ok(())
    }

    /// Where a step from `theta` would lead, as fresh variables; changes nothing.
    ///
    /// ```text
    /// θ′ = θ − l (μ V + g + λ θ)
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
        check_shapes("virtual_step", theta, gradients, velocity)?;
        theta
            .iter()
            .zip(gradients)
            .zip(velocity)
            .map(|((x, g), v)| descended(x, g, v, &self.rule(), learning_rate))
            .collect()
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
        check_shapes("set_velocity", &self.velocity, velocity, velocity)?;
        // Copied, so that no step reaches into the caller's tensors.
        self.velocity = velocity.iter().map(Tensor::copy).collect::<Result<_>>()?;
        Ok(())
    }

    fn rule(&self) -> UpdateVelocity {
        UpdateVelocity { momentum: self.momentum, weight_decay: self.weight_decay }
    }
}

fn check_shapes(
    operation: &str,
    theta: &[Tensor],
    gradients: &[Tensor],
    velocity: &[Tensor],
) -> Result<()> {
    let shapes = |tensors: &[Tensor]| tensors.iter().map(|t| t.dims().to_vec()).collect::<Vec<_>>();
    let expected = shapes(theta);
    for got in [shapes(gradients), shapes(velocity)] {
        if got != expected {
            bail!(
                "{operation}: gradients and velocities must have the parameters' shapes, \
                 expected {expected:?}, got {got:?}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
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
            let groups = groups(dtype, &[3, 40_000])?;
            let mut sgd = Sgd::new(&groups, 0.9, 5e-4)?;
            sgd.step(&groups, &gradients(&groups)?, 0.1)?;
            let g = gradients(&groups)?;
            let theta: Vec<Tensor> = groups.iter().map(|group| group.tensor().clone()).collect();
            let before = (numbers(&theta[1])?, numbers(&sgd.velocity()[1])?);

            let virtual_theta = sgd.virtual_step(&theta, &g, sgd.velocity(), 0.1)?;
            assert_eq!(before, (numbers(&theta[1])?, numbers(&sgd.velocity()[1])?));
            assert!(virtual_theta.iter().all(Tensor::is_variable));

            sgd.step(&groups, &g, 0.1)?;
            for (virtual_theta, group) in virtual_theta.iter().zip(&groups) {
                assert_eq!(numbers(virtual_theta)?, numbers(&group.var)?);
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
    fn gradients_of_other_shapes_are_refused() -> Result<()> {
        let groups = groups(DType::F32, &[3])?;
        let wrong = Tensor::zeros(4, DType::F32, &Device::Cpu)?;
        let error = Sgd::new(&groups, 0.9, 0.0)?.step(&groups, &[wrong], 0.1).unwrap_err();
        assert!(error.to_string().contains("expected [[3]], got [[4]]"), "{error}");
        Ok(())
    }
}

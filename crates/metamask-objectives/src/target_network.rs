//! The target network of BYOL (Grill et al. 2020, section 3.1): an exponential
//! moving average of the online network's parameters.
//!
//! Knows parameters, not networks. Running statistics of batch normalisation are
//! none: the target's passes keep its own.

use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor, Var, WithDType, bail};
use metamask_ops::ParameterGroup;
use rayon::prelude::*;

/// The momentum of the average at step k of K, which grows to 1.
///
/// ```text
/// τₖ = 1 − (1 − τ₀) (cos(π k / K) + 1) / 2
/// ```
/// τ₀ ∈ [0, 1], 0.996 for a training of 1000 epochs, 0.99 for 100 to 300; k is
/// brought into [0, K]. At K = 0 it is τ₀.
///
/// # Source
/// Grill et al. 2020, section 3.2, arXiv:2006.07733.
pub fn ema_momentum(tau_0: f64, step: u64, steps: u64) -> f64 {
    // libm: the same bits on every platform.
    let phase = std::f64::consts::PI * step.min(steps) as f64 / steps.max(1) as f64;
    1.0 - (1.0 - tau_0) * (libm::cos(phase) + 1.0) / 2.0
}

/// Moves the target's parameters towards the online network's, in place.
///
/// ```text
/// ξ ← τ ξ + (1 − τ) θ
/// ```
/// ξ are the target's parameters, θ the online ones, τ = `momentum` ∈ [0, 1].
/// One pass over the numbers; the bits do not depend on the number of threads.
///
/// # Errors
/// If the groups differ in number, shape or dtype (f32 or f64), or share a
/// variable: nothing has moved then.
/// # Source
/// Grill et al. 2020, equation 1.
pub fn ema_update(
    target: &[ParameterGroup],
    online: &[ParameterGroup],
    momentum: f64,
) -> Result<()> {
    check(target, online)?;
    let rule = Average { momentum };
    for (target, online) in target.iter().zip(online) {
        if target.tensor().device().is_cpu() {
            target.tensor().inplace_op2(online.tensor(), &rule)?;
            continue;
        }
        let (xi, theta) = (target.tensor().detach(), online.tensor().detach());
        target.var.set(&((xi * momentum)? + (theta * (1.0 - momentum))?)?)?;
    }
    Ok(())
}

/// A target network's parameters at the start: copies of the online ones, in
/// variables of their own.
///
/// # Errors
/// If a copy cannot be allocated.
pub fn target_parameters(online: &[ParameterGroup]) -> Result<Vec<ParameterGroup>> {
    online
        .iter()
        .map(|group| {
            // `Var::from_tensor` would share the variable.
            let var = Var::from_tensor(&group.tensor().detach())?;
            Ok(ParameterGroup { var, entries: group.entries.clone() })
        })
        .collect()
}

fn check(target: &[ParameterGroup], online: &[ParameterGroup]) -> Result<()> {
    if target.len() != online.len() {
        let (expected, got) = (online.len(), target.len());
        bail!("ema_update: target and online must match, expected {expected} groups, got {got}");
    }
    for (target, online) in target.iter().zip(online) {
        let name = online.entries.first().map_or("", |entry| entry.name.as_str());
        let kind = |x: &Tensor| format!("{:?} {:?}", x.dims(), x.dtype());
        let (expected, got) = (kind(online.tensor()), kind(target.tensor()));
        if expected != got {
            bail!("ema_update: `{name}`: the target must match, expected {expected}, got {got}");
        }
        if !matches!(online.tensor().dtype(), DType::F32 | DType::F64) {
            bail!("ema_update: `{name}`: expected f32 or f64 parameters, got {expected}");
        }
        if target.tensor().id() == online.tensor().id() {
            bail!(
                "ema_update: `{name}`: target and online are one variable, expected two: \
                 take `target_parameters`"
            );
        }
    }
    Ok(())
}

/// ξ ← τ ξ + (1 − τ) θ, in place.
struct Average {
    momentum: f64,
}

impl Average {
    fn run<T: WithDType>(
        &self,
        (target, target_layout): (&mut [T], &Layout),
        (online, online_layout): (&[T], &Layout),
    ) -> Result<()> {
        // Numbers a task works on: enough to be worth one.
        const CHUNK: usize = 1 << 14;
        let (Some((from, to)), Some((online_from, online_to))) =
            (target_layout.contiguous_offsets(), online_layout.contiguous_offsets())
        else {
            bail!("ema_update: parameters must lie in one piece")
        };
        let (target, online) = (&mut target[from..to], &online[online_from..online_to]);
        let (keep, take) = (T::from_f64(self.momentum), T::from_f64(1.0 - self.momentum));
        target.par_chunks_mut(CHUNK).zip(online.par_chunks(CHUNK)).for_each(|(target, online)| {
            for (target, &online) in target.iter_mut().zip(online) {
                *target = keep * *target + take * online;
            }
        });
        Ok(())
    }
}

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "ema_update"
    }

    fn cpu_fwd(
        &self,
        target: &mut CpuStorage,
        target_layout: &Layout,
        online: &CpuStorage,
        online_layout: &Layout,
    ) -> Result<()> {
        match (target, online) {
            (CpuStorage::F32(target), CpuStorage::F32(online)) => {
                self.run((target, target_layout), (online, online_layout))
            }
            (CpuStorage::F64(target), CpuStorage::F64(online)) => {
                self.run((target, target_layout), (online, online_layout))
            }
            _ => bail!("ema_update: parameters must both be f32 or both be f64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use metamask_ops::ParameterKind;

    use super::*;
    use crate::reference::normal;

    /// Two groups, the first long enough for several chunks.
    fn groups(sample: u32, dtype: DType) -> Result<Vec<ParameterGroup>> {
        [("encoder", vec![40_000]), ("head.0.weight", vec![3, 5])]
            .into_iter()
            .map(|(name, shape)| {
                let var = Var::from_tensor(&normal(&shape, sample)?.to_dtype(dtype)?)?;
                Ok(ParameterGroup::single(name, ParameterKind::Linear, var))
            })
            .collect()
    }

    fn numbers(groups: &[ParameterGroup]) -> Result<Vec<f64>> {
        let flat: Vec<Tensor> =
            groups.iter().map(|group| group.tensor().flatten_all()).collect::<Result<_>>()?;
        Tensor::cat(&flat, 0)?.to_dtype(DType::F64)?.to_vec1()
    }

    #[test]
    fn momentum_follows_half_a_cosine_from_tau_0_to_1() {
        assert_eq!(ema_momentum(0.99, 0, 1000), 0.99);
        assert_eq!(ema_momentum(0.99, 1000, 1000), 1.0);
        assert_eq!(ema_momentum(0.99, 5000, 1000), 1.0);
        assert!((ema_momentum(0.99, 500, 1000) - 0.995).abs() < 1e-15);
        // cos 60° = 1/2.
        assert!((ema_momentum(0.996, 333, 999) - (1.0 - 0.004 * 0.75)).abs() < 1e-15);
        assert!((1..=1000).all(|k| ema_momentum(0.9, k, 1000) > ema_momentum(0.9, k - 1, 1000)));
        assert_eq!(ema_momentum(0.9, 0, 0), 0.9);
    }

    #[test]
    fn after_k_steps_the_target_has_its_closed_form() -> Result<()> {
        // Online parameters θ stay: ξₖ = θ + τᵏ (ξ₀ − θ).
        const MOMENTUM: f64 = 0.9;
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 2e-6)] {
            let (online, target) = (groups(0, dtype)?, groups(1, dtype)?);
            let (theta, start) = (numbers(&online)?, numbers(&target)?);
            for k in 1..=20 {
                ema_update(&target, &online, MOMENTUM)?;
                let factor = MOMENTUM.powi(k);
                for ((got, theta), start) in numbers(&target)?.iter().zip(&theta).zip(&start) {
                    let expected = theta + factor * (start - theta);
                    assert!((got - expected).abs() < tolerance, "{dtype:?} {k}: {got} {expected}");
                }
            }
            assert_eq!(numbers(&online)?, theta, "the online parameters moved");
        }
        Ok(())
    }

    #[test]
    fn a_moving_network_s_target_is_the_weighted_sum_of_its_past() -> Result<()> {
        // ξₖ = (Πⱼ τⱼ) ξ₀ + Σⱼ (1 − τⱼ) (Π_{i>j} τᵢ) θⱼ, with BYOL's schedule.
        const STEPS: u64 = 10;
        let target = groups(0, DType::F64)?;
        let mut expected = numbers(&target)?;
        let momentum = |k| ema_momentum(0.8, k, STEPS);
        let later = |k: u64| (k..STEPS).map(momentum).product::<f64>();
        expected.iter_mut().for_each(|x| *x *= later(0));
        for k in 0..STEPS {
            let online = groups(1 + k as u32, DType::F64)?;
            ema_update(&target, &online, momentum(k))?;
            for (expected, theta) in expected.iter_mut().zip(numbers(&online)?) {
                *expected += (1.0 - momentum(k)) * later(k + 1) * theta;
            }
        }
        for (got, expected) in numbers(&target)?.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-13, "{got} {expected}");
        }
        Ok(())
    }

    #[test]
    fn momentum_1_keeps_the_bits_and_0_copies_them() -> Result<()> {
        for dtype in [DType::F32, DType::F64] {
            let (online, target) = (groups(0, dtype)?, groups(1, dtype)?);
            let before = numbers(&target)?;
            ema_update(&target, &online, 1.0)?;
            assert_eq!(numbers(&target)?, before);
            ema_update(&target, &online, 0.0)?;
            assert_eq!(numbers(&target)?, numbers(&online)?);
        }
        Ok(())
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() -> Result<()> {
        let averaged = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let (online, target) = (groups(0, DType::F32)?, groups(1, DType::F32)?);
            pool.install(|| ema_update(&target, &online, 0.3))?;
            numbers(&target)
        };
        assert_eq!(averaged(1)?, averaged(3)?);
        Ok(())
    }

    #[test]
    fn a_target_starts_as_a_copy_that_is_its_own() -> Result<()> {
        let online = groups(0, DType::F32)?;
        let target = target_parameters(&online)?;
        let start = numbers(&online)?;
        assert_eq!(numbers(&target)?, start);
        assert_eq!(target[1].entries, online[1].entries);
        online[1].var.set(&online[1].var.zeros_like()?)?;
        assert_eq!(numbers(&target)?, start);
        Ok(())
    }

    #[test]
    fn what_does_not_match_is_refused_before_anything_moves() -> Result<()> {
        let online = groups(0, DType::F32)?;
        let check = |target: &[ParameterGroup], message: &str| -> Result<()> {
            let before = numbers(target)?;
            let error = ema_update(target, &online, 0.5).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            assert_eq!(numbers(target)?, before);
            Ok(())
        };
        let target = target_parameters(&online)?;
        check(&target[..1], "expected 2 groups, got 1")?;
        check(&groups(1, DType::F64)?, "`encoder`: the target must match, expected [40000] F32")?;
        let one_shared = [target[0].clone(), online[1].clone()];
        check(&one_shared, "`head.0.weight`: target and online are one variable")?;
        let other = Var::zeros((5, 3), DType::F32, &candle_core::Device::Cpu)?;
        let reshaped =
            [target[0].clone(), ParameterGroup::single("w", ParameterKind::Linear, other)];
        check(&reshaped, "expected [3, 5] F32, got [5, 3] F32")
    }
}

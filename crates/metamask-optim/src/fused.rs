//! Parameter arithmetic in one pass over the numbers, where Candle's operations
//! would take several and a temporary for each.
//!
//! Work is split into chunks of a fixed size, and sums are taken over chunks in
//! order: results do not depend on the number of threads. CPU only.

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Storage, Tensor};
use candle_core::{Var, WithDType, bail};
use rayon::prelude::*;

/// Numbers a task works on: enough to be worth a task, few enough to stay in cache.
const CHUNK: usize = 1 << 14;

/// V ← μ V + (g + λ x), in place; λ is the weight decay.
pub struct UpdateVelocity {
    pub momentum: f64,
    pub weight_decay: f64,
}

/// x ← x − l V, in place.
pub struct Descend {
    pub learning_rate: f64,
}

/// x − l (μ V + (g + λ x)), a fresh variable.
pub fn descended(
    x: &Tensor,
    gradient: &Tensor,
    velocity: &Tensor,
    rule: &UpdateVelocity,
    learning_rate: f64,
) -> Result<Tensor> {
    fn run<T: WithDType>(
        x: &Tensor,
        gradient: &Tensor,
        velocity: &Tensor,
        rule: &UpdateVelocity,
        learning_rate: f64,
    ) -> Result<Tensor> {
        let learning_rate = T::from_f64(learning_rate);
        let rule = rule.function::<T>();
        let values = with_numbers(x, |x: &[T]| {
            with_numbers(gradient, |g| {
                with_numbers(velocity, |v| {
                    let next = |i: usize| x[i] - learning_rate * rule(v[i], g[i], x[i]);
                    Ok((0..x.len()).into_par_iter().with_min_len(CHUNK).map(next).collect())
                })
            })
        })?;
        variable::<T>(values, x)
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, gradient, velocity, rule, learning_rate),
        DType::F64 => run::<f64>(x, gradient, velocity, rule, learning_rate),
        other => bail!("virtual_step: expected f32 or f64 parameters, got {other:?}"),
    }
}

/// x + scale · direction.
pub fn moved(x: &Tensor, scale: f64, direction: &Tensor) -> Result<Tensor> {
    fn run<T: WithDType>(x: &Tensor, scale: f64, direction: &Tensor) -> Result<Tensor> {
        let scale = T::from_f64(scale);
        let values: Vec<T> = with_numbers(x, |x: &[T]| {
            with_numbers(direction, |d| {
                let next = |i: usize| x[i] + scale * d[i];
                Ok((0..x.len()).into_par_iter().with_min_len(CHUNK).map(next).collect())
            })
        })?;
        Tensor::from_vec(values, x.shape(), x.device())
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x, scale, direction),
        DType::F64 => run::<f64>(x, scale, direction),
        other => bail!("moved: expected f32 or f64 parameters, got {other:?}"),
    }
}

/// Σ xᵢ², summed in f64.
pub fn squared_norm(x: &Tensor) -> Result<f64> {
    fn run<T: WithDType>(x: &Tensor) -> Result<f64> {
        with_numbers(x, |x: &[T]| {
            let chunk = |x: &[T]| x.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>();
            let partial: Vec<f64> = x.par_chunks(CHUNK).map(chunk).collect();
            Ok(partial.iter().sum())
        })
    }
    match x.dtype() {
        DType::F32 => run::<f32>(x),
        DType::F64 => run::<f64>(x),
        other => bail!("squared_norm: expected f32 or f64 numbers, got {other:?}"),
    }
}

impl UpdateVelocity {
    /// (V, g, x) to the next V, in PyTorch's order of operations.
    fn function<T: WithDType>(&self) -> impl Fn(T, T, T) -> T + Sync + Send + Copy + use<T> {
        let (momentum, decay) = (T::from_f64(self.momentum), T::from_f64(self.weight_decay));
        move |velocity, gradient, x| momentum * velocity + (gradient + decay * x)
    }

    fn run<T: WithDType>(&self, velocity: &mut [T], gradient: &[T], x: &[T]) {
        let rule = self.function::<T>();
        let chunks = velocity.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        chunks.zip(x.par_chunks(CHUNK)).for_each(|((velocity, gradient), x)| {
            for ((v, &g), &x) in velocity.iter_mut().zip(gradient).zip(x) {
                *v = rule(*v, g, x);
            }
        });
    }
}

impl InplaceOp3 for UpdateVelocity {
    fn name(&self) -> &'static str {
        "update_velocity"
    }

    fn cpu_fwd(
        &self,
        velocity: &mut CpuStorage,
        velocity_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        match (velocity, gradient, x) {
            (CpuStorage::F32(v), CpuStorage::F32(g), CpuStorage::F32(x)) => self.run(
                numbers_mut(v, velocity_layout)?,
                numbers(g, gradient_layout)?,
                numbers(x, x_layout)?,
            ),
            (CpuStorage::F64(v), CpuStorage::F64(g), CpuStorage::F64(x)) => self.run(
                numbers_mut(v, velocity_layout)?,
                numbers(g, gradient_layout)?,
                numbers(x, x_layout)?,
            ),
            _ => bail!("sgd: parameter, gradient and velocity must all be f32 or all f64"),
        }
        Ok(())
    }
}

impl Descend {
    fn run<T: WithDType>(&self, x: &mut [T], velocity: &[T]) {
        let learning_rate = T::from_f64(self.learning_rate);
        x.par_chunks_mut(CHUNK).zip(velocity.par_chunks(CHUNK)).for_each(|(x, velocity)| {
            for (x, &v) in x.iter_mut().zip(velocity) {
                *x -= learning_rate * v;
            }
        });
    }
}

impl InplaceOp2 for Descend {
    fn name(&self) -> &'static str {
        "descend"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        velocity: &CpuStorage,
        velocity_layout: &Layout,
    ) -> Result<()> {
        match (x, velocity) {
            (CpuStorage::F32(x), CpuStorage::F32(v)) => {
                self.run(numbers_mut(x, x_layout)?, numbers(v, velocity_layout)?);
            }
            (CpuStorage::F64(x), CpuStorage::F64(v)) => {
                self.run(numbers_mut(x, x_layout)?, numbers(v, velocity_layout)?);
            }
            _ => bail!("sgd: parameter and velocity must both be f32 or both f64"),
        }
        Ok(())
    }
}

/// Lends a tensor's numbers, row-major, without a copy where they lie that way.
fn with_numbers<T: WithDType, R>(
    tensor: &Tensor,
    read: impl FnOnce(&[T]) -> Result<R>,
) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(numbers(T::cpu_storage_as_slice(storage)?, layout)?),
        _ => bail!("optim: parameters must be on the CPU, got {:?}", tensor.device()),
    }
}

fn numbers<'a, T>(storage: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage[start..end]),
        None => bail!("optim: numbers must lie in one piece, got strides {:?}", layout.stride()),
    }
}

fn numbers_mut<'a, T>(storage: &'a mut [T], layout: &Layout) -> Result<&'a mut [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut storage[start..end]),
        None => bail!("optim: numbers must lie in one piece, got strides {:?}", layout.stride()),
    }
}

/// A variable of `like`'s shape around the numbers, which are not copied.
fn variable<T: WithDType>(values: Vec<T>, like: &Tensor) -> Result<Tensor> {
    Ok(Var::from_vec(values, like.shape(), like.device())?.into_inner())
}

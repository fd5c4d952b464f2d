//! Parameter arithmetic in one pass over the numbers, where Candle's operations
//! would take several and a temporary for each.
//!
//! Work is split into chunks of a fixed size, and sums are taken over chunks in
//! order: results do not depend on the number of threads. On other devices the
//! rules are expressions of tensors; they stand with their optimisers.

use std::{cell::Cell, marker::PhantomData};

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor};
use candle_core::{Var, WithDType, bail};
use rayon::prelude::*;

/// Numbers a task works on: enough to be worth a task, few enough to stay in cache.
const CHUNK: usize = 1 << 14;

/// What parameters are made of.
pub trait Real: WithDType {
    fn sqrt(self) -> Self;
    fn numbers_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! real {
    ($ty:ty, $storage:path) => {
        impl Real for $ty {
            fn sqrt(self) -> Self {
                self.sqrt()
            }

            fn numbers_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    $storage(numbers) => Some(numbers),
                    _ => None,
                }
            }
        }
    };
}

real!(f32, CpuStorage::F32);
real!(f64, CpuStorage::F64);

/// Calls a function generic over [`Real`] for the type of a tensor's numbers.
macro_rules! for_dtype_of {
    ($tensor:expr, $operation:literal, $function:ident($($argument:expr),* $(,)?)) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => $function::<f32>($($argument),*),
            candle_core::DType::F64 => $function::<f64>($($argument),*),
            other => candle_core::bail!(
                concat!($operation, ": parameters must be f32 or f64, got {:?}"),
                other
            ),
        }
    };
}
pub(crate) use for_dtype_of;

/// Lends the numbers of a parameter x and of one tensor of state, to change, and
/// those of the gradient between them.
pub fn with_one_state<T: Real>(
    x: &Tensor,
    gradient: &Tensor,
    state: &Tensor,
    update: impl FnOnce(&mut [T], &[T], &mut [T]),
) -> Result<()> {
    with_numbers(gradient, |g| {
        with_numbers_mut(state, |s| {
            with_numbers_mut(x, |x| {
                update(x, g, s);
                Ok(())
            })
        })
    })
}

/// As [`with_one_state`], of two tensors of state.
pub fn with_two_states<T: Real>(
    x: &Tensor,
    gradient: &Tensor,
    states: [&Tensor; 2],
    update: impl FnOnce(&mut [T], &[T], &mut [T], &mut [T]),
) -> Result<()> {
    with_numbers(gradient, |g| {
        with_numbers_mut(states[0], |first| {
            with_numbers_mut(states[1], |second| {
                with_numbers_mut(x, |x| {
                    update(x, g, first, second);
                    Ok(())
                })
            })
        })
    })
}

/// `rule(x, g, s)` for each place.
pub fn update_one_state<T: Real>(
    x: &mut [T],
    gradient: &[T],
    state: &mut [T],
    rule: impl Fn(&mut T, T, &mut T) + Sync + Send,
) {
    let chunks = x.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
    chunks.zip(state.par_chunks_mut(CHUNK)).for_each(|((x, g), s)| {
        for ((x, &g), s) in x.iter_mut().zip(g).zip(s) {
            rule(x, g, s);
        }
    });
}

/// `rule(x, g, s₁, s₂)` for each place.
pub fn update_two_states<T: Real>(
    x: &mut [T],
    gradient: &[T],
    [first, second]: [&mut [T]; 2],
    rule: impl Fn(&mut T, T, &mut T, &mut T) + Sync + Send,
) {
    let chunks = x.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
    let states = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
    chunks.zip(states).for_each(|((x, g), (first, second))| {
        for (((x, &g), first), second) in x.iter_mut().zip(g).zip(first).zip(second) {
            rule(x, g, first, second);
        }
    });
}

/// `rule(x, g, s)` for each place, as a fresh variable; changes nothing.
pub fn mapped<T: Real>(
    x: &Tensor,
    gradient: &Tensor,
    state: &Tensor,
    rule: impl Fn(T, T, T) -> T + Sync + Send,
) -> Result<Tensor> {
    let values: Vec<T> = with_numbers(x, |x: &[T]| {
        with_numbers(gradient, |g| {
            with_numbers(state, |s| {
                let next = |i: usize| rule(x[i], g[i], s[i]);
                Ok((0..x.len()).into_par_iter().with_min_len(CHUNK).map(next).collect())
            })
        })
    })?;
    Ok(Var::from_vec(values, x.shape(), x.device())?.into_inner())
}

/// x + scale · direction.
pub fn moved(x: &Tensor, scale: f64, direction: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.detach() + (direction.detach() * scale)?;
    }
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
    if !x.device().is_cpu() {
        return x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar();
    }
    match x.dtype() {
        DType::F32 => with_numbers(x, |x: &[f32]| Ok(squared_norm_of(x))),
        DType::F64 => with_numbers(x, |x: &[f64]| Ok(squared_norm_of(x))),
        other => bail!("squared_norm: expected f32 or f64 numbers, got {other:?}"),
    }
}

/// Σ xᵢ², summed in f64, of numbers that are at hand.
pub fn squared_norm_of<T: WithDType>(x: &[T]) -> f64 {
    let chunk = |x: &[T]| x.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>();
    let partial: Vec<f64> = x.par_chunks(CHUNK).map(chunk).collect();
    partial.iter().sum()
}

/// Lends a tensor's numbers, row-major, without a copy where they lie that way.
fn with_numbers<T: WithDType, R>(
    tensor: &Tensor,
    read: impl FnOnce(&[T]) -> Result<R>,
) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => match layout.contiguous_offsets() {
            Some((start, end)) => read(&T::cpu_storage_as_slice(storage)?[start..end]),
            None => unreachable!("made contiguous above"),
        },
        _ => bail!("optim: parameters must be on the CPU, got {:?}", tensor.device()),
    }
}

/// Lends a tensor's numbers to change them in place. No other tensor that is
/// lent at the same time may share its memory.
fn with_numbers_mut<T: Real>(
    tensor: &Tensor,
    write: impl FnOnce(&mut [T]) -> Result<()>,
) -> Result<()> {
    tensor.inplace_op1(&Write { write: Cell::new(Some(write)), numbers: PhantomData })
}

/// A closure as an in-place operation, the only way that Candle gives to a tensor's memory.
struct Write<T, F> {
    write: Cell<Option<F>>,
    numbers: PhantomData<T>,
}

impl<T: Real, F: FnOnce(&mut [T]) -> Result<()>> InplaceOp1 for Write<T, F> {
    fn name(&self) -> &'static str {
        "update_in_place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("optim: numbers must lie in one piece, got strides {:?}", layout.stride());
        };
        let Some(numbers) = T::numbers_mut(storage) else {
            bail!("optim: parameter, gradient and state must be of one type, all f32 or all f64");
        };
        let write = self.write.take().expect("an operation is carried out once");
        write(&mut numbers[start..end])
    }
}

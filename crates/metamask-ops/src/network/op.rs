//! Joining a network to Candle's autograd as one operation.

use std::sync::{Arc, OnceLock};

use candle_core::{
    CpuStorage, CustomOp2, Layout, Result, Shape as TensorShape, Storage, Tensor, Var, WithDType,
    bail,
};

use super::{
    Inner,
    memory::Memory,
    run::{Activations, Run, Saved},
    shape::Shape,
};
use crate::{
    BatchStats, Linearized,
    kernels::{Real, Statistics},
};

/// How far the running statistics move towards the batch's, PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// A number type that networks run on.
pub(super) trait Scalar: Real + WithDType {
    fn memory(inner: &Inner) -> &Memory<Self>;
}

impl Scalar for f32 {
    fn memory(inner: &Inner) -> &Memory<Self> {
        &inner.memory_f32
    }
}

impl Scalar for f64 {
    fn memory(inner: &Inner) -> &Memory<Self> {
        &inner.memory_f64
    }
}

/// A network's result at one point, with all that differentiating it needs.
///
/// The activations are shared with the result's node in Candle's graph; they go
/// back to the network's pool when both are gone.
pub(super) struct Evaluated<T> {
    pub value: Tensor,
    op: Arc<NetworkOp<T>>,
    x: Tensor,
    theta: Tensor,
}

/// The operation: everything about one forward pass but its two arguments.
struct NetworkOp<T> {
    inner: Arc<Inner>,
    batch: usize,
    value_shapes: Vec<Shape>,
    output_shape: Vec<usize>,
    statistics: Statistics,
    /// The running statistics, if they are what normalises.
    running: Option<Vec<T>>,
    activations: Activations,
    saved: OnceLock<(Saved<T>, Fingerprint)>,
}

/// Candle wants to own an operation; this owns a share of it.
struct Shared<T>(Arc<NetworkOp<T>>);

/// Runs the network forward and moves the running statistics if asked.
pub(super) fn evaluate<T: Scalar>(
    inner: &Arc<Inner>,
    x: &Tensor,
    theta: &Tensor,
    running: &Var,
    stats: BatchStats,
    activations: Activations,
) -> Result<Evaluated<T>> {
    let (batch, shapes) = inner.shapes(x.dims())?;
    let value_shapes = inner.plan.value_shapes(&shapes);
    if stats != BatchStats::Running {
        inner.plan.check_rows(batch, &value_shapes)?;
    }
    let statistics = match stats {
        BatchStats::Running => Statistics::Fixed,
        BatchStats::BatchAndUpdate | BatchStats::BatchOnly => Statistics::Batch,
    };
    let fixed = match statistics {
        Statistics::Fixed => Some(running.flatten_all()?.to_vec1()?),
        Statistics::Batch => None,
    };
    let op = Arc::new(NetworkOp {
        inner: Arc::clone(inner),
        batch,
        output_shape: shapes[inner.output].with_batch(batch),
        value_shapes,
        statistics,
        running: fixed,
        activations,
        saved: OnceLock::new(),
    });
    let (x, theta) = (x.contiguous()?, theta.contiguous()?);
    let value = x.apply_op2(&theta, Shared(Arc::clone(&op)))?;
    if stats == BatchStats::BatchAndUpdate {
        op.move_running_statistics(running)?;
    }
    Ok(Evaluated { value, op, x: x.detach(), theta: theta.detach() })
}

impl<T: Scalar> Evaluated<T> {
    /// The derivative of the value along `x_dot` and `theta_dot`.
    pub fn tangent(&self, x_dot: Option<&Tensor>, theta_dot: Option<&Tensor>) -> Result<Tensor> {
        let checked = |dot: Option<&Tensor>, of: &Tensor| {
            let Some(dot) = dot else { return Ok(None) };
            if dot.dims() != of.dims() || dot.dtype() != of.dtype() {
                bail!(
                    "network: a direction must be like what it moves, expected {:?} {:?}, got {:?} {:?}",
                    of.dims(),
                    of.dtype(),
                    dot.dims(),
                    dot.dtype(),
                );
            }
            dot.contiguous().map(Some)
        };
        let x_dot = checked(x_dot, &self.x)?;
        let theta_dot = checked(theta_dot, &self.theta)?;
        let tangent = self.op.with_run(&self.x, &self.theta, |run, saved| {
            with_slice(&self.value, |y| {
                with_optional_slice(x_dot.as_ref(), |x_dot| {
                    with_optional_slice(theta_dot.as_ref(), |theta_dot| {
                        Ok(run.tangent(saved, y, x_dot, theta_dot))
                    })
                })
            })
        })?;
        Tensor::from_vec(tangent, self.value.shape(), self.value.device())
    }

    /// The value with its derivative in the parameters.
    pub fn linearized(self) -> Linearized {
        let value = self.value.clone();
        // The tangent must not hold on to Candle's graph.
        let point = Self { value: self.value.detach(), ..self };
        Linearized::new(value, move |direction| match direction {
            [theta_dot] => point.tangent(None, Some(theta_dot)),
            _ => bail!("network: expected one flat direction, got {}", direction.len()),
        })
    }
}

impl<T: Scalar> NetworkOp<T> {
    fn run<'a>(&'a self, x: &'a [T], theta: &'a [T]) -> Run<'a, T> {
        Run {
            plan: &self.inner.plan,
            shapes: &self.value_shapes,
            batch: self.batch,
            memory: T::memory(&self.inner),
            statistics: self.statistics,
            precision: self.inner.precision,
            parameters: &self.inner.parameters,
            watched: &self.inner.watched,
            x,
            theta,
        }
    }

    /// Calls `f` at the point of the forward pass, with what that pass kept.
    fn with_run<R>(
        &self,
        x: &Tensor,
        theta: &Tensor,
        f: impl FnOnce(&Run<'_, T>, &Saved<T>) -> Result<R>,
    ) -> Result<R> {
        let (saved, fingerprint) = self.saved.get().expect("differentiated after the forward pass");
        with_slice(x, |x| {
            with_slice(theta, |theta| {
                if *fingerprint != Fingerprint::of(theta) {
                    bail!(
                        "network: theta must stay what it was in the forward pass until gradient \
                         and tangent are taken, but it was changed in place"
                    );
                }
                f(&self.run(x, theta), saved)
            })
        })
    }

    fn move_running_statistics(&self, running: &Var) -> Result<()> {
        let (saved, _) = self.saved.get().expect("moved after the forward pass");
        let mut moved: Vec<T> = running.flatten_all()?.to_vec1()?;
        for (mean, variance, rows) in self.inner.plan.normalisations(self.batch, &self.value_shapes)
        {
            let unbiased = rows as f64 / (rows as f64 - 1.0);
            for (span, correction) in [(mean, 1.0), (variance, unbiased)] {
                for (old, new) in moved[span.clone()].iter_mut().zip(&saved.moments[span]) {
                    let (before, batch) = (Real::to_f64(*old), Real::to_f64(*new) * correction);
                    *old = Real::from_f64((1.0 - MOMENTUM) * before + MOMENTUM * batch);
                }
            }
        }
        running.set(&Tensor::from_vec(moved, running.shape(), running.device())?)
    }
}

impl<T: Scalar> CustomOp2 for Shared<T> {
    fn name(&self) -> &'static str {
        "network"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        theta: &CpuStorage,
        theta_layout: &Layout,
    ) -> Result<(CpuStorage, TensorShape)> {
        let op = &self.0;
        let (x, theta) = (slice(x, x_layout)?, slice(theta, theta_layout)?);
        let (y, saved) = op.run(x, theta).forward(op.running.as_deref(), op.activations);
        if op.saved.set((saved, Fingerprint::of(theta))).is_err() {
            unreachable!("an operation is made for one forward pass");
        }
        Ok((T::to_cpu_storage_owned(y), op.output_shape.as_slice().into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        theta: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        // Candle expects a gradient exactly for what it tracks.
        let mut dtheta = theta.track_op().then(|| vec![T::ZERO; theta.elem_count()]);
        let dx = self.0.with_run(x, theta, |run, saved| {
            with_slice(y, |y| {
                with_slice(&dy, |dy| {
                    Ok(run.backward(saved, y, dy, dtheta.as_deref_mut(), x.track_op()))
                })
            })
        })?;
        let tensor = |gradient: Option<Vec<T>>, of: &Tensor| {
            gradient.map(|g| Tensor::from_vec(g, of.shape(), of.device())).transpose()
        };
        Ok((tensor(dx, x)?, tensor(dtheta, theta)?))
    }
}

/// A sample of the parameters' bits: an optimiser's step in place, between
/// forward and gradient, would make the gradient silently wrong. This sees it.
#[derive(Debug, PartialEq)]
struct Fingerprint(Vec<u64>);

impl Fingerprint {
    const SAMPLES: usize = 64;

    fn of<T: Scalar>(theta: &[T]) -> Self {
        let stride = theta.len().div_ceil(Self::SAMPLES).max(1);
        // Bits, so that a NaN equals itself: a diverged run must not get this error.
        Self(theta.iter().step_by(stride).map(|&v| Real::to_f64(v).to_bits()).collect())
    }
}

fn slice<'a, T: Scalar>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let all = T::cpu_storage_as_slice(storage)?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("network: tensors must be contiguous, got {layout:?}"),
    }
}

fn with_slice<T: Scalar, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(slice(storage, layout)?),
        _ => bail!("network: tensors must be on the CPU"),
    }
}

fn with_optional_slice<T: Scalar, R>(
    tensor: Option<&Tensor>,
    f: impl FnOnce(Option<&[T]>) -> Result<R>,
) -> Result<R> {
    match tensor {
        Some(tensor) => with_slice(tensor, |slice| f(Some(slice))),
        None => f(None),
    }
}

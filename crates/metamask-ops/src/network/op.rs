//! Joining a network to Candle's autograd as one operation.

use std::sync::{Arc, OnceLock};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape as TensorShape, Tensor, Var, bail,
};

use super::{
    Inner,
    engine::{Engine, Moved},
    run::{Activations, Run, Saved},
    shape::Shape,
};
use crate::{BatchStats, Linearized, kernels::Statistics};

/// A network's result at one point, with all that differentiating it needs.
///
/// The activations are shared with the result's node in Candle's graph; they go
/// back to the network's pool when both are gone.
pub(super) struct Evaluated<E: Engine> {
    pub value: Tensor,
    op: Arc<NetworkOp<E>>,
    x: Tensor,
    theta: Tensor,
}

/// The operation: everything about one forward pass but its two arguments.
struct NetworkOp<E: Engine> {
    engine: Arc<E>,
    inner: Arc<Inner>,
    batch: usize,
    value_shapes: Vec<Shape>,
    output_shape: Vec<usize>,
    statistics: Statistics,
    /// The running statistics, if they are what normalises.
    running: Option<Tensor>,
    activations: Activations,
    saved: OnceLock<(Saved<E>, Fingerprint)>,
}

/// Candle wants to own an operation; this owns a share of it.
struct Shared<E: Engine>(Arc<NetworkOp<E>>);

/// Runs the network forward and moves the running statistics if asked.
pub(super) fn evaluate<E: Engine>(
    engine: &Arc<E>,
    inner: &Arc<Inner>,
    x: &Tensor,
    theta: &Tensor,
    running: &Var,
    stats: BatchStats,
    activations: Activations,
) -> Result<Evaluated<E>> {
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
        // A copy: the variable may move before the gradient is taken.
        Statistics::Fixed => Some(running.as_detached_tensor().copy()?),
        Statistics::Batch => None,
    };
    let op = Arc::new(NetworkOp {
        engine: Arc::clone(engine),
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

impl<E: Engine> Evaluated<E> {
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
            with_numbers::<E, _>(&self.value, |y| {
                with_optional_numbers::<E, _>(x_dot.as_ref(), |x_dot| {
                    with_optional_numbers::<E, _>(theta_dot.as_ref(), |theta_dot| {
                        run.tangent(saved, y, x_dot, theta_dot)
                    })
                })
            })
        })?;
        self.op.engine.tensor(tangent, &self.value)
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

impl<E: Engine> NetworkOp<E> {
    fn run<'a>(&'a self, x: E::Numbers<'a>, theta: E::Numbers<'a>) -> Run<'a, E> {
        Run {
            engine: &self.engine,
            plan: &self.inner.plan,
            shapes: &self.value_shapes,
            batch: self.batch,
            statistics: self.statistics,
            parameters: &self.inner.parameters,
            watched: &self.inner.watched,
            x,
            theta,
        }
    }

    fn forward(
        &self,
        (x, x_layout): (&E::Storage, &Layout),
        (theta, theta_layout): (&E::Storage, &Layout),
    ) -> Result<E::Output> {
        let (x, theta) = (E::numbers(x, x_layout)?, E::numbers(theta, theta_layout)?);
        let fingerprint = Fingerprint::of::<E>(&theta);
        let (y, saved) = with_optional_numbers::<E, _>(self.running.as_ref(), |running| {
            self.run(E::reborrow(&x), E::reborrow(&theta)).forward(running, self.activations)
        })?;
        if self.saved.set((saved, fingerprint)).is_err() {
            unreachable!("an operation is made for one forward pass");
        }
        Ok(y)
    }

    /// Calls `f` at the point of the forward pass, with what that pass kept.
    fn with_run<R>(
        &self,
        x: &Tensor,
        theta: &Tensor,
        f: impl FnOnce(&Run<'_, E>, &Saved<E>) -> Result<R>,
    ) -> Result<R> {
        let (saved, fingerprint) = self.saved.get().expect("differentiated after the forward pass");
        with_numbers::<E, _>(x, |x| {
            with_numbers::<E, _>(theta, |theta| {
                if *fingerprint != Fingerprint::of::<E>(&theta) {
                    bail!(
                        "network: theta must stay what it was in the forward pass until gradient \
                         and tangent are taken, but it was changed in place"
                    );
                }
                f(&self.run(E::reborrow(&x), E::reborrow(&theta)), saved)
            })
        })
    }

    fn move_running_statistics(&self, running: &Var) -> Result<()> {
        let (saved, _) = self.saved.get().expect("moved after the forward pass");
        let spans: Vec<Moved> = (self.inner.plan.normalisations(self.batch, &self.value_shapes))
            .flat_map(|(mean, variance, rows)| {
                let unbiased = rows as f64 / (rows as f64 - 1.0);
                [
                    Moved { span: mean, correction: 1.0 },
                    Moved { span: variance, correction: unbiased },
                ]
            })
            .collect();
        let moved = with_numbers::<E, _>(running, |running| {
            self.engine.moved(running, &saved.moments, &spans)
        })?;
        running.set(&self.engine.tensor(moved, running)?)
    }
}

impl<E: Engine> CustomOp2 for Shared<E> {
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
        let y = self.0.forward((E::of_cpu(x)?, x_layout), (E::of_cpu(theta)?, theta_layout))?;
        Ok((E::cpu_storage(y)?, self.0.output_shape.as_slice().into()))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        theta: &CudaStorage,
        theta_layout: &Layout,
    ) -> Result<(CudaStorage, TensorShape)> {
        let y = self.0.forward((E::of_cuda(x)?, x_layout), (E::of_cuda(theta)?, theta_layout))?;
        Ok((self.0.engine.cuda_storage(y)?, self.0.output_shape.as_slice().into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        theta: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dy, engine) = (dy.contiguous()?, &self.0.engine);
        // Candle expects a gradient exactly for what it tracks.
        let mut dtheta = theta.track_op().then(|| engine.zeros(theta.elem_count())).transpose()?;
        let dx = self.0.with_run(x, theta, |run, saved| {
            with_numbers::<E, _>(y, |y| {
                with_numbers::<E, _>(&dy, |dy| {
                    let dtheta = dtheta.as_mut().map(E::numbers_mut);
                    run.backward(saved, y, dy, dtheta, x.track_op())
                })
            })
        })?;
        let tensor = |gradient: Option<E::Output>, of: &Tensor| {
            gradient.map(|gradient| engine.tensor(gradient, of)).transpose()
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

    // Bits, so that a NaN equals itself: a diverged run must not get this error.
    fn of<E: Engine>(theta: &E::Numbers<'_>) -> Self {
        Self(E::sample(E::reborrow(theta), Self::SAMPLES))
    }
}

fn with_numbers<E: Engine, R>(
    tensor: &Tensor,
    f: impl FnOnce(E::Numbers<'_>) -> Result<R>,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match E::storage(&storage) {
        Some(storage) => f(E::numbers(storage, layout)?),
        None => bail!("network: tensors must be on one device, got {:?}", tensor.device()),
    }
}

fn with_optional_numbers<E: Engine, R>(
    tensor: Option<&Tensor>,
    f: impl FnOnce(Option<E::Numbers<'_>>) -> Result<R>,
) -> Result<R> {
    match tensor {
        Some(tensor) => with_numbers::<E, _>(tensor, |numbers| f(Some(numbers))),
        None => f(None),
    }
}

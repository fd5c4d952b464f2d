//! Static graphs of layers that run as one Candle operation.
//!
//! A description ([`NetworkBuilder`]) becomes a [`Network`]: convolution, batch
//! normalisation, residual addition and ReLU are fused where they follow each
//! other, activations live in buffers that are used again in the next step, and
//! one operation joins Candle's autograd. The network holds no parameters:
//! they are passed in as one flat tensor, so that a pass at other weights is
//! the same call with another tensor. Nothing here draws random numbers.

mod builder;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod device_tests;
mod engine;
mod memory;
mod op;
mod plan;
mod run;
mod shape;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var, bail};

pub(crate) use builder::Window;
pub use builder::{Conv2d, NetworkBuilder, Node, Pool};
pub use watch::{Phase, StepView, Watcher};

#[cfg(feature = "cuda")]
use self::cuda::Cuda;
use self::{
    builder::Layer, cpu::Cpu, op::evaluate, plan::Plan, run::Activations, shape::Shape,
    watch::Watched,
};
use crate::{BatchStats, Dual, Linearized, ParameterEntry, Precision};

/// A static graph of layers, run as one operation.
///
/// Images are `[batch, height, width, channels]`. Parameters and running
/// statistics are flat tensors laid out as [`Self::parameters`] and
/// [`Self::running_statistics`] say; dtype f32 or f64, of all tensors the same.
///
/// ```
/// use candle_core::{DType, Device, Result, Tensor, Var};
/// use metamask_ops::{BatchStats, Conv2d, Network};
///
/// # fn main() -> Result<()> {
/// let mut b = Network::builder(3);
/// let x = b.conv2d("conv", b.input(), Conv2d { out_channels: 8, kernel: 3, stride: 1, padding: 1 });
/// let x = b.batch_norm("bn", x);
/// let x = b.relu(x);
/// let x = b.global_avg_pool(x);
/// let network = b.finish(x)?;
///
/// assert_eq!(network.parameters()[0].name, "conv.weight");
/// assert_eq!(network.parameter_count(), 3 * 3 * 3 * 8 + 8 + 8);
/// # Ok(())
/// # }
/// ```
///
/// A clone is the same network: it shares the plan and the buffers.
#[derive(Clone, Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

/// Evaluates `$body` with the engine for the device and the dtype of `$x`.
macro_rules! with_engine {
    ($inner:expr, $x:expr, $engine:ident => $body:expr) => {
        match ($x.device(), $x.dtype()) {
            (Device::Cpu, DType::F32) => {
                let $engine = &$inner.cpu_f32;
                $body
            }
            (Device::Cpu, _) => {
                let $engine = &$inner.cpu_f64;
                $body
            }
            #[cfg(feature = "cuda")]
            (Device::Cuda(device), DType::F64) => {
                let $engine = &Arc::new(Cuda::<f64>::new(device.clone(), $inner.precision));
                $body
            }
            #[cfg(feature = "cuda")]
            (Device::Cuda(device), _) if $inner.precision == Precision::Bf16 => {
                let $engine = &Arc::new(Cuda::<half::bf16>::new(device.clone(), $inner.precision));
                $body
            }
            #[cfg(feature = "cuda")]
            (Device::Cuda(device), _) => {
                let $engine = &Arc::new(Cuda::<f32>::new(device.clone(), $inner.precision));
                $body
            }
            (other, _) => bail!("network: this program has no kernels for {other:?}"),
        }
    };
}

/// The plan and the memory, shared with the operations in Candle's graph.
#[derive(Debug)]
struct Inner {
    layers: Vec<Layer>,
    input: Shape,
    output: usize,
    plan: Plan,
    parameters: Vec<ParameterEntry>,
    running: Vec<ParameterEntry>,
    precision: Precision,
    watched: Watched,
    cpu_f32: Arc<Cpu<f32>>,
    cpu_f64: Arc<Cpu<f64>>,
}

impl Network {
    /// Starts a network on images of `in_channels` channels and any size.
    pub fn builder(in_channels: usize) -> NetworkBuilder {
        NetworkBuilder::new(Shape::Image { size: None, channels: in_channels })
    }

    /// Starts a network on images of one size, so that a linear layer may follow a flattening.
    pub fn builder_for_size(height: usize, width: usize, in_channels: usize) -> NetworkBuilder {
        NetworkBuilder::new(Shape::Image { size: Some((height, width)), channels: in_channels })
    }

    /// Starts a network on vectors `[batch, width]`.
    pub fn builder_for_vectors(width: usize) -> NetworkBuilder {
        NetworkBuilder::new(Shape::Vector { width: Some(width) })
    }

    fn plan(
        layers: Vec<Layer>,
        input: Shape,
        output: usize,
        parameters: Vec<ParameterEntry>,
        running: Vec<ParameterEntry>,
        precision: Precision,
    ) -> Self {
        let plan = Plan::new(&layers, output);
        let inner = Inner {
            layers,
            input,
            output,
            plan,
            parameters,
            running,
            precision,
            watched: Watched::default(),
            cpu_f32: Arc::new(Cpu::new(precision)),
            cpu_f64: Arc::new(Cpu::new(precision)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The layout of the flat parameter tensor, in order of the layers.
    pub fn parameters(&self) -> &[ParameterEntry] {
        &self.inner.parameters
    }

    /// Length of the flat parameter tensor.
    pub fn parameter_count(&self) -> usize {
        self.inner.parameters.last().map_or(0, |entry| entry.span.end)
    }

    /// The layout of the flat tensor of running statistics: for each batch
    /// normalisation its mean (starts as 0), then its variance (starts as 1).
    pub fn running_statistics(&self) -> &[ParameterEntry] {
        &self.inner.running
    }

    /// Length of the flat tensor of running statistics.
    pub fn running_count(&self) -> usize {
        self.inner.running.last().map_or(0, |entry| entry.span.end)
    }

    /// D where the result is vectors `[batch, D]` whatever the input; `None` where
    /// it is images, or as wide as an input of unknown size.
    pub fn output_width(&self) -> Option<usize> {
        let mut shapes = vec![self.inner.input];
        for layer in &self.inner.layers[1..] {
            shapes.push(layer.infer(&shapes).expect("inferred already when it was described"));
        }
        match shapes[self.inner.output] {
            Shape::Vector { width } => width,
            Shape::Image { .. } | Shape::Unknown => None,
        }
    }

    /// How exactly the convolutions are computed.
    pub fn precision(&self) -> Precision {
        self.inner.precision
    }

    /// The same network computed otherwise.
    #[cfg(all(test, feature = "cuda"))]
    fn with_precision(&self, precision: Precision) -> Self {
        let Inner { layers, input, output, parameters, running, .. } = &*self.inner;
        let (parameters, running) = (parameters.clone(), running.clone());
        Self::plan(layers.clone(), *input, *output, parameters, running, precision)
    }

    /// The shape of the result for an input of shape `input`, batch first.
    ///
    /// # Errors
    /// If the input does not suit the network.
    pub fn output_shape(&self, input: &[usize]) -> Result<Vec<usize>> {
        let (batch, shapes) = self.inner.shapes(input)?;
        Ok(shapes[self.inner.output].with_batch(batch))
    }

    /// Multiplications (each with an addition) of the convolutions and linear
    /// layers in one forward pass over an input of shape `input`, batch first.
    ///
    /// # Errors
    /// If the input does not suit the network.
    pub fn multiply_adds(&self, input: &[usize]) -> Result<u64> {
        let (batch, shapes) = self.inner.shapes(input)?;
        let per_sample: usize = self
            .inner
            .layers
            .iter()
            .zip(&shapes)
            .map(|(layer, shape)| match layer {
                Layer::Conv { weight, out_channels, .. } => {
                    shape.len() / out_channels * weight.len()
                }
                Layer::Linear { weight, .. } => weight.len(),
                _ => 0,
            })
            .sum();
        Ok(batch as u64 * per_sample as u64)
    }

    /// Runs the network: f(x; θ).
    ///
    /// `stats` says by which statistics batch normalisations normalise, and
    /// whether `running` is moved (momentum 0.1, unbiased variance). The result
    /// joins Candle's autograd in `theta` and in `x`, each if it is tracked; if
    /// neither is, no activation is kept: pass `theta.detach()` to extract features.
    /// The gradient may be taken several times. `x` and `theta` must not be
    /// changed in place before the last of them.
    ///
    /// # Shapes
    /// `x`: `[batch, height, width, channels]`, or `[batch, width]` for a network on
    /// vectors; `theta`: `[parameter_count]`; `running`: `[running_count]`.
    /// # Errors
    /// If a shape or dtype does not fit, the tensors are not on one device, or a batch
    /// normalisation by the batch would see a single number a channel.
    pub fn forward(
        &self,
        x: &Tensor,
        theta: &Tensor,
        running: &Var,
        stats: BatchStats,
    ) -> Result<Tensor> {
        let tracked = x.track_op() || theta.track_op();
        let activations = if tracked { Activations::Keep } else { Activations::Free };
        let inner = &self.inner;
        self.check(x, theta, running)?;
        with_engine!(inner, x, engine => {
            evaluate(engine, inner, x, theta, running, stats, activations).map(|e| e.value)
        })
    }

    /// Runs the network and keeps what its derivative along a direction needs.
    ///
    /// As [`Self::forward`]; [`Linearized::tangent`] takes one flat direction
    /// `[theta_dot]` and may be called any number of times. Value, gradient and
    /// tangent share the stored activations.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn linearize(
        &self,
        x: &Tensor,
        theta: &Tensor,
        running: &Var,
        stats: BatchStats,
    ) -> Result<Linearized> {
        let (inner, keep) = (&self.inner, Activations::Keep);
        self.check(x, theta, running)?;
        with_engine!(inner, x, engine => {
            evaluate(engine, inner, x, theta, running, stats, keep).map(|e| e.linearized())
        })
    }

    /// The derivative along the directions in `x` and `theta`, by itself. Leaves
    /// `running` alone.
    pub(crate) fn tangent(
        &self,
        x: &Dual,
        theta: &Dual,
        running: &Var,
        stats: BatchStats,
    ) -> Result<Tensor> {
        let stats = match stats {
            BatchStats::BatchAndUpdate | BatchStats::BatchOnly => BatchStats::BatchOnly,
            BatchStats::Running => BatchStats::Running,
        };
        let (x_dot, theta_dot) = (x.tangent.as_ref(), theta.tangent.as_ref());
        let (x, theta) = (x.value.detach(), theta.value.detach());
        let (inner, keep) = (&self.inner, Activations::Keep);
        self.check(&x, &theta, running)?;
        with_engine!(inner, x, engine => {
            evaluate(engine, inner, &x, &theta, running, stats, keep)?.tangent(x_dot, theta_dot)
        })
    }

    /// Lets `watcher` see the steps of all passes from now on; `None` ends it.
    pub fn set_watcher(&self, watcher: Option<Arc<dyn Watcher>>) {
        self.inner.watched.set(watcher);
    }

    /// Frees the buffers that wait for their next use, such as after an
    /// evaluation on other sizes. Those in use stay.
    pub fn release_buffers(&self) {
        self.inner.cpu_f32.memory.release();
        self.inner.cpu_f64.memory.release();
    }

    /// Whether the tensors suit the network and each other.
    fn check(&self, x: &Tensor, theta: &Tensor, running: &Var) -> Result<()> {
        for (name, tensor, count) in [
            ("theta", theta, self.parameter_count()),
            ("running statistics", running.as_tensor(), self.running_count()),
        ] {
            if tensor.dims() != [count] {
                bail!("network: {name} must be flat, expected [{count}], got {:?}", tensor.dims());
            }
            if tensor.dtype() != x.dtype() {
                bail!(
                    "network: {name} must have the input's dtype, expected {:?}, got {:?}",
                    x.dtype(),
                    tensor.dtype()
                );
            }
        }
        if ![theta, running.as_tensor()].iter().all(|t| t.device().same_device(x.device())) {
            bail!(
                "network: tensors must be on one device, got {:?}, {:?} and {:?}",
                x.device(),
                theta.device(),
                running.device()
            );
        }
        match x.dtype() {
            DType::F32 | DType::F64 => Ok(()),
            other => bail!("network: the dtype must be f32 or f64, got {other:?}"),
        }
    }
}

impl Inner {
    /// Batch size and the shape of each layer's output.
    fn shapes(&self, input: &[usize]) -> Result<(usize, Vec<Shape>)> {
        let (batch, given) = match *input {
            [batch, height, width, channels] => {
                (batch, Shape::Image { size: Some((height, width)), channels })
            }
            [batch, width] => (batch, Shape::Vector { width: Some(width) }),
            _ => bail!("network: the input must have 4 or 2 axes, got {input:?}"),
        };
        let fits = match (self.input, given) {
            (Shape::Image { size: None, channels: a }, Shape::Image { channels: b, .. }) => a == b,
            (expected, given) => expected == given,
        };
        if !fits || batch == 0 {
            bail!("network: the input must fit, expected {:?} a sample, got {input:?}", self.input);
        }
        let mut shapes = Vec::with_capacity(self.layers.len());
        shapes.push(given);
        for layer in &self.layers[1..] {
            shapes.push(layer.infer(&shapes)?);
        }
        Ok((batch, shapes))
    }
}

//! What a network asks of a device: the arithmetic of its layers, on numbers that lie there.
//!
//! [`super::run`] says what is computed in which order, once for all devices; an engine
//! says how, and in what memory.
#![allow(clippy::too_many_arguments, reason = "what a layer reads and what it owes")]

use std::{fmt, ops::Range};

use candle_core::{CpuStorage, CudaStorage, Layout, Result, Storage, Tensor, WithDType, bail};

use super::plan::Plan;
use crate::kernels::{ConvShape, LinearShape, PoolShape, Statistics};

/// How far the running statistics move towards the batch's, PyTorch's default.
pub(super) const MOMENTUM: f64 = 0.1;

/// ε of batch normalisation, PyTorch's default.
pub(super) const BATCH_NORM_EPSILON: f64 = 1e-5;

/// A device's way to compute. Formulas and shapes are those of [`crate::kernels`].
pub(super) trait Engine: fmt::Debug + Sized + Send + Sync + 'static {
    /// What the tensors are made of that go in and come out.
    type Scalar: WithDType;
    /// Candle's memory on this device.
    type Storage;
    /// Numbers of a tensor, to read: θ, directions, running statistics.
    type Numbers<'a>: Copy + fmt::Debug;
    /// Numbers of a tensor, to write: the gradient in θ.
    type NumbersMut<'a>;
    /// An activation.
    type Buffer: fmt::Debug + Send + Sync;
    /// An activation to read, from a buffer or from a tensor.
    type Read<'a>: Copy;
    /// Where a max pooling found its maxima.
    type Places: fmt::Debug + Send + Sync;
    /// μ, σ² and 1/√(σ² + ε) of every normalisation.
    type Moments: fmt::Debug + Send + Sync;
    /// θ, as the layers want to read it.
    type Weights: fmt::Debug + Send + Sync;
    /// Numbers that leave the network: what a new tensor is made of.
    type Output;
    /// A normalisation folded into a factor and a summand of every channel.
    type Folded: fmt::Debug;
    /// Memory that a pass works in.
    type Scratch;

    /// Whether a convolution can normalise what it reads: then a normalised activation that
    /// only a convolution reads is never made.
    const NORMALISES_SOURCES: bool;

    // Memory.

    /// The memory of a tensor on this device.
    fn storage(storage: &Storage) -> Option<&Self::Storage>;

    /// This device's memory, if the CPU is this device.
    fn of_cpu(_: &CpuStorage) -> Result<&Self::Storage> {
        bail!("network: tensors must be on one device, got some on the CPU")
    }

    /// Memory for Candle, if the CPU is this device.
    fn cpu_storage(_: Self::Output) -> Result<CpuStorage> {
        bail!("network: the result is not on the CPU")
    }

    /// This device's memory, if a GPU is this device.
    fn of_cuda(_: &CudaStorage) -> Result<&Self::Storage> {
        bail!("network: tensors must be on one device, got some on a GPU")
    }

    /// Memory for Candle, if a GPU is this device.
    fn cuda_storage(&self, _: Self::Output) -> Result<CudaStorage> {
        bail!("network: the result is not on a GPU")
    }

    /// The numbers of a contiguous tensor.
    fn numbers<'a>(storage: &'a Self::Storage, layout: &Layout) -> Result<Self::Numbers<'a>>;

    /// `len` zeros.
    fn zeros(&self, len: usize) -> Result<Self::Output>;

    fn numbers_mut(output: &mut Self::Output) -> Self::NumbersMut<'_>;

    /// A tensor of the shape of `like`.
    fn tensor(&self, output: Self::Output, like: &Tensor) -> Result<Tensor>;

    /// The bits of about `count` numbers, evenly spread, to notice a change. None where reading
    /// them would have to wait for the device.
    fn sample(numbers: Self::Numbers<'_>, count: usize) -> Vec<u64>;

    /// Calls `f` with memory to work in.
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Self::Scratch) -> R) -> R;

    /// A buffer of `len` numbers of no particular value.
    fn take(&self, len: usize) -> Result<Self::Buffer>;

    /// A buffer whose numbers will leave the network.
    fn take_leaving(&self, len: usize) -> Result<Self::Buffer>;

    fn take_places(&self, len: usize) -> Result<Self::Places>;

    fn read(buffer: &Self::Buffer) -> Self::Read<'_>;

    /// The same numbers, borrowed for less long.
    fn reborrow<'s>(numbers: &'s Self::Numbers<'_>) -> Self::Numbers<'s>;

    /// A tensor's numbers as an activation, where these are stored alike; else a copy is needed.
    fn as_activation<'s>(numbers: &'s Self::Numbers<'_>) -> Option<Self::Read<'s>>;

    /// A copy of a tensor's numbers as an activation.
    fn enter(&self, numbers: Self::Numbers<'_>) -> Result<Self::Buffer>;

    /// The memory of a buffer of [`Self::take_leaving`], and the buffer itself where the memory is
    /// another and `again` says that it is read again.
    fn leave(
        &self,
        buffer: Self::Buffer,
        again: bool,
    ) -> Result<(Self::Output, Option<Self::Buffer>)>;

    // θ and the moments.

    /// θ (or a direction in it) for the layers of `plan`.
    fn weights(&self, theta: Self::Numbers<'_>, plan: &Plan) -> Result<Self::Weights>;

    /// Room for the moments of a network.
    fn take_moments(&self, plan: &Plan) -> Result<Self::Moments>;

    /// The moments that running statistics stand for.
    fn fixed_moments(&self, running: Self::Numbers<'_>, plan: &Plan) -> Result<Self::Moments>;

    /// `running` moved towards the batch's moments: of each span by its factor, as [`Moved`] says.
    fn moved(
        &self,
        running: Self::Numbers<'_>,
        moments: &Self::Moments,
        spans: &[Moved],
    ) -> Result<Self::Output>;

    /// A normalisation for a [`Source`]; asked for only by [`Self::NORMALISES_SOURCES`].
    fn fold(&self, norm: &Norm<'_, Self>) -> Result<Self::Folded>;

    // Layers.

    fn conv2d_forward(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        weight: Part<'_, Self>,
        y: &mut Self::Buffer,
        accumulate: bool,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    fn conv2d_backward_data(
        &self,
        s: &ConvShape,
        dy: Self::Read<'_>,
        weight: Part<'_, Self>,
        dx: &mut Self::Buffer,
        accumulate: bool,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    fn conv2d_backward_weight(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        dy: Self::Read<'_>,
        dtheta: &mut Self::NumbersMut<'_>,
        weight: &Range<usize>,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    /// A convolution, and the batch's moments for the normalisation behind it.
    fn conv2d_forward_with_moments(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        weight: Part<'_, Self>,
        y: &mut Self::Buffer,
        spans: NormSpans<'_>,
        moments: &mut Self::Moments,
        scratch: &mut Self::Scratch,
    ) -> Result<()> {
        self.conv2d_forward(s, x, weight, y, false, scratch)?;
        self.moments(Self::read(y), spans, moments, scratch)
    }

    /// A convolution and the normalisation by fixed moments behind it.
    fn conv2d_forward_normalised(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        weight: Part<'_, Self>,
        norm: &Norm<'_, Self>,
        residual: Option<Self::Read<'_>>,
        y: &mut Self::Buffer,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    /// The batch's moments of one normalisation.
    fn moments(
        &self,
        x: Self::Read<'_>,
        spans: NormSpans<'_>,
        moments: &mut Self::Moments,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    fn norm_forward(
        &self,
        norm: &Norm<'_, Self>,
        x: Self::Read<'_>,
        residual: Option<Self::Read<'_>>,
        y: &mut Self::Buffer,
    ) -> Result<()>;

    /// `dy` becomes dx, if there is no `dx`; else what flows into the residual. `y` is given where
    /// the ReLU's own output is needed: behind a residual.
    fn norm_backward(
        &self,
        norm: &Norm<'_, Self>,
        x: Self::Read<'_>,
        y: Option<Self::Read<'_>>,
        dy: &mut Self::Buffer,
        dx: Option<&mut Self::Buffer>,
        dtheta: Option<&mut Self::NumbersMut<'_>>,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    /// `y` as in [`Self::norm_backward`].
    fn norm_tangent(
        &self,
        norm: &Norm<'_, Self>,
        x: Self::Read<'_>,
        y: Option<Self::Read<'_>>,
        dots: NormDots<'_, Self>,
        y_dot: &mut Self::Buffer,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    fn relu(&self, x: Self::Read<'_>, y: &mut Self::Buffer) -> Result<()>;

    fn relu_backward(
        &self,
        y: Self::Read<'_>,
        dy: Self::Read<'_>,
        dx: &mut Self::Buffer,
    ) -> Result<()>;

    fn add(&self, a: Self::Read<'_>, b: Self::Read<'_>, y: &mut Self::Buffer) -> Result<()>;

    fn add_assign(&self, sum: &mut Self::Buffer, x: Self::Read<'_>) -> Result<()>;

    fn copy(&self, x: Self::Read<'_>, y: &mut Self::Buffer) -> Result<()>;

    fn max_pool2d_forward(
        &self,
        s: &PoolShape,
        x: Self::Read<'_>,
        y: &mut Self::Buffer,
        places: &mut Self::Places,
    ) -> Result<()>;

    fn max_pool2d_backward(
        &self,
        s: &PoolShape,
        dy: Self::Read<'_>,
        places: &Self::Places,
        dx: &mut Self::Buffer,
    ) -> Result<()>;

    fn max_pool2d_tangent(
        &self,
        s: &PoolShape,
        x_dot: Self::Read<'_>,
        places: &Self::Places,
        y_dot: &mut Self::Buffer,
    ) -> Result<()>;

    fn avg_pool2d_forward(
        &self,
        s: &PoolShape,
        x: Self::Read<'_>,
        y: &mut Self::Buffer,
    ) -> Result<()>;

    fn avg_pool2d_backward(
        &self,
        s: &PoolShape,
        dy: Self::Read<'_>,
        dx: &mut Self::Buffer,
    ) -> Result<()>;

    /// From `[batch, pixels, channels]`.
    fn global_avg_pool_forward(
        &self,
        pixels: usize,
        channels: usize,
        x: Self::Read<'_>,
        y: &mut Self::Buffer,
    ) -> Result<()>;

    fn global_avg_pool_backward(
        &self,
        pixels: usize,
        channels: usize,
        dy: Self::Read<'_>,
        dx: &mut Self::Buffer,
    ) -> Result<()>;

    fn linear_forward(
        &self,
        s: &LinearShape,
        x: Self::Read<'_>,
        weight: Part<'_, Self>,
        bias: Option<Part<'_, Self>>,
        y: &mut Self::Buffer,
        accumulate: bool,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;

    /// `dx` comes with whether it is added to.
    fn linear_backward(
        &self,
        s: &LinearShape,
        x: Self::Read<'_>,
        weight: Part<'_, Self>,
        dy: Self::Read<'_>,
        dx: Option<(&mut Self::Buffer, bool)>,
        dtheta: Option<LinearGradient<'_, '_, Self>>,
        scratch: &mut Self::Scratch,
    ) -> Result<()>;
}

/// θ or a direction in it.
#[derive(Debug)]
pub(super) struct Theta<'a, E: Engine> {
    pub numbers: E::Numbers<'a>,
    pub weights: &'a E::Weights,
}

/// What one layer reads of θ.
#[derive(Debug)]
pub(super) struct Part<'a, E: Engine> {
    pub theta: Theta<'a, E>,
    pub span: &'a Range<usize>,
}

impl<'a, E: Engine> Theta<'a, E> {
    /// The same, borrowed for less long.
    pub fn reborrow(&self) -> Theta<'_, E> {
        Theta { numbers: E::reborrow(&self.numbers), weights: self.weights }
    }

    pub fn part(self, span: &'a Range<usize>) -> Part<'a, E> {
        Part { theta: self, span }
    }
}

impl<E: Engine> Clone for Theta<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Engine> Copy for Theta<'_, E> {}

impl<E: Engine> Clone for Part<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Engine> Copy for Part<'_, E> {}

/// What a convolution reads.
pub(super) struct Source<'a, E: Engine> {
    pub x: E::Read<'a>,
    /// The normalisation, with its ReLU, that x has yet to go through.
    pub by: Option<E::Folded>,
}

impl<'a, E: Engine> Source<'a, E> {
    /// An activation as it is.
    pub fn plain(x: E::Read<'a>) -> Self {
        Self { x, by: None }
    }
}

/// Where a normalisation's numbers lie: in θ and its gradient, and in the moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormSpans<'a> {
    pub gamma: &'a Range<usize>,
    pub beta: &'a Range<usize>,
    pub mean: &'a Range<usize>,
    pub variance: &'a Range<usize>,
}

/// A normalisation at a point: y = relu?(γ (x − μ) s + β (+ residual)).
#[derive(Debug)]
pub(super) struct Norm<'a, E: Engine> {
    pub spans: NormSpans<'a>,
    pub theta: Theta<'a, E>,
    pub moments: &'a E::Moments,
    pub statistics: Statistics,
    pub relu: bool,
}

/// The directions in what a normalisation reads; what is missing is zero.
#[derive(Debug)]
pub(super) struct NormDots<'a, E: Engine> {
    pub x: Option<E::Read<'a>>,
    pub theta: Option<Theta<'a, E>>,
    pub residual: Option<E::Read<'a>>,
}

/// Where a linear layer writes its gradient.
pub(super) struct LinearGradient<'a, 'b, E: Engine> {
    pub dtheta: &'a mut E::NumbersMut<'b>,
    pub weight: &'a Range<usize>,
    pub bias: Option<&'a Range<usize>>,
}

/// A span of the running statistics: running ← (1 − μ) running + μ · `correction` · batch,
/// μ being [`MOMENTUM`].
#[derive(Clone, Debug)]
pub(super) struct Moved {
    pub span: Range<usize>,
    pub correction: f64,
}

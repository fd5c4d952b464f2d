//! A GPU as a network's engine: convolutions by cuDNN, products by cuBLAS, the rest by the kernels
//! in `cuda/kernels/`, all on Candle's stream.
//!
//! Activations are stored as f32 or f64, like the tensors, or, with [`Precision::Bf16`], as
//! bfloat16; statistics, parameters and gradients in them always have the tensors' type. Sums have
//! a fixed order, and of cuDNN's algorithms only deterministic ones are used: a run repeated on
//! one machine gives the same bits.
#![allow(clippy::too_many_arguments, reason = "what a layer reads and what it owes")]
#![allow(unsafe_code)]

mod calls;
mod convolution;
mod direct;
mod numbers;

use std::convert::Infallible;
use std::marker::PhantomData;
use std::ops::Range;

use candle_core::cuda_backend::{CudaDevice, cudarc};
use candle_core::{CudaStorage, Layout, Result, Storage, Tensor, bail, op::BackpropOp};
use cudarc::cublas::sys::cublasOperation_t;
use cudarc::driver::{CudaSlice, PushKernelArg};

use self::calls::{
    Gate, Input, LANES, NULL, NormViews, PoolShape, STRIPES, Strips, address, int, optional,
};
use self::numbers::{Slice, Stored};
use super::{
    engine::{
        BATCH_NORM_EPSILON, Engine, LinearGradient, MOMENTUM, Moved, Norm, NormDots, NormSpans,
        Part, Source,
    },
    plan::{Plan, Step},
};
use crate::Precision;
use crate::cuda::launch::{BATCH_NORM, ELEMENTWISE, POOL, blocks_of, over};
use crate::kernels::{self, ConvShape, LinearShape, Statistics};

/// The engine on one device. S is what activations are stored as.
#[derive(Debug)]
pub(super) struct Cuda<S> {
    device: CudaDevice,
    precision: Precision,
    stored: PhantomData<S>,
}

impl<S> Cuda<S> {
    pub fn new(device: CudaDevice, precision: Precision) -> Self {
        Self { device, precision, stored: PhantomData }
    }
}

/// μ and σ² laid out like the running statistics, and 1/√(σ² + ε) laid out likewise, each in the
/// place of its mean.
#[derive(Debug)]
pub(super) struct Moments<A> {
    values: CudaSlice<A>,
    inv_std: CudaSlice<A>,
}

impl<S: Stored> Engine for Cuda<S> {
    type Scalar = S::Wide;
    type Storage = CudaStorage;
    type Numbers<'a> = Slice<'a, S::Wide>;
    type NumbersMut<'a> = &'a mut CudaSlice<S::Wide>;
    type Buffer = CudaSlice<S>;
    type Read<'a> = Slice<'a, S>;
    type Places = CudaSlice<u32>;
    type Moments = Moments<S::Wide>;
    type Weights = CudaSlice<S>;
    type Output = CudaSlice<S::Wide>;
    type Folded = Infallible;
    type Scratch = ();

    const NORMALISES_SOURCES: bool = false;

    fn storage(storage: &Storage) -> Option<&CudaStorage> {
        match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        }
    }

    fn of_cuda(storage: &CudaStorage) -> Result<&CudaStorage> {
        Ok(storage)
    }

    fn cuda_storage(&self, numbers: CudaSlice<S::Wide>) -> Result<CudaStorage> {
        Ok(CudaStorage::wrap_cuda_slice(numbers, self.device.clone()))
    }

    fn numbers<'a>(storage: &'a CudaStorage, layout: &Layout) -> Result<Slice<'a, S::Wide>> {
        let all = storage.as_cuda_slice::<S::Wide>()?;
        match layout.contiguous_offsets() {
            Some((start, end)) => Slice::of(all, start..end),
            None => bail!("network: tensors must be contiguous, got {layout:?}"),
        }
    }

    fn zeros(&self, len: usize) -> Result<CudaSlice<S::Wide>> {
        self.device.alloc_zeros(len)
    }

    fn numbers_mut(output: &mut CudaSlice<S::Wide>) -> &mut CudaSlice<S::Wide> {
        output
    }

    fn tensor(&self, output: CudaSlice<S::Wide>, like: &Tensor) -> Result<Tensor> {
        let storage = Storage::Cuda(self.cuda_storage(output)?);
        Ok(Tensor::from_storage(storage, like.shape(), BackpropOp::none(), false))
    }

    fn sample(_: Slice<'_, S::Wide>, _: usize) -> Vec<u64> {
        Vec::new()
    }

    fn with_scratch<R>(&self, f: impl FnOnce(&mut ()) -> R) -> R {
        f(&mut ())
    }

    fn take(&self, len: usize) -> Result<CudaSlice<S>> {
        self.room(len)
    }

    fn take_leaving(&self, len: usize) -> Result<CudaSlice<S>> {
        self.room(len)
    }

    fn take_places(&self, len: usize) -> Result<CudaSlice<u32>> {
        self.room(len)
    }

    fn read(buffer: &CudaSlice<S>) -> Slice<'_, S> {
        Slice::all(buffer)
    }

    fn reborrow<'s>(numbers: &'s Slice<'_, S::Wide>) -> Slice<'s, S::Wide> {
        *numbers
    }

    fn as_activation<'s>(numbers: &'s Slice<'_, S::Wide>) -> Option<Slice<'s, S>> {
        S::as_stored(*numbers)
    }

    fn enter(&self, numbers: Slice<'_, S::Wide>) -> Result<CudaSlice<S>> {
        let mut buffer = self.room(numbers.len())?;
        self.convert_in(numbers, &mut buffer, &(0..numbers.len()))?;
        Ok(buffer)
    }

    fn leave(
        &self,
        buffer: CudaSlice<S>,
        again: bool,
    ) -> Result<(CudaSlice<S::Wide>, Option<CudaSlice<S>>)> {
        match S::into_wide(buffer) {
            Ok(wide) => Ok((wide, None)),
            Err(stored) => {
                let mut wide = self.room(stored.len())?;
                self.convert_out(&stored, &mut wide, &(0..stored.len()))?;
                Ok((wide, again.then_some(stored)))
            }
        }
    }

    fn weights(&self, theta: Slice<'_, S::Wide>, plan: &Plan) -> Result<CudaSlice<S>> {
        let mut weights = self.room(theta.len())?;
        for step in &plan.steps {
            match step {
                Step::Conv { weight, out_channels, .. } => {
                    self.transpose_in(theta, &mut weights, weight, *out_channels)?;
                }
                Step::Linear { weight, .. } => {
                    self.convert_in(theta.part(weight)?, &mut weights, weight)?;
                }
                _ => {}
            }
        }
        Ok(weights)
    }

    fn take_moments(&self, plan: &Plan) -> Result<Moments<S::Wide>> {
        Ok(Moments { values: self.room(plan.n_moments)?, inv_std: self.room(plan.n_moments)? })
    }

    fn fixed_moments(&self, running: Slice<'_, S::Wide>, plan: &Plan) -> Result<Moments<S::Wide>> {
        let mut moments = self.take_moments(plan)?;
        if running.len() > 0 {
            self.device.memcpy_dtod(&running.view(), &mut moments.values)?;
        }
        for step in &plan.steps {
            let Step::Norm { mean, variance, .. } = step else { continue };
            let variances = Slice::of(&moments.values, variance.clone())?.view();
            let mut inv_std = moments.inv_std.slice_mut(mean.clone());
            let channels = int(mean.len())?;
            let kernel = self.wide_kernel(BATCH_NORM, "invert")?;
            let mut call = kernel.call();
            call.arg(&variances).arg(&mut inv_std).arg(&channels).arg(&BATCH_NORM_EPSILON);
            // SAFETY: both hold `channels` numbers.
            unsafe { over(mean.len(), &mut call) }?;
        }
        Ok(moments)
    }

    fn moved(
        &self,
        running: Slice<'_, S::Wide>,
        moments: &Moments<S::Wide>,
        spans: &[Moved],
    ) -> Result<CudaSlice<S::Wide>> {
        let mut moved = self.room(running.len())?;
        for Moved { span, correction } in spans {
            let (old, new) = (running.part(span)?, Slice::of(&moments.values, span.clone())?);
            let (old, new, mut to) = (old.view(), new.view(), moved.slice_mut(span.clone()));
            let count = int(span.len())?;
            let kernel = self.wide_kernel(BATCH_NORM, "move_running")?;
            let mut call = kernel.call();
            call.arg(&old).arg(&new).arg(&mut to).arg(&count).arg(&MOMENTUM).arg(correction);
            // SAFETY: all three hold `count` numbers.
            unsafe { over(span.len(), &mut call) }?;
        }
        Ok(moved)
    }

    fn fold(&self, _: &Norm<'_, Self>) -> Result<Infallible> {
        bail!("network: on a GPU no convolution normalises what it reads")
    }

    fn conv2d_forward(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        weight: Part<'_, Self>,
        y: &mut CudaSlice<S>,
        accumulate: bool,
        (): &mut (),
    ) -> Result<()> {
        let weight = Self::weight(weight)?;
        convolution::forward(&self.device, self.precision, s, x.x, weight, y, accumulate)
    }

    fn conv2d_backward_data(
        &self,
        s: &ConvShape,
        dy: Slice<'_, S>,
        weight: Part<'_, Self>,
        dx: &mut CudaSlice<S>,
        accumulate: bool,
        (): &mut (),
    ) -> Result<()> {
        let weight = Self::weight(weight)?;
        convolution::backward_data(&self.device, self.precision, s, dy, weight, dx, accumulate)
    }

    fn conv2d_backward_weight(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        dy: Slice<'_, S>,
        dtheta: &mut &mut CudaSlice<S::Wide>,
        weight: &Range<usize>,
        (): &mut (),
    ) -> Result<()> {
        let mut dw = self.room(weight.len())?;
        convolution::backward_weight(&self.device, self.precision, s, x.x, dy, &mut dw)?;
        self.transpose_out(&dw, dtheta, weight, s.out_c)
    }

    fn conv2d_forward_normalised(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        weight: Part<'_, Self>,
        norm: &Norm<'_, Self>,
        residual: Option<Slice<'_, S>>,
        y: &mut CudaSlice<S>,
        scratch: &mut (),
    ) -> Result<()> {
        let mut convolved = self.room(s.output_len())?;
        self.conv2d_forward(s, x, weight, &mut convolved, false, scratch)?;
        self.norm_forward(norm, Slice::all(&convolved), residual, y)
    }

    fn moments(
        &self,
        x: Slice<'_, S>,
        spans: NormSpans<'_>,
        moments: &mut Moments<S::Wide>,
        (): &mut (),
    ) -> Result<()> {
        let channels = spans.mean.len();
        let strips = Strips::of(x.len(), channels)?;
        let mut partial = self.room::<S::Wide>(strips.count * 2 * channels)?;
        let x = x.view();
        let kernel = self.kernel(BATCH_NORM, "moments")?;
        let mut call = kernel.call();
        call.arg(&x).arg(&mut partial).arg(&strips.rows).arg(&strips.channels);
        call.arg(&strips.strip_rows);
        let grid = (channels.div_ceil(LANES), strips.count);
        // SAFETY: x holds `rows` rows of `channels`, partial two rows a strip.
        unsafe { blocks_of(&mut call, grid, (LANES as u32, STRIPES as u32)) }?;

        let Moments { values, inv_std } = moments;
        let (mut head, mut tail) = values.split_at_mut(spans.variance.start);
        let (mut mean, mut variance) =
            (head.slice_mut(spans.mean.clone()), tail.slice_mut(0..channels));
        let mut inv_std = inv_std.slice_mut(spans.mean.clone());
        let count = int(strips.count)?;
        let kernel = self.wide_kernel(BATCH_NORM, "join_moments")?;
        let mut call = kernel.call();
        call.arg(&partial).arg(&count).arg(&strips.rows).arg(&strips.channels);
        call.arg(&strips.strip_rows).arg(&BATCH_NORM_EPSILON);
        call.arg(&mut mean).arg(&mut variance).arg(&mut inv_std);
        // SAFETY: every row holds `channels` numbers.
        unsafe { over(channels, &mut call) }
    }

    fn norm_forward(
        &self,
        norm: &Norm<'_, Self>,
        x: Slice<'_, S>,
        residual: Option<Slice<'_, S>>,
        y: &mut CudaSlice<S>,
    ) -> Result<()> {
        let channels = norm.spans.mean.len();
        let (at_once, wide) = Self::pack(channels, &[Some(x), residual]);
        let (packs, channels) = ((x.len() / at_once) as i64, int(channels)?);
        let (at, relu) = (NormViews::new(norm)?, i32::from(norm.relu));
        let (x, residual) = (x.view(), residual.map(|r| r.view()));
        let kernel = self.kernel(BATCH_NORM, "normalise")?;
        let mut call = kernel.call();
        call.arg(&x).arg(&at.mean).arg(&at.inv_std).arg(&at.gamma).arg(&at.beta);
        optional!(call, residual);
        call.arg(&relu).arg(y).arg(&packs).arg(&channels).arg(&wide);
        // SAFETY: x, residual and y hold the same numbers, and a pack never straddles two rows.
        unsafe { over(packs as usize, &mut call) }
    }

    fn norm_backward(
        &self,
        norm: &Norm<'_, Self>,
        x: Slice<'_, S>,
        y: Option<Slice<'_, S>>,
        dy: &mut CudaSlice<S>,
        dx: Option<&mut CudaSlice<S>>,
        dtheta: Option<&mut &mut CudaSlice<S::Wide>>,
        (): &mut (),
    ) -> Result<()> {
        let gate = Gate::of(norm, y);
        let strips = Strips::of(x.len(), norm.spans.mean.len())?;
        let u = Slice::of(dy, 0..x.len())?;
        let partial = self.column_sums(norm, u, x, y, gate, &strips)?;
        let map = self.coefficients(norm, Some(&partial), &strips, None, dtheta)?;
        let dy = address(dy);
        let results = match dx {
            Some(dx) => (address(dx), dy),
            None => (dy, NULL),
        };
        self.affine(norm, &map, Input::Buffer(dy), x, y, (gate, false), None, results)
    }

    fn norm_tangent(
        &self,
        norm: &Norm<'_, Self>,
        x: Slice<'_, S>,
        y: Option<Slice<'_, S>>,
        dots: NormDots<'_, Self>,
        y_dot: &mut CudaSlice<S>,
        (): &mut (),
    ) -> Result<()> {
        let strips = Strips::of(x.len(), norm.spans.mean.len())?;
        let partial = match (dots.x, norm.statistics) {
            (Some(x_dot), Statistics::Batch) => {
                Some(self.column_sums(norm, x_dot, x, None, Gate::None, &strips)?)
            }
            _ => None,
        };
        let theta_dot = dots.theta.map(|theta| theta.numbers);
        let map = self.coefficients(norm, partial.as_ref(), &strips, theta_dot, None)?;
        let gate = Gate::of(norm, y);
        let u = dots.x.map_or(Input::None, Input::Slice);
        let results = (address(y_dot), NULL);
        self.affine(norm, &map, u, x, y, (gate, true), dots.residual, results)
    }

    fn relu(&self, x: Slice<'_, S>, y: &mut CudaSlice<S>) -> Result<()> {
        self.binary("relu", x, x, y)
    }

    fn relu_backward(
        &self,
        y: Slice<'_, S>,
        dy: Slice<'_, S>,
        dx: &mut CudaSlice<S>,
    ) -> Result<()> {
        self.binary("relu_gate", y, dy, dx)
    }

    fn add(&self, a: Slice<'_, S>, b: Slice<'_, S>, y: &mut CudaSlice<S>) -> Result<()> {
        self.binary("add", a, b, y)
    }

    fn add_assign(&self, sum: &mut CudaSlice<S>, x: Slice<'_, S>) -> Result<()> {
        let mut total = self.room(x.len())?;
        self.binary("add", Slice::of(sum, 0..x.len())?, x, &mut total)?;
        *sum = total;
        Ok(())
    }

    fn copy(&self, x: Slice<'_, S>, y: &mut CudaSlice<S>) -> Result<()> {
        self.device.memcpy_dtod(&x.view(), &mut y.slice_mut(0..x.len()))
    }

    fn max_pool2d_forward(
        &self,
        s: &kernels::PoolShape,
        x: Slice<'_, S>,
        y: &mut CudaSlice<S>,
        places: &mut CudaSlice<u32>,
    ) -> Result<()> {
        let (shape, count) = (PoolShape::new(s)?, s.output_len());
        s.check(x.len(), count);
        let (x, threads) = (x.view(), count as i64);
        let kernel = self.kernel(POOL, "max_pool")?;
        let mut call = kernel.call();
        call.arg(&x).arg(y).arg(places).arg(&shape).arg(&threads);
        // SAFETY: x holds the shape's input, y and places its output.
        unsafe { over(count, &mut call) }
    }

    fn max_pool2d_backward(
        &self,
        s: &kernels::PoolShape,
        dy: Slice<'_, S>,
        places: &CudaSlice<u32>,
        dx: &mut CudaSlice<S>,
    ) -> Result<()> {
        s.check(s.input_len(), dy.len());
        self.pooled("max_pool_backward", s, dy, Some(places), dx, s.input_len())
    }

    fn max_pool2d_tangent(
        &self,
        s: &kernels::PoolShape,
        x_dot: Slice<'_, S>,
        places: &CudaSlice<u32>,
        y_dot: &mut CudaSlice<S>,
    ) -> Result<()> {
        s.check(x_dot.len(), s.output_len());
        self.pooled("max_pool_tangent", s, x_dot, Some(places), y_dot, s.output_len())
    }

    fn avg_pool2d_forward(
        &self,
        s: &kernels::PoolShape,
        x: Slice<'_, S>,
        y: &mut CudaSlice<S>,
    ) -> Result<()> {
        s.check(x.len(), s.output_len());
        self.pooled("avg_pool", s, x, None, y, s.output_len())
    }

    fn avg_pool2d_backward(
        &self,
        s: &kernels::PoolShape,
        dy: Slice<'_, S>,
        dx: &mut CudaSlice<S>,
    ) -> Result<()> {
        s.check(s.input_len(), dy.len());
        self.pooled("avg_pool_backward", s, dy, None, dx, s.input_len())
    }

    fn global_avg_pool_forward(
        &self,
        pixels: usize,
        channels: usize,
        x: Slice<'_, S>,
        y: &mut CudaSlice<S>,
    ) -> Result<()> {
        self.averaged("global_avg_pool", (pixels, channels), x, y, x.len() / pixels)
    }

    fn global_avg_pool_backward(
        &self,
        pixels: usize,
        channels: usize,
        dy: Slice<'_, S>,
        dx: &mut CudaSlice<S>,
    ) -> Result<()> {
        let count = dy.len() * pixels;
        self.averaged("global_avg_pool_backward", (pixels, channels), dy, dx, count)
    }

    fn linear_forward(
        &self,
        s: &LinearShape,
        x: Slice<'_, S>,
        weight: Part<'_, Self>,
        bias: Option<Part<'_, Self>>,
        y: &mut CudaSlice<S>,
        accumulate: bool,
        (): &mut (),
    ) -> Result<()> {
        let (n_in, n_out) = (s.in_features, s.out_features);
        // yᵀ = W xᵀ; W [out, in] row by row is Wᵀ column by column.
        let (weight, sides) = (Self::weight(weight)?, [n_out, s.batch, n_in]);
        self.multiply([TRANSPOSED, AS_IS], sides, (weight, n_in), (x, n_in), y, accumulate)?;
        let Some(bias) = bias else { return Ok(()) };
        let bias = bias.theta.numbers.part(bias.span)?.view();
        let (count, channels) = ((s.batch * n_out) as i64, int(n_out)?);
        let kernel = self.kernel(ELEMENTWISE, "add_bias")?;
        let mut call = kernel.call();
        call.arg(&bias).arg(y).arg(&count).arg(&channels);
        // SAFETY: y holds `count` numbers, the bias `channels`.
        unsafe { over(count as usize, &mut call) }
    }

    fn linear_backward(
        &self,
        s: &LinearShape,
        x: Slice<'_, S>,
        weight: Part<'_, Self>,
        dy: Slice<'_, S>,
        dx: Option<(&mut CudaSlice<S>, bool)>,
        dtheta: Option<LinearGradient<'_, '_, Self>>,
        (): &mut (),
    ) -> Result<()> {
        let (n_in, n_out) = (s.in_features, s.out_features);
        if let Some((dx, accumulate)) = dx {
            // dxᵀ = Wᵀ dyᵀ
            let (weight, sides) = (Self::weight(weight)?, [n_in, s.batch, n_out]);
            self.multiply([AS_IS, AS_IS], sides, (weight, n_in), (dy, n_out), dx, accumulate)?;
        }
        let Some(LinearGradient { dtheta, weight, bias }) = dtheta else { return Ok(()) };
        // dWᵀ = xᵀ dy
        let mut dw = self.room(weight.len())?;
        let sides = [n_in, n_out, s.batch];
        self.multiply([AS_IS, TRANSPOSED], sides, (x, n_in), (dy, n_out), &mut dw, false)?;
        self.convert_out(&dw, dtheta, weight)?;
        let Some(bias) = bias else { return Ok(()) };
        let (dy, mut db) = (dy.view(), dtheta.slice_mut(bias.clone()));
        let (rows, channels) = (int(s.batch)?, int(n_out)?);
        let kernel = self.kernel(ELEMENTWISE, "sum_rows")?;
        let mut call = kernel.call();
        call.arg(&dy).arg(&mut db).arg(&rows).arg(&channels);
        // SAFETY: dy holds `rows` rows of `channels`, db one.
        unsafe { over(n_out, &mut call) }
    }
}

const AS_IS: cublasOperation_t = cublasOperation_t::CUBLAS_OP_N;
const TRANSPOSED: cublasOperation_t = cublasOperation_t::CUBLAS_OP_T;

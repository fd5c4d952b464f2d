//! The CPU as a network's engine: [`crate::kernels`] on buffers that are used again.
#![allow(clippy::too_many_arguments, reason = "what a layer reads and what it owes")]

use std::{ops::Range, sync::Arc};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType, bail};

use super::{
    engine::{
        BATCH_NORM_EPSILON, Engine, LinearGradient, MOMENTUM, Moved, Norm, NormDots, NormSpans,
        Part, Source,
    },
    memory::{Buffer, BufferPool},
    plan::{Plan, Step},
};
use crate::Precision;
use crate::kernels::{
    self, BatchNorm, ConvShape, LinearShape, Normalisation, PoolShape, Real, Relu, Scaling,
    Workspace, add, add_assign, avg_pool2d_backward, avg_pool2d_forward, batch_norm_backward,
    batch_norm_forward, batch_norm_tangent, conv2d_backward_data, conv2d_backward_weight,
    conv2d_forward, conv2d_forward_normalised, conv2d_forward_with_moments,
    global_avg_pool_backward, global_avg_pool_forward, linear_backward, linear_forward,
    max_pool2d_backward, max_pool2d_forward, max_pool2d_tangent, moments, relu, relu_backward,
};

/// The engine, and all memory that a network reuses on it.
#[derive(Debug)]
pub(super) struct Cpu<T> {
    precision: Precision,
    pub memory: super::memory::Memory<T>,
}

/// μ and σ² laid out like the running statistics, 1/√(σ² + ε) each in the place of its mean.
#[derive(Debug)]
pub(super) struct Moments<T> {
    values: Buffer<T>,
    inv_std: Buffer<T>,
}

/// `scale = γ s`, then `shift = β − μ γ s`: what a normalisation multiplies by and adds.
#[derive(Debug)]
pub(super) struct Folded<T> {
    values: Buffer<T>,
    relu: bool,
}

impl<T: Real> Cpu<T> {
    pub fn new(precision: Precision) -> Self {
        Self { precision, memory: Default::default() }
    }

    fn buffers(&self) -> &Arc<BufferPool<T>> {
        &self.memory.buffers
    }

    fn zero_buffer(&self, len: usize) -> Buffer<T> {
        let mut buffer = self.buffers().take(len);
        buffer.fill(T::ZERO);
        buffer
    }
}

impl<T: Real + WithDType> Engine for Cpu<T> {
    type Scalar = T;
    type Storage = CpuStorage;
    type Numbers<'a> = &'a [T];
    type NumbersMut<'a> = &'a mut [T];
    type Buffer = Buffer<T>;
    type Read<'a> = &'a [T];
    type Places = Buffer<u32>;
    type Moments = Moments<T>;
    type Weights = ();
    type Output = Vec<T>;
    type Folded = Folded<T>;
    type Scratch = Workspace<T>;

    const NORMALISES_SOURCES: bool = true;

    fn storage(storage: &Storage) -> Option<&CpuStorage> {
        match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        }
    }

    fn of_cpu(storage: &CpuStorage) -> Result<&CpuStorage> {
        Ok(storage)
    }

    fn cpu_storage(numbers: Vec<T>) -> Result<CpuStorage> {
        Ok(T::to_cpu_storage_owned(numbers))
    }

    fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
        let all = T::cpu_storage_as_slice(storage)?;
        match layout.contiguous_offsets() {
            Some((start, end)) => Ok(&all[start..end]),
            None => bail!("network: tensors must be contiguous, got {layout:?}"),
        }
    }

    fn zeros(&self, len: usize) -> Result<Vec<T>> {
        Ok(vec![T::ZERO; len])
    }

    fn numbers_mut(output: &mut Vec<T>) -> &mut [T] {
        output
    }

    fn tensor(&self, output: Vec<T>, like: &Tensor) -> Result<Tensor> {
        Tensor::from_vec(output, like.shape(), like.device())
    }

    fn sample(numbers: &[T], count: usize) -> Vec<u64> {
        let stride = numbers.len().div_ceil(count).max(1);
        numbers.iter().step_by(stride).map(|&v| Real::to_f64(v).to_bits()).collect()
    }

    fn with_scratch<R>(&self, f: impl FnOnce(&mut Workspace<T>) -> R) -> R {
        self.memory.with_workspace(f)
    }

    fn take(&self, len: usize) -> Result<Buffer<T>> {
        Ok(self.buffers().take(len))
    }

    fn take_leaving(&self, len: usize) -> Result<Buffer<T>> {
        Ok(Buffer::leaving(len))
    }

    fn take_places(&self, len: usize) -> Result<Buffer<u32>> {
        Ok(self.memory.indices.take(len))
    }

    fn read(buffer: &Buffer<T>) -> &[T] {
        buffer
    }

    fn reborrow<'s>(numbers: &'s &[T]) -> &'s [T] {
        numbers
    }

    fn as_activation<'s>(numbers: &'s &[T]) -> Option<&'s [T]> {
        Some(numbers)
    }

    fn enter(&self, numbers: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.buffers().take(numbers.len());
        buffer.copy_from_slice(numbers);
        Ok(buffer)
    }

    fn leave(&self, buffer: Buffer<T>, _: bool) -> Result<(Vec<T>, Option<Buffer<T>>)> {
        Ok((buffer.into_vec(), None))
    }

    fn weights(&self, _: &[T], _: &Plan) -> Result<()> {
        Ok(())
    }

    fn take_moments(&self, plan: &Plan) -> Result<Moments<T>> {
        let [values, inv_std] = [(); 2].map(|()| self.buffers().take(plan.n_moments));
        Ok(Moments { values, inv_std })
    }

    fn fixed_moments(&self, running: &[T], plan: &Plan) -> Result<Moments<T>> {
        let mut moments = self.take_moments(plan)?;
        moments.values.copy_from_slice(running);
        for step in &plan.steps {
            if let Step::Norm { mean, variance, .. } = step {
                moments.invert(mean, variance);
            }
        }
        Ok(moments)
    }

    fn moved(&self, running: &[T], moments: &Moments<T>, spans: &[Moved]) -> Result<Vec<T>> {
        let mut moved = running.to_vec();
        for Moved { span, correction } in spans {
            for (old, new) in moved[span.clone()].iter_mut().zip(&moments.values[span.clone()]) {
                let (before, batch) = (Real::to_f64(*old), Real::to_f64(*new) * correction);
                *old = Real::from_f64((1.0 - MOMENTUM) * before + MOMENTUM * batch);
            }
        }
        Ok(moved)
    }

    fn fold(&self, norm: &Norm<'_, Self>) -> Result<Folded<T>> {
        let channels = norm.spans.mean.len();
        let mut values = self.buffers().take(2 * channels);
        let (scale, shift) = values.split_at_mut(channels);
        let (at, beta) = (norm.kernel(), norm.theta.part(norm.spans.beta).numbers());
        for i in 0..channels {
            scale[i] = at.gamma[i] * at.inv_std[i];
            shift[i] = beta[i] - at.mean[i] * scale[i];
        }
        Ok(Folded { values, relu: norm.relu })
    }

    fn conv2d_forward(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        weight: Part<'_, Self>,
        y: &mut Buffer<T>,
        accumulate: bool,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        conv2d_forward(self.precision, s, x.kernel(), weight.numbers(), y, accumulate, ws);
        Ok(())
    }

    fn conv2d_backward_data(
        &self,
        s: &ConvShape,
        dy: &[T],
        weight: Part<'_, Self>,
        dx: &mut Buffer<T>,
        accumulate: bool,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        conv2d_backward_data(self.precision, s, dy, weight.numbers(), dx, accumulate, ws);
        Ok(())
    }

    fn conv2d_backward_weight(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        dy: &[T],
        dtheta: &mut &mut [T],
        weight: &Range<usize>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let dw = &mut dtheta[weight.clone()];
        conv2d_backward_weight(self.precision, s, x.kernel(), dy, dw, ws);
        Ok(())
    }

    fn conv2d_forward_with_moments(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        weight: Part<'_, Self>,
        y: &mut Buffer<T>,
        spans: NormSpans<'_>,
        into: &mut Moments<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let (mean, variance) = split_two(&mut into.values, spans.mean, spans.variance);
        let (x, w) = (x.kernel(), weight.numbers());
        conv2d_forward_with_moments(self.precision, s, x, w, y, mean, variance, ws);
        into.invert(spans.mean, spans.variance);
        Ok(())
    }

    fn conv2d_forward_normalised(
        &self,
        s: &ConvShape,
        x: Source<'_, Self>,
        weight: Part<'_, Self>,
        norm: &Norm<'_, Self>,
        residual: Option<&[T]>,
        y: &mut Buffer<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let folded = self.fold(norm)?;
        let Scaling { scale, shift, relu } = folded.kernel();
        let by = Normalisation { scale, shift, residual, relu };
        conv2d_forward_normalised(self.precision, s, x.kernel(), weight.numbers(), &by, y, ws);
        Ok(())
    }

    fn moments(
        &self,
        x: &[T],
        spans: NormSpans<'_>,
        into: &mut Moments<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let (mean, variance) = split_two(&mut into.values, spans.mean, spans.variance);
        moments(x, mean.len(), mean, variance, ws);
        into.invert(spans.mean, spans.variance);
        Ok(())
    }

    fn norm_forward(
        &self,
        norm: &Norm<'_, Self>,
        x: &[T],
        residual: Option<&[T]>,
        y: &mut Buffer<T>,
    ) -> Result<()> {
        let folded = self.fold(norm)?;
        let Scaling { scale, shift, relu } = folded.kernel();
        batch_norm_forward(x, scale.len(), scale, shift, residual, relu, y);
        Ok(())
    }

    fn norm_backward(
        &self,
        norm: &Norm<'_, Self>,
        x: &[T],
        y: Option<&[T]>,
        dy: &mut Buffer<T>,
        dx: Option<&mut Buffer<T>>,
        dtheta: Option<&mut &mut [T]>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let folded = self.fold(norm)?;
        let relu = folded.relu(y);
        let mut spare;
        let (dgamma, dbeta) = match dtheta {
            Some(dtheta) => split_two(dtheta, norm.spans.gamma, norm.spans.beta),
            None => {
                spare = self.buffers().take(folded.values.len());
                spare.split_at_mut(folded.values.len() / 2)
            }
        };
        batch_norm_backward(&norm.kernel(), x, relu, dy, dgamma, dbeta, dx.map(|dx| &mut **dx), ws);
        Ok(())
    }

    fn norm_tangent(
        &self,
        norm: &Norm<'_, Self>,
        x: &[T],
        y: Option<&[T]>,
        dots: NormDots<'_, Self>,
        y_dot: &mut Buffer<T>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let no_x = dots.x.is_none().then(|| self.zero_buffer(x.len()));
        let x_dot = dots.x.or(no_x.as_deref()).expect("one of the two");
        let still = self.zero_buffer(norm.spans.mean.len());
        let [gamma_dot, beta_dot] = [norm.spans.gamma, norm.spans.beta]
            .map(|span| dots.theta.map_or(&*still, |theta| &theta.numbers[span.clone()]));
        let residual_dot = dots.residual;
        let (kernel, folded) = (norm.kernel(), self.fold(norm)?);
        let relu = folded.relu(y);
        batch_norm_tangent(&kernel, x, relu, x_dot, gamma_dot, beta_dot, residual_dot, y_dot, ws);
        Ok(())
    }

    fn relu(&self, x: &[T], y: &mut Buffer<T>) -> Result<()> {
        relu(x, y);
        Ok(())
    }

    fn relu_backward(&self, y: &[T], dy: &[T], dx: &mut Buffer<T>) -> Result<()> {
        relu_backward(y, dy, dx);
        Ok(())
    }

    fn add(&self, a: &[T], b: &[T], y: &mut Buffer<T>) -> Result<()> {
        add(a, b, y);
        Ok(())
    }

    fn add_assign(&self, sum: &mut Buffer<T>, x: &[T]) -> Result<()> {
        add_assign(sum, x);
        Ok(())
    }

    fn copy(&self, x: &[T], y: &mut Buffer<T>) -> Result<()> {
        y.copy_from_slice(x);
        Ok(())
    }

    fn max_pool2d_forward(
        &self,
        s: &PoolShape,
        x: &[T],
        y: &mut Buffer<T>,
        places: &mut Buffer<u32>,
    ) -> Result<()> {
        max_pool2d_forward(s, x, y, places);
        Ok(())
    }

    fn max_pool2d_backward(
        &self,
        s: &PoolShape,
        dy: &[T],
        places: &Buffer<u32>,
        dx: &mut Buffer<T>,
    ) -> Result<()> {
        max_pool2d_backward(s, dy, places, dx);
        Ok(())
    }

    fn max_pool2d_tangent(
        &self,
        s: &PoolShape,
        x_dot: &[T],
        places: &Buffer<u32>,
        y_dot: &mut Buffer<T>,
    ) -> Result<()> {
        max_pool2d_tangent(s, x_dot, places, y_dot);
        Ok(())
    }

    fn avg_pool2d_forward(&self, s: &PoolShape, x: &[T], y: &mut Buffer<T>) -> Result<()> {
        avg_pool2d_forward(s, x, y);
        Ok(())
    }

    fn avg_pool2d_backward(&self, s: &PoolShape, dy: &[T], dx: &mut Buffer<T>) -> Result<()> {
        avg_pool2d_backward(s, dy, dx);
        Ok(())
    }

    fn global_avg_pool_forward(
        &self,
        pixels: usize,
        channels: usize,
        x: &[T],
        y: &mut Buffer<T>,
    ) -> Result<()> {
        global_avg_pool_forward(pixels, channels, x, y);
        Ok(())
    }

    fn global_avg_pool_backward(
        &self,
        pixels: usize,
        channels: usize,
        dy: &[T],
        dx: &mut Buffer<T>,
    ) -> Result<()> {
        global_avg_pool_backward(pixels, channels, dy, dx);
        Ok(())
    }

    fn linear_forward(
        &self,
        s: &LinearShape,
        x: &[T],
        weight: Part<'_, Self>,
        bias: Option<Part<'_, Self>>,
        y: &mut Buffer<T>,
        accumulate: bool,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let bias = bias.map(|bias| bias.numbers());
        linear_forward(s, x, weight.numbers(), bias, y, accumulate, ws);
        Ok(())
    }

    fn linear_backward(
        &self,
        s: &LinearShape,
        x: &[T],
        weight: Part<'_, Self>,
        dy: &[T],
        dx: Option<(&mut Buffer<T>, bool)>,
        dtheta: Option<LinearGradient<'_, '_, Self>>,
        ws: &mut Workspace<T>,
    ) -> Result<()> {
        let mut spare;
        let (dw, db) = match dtheta {
            Some(LinearGradient { dtheta, weight, bias: Some(bias) }) => {
                let (dw, db) = split_two(dtheta, weight, bias);
                (dw, Some(db))
            }
            Some(LinearGradient { dtheta, weight, bias: None }) => {
                (&mut dtheta[weight.clone()], None)
            }
            None => {
                spare = self.buffers().take(weight.span.len());
                (&mut *spare, None)
            }
        };
        let (dx, accumulate) = dx.map_or((None, false), |(dx, add)| (Some(&mut **dx), add));
        linear_backward(s, x, weight.numbers(), dy, dx, accumulate, dw, db, ws);
        Ok(())
    }
}

impl<T: Real> Folded<T> {
    fn kernel(&self) -> Scaling<'_, T> {
        let (scale, shift) = self.values.split_at(self.values.len() / 2);
        Scaling { scale, shift, relu: self.relu }
    }

    /// Where ReLU was open: by its output `y`, if that is given.
    fn relu<'a>(&'a self, y: Option<&'a [T]>) -> Relu<'a, T> {
        let Scaling { scale, shift, relu } = self.kernel();
        match y {
            _ if !relu => Relu::None,
            Some(y) => Relu::Output(y),
            None => Relu::Input { scale, shift },
        }
    }
}

impl<T: Real + WithDType> Source<'_, Cpu<T>> {
    fn kernel(&self) -> kernels::Source<'_, T> {
        kernels::Source { x: self.x, by: self.by.as_ref().map(Folded::kernel) }
    }
}

impl<'a, T: Real + WithDType> Part<'a, Cpu<T>> {
    fn numbers(self) -> &'a [T] {
        &self.theta.numbers[self.span.clone()]
    }
}

impl<T: Real + WithDType> Norm<'_, Cpu<T>> {
    fn kernel(&self) -> BatchNorm<'_, T> {
        BatchNorm {
            mean: &self.moments.values[self.spans.mean.clone()],
            inv_std: &self.moments.inv_std[self.spans.mean.clone()],
            gamma: self.theta.part(self.spans.gamma).numbers(),
            statistics: self.statistics,
        }
    }
}

impl<T: Real> Moments<T> {
    /// 1/√(σ² + ε) of one normalisation.
    fn invert(&mut self, mean: &Range<usize>, variance: &Range<usize>) {
        let variances = &self.values[variance.clone()];
        for (inv_std, variance) in self.inv_std[mean.clone()].iter_mut().zip(variances) {
            *inv_std = T::from_f64(1.0 / (variance.to_f64() + BATCH_NORM_EPSILON).sqrt());
        }
    }
}

/// The parts of `all` at `first` and at `second`, which lies behind it.
fn split_two<'a, T>(
    all: &'a mut [T],
    first: &Range<usize>,
    second: &Range<usize>,
) -> (&'a mut [T], &'a mut [T]) {
    let (head, tail) = all.split_at_mut(second.start);
    (&mut head[first.clone()], &mut tail[..second.len()])
}

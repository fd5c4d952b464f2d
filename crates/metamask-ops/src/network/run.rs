//! Carrying out the steps: forward, gradient, tangent.
//!
//! Slices in, slices out; Candle and the question who asks are left to `op`.

use std::ops::Range;

use super::{
    builder::Window,
    memory::{Buffer, Memory},
    plan::{Plan, Step},
    shape::Shape,
    watch::{Phase, Watched},
};
use crate::kernels::{
    BatchNorm, ConvShape, LinearShape, Normalisation, PoolShape, Real, Relu, Statistics, Workspace,
    add, add_assign, avg_pool2d_backward, avg_pool2d_forward, batch_norm_backward,
    batch_norm_forward, batch_norm_tangent, conv2d_backward_data, conv2d_backward_weight,
    conv2d_forward, conv2d_forward_normalised, global_avg_pool_backward, global_avg_pool_forward,
    linear_backward, linear_forward, max_pool2d_backward, max_pool2d_forward, max_pool2d_tangent,
    moments, relu, relu_backward,
};
use crate::{ParameterEntry, Precision};

/// ε of batch normalisation, PyTorch's default.
const BATCH_NORM_EPSILON: f64 = 1e-5;

/// What stays the same over a forward pass, its gradients and its tangents.
#[derive(Debug)]
pub(super) struct Run<'a, T> {
    pub plan: &'a Plan,
    /// Of the values, for one sample.
    pub shapes: &'a [Shape],
    pub batch: usize,
    pub memory: &'a Memory<T>,
    pub statistics: Statistics,
    pub precision: Precision,
    /// For the names of the steps.
    pub parameters: &'a [ParameterEntry],
    pub watched: &'a Watched,
    pub x: &'a [T],
    pub theta: &'a [T],
}

/// What a forward pass leaves for its gradient and its tangent.
#[derive(Debug)]
pub(super) struct Saved<T> {
    /// The values that are read again; neither the input nor the output.
    values: Vec<Option<Buffer<T>>>,
    /// For each value that a max pooling wrote: where the maxima were.
    indices: Vec<Option<Buffer<u32>>>,
    /// Mean and (biased) variance of each normalisation, laid out like the running statistics.
    pub moments: Buffer<T>,
    /// 1/√(variance + ε), each in the place of the mean.
    inv_std: Buffer<T>,
}

/// Whether a forward pass will be differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activations {
    /// Keep what gradient and tangent read.
    Keep,
    /// Free each as soon as it was read for the last time.
    Free,
}

impl<T: Real> Run<'_, T> {
    /// The result, and what differentiating it needs. With [`Statistics::Fixed`] the
    /// moments are `running`; otherwise `running` is not read.
    pub fn forward(&self, running: Option<&[T]>, activations: Activations) -> (Vec<T>, Saved<T>) {
        self.memory.with_workspace(|ws| self.forward_with(running, activations, ws))
    }

    fn forward_with(
        &self,
        running: Option<&[T]>,
        activations: Activations,
        ws: &mut Workspace<T>,
    ) -> (Vec<T>, Saved<T>) {
        let p = self.precision;
        let n_values = self.plan.values.len();
        let n_moments = self.plan.n_moments;
        let mut values: Vec<Option<Buffer<T>>> = (0..n_values).map(|_| None).collect();
        let mut indices: Vec<Option<Buffer<u32>>> = (0..n_values).map(|_| None).collect();
        let mut moments = self.memory.buffers.take(n_moments);
        let mut inv_std = self.memory.buffers.take(n_moments);
        if let Some(running) = running {
            moments.copy_from_slice(running);
        }

        for (index, step) in self.plan.steps.iter().enumerate() {
            if self.waits(index, activations) {
                continue;
            }
            let _watching = self.watch(step, Phase::Forward);
            let mut y = self.buffer_for(step.output());
            let value = |v: usize| match v {
                0 => self.x,
                _ => values[v].as_deref().expect("freed after its last reader only"),
            };
            match step {
                Step::Conv { x, y: out, window, weight } => {
                    let shape = self.conv_shape(*x, *out, *window);
                    let weight = self.weights(weight);
                    conv2d_forward(p, &shape, value(*x), weight, &mut y, false, ws);
                }
                Step::Norm { x, residual, relu, gamma, beta, mean, variance, .. } => {
                    let c = mean.len();
                    let (mean_now, variance_now) = split_two(&mut moments, mean, variance);
                    if self.statistics == Statistics::Batch {
                        self::moments(value(*x), c, mean_now, variance_now, ws);
                    }
                    let inv_std = &mut inv_std[mean.clone()];
                    let mut folded = self.memory.buffers.take(2 * c);
                    let (scale, shift) = folded.split_at_mut(c);
                    let (gamma, beta) = (self.weights(gamma), self.weights(beta));
                    for (inv_std, variance) in inv_std.iter_mut().zip(&*variance_now) {
                        let s = 1.0 / (variance.to_f64() + BATCH_NORM_EPSILON).sqrt();
                        *inv_std = T::from_f64(s);
                    }
                    let statistics = self.statistics;
                    let norm = BatchNorm { mean: mean_now, inv_std, gamma, statistics };
                    fold(&norm, beta, scale, shift);
                    let residual = residual.map(value);
                    let waiting = index.checked_sub(1).filter(|&i| self.waits(i, activations));
                    match waiting.map(|i| &self.plan.steps[i]) {
                        Some(Step::Conv { x, y: out, window, weight }) => {
                            let shape = self.conv_shape(*x, *out, *window);
                            let (x, weight) = (value(*x), self.weights(weight));
                            let by = Normalisation { scale, shift, residual, relu: *relu };
                            conv2d_forward_normalised(p, &shape, x, weight, &by, &mut y, ws);
                        }
                        _ => {
                            batch_norm_forward(value(*x), c, scale, shift, residual, *relu, &mut y);
                        }
                    }
                }
                Step::Relu { x, .. } => relu(value(*x), &mut y),
                Step::Add { a, b, .. } => add(value(*a), value(*b), &mut y),
                Step::MaxPool { x, window, .. } => {
                    let mut places = self.memory.indices.take(y.len());
                    let shape = self.pool_shape(*x, *window);
                    max_pool2d_forward(&shape, value(*x), &mut y, &mut places);
                    if activations == Activations::Keep {
                        indices[step.output()] = Some(places);
                    }
                }
                Step::AvgPool { x, window, .. } => {
                    avg_pool2d_forward(&self.pool_shape(*x, *window), value(*x), &mut y);
                }
                Step::GlobalAvgPool { x, .. } => {
                    let (pixels, channels) = self.pixels_and_channels(*x);
                    global_avg_pool_forward(pixels, channels, value(*x), &mut y);
                }
                Step::Linear { x, y: out, weight, bias } => {
                    let shape = self.linear_shape(*x, *out);
                    let bias = bias.as_ref().map(|span| self.weights(span));
                    let weight = self.weights(weight);
                    linear_forward(&shape, value(*x), weight, bias, &mut y, false, ws);
                }
            }
            values[step.output()] = Some(y);
            let waited = index.checked_sub(1).filter(|&i| self.waits(i, activations));
            for v in waited.into_iter().chain([index]).flat_map(|i| self.plan.read_last_by(i)) {
                if activations == Activations::Free || !self.plan.values[v].kept {
                    values[v] = None;
                }
            }
        }

        let output = values[self.plan.output].take();
        let output = output.expect("the last step wrote it").into_vec();
        (output, Saved { values, indices, moments, inv_std })
    }

    /// The gradients of ⟨y, dy⟩, where `y` is the result: that in the parameters is written to
    /// `dtheta`, that in the input is returned; each only if it is asked for.
    pub fn backward(
        &self,
        saved: &Saved<T>,
        y: &[T],
        dy: &[T],
        dtheta: Option<&mut [T]>,
        x_wanted: bool,
    ) -> Option<Vec<T>> {
        self.memory.with_workspace(|ws| self.backward_with(saved, y, dy, dtheta, x_wanted, ws))
    }

    fn backward_with(
        &self,
        saved: &Saved<T>,
        y: &[T],
        dy: &[T],
        mut dtheta: Option<&mut [T]>,
        x_wanted: bool,
        ws: &mut Workspace<T>,
    ) -> Option<Vec<T>> {
        let p = self.precision;
        let theta_wanted = dtheta.is_some();
        let wanted: Vec<bool> = (self.plan.values.iter())
            .map(|v| x_wanted || theta_wanted && v.has_parameters)
            .collect();
        let value = |v: usize| self.saved_value(saved, y, v);
        let mut flows: Vec<Option<Buffer<T>>> = wanted.iter().map(|_| None).collect();

        for step in self.plan.steps.iter().rev() {
            let out = step.output();
            let mut flow = flows[out].take();
            if flow.is_none() && out != self.plan.output {
                continue; // Nothing before it is asked for.
            }
            if matches!(step, Step::Norm { .. }) {
                // What it computes takes the place of dy.
                flow.get_or_insert_with(|| self.copy_of(dy));
            }
            let dy = flow.as_deref().unwrap_or(dy);
            let is_convolution = matches!(step, Step::Conv { .. });
            let _watching = (!is_convolution).then(|| self.watch(step, Phase::Backward));
            match step {
                Step::Conv { x, window, weight, .. } => {
                    let shape = self.conv_shape(*x, out, *window);
                    if let Some(theta) = dtheta.as_deref_mut() {
                        let _watching = self.watch(step, Phase::BackwardWeight);
                        let dw = &mut theta[weight.clone()];
                        conv2d_backward_weight(p, &shape, value(*x), dy, dw, ws);
                    }
                    if wanted[*x] {
                        let _watching = self.watch(step, Phase::BackwardData);
                        let (dx, accumulate) = self.flow_into(&mut flows, *x);
                        let weight = self.weights(weight);
                        conv2d_backward_data(p, &shape, dy, weight, dx, accumulate, ws);
                    }
                }
                Step::Norm { x, residual, relu, gamma, beta, mean, .. } => {
                    let norm = self.batch_norm(saved, mean, gamma);
                    let c = mean.len();
                    let mut spare = self.memory.buffers.take(2 * c);
                    let mut folded = self.memory.buffers.take(2 * c);
                    let (scale, shift) = folded.split_at_mut(c);
                    let relu = match residual {
                        _ if !relu => Relu::None,
                        Some(_) => Relu::Output(value(out)),
                        None => {
                            fold(&norm, self.weights(beta), scale, shift);
                            Relu::Input { scale, shift }
                        }
                    };
                    let (dgamma, dbeta) = match dtheta.as_deref_mut() {
                        Some(theta) => split_two(theta, gamma, beta),
                        None => spare.split_at_mut(c),
                    };
                    let mut dy = flow.take().expect("a copy, if nothing else");
                    let residual = residual.filter(|&r| wanted[r]);
                    let mut dx = residual.map(|_| self.buffer_for(*x));
                    let dx_now = dx.as_deref_mut();
                    batch_norm_backward(&norm, value(*x), relu, &mut dy, dgamma, dbeta, dx_now, ws);
                    let (dx, dr) = match dx {
                        Some(dx) => (dx, Some(dy)),
                        None => (dy, None),
                    };
                    if let Some((residual, dr)) = residual.zip(dr) {
                        self.give(&mut flows, residual, dr);
                    }
                    if wanted[*x] {
                        self.give(&mut flows, *x, dx);
                    }
                }
                Step::Relu { x, .. } => {
                    let mut dx = self.buffer_for(*x);
                    relu_backward(value(out), dy, &mut dx);
                    self.give(&mut flows, *x, dx);
                }
                Step::Add { a, b, .. } => {
                    for input in [*a, *b].into_iter().filter(|&v| wanted[v]) {
                        self.give_copy(&mut flows, input, dy);
                    }
                }
                Step::MaxPool { x, window, .. } => {
                    let mut dx = self.buffer_for(*x);
                    let indices = saved.indices[out].as_ref().expect("kept by the forward pass");
                    max_pool2d_backward(&self.pool_shape(*x, *window), dy, indices, &mut dx);
                    self.give(&mut flows, *x, dx);
                }
                Step::AvgPool { x, window, .. } => {
                    let mut dx = self.buffer_for(*x);
                    avg_pool2d_backward(&self.pool_shape(*x, *window), dy, &mut dx);
                    self.give(&mut flows, *x, dx);
                }
                Step::GlobalAvgPool { x, .. } => {
                    let mut dx = self.buffer_for(*x);
                    let (pixels, channels) = self.pixels_and_channels(*x);
                    global_avg_pool_backward(pixels, channels, dy, &mut dx);
                    self.give(&mut flows, *x, dx);
                }
                Step::Linear { x, weight, bias, .. } => {
                    let shape = self.linear_shape(*x, out);
                    let mut spare;
                    let (dw, db) = match (dtheta.as_deref_mut(), bias) {
                        (Some(theta), Some(bias)) => {
                            let (dw, db) = split_two(theta, weight, bias);
                            (dw, Some(db))
                        }
                        (Some(theta), None) => (&mut theta[weight.clone()], None),
                        (None, _) => {
                            spare = self.memory.buffers.take(weight.len());
                            (&mut *spare, None)
                        }
                    };
                    let (dx, accumulate) = if wanted[*x] {
                        let (dx, accumulate) = self.flow_into(&mut flows, *x);
                        (Some(dx), accumulate)
                    } else {
                        (None, false)
                    };
                    let weight = self.weights(weight);
                    linear_backward(&shape, value(*x), weight, dy, dx, accumulate, dw, db, ws);
                }
            }
        }

        flows[0].take().filter(|_| x_wanted).map(Buffer::into_vec)
    }

    /// The derivative of the result `y` along `x_dot` and `theta_dot`; `None` is zero.
    pub fn tangent(
        &self,
        saved: &Saved<T>,
        y: &[T],
        x_dot: Option<&[T]>,
        theta_dot: Option<&[T]>,
    ) -> Vec<T> {
        self.memory.with_workspace(|ws| self.tangent_with(saved, y, x_dot, theta_dot, ws))
    }

    fn tangent_with(
        &self,
        saved: &Saved<T>,
        y: &[T],
        x_dot: Option<&[T]>,
        theta_dot: Option<&[T]>,
        ws: &mut Workspace<T>,
    ) -> Vec<T> {
        let value = |v: usize| self.saved_value(saved, y, v);
        let p = self.precision;
        let direction = |span: &Range<usize>| theta_dot.map(|theta_dot| &theta_dot[span.clone()]);
        let mut dots: Vec<Option<Buffer<T>>> = self.plan.values.iter().map(|_| None).collect();

        for (index, step) in self.plan.steps.iter().enumerate() {
            let out = step.output();
            let dot = |v: usize| match v {
                0 => x_dot,
                _ => dots[v].as_deref(),
            };
            let _watching = self.watch(step, Phase::Tangent);
            let mut y_dot = self.buffer_for(out);
            let is_zero = match step {
                Step::Conv { x, window, weight, .. } => {
                    let shape = self.conv_shape(*x, out, *window);
                    let x_dot = dot(*x);
                    let weight_dot = direction(weight);
                    if let Some(x_dot) = x_dot {
                        let weight = self.weights(weight);
                        conv2d_forward(p, &shape, x_dot, weight, &mut y_dot, false, ws);
                    }
                    if let Some(weight_dot) = weight_dot {
                        let accumulate = x_dot.is_some();
                        let x = value(*x);
                        conv2d_forward(p, &shape, x, weight_dot, &mut y_dot, accumulate, ws);
                    }
                    x_dot.is_none() && weight_dot.is_none()
                }
                Step::Norm { x, residual, relu, gamma, beta, mean, .. } => {
                    let (x_dot, residual_dot) = (dot(*x), residual.and_then(dot));
                    let is_zero = x_dot.is_none() && residual_dot.is_none() && theta_dot.is_none();
                    if !is_zero {
                        let norm = self.batch_norm(saved, mean, gamma);
                        let mask = relu.then(|| value(out));
                        let no_x_dot = x_dot.is_none().then(|| self.zeros(value(*x).len()));
                        let x_dot = x_dot.or(no_x_dot.as_deref()).expect("one of the two");
                        let still = self.zeros(mean.len());
                        batch_norm_tangent(
                            &norm,
                            value(*x),
                            mask,
                            x_dot,
                            direction(gamma).unwrap_or(&still),
                            direction(beta).unwrap_or(&still),
                            residual_dot,
                            &mut y_dot,
                            ws,
                        );
                    }
                    is_zero
                }
                Step::Relu { x, .. } => {
                    dot(*x).map(|x_dot| relu_backward(value(out), x_dot, &mut y_dot)).is_none()
                }
                Step::Add { a, b, .. } => match (dot(*a), dot(*b)) {
                    (Some(a_dot), Some(b_dot)) => {
                        add(a_dot, b_dot, &mut y_dot);
                        false
                    }
                    (Some(only), None) | (None, Some(only)) => {
                        y_dot.copy_from_slice(only);
                        false
                    }
                    (None, None) => true,
                },
                Step::MaxPool { x, window, .. } => {
                    let indices = saved.indices[out].as_ref().expect("kept by the forward pass");
                    let shape = self.pool_shape(*x, *window);
                    let run = |x_dot| max_pool2d_tangent(&shape, x_dot, indices, &mut y_dot);
                    dot(*x).map(run).is_none()
                }
                Step::AvgPool { x, window, .. } => {
                    let shape = self.pool_shape(*x, *window);
                    dot(*x).map(|x_dot| avg_pool2d_forward(&shape, x_dot, &mut y_dot)).is_none()
                }
                Step::GlobalAvgPool { x, .. } => {
                    let (pixels, channels) = self.pixels_and_channels(*x);
                    let run = |x_dot| global_avg_pool_forward(pixels, channels, x_dot, &mut y_dot);
                    dot(*x).map(run).is_none()
                }
                Step::Linear { x, weight, bias, .. } => {
                    let shape = self.linear_shape(*x, out);
                    let x_dot = dot(*x);
                    let weight_dot = direction(weight);
                    if let Some(x_dot) = x_dot {
                        let weight = self.weights(weight);
                        linear_forward(&shape, x_dot, weight, None, &mut y_dot, false, ws);
                    }
                    if let Some(weight_dot) = weight_dot {
                        let bias_dot = bias.as_ref().and_then(direction);
                        let accumulate = x_dot.is_some();
                        let x = value(*x);
                        linear_forward(&shape, x, weight_dot, bias_dot, &mut y_dot, accumulate, ws);
                    }
                    x_dot.is_none() && weight_dot.is_none()
                }
            };
            dots[out] = (!is_zero).then_some(y_dot);
            self.plan.read_last_by(index).for_each(|v| dots[v] = None);
        }

        match dots[self.plan.output].take() {
            Some(y_dot) => y_dot.into_vec(),
            None => vec![T::ZERO; y.len()],
        }
    }

    /// Whether a step is a convolution that the normalisation behind it computes: by
    /// fixed statistics, and nobody else reads the convolution's result.
    fn waits(&self, step: usize, activations: Activations) -> bool {
        let steps = &self.plan.steps;
        match (&steps[step], steps.get(step + 1)) {
            (Step::Conv { y, .. }, Some(Step::Norm { x, residual, .. })) => {
                self.statistics == Statistics::Fixed
                    && activations == Activations::Free
                    && y == x
                    && *residual != Some(*y)
                    && self.plan.values[*y].last_step == step + 1
            }
            _ => false,
        }
    }

    /// A buffer of a value's size; the input's and the result's leave the network.
    fn buffer_for(&self, value: usize) -> Buffer<T> {
        let len = self.batch * self.shapes[value].len();
        if value == 0 || value == self.plan.output {
            Buffer::unpooled(len)
        } else {
            self.memory.buffers.take(len)
        }
    }

    fn zeros(&self, len: usize) -> Buffer<T> {
        let mut buffer = self.memory.buffers.take(len);
        buffer.fill(T::ZERO);
        buffer
    }

    fn weights(&self, span: &Range<usize>) -> &[T] {
        &self.theta[span.clone()]
    }

    fn saved_value<'s>(&'s self, saved: &'s Saved<T>, y: &'s [T], value: usize) -> &'s [T] {
        match &saved.values[value] {
            Some(buffer) => buffer,
            None if value == 0 => self.x,
            None if value == self.plan.output => y,
            None => unreachable!("the plan keeps every value that is read again"),
        }
    }

    fn batch_norm<'s>(
        &'s self,
        saved: &'s Saved<T>,
        mean: &Range<usize>,
        gamma: &Range<usize>,
    ) -> BatchNorm<'s, T> {
        BatchNorm {
            mean: &saved.moments[mean.clone()],
            inv_std: &saved.inv_std[mean.clone()],
            gamma: self.weights(gamma),
            statistics: self.statistics,
        }
    }

    /// Where a value's gradient is to be added (true) or written (false).
    fn flow_into<'f>(
        &self,
        flows: &'f mut [Option<Buffer<T>>],
        value: usize,
    ) -> (&'f mut [T], bool) {
        let accumulate = flows[value].is_some();
        let buffer = flows[value].get_or_insert_with(|| self.buffer_for(value));
        (buffer, accumulate)
    }

    /// Adds an owned gradient to a value's.
    fn give(&self, flows: &mut [Option<Buffer<T>>], value: usize, gradient: Buffer<T>) {
        // The input's leaves the network, a buffer of the pool may not.
        if flows[value].is_some() || value == 0 {
            self.give_copy(flows, value, &gradient);
        } else {
            flows[value] = Some(gradient);
        }
    }

    fn give_copy(&self, flows: &mut [Option<Buffer<T>>], value: usize, gradient: &[T]) {
        match &mut flows[value] {
            Some(sum) => add_assign(sum, gradient),
            empty => {
                let mut buffer = self.buffer_for(value);
                buffer.copy_from_slice(gradient);
                *empty = Some(buffer);
            }
        }
    }

    fn copy_of(&self, numbers: &[T]) -> Buffer<T> {
        let mut buffer = self.memory.buffers.take(numbers.len());
        buffer.copy_from_slice(numbers);
        buffer
    }

    fn conv_shape(&self, x: usize, y: usize, window: Window) -> ConvShape {
        let (in_h, in_w, in_c) = self.shapes[x].image();
        let (_, _, out_c) = self.shapes[y].image();
        ConvShape {
            batch: self.batch,
            in_h,
            in_w,
            in_c,
            out_c,
            kernel_h: window.height,
            kernel_w: window.width,
            stride: window.stride,
            padding: window.padding,
        }
    }

    fn pool_shape(&self, x: usize, window: Window) -> PoolShape {
        let (in_h, in_w, channels) = self.shapes[x].image();
        let Window { height: kernel, stride, padding, .. } = window;
        PoolShape { batch: self.batch, in_h, in_w, channels, kernel, stride, padding }
    }

    fn linear_shape(&self, x: usize, y: usize) -> LinearShape {
        LinearShape {
            batch: self.batch,
            in_features: self.shapes[x].len(),
            out_features: self.shapes[y].len(),
        }
    }

    fn pixels_and_channels(&self, x: usize) -> (usize, usize) {
        let (height, width, channels) = self.shapes[x].image();
        (height * width, channels)
    }
}

/// `scale = γ s` and `shift = β − μ γ s`: what a normalisation multiplies by and adds.
fn fold<T: Real>(norm: &BatchNorm<'_, T>, beta: &[T], scale: &mut [T], shift: &mut [T]) {
    for i in 0..beta.len() {
        scale[i] = norm.gamma[i] * norm.inv_std[i];
        shift[i] = beta[i] - norm.mean[i] * scale[i];
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

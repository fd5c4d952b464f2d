//! Carrying out the steps: forward, gradient, tangent.
//!
//! An engine computes; Candle and the question who asks are left to `op`.

use candle_core::Result;

use super::{
    builder::Window,
    engine::{Engine, LinearGradient, Norm, NormDots, NormSpans, Source, Theta},
    plan::{Plan, Step},
    shape::Shape,
    watch::{Phase, Watched},
};
use crate::ParameterEntry;
use crate::kernels::{ConvShape, LinearShape, PoolShape, Statistics};

/// What stays the same over a forward pass, its gradients and its tangents.
#[derive(Debug)]
pub(super) struct Run<'a, E: Engine> {
    pub engine: &'a E,
    pub plan: &'a Plan,
    /// Of the values, for one sample.
    pub shapes: &'a [Shape],
    pub batch: usize,
    pub statistics: Statistics,
    /// For the names of the steps.
    pub parameters: &'a [ParameterEntry],
    pub watched: &'a Watched,
    pub x: E::Numbers<'a>,
    pub theta: E::Numbers<'a>,
}

/// What a forward pass leaves for its gradient and its tangent.
#[derive(Debug)]
pub(super) struct Saved<E: Engine> {
    /// The values that are read again; input and output where the engine stores them
    /// otherwise than Candle does.
    values: Vec<Option<E::Buffer>>,
    /// For each value that a max pooling wrote: where the maxima were.
    places: Vec<Option<E::Places>>,
    pub moments: E::Moments,
    weights: E::Weights,
}

/// Whether a forward pass will be differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activations {
    /// Keep what gradient and tangent read.
    Keep,
    /// Free each as soon as it was read for the last time.
    Free,
}

impl<E: Engine> Run<'_, E> {
    /// The result, and what differentiating it needs. With [`Statistics::Fixed`] the
    /// moments are `running`; otherwise `running` is not read.
    pub fn forward(
        &self,
        running: Option<E::Numbers<'_>>,
        activations: Activations,
    ) -> Result<(E::Output, Saved<E>)> {
        self.engine.with_scratch(|scratch| self.forward_with(running, activations, scratch))
    }

    fn forward_with(
        &self,
        running: Option<E::Numbers<'_>>,
        activations: Activations,
        scratch: &mut E::Scratch,
    ) -> Result<(E::Output, Saved<E>)> {
        let engine = self.engine;
        let n_values = self.plan.values.len();
        let mut values: Vec<Option<E::Buffer>> = (0..n_values).map(|_| None).collect();
        let mut places: Vec<Option<E::Places>> = (0..n_values).map(|_| None).collect();
        let weights = engine.weights(E::reborrow(&self.theta), self.plan)?;
        let theta = Theta::<E> { numbers: E::reborrow(&self.theta), weights: &weights };
        let mut moments = match running {
            Some(running) => engine.fixed_moments(running, self.plan)?,
            None => engine.take_moments(self.plan)?,
        };
        values[0] = self.entered(&self.x)?;
        let last_reads = self.last_reads(activations);

        for (index, step) in self.plan.steps.iter().enumerate() {
            if self.waits(index, activations) {
                continue;
            }
            let is_passing = self.passing(step.output(), activations).is_some();
            let has_moments = self.statistics == Statistics::Fixed || self.follows(index);
            if is_passing && has_moments {
                continue;
            }
            let _watching = self.watch(step, Phase::Forward);
            let value = |v: usize| match &values[v] {
                Some(buffer) => E::read(buffer),
                None => self.outside(&self.x, v == 0),
            };
            if let Step::Norm { x, .. } = step
                && !has_moments
            {
                engine.moments(value(*x), step.norm_spans(), &mut moments, scratch)?;
            }
            if is_passing {
                continue;
            }
            let mut y = self.buffer_for(step.output())?;
            match step {
                Step::Conv { x, y: out, window, weight, .. } => {
                    let shape = self.conv_shape(*x, *out, *window);
                    let weight = theta.part(weight);
                    let x = self.source(*x, activations, &theta, &moments, value)?;
                    match self.plan.steps.get(index + 1) {
                        Some(norm)
                            if self.statistics == Statistics::Batch && self.follows(index + 1) =>
                        {
                            let (spans, moments) = (norm.norm_spans(), &mut moments);
                            engine.conv2d_forward_with_moments(
                                &shape, x, weight, &mut y, spans, moments, scratch,
                            )?;
                        }
                        _ => engine.conv2d_forward(&shape, x, weight, &mut y, false, scratch)?,
                    }
                }
                Step::Norm { x, residual, relu, .. } => {
                    let spans = step.norm_spans();
                    let norm = self.norm(spans, *relu, theta.reborrow(), &moments);
                    let residual = residual.map(value);
                    let waiting = index.checked_sub(1).filter(|&i| self.waits(i, activations));
                    match waiting.map(|i| &self.plan.steps[i]) {
                        Some(Step::Conv { x, y: out, window, weight, .. }) => {
                            let shape = self.conv_shape(*x, *out, *window);
                            let x = self.source(*x, activations, &theta, &moments, value)?;
                            let weight = theta.part(weight);
                            engine.conv2d_forward_normalised(
                                &shape, x, weight, &norm, residual, &mut y, scratch,
                            )?;
                        }
                        _ => engine.norm_forward(&norm, value(*x), residual, &mut y)?,
                    }
                }
                Step::Relu { x, .. } => engine.relu(value(*x), &mut y)?,
                Step::Add { a, b, .. } => engine.add(value(*a), value(*b), &mut y)?,
                Step::MaxPool { x, window, .. } => {
                    let mut found = engine.take_places(self.len(step.output()))?;
                    let shape = self.pool_shape(*x, *window);
                    engine.max_pool2d_forward(&shape, value(*x), &mut y, &mut found)?;
                    if activations == Activations::Keep {
                        places[step.output()] = Some(found);
                    }
                }
                Step::AvgPool { x, window, .. } => {
                    engine.avg_pool2d_forward(&self.pool_shape(*x, *window), value(*x), &mut y)?;
                }
                Step::GlobalAvgPool { x, .. } => {
                    let (pixels, channels) = self.pixels_and_channels(*x);
                    engine.global_avg_pool_forward(pixels, channels, value(*x), &mut y)?;
                }
                Step::Linear { x, y: out, weight, bias } => {
                    let shape = self.linear_shape(*x, *out);
                    let bias = bias.as_ref().map(|span| theta.part(span));
                    let weight = theta.part(weight);
                    engine.linear_forward(
                        &shape,
                        value(*x),
                        weight,
                        bias,
                        &mut y,
                        false,
                        scratch,
                    )?;
                }
            }
            values[step.output()] = Some(y);
            for (v, value) in values.iter_mut().enumerate() {
                let is_kept = activations == Activations::Keep && self.plan.values[v].kept;
                if last_reads[v] <= index && !is_kept {
                    *value = None;
                }
            }
        }

        let output = self.plan.output;
        let again = activations == Activations::Keep && self.plan.values[output].kept;
        let result = values[output].take().expect("the last step wrote it");
        let (result, kept) = engine.leave(result, again)?;
        values[output] = kept;
        Ok((result, Saved { values, places, moments, weights }))
    }

    /// The gradients of ⟨y, dy⟩, where `y` is the result: that in the parameters is written to
    /// `dtheta`, that in the input is returned; each only if it is asked for.
    pub fn backward(
        &self,
        saved: &Saved<E>,
        y: E::Numbers<'_>,
        dy: E::Numbers<'_>,
        dtheta: Option<E::NumbersMut<'_>>,
        x_wanted: bool,
    ) -> Result<Option<E::Output>> {
        self.engine
            .with_scratch(|scratch| self.backward_with(saved, y, dy, dtheta, x_wanted, scratch))
    }

    fn backward_with(
        &self,
        saved: &Saved<E>,
        y: E::Numbers<'_>,
        dy: E::Numbers<'_>,
        mut dtheta: Option<E::NumbersMut<'_>>,
        x_wanted: bool,
        scratch: &mut E::Scratch,
    ) -> Result<Option<E::Output>> {
        let engine = self.engine;
        let theta = Theta::<E> { numbers: E::reborrow(&self.theta), weights: &saved.weights };
        let theta_wanted = dtheta.is_some();
        let wanted: Vec<bool> = (self.plan.values.iter())
            .map(|v| x_wanted || theta_wanted && v.has_parameters)
            .collect();
        let value = |v: usize| self.saved_value(saved, &y, v);
        let mut flows: Vec<Option<E::Buffer>> = wanted.iter().map(|_| None).collect();
        let last = self.plan.output;
        flows[last] = self.entered(&dy)?;

        for step in self.plan.steps.iter().rev() {
            let out = step.output();
            let mut flow = flows[out].take();
            if flow.is_none() && out != last {
                continue; // Nothing before it is asked for.
            }
            if matches!(step, Step::Norm { .. }) && flow.is_none() {
                // What it computes takes the place of dy.
                flow = Some(engine.enter(E::reborrow(&dy))?);
            }
            let dy_now = match &flow {
                Some(flow) => E::read(flow),
                None => self.outside(&dy, out == last),
            };
            let is_convolution = matches!(step, Step::Conv { .. });
            let _watching = (!is_convolution).then(|| self.watch(step, Phase::Backward));
            match step {
                Step::Conv { x, window, weight, .. } => {
                    let shape = self.conv_shape(*x, out, *window);
                    if let Some(dtheta) = &mut dtheta {
                        let _watching = self.watch(step, Phase::BackwardWeight);
                        let x =
                            self.source(*x, Activations::Keep, &theta, &saved.moments, value)?;
                        engine
                            .conv2d_backward_weight(&shape, x, dy_now, dtheta, weight, scratch)?;
                    }
                    if wanted[*x] {
                        let _watching = self.watch(step, Phase::BackwardData);
                        let (dx, add) = self.flow_into(&mut flows, *x)?;
                        let weight = theta.part(weight);
                        engine.conv2d_backward_data(&shape, dy_now, weight, dx, add, scratch)?;
                    }
                }
                Step::Norm { x, residual, relu, .. } => {
                    let norm =
                        self.norm(step.norm_spans(), *relu, theta.reborrow(), &saved.moments);
                    let y = residual.filter(|_| *relu).map(|_| value(out));
                    let mut dy = flow.take().expect("a copy, if nothing else");
                    let residual = residual.filter(|&r| wanted[r]);
                    let mut dx = residual.map(|_| self.buffer_for(*x)).transpose()?;
                    let (x_now, dtheta) = (value(*x), dtheta.as_mut());
                    engine.norm_backward(&norm, x_now, y, &mut dy, dx.as_mut(), dtheta, scratch)?;
                    let (dx, dr) = match dx {
                        Some(dx) => (dx, Some(dy)),
                        None => (dy, None),
                    };
                    if let Some((residual, dr)) = residual.zip(dr) {
                        self.give(&mut flows, residual, dr)?;
                    }
                    if wanted[*x] {
                        self.give(&mut flows, *x, dx)?;
                    }
                }
                Step::Relu { x, .. } => {
                    let mut dx = self.buffer_for(*x)?;
                    engine.relu_backward(value(out), dy_now, &mut dx)?;
                    self.give(&mut flows, *x, dx)?;
                }
                Step::Add { a, b, .. } => {
                    for input in [*a, *b].into_iter().filter(|&v| wanted[v]) {
                        self.give_copy(&mut flows, input, dy_now)?;
                    }
                }
                Step::MaxPool { x, window, .. } => {
                    let mut dx = self.buffer_for(*x)?;
                    let places = saved.places[out].as_ref().expect("kept by the forward pass");
                    let shape = self.pool_shape(*x, *window);
                    engine.max_pool2d_backward(&shape, dy_now, places, &mut dx)?;
                    self.give(&mut flows, *x, dx)?;
                }
                Step::AvgPool { x, window, .. } => {
                    let mut dx = self.buffer_for(*x)?;
                    engine.avg_pool2d_backward(&self.pool_shape(*x, *window), dy_now, &mut dx)?;
                    self.give(&mut flows, *x, dx)?;
                }
                Step::GlobalAvgPool { x, .. } => {
                    let mut dx = self.buffer_for(*x)?;
                    let (pixels, channels) = self.pixels_and_channels(*x);
                    engine.global_avg_pool_backward(pixels, channels, dy_now, &mut dx)?;
                    self.give(&mut flows, *x, dx)?;
                }
                Step::Linear { x, weight, bias, .. } => {
                    let shape = self.linear_shape(*x, out);
                    let dtheta = dtheta.as_mut().map(|dtheta| LinearGradient {
                        dtheta,
                        weight,
                        bias: bias.as_ref(),
                    });
                    let dx = match wanted[*x] {
                        true => Some(self.flow_into(&mut flows, *x)?),
                        false => None,
                    };
                    let (x, weight) = (value(*x), theta.part(weight));
                    engine.linear_backward(&shape, x, weight, dy_now, dx, dtheta, scratch)?;
                }
            }
        }

        let dx = flows[0].take().filter(|_| x_wanted);
        dx.map(|dx| engine.leave(dx, false).map(|(dx, _)| dx)).transpose()
    }

    /// The derivative of the result `y` along `x_dot` and `theta_dot`; `None` is zero.
    pub fn tangent(
        &self,
        saved: &Saved<E>,
        y: E::Numbers<'_>,
        x_dot: Option<E::Numbers<'_>>,
        theta_dot: Option<E::Numbers<'_>>,
    ) -> Result<E::Output> {
        self.engine.with_scratch(|scratch| self.tangent_with(saved, y, x_dot, theta_dot, scratch))
    }

    fn tangent_with(
        &self,
        saved: &Saved<E>,
        y: E::Numbers<'_>,
        x_dot: Option<E::Numbers<'_>>,
        theta_dot: Option<E::Numbers<'_>>,
        scratch: &mut E::Scratch,
    ) -> Result<E::Output> {
        let engine = self.engine;
        let theta = Theta::<E> { numbers: E::reborrow(&self.theta), weights: &saved.weights };
        let weights_dot =
            theta_dot.map(|dot| engine.weights(E::reborrow(&dot), self.plan)).transpose()?;
        let theta_dot = (theta_dot.as_ref().zip(weights_dot.as_ref()))
            .map(|(dot, weights)| Theta::<E> { numbers: E::reborrow(dot), weights });
        let value = |v: usize| self.saved_value(saved, &y, v);
        let mut dots: Vec<Option<E::Buffer>> = self.plan.values.iter().map(|_| None).collect();
        if let Some(x_dot) = &x_dot {
            dots[0] = self.entered(x_dot)?;
        }

        for (index, step) in self.plan.steps.iter().enumerate() {
            let out = step.output();
            let dot = |v: usize| match (&dots[v], &x_dot) {
                (Some(dot), _) => Some(E::read(dot)),
                (None, Some(x_dot)) if v == 0 => Some(self.outside(x_dot, true)),
                _ => None,
            };
            let _watching = self.watch(step, Phase::Tangent);
            let mut y_dot = self.buffer_for(out)?;
            let is_zero = match step {
                Step::Conv { x, window, weight, .. } => {
                    let shape = self.conv_shape(*x, out, *window);
                    let x_dot = dot(*x);
                    if let Some(x_dot) = x_dot {
                        let (x, weight) = (Source::plain(x_dot), theta.part(weight));
                        engine.conv2d_forward(&shape, x, weight, &mut y_dot, false, scratch)?;
                    }
                    if let Some(theta_dot) = theta_dot {
                        let x =
                            self.source(*x, Activations::Keep, &theta, &saved.moments, value)?;
                        let (add, dot) = (x_dot.is_some(), theta_dot.part(weight));
                        engine.conv2d_forward(&shape, x, dot, &mut y_dot, add, scratch)?;
                    }
                    x_dot.is_none() && theta_dot.is_none()
                }
                Step::Norm { x, residual, relu, .. } => {
                    let dots = NormDots {
                        x: dot(*x),
                        theta: theta_dot.as_ref().map(Theta::reborrow),
                        residual: residual.and_then(dot),
                    };
                    let is_zero =
                        dots.x.is_none() && dots.residual.is_none() && theta_dot.is_none();
                    if !is_zero {
                        let norm =
                            self.norm(step.norm_spans(), *relu, theta.reborrow(), &saved.moments);
                        let y = residual.filter(|_| *relu).map(|_| value(out));
                        engine.norm_tangent(&norm, value(*x), y, dots, &mut y_dot, scratch)?;
                    }
                    is_zero
                }
                Step::Relu { x, .. } => match dot(*x) {
                    Some(x_dot) => {
                        engine.relu_backward(value(out), x_dot, &mut y_dot)?;
                        false
                    }
                    None => true,
                },
                Step::Add { a, b, .. } => match (dot(*a), dot(*b)) {
                    (Some(a_dot), Some(b_dot)) => {
                        engine.add(a_dot, b_dot, &mut y_dot)?;
                        false
                    }
                    (Some(only), None) | (None, Some(only)) => {
                        engine.copy(only, &mut y_dot)?;
                        false
                    }
                    (None, None) => true,
                },
                Step::MaxPool { x, window, .. } => match dot(*x) {
                    Some(x_dot) => {
                        let places = saved.places[out].as_ref().expect("kept by the forward pass");
                        let shape = self.pool_shape(*x, *window);
                        engine.max_pool2d_tangent(&shape, x_dot, places, &mut y_dot)?;
                        false
                    }
                    None => true,
                },
                Step::AvgPool { x, window, .. } => match dot(*x) {
                    Some(x_dot) => {
                        let shape = self.pool_shape(*x, *window);
                        engine.avg_pool2d_forward(&shape, x_dot, &mut y_dot)?;
                        false
                    }
                    None => true,
                },
                Step::GlobalAvgPool { x, .. } => match dot(*x) {
                    Some(x_dot) => {
                        let (pixels, channels) = self.pixels_and_channels(*x);
                        engine.global_avg_pool_forward(pixels, channels, x_dot, &mut y_dot)?;
                        false
                    }
                    None => true,
                },
                Step::Linear { x, weight, bias, .. } => {
                    let shape = self.linear_shape(*x, out);
                    let x_dot = dot(*x);
                    if let Some(x_dot) = x_dot {
                        let weight = theta.part(weight);
                        engine.linear_forward(
                            &shape, x_dot, weight, None, &mut y_dot, false, scratch,
                        )?;
                    }
                    if let Some(theta_dot) = theta_dot {
                        let bias = bias.as_ref().map(|span| theta_dot.part(span));
                        let (add, x, dot) = (x_dot.is_some(), value(*x), theta_dot.part(weight));
                        engine.linear_forward(&shape, x, dot, bias, &mut y_dot, add, scratch)?;
                    }
                    x_dot.is_none() && theta_dot.is_none()
                }
            };
            dots[out] = (!is_zero).then_some(y_dot);
            self.plan.read_last_by(index).for_each(|v| dots[v] = None);
        }

        match dots[self.plan.output].take() {
            Some(y_dot) => engine.leave(y_dot, false).map(|(y_dot, _)| y_dot),
            None => engine.zeros(self.len(self.plan.output)),
        }
    }

    /// Whether a step is the normalisation of what the convolution before it computes.
    fn follows(&self, step: usize) -> bool {
        let before = step.checked_sub(1).map(|before| &self.plan.steps[before]);
        match (before, &self.plan.steps[step]) {
            (Some(Step::Conv { y, .. }), Step::Norm { x, .. }) => y == x,
            _ => false,
        }
    }

    /// Whether a step is a convolution that the normalisation behind it computes: by
    /// fixed statistics, and nobody else reads the convolution's result.
    fn waits(&self, step: usize, activations: Activations) -> bool {
        match self.plan.steps.get(step + 1) {
            Some(Step::Norm { x, residual, .. }) => {
                self.statistics == Statistics::Fixed
                    && activations == Activations::Free
                    && self.follows(step + 1)
                    && *residual != Some(*x)
                    && self.plan.values[*x].last_step == step + 1
            }
            _ => false,
        }
    }

    /// The normalisation of a value that is never made: the convolution that reads it
    /// normalises what it reads.
    fn passing(&self, value: usize, activations: Activations) -> Option<&Step> {
        let step = self.plan.values[value].passing.filter(|_| E::NORMALISES_SOURCES)?;
        let is_made = step.checked_sub(1).is_some_and(|before| self.waits(before, activations));
        (!is_made).then_some(&self.plan.steps[step])
    }

    /// What a convolution reads as value `v`: that value, or what the normalisation that
    /// would make it reads, and that normalisation.
    fn source<'v>(
        &self,
        v: usize,
        activations: Activations,
        theta: &Theta<'_, E>,
        moments: &E::Moments,
        value: impl Fn(usize) -> E::Read<'v>,
    ) -> Result<Source<'v, E>> {
        match self.passing(v, activations) {
            Some(step @ Step::Norm { x, relu, .. }) => {
                let norm = self.norm(step.norm_spans(), *relu, theta.reborrow(), moments);
                Ok(Source { x: value(*x), by: Some(self.engine.fold(&norm)?) })
            }
            _ => Ok(Source::plain(value(v))),
        }
    }

    /// For each value the last step of the forward pass that reads it.
    fn last_reads(&self, activations: Activations) -> Vec<usize> {
        let mut last: Vec<_> = self.plan.values.iter().map(|value| value.last_step).collect();
        for value in 0..last.len() {
            if let Some(Step::Norm { x, .. }) = self.passing(value, activations) {
                last[*x] = last[*x].max(last[value]);
            }
        }
        last[self.plan.output] = usize::MAX;
        last
    }

    /// A buffer of a value's size; the input's and the result's leave the network.
    fn buffer_for(&self, value: usize) -> Result<E::Buffer> {
        match value == 0 || value == self.plan.output {
            true => self.engine.take_leaving(self.len(value)),
            false => self.engine.take(self.len(value)),
        }
    }

    /// Numbers of a value, of the whole batch.
    fn len(&self, value: usize) -> usize {
        self.batch * self.shapes[value].len()
    }

    /// A copy of a tensor's numbers, where the engine stores activations otherwise.
    fn entered(&self, numbers: &E::Numbers<'_>) -> Result<Option<E::Buffer>> {
        match E::as_activation(numbers) {
            Some(_) => Ok(None),
            None => self.engine.enter(E::reborrow(numbers)).map(Some),
        }
    }

    /// A tensor's numbers that needed no copy.
    fn outside<'n>(&self, numbers: &'n E::Numbers<'_>, is_outside: bool) -> E::Read<'n> {
        assert!(is_outside, "the plan keeps every value that is read again");
        E::as_activation(numbers).expect("else it was copied")
    }

    fn saved_value<'s>(
        &'s self,
        saved: &'s Saved<E>,
        y: &'s E::Numbers<'_>,
        value: usize,
    ) -> E::Read<'s> {
        match &saved.values[value] {
            Some(buffer) => E::read(buffer),
            None if value == 0 => self.outside(&self.x, true),
            None => self.outside(y, value == self.plan.output),
        }
    }

    fn norm<'n>(
        &self,
        spans: NormSpans<'n>,
        relu: bool,
        theta: Theta<'n, E>,
        moments: &'n E::Moments,
    ) -> Norm<'n, E> {
        Norm { spans, theta, moments, statistics: self.statistics, relu }
    }

    /// Where a value's gradient is to be added (true) or written (false).
    fn flow_into<'f>(
        &self,
        flows: &'f mut [Option<E::Buffer>],
        value: usize,
    ) -> Result<(&'f mut E::Buffer, bool)> {
        let accumulate = flows[value].is_some();
        if !accumulate {
            flows[value] = Some(self.buffer_for(value)?);
        }
        Ok((flows[value].as_mut().expect("filled above"), accumulate))
    }

    /// Adds an owned gradient to a value's.
    fn give(
        &self,
        flows: &mut [Option<E::Buffer>],
        value: usize,
        gradient: E::Buffer,
    ) -> Result<()> {
        // The input's leaves the network, a buffer of the pool may not.
        if flows[value].is_some() || value == 0 {
            return self.give_copy(flows, value, E::read(&gradient));
        }
        flows[value] = Some(gradient);
        Ok(())
    }

    fn give_copy(
        &self,
        flows: &mut [Option<E::Buffer>],
        value: usize,
        gradient: E::Read<'_>,
    ) -> Result<()> {
        match &mut flows[value] {
            Some(sum) => self.engine.add_assign(sum, gradient),
            empty => {
                let mut buffer = self.buffer_for(value)?;
                self.engine.copy(gradient, &mut buffer)?;
                *empty = Some(buffer);
                Ok(())
            }
        }
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

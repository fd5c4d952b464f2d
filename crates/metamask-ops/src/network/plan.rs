//! From layers to steps: what is fused, what is kept, what is freed when.

use std::ops::Range;

use candle_core::{Result, bail};

use super::{
    builder::{Layer, Window},
    engine::NormSpans,
    shape::Shape,
};

/// One call of the kernels. `x`, `a`, `b`, `residual`, `y` are indices of
/// values: activations that exist in memory, 0 being the input.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Conv {
        x: usize,
        y: usize,
        window: Window,
        /// Read where the weights are laid out anew, on a GPU.
        #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
        out_channels: usize,
        weight: Range<usize>,
    },
    /// y = relu?(batch norm(x) (+ residual))
    Norm {
        x: usize,
        y: usize,
        residual: Option<usize>,
        relu: bool,
        gamma: Range<usize>,
        beta: Range<usize>,
        mean: Range<usize>,
        variance: Range<usize>,
    },
    Relu {
        x: usize,
        y: usize,
    },
    Add {
        a: usize,
        b: usize,
        y: usize,
    },
    MaxPool {
        x: usize,
        y: usize,
        window: Window,
    },
    AvgPool {
        x: usize,
        y: usize,
        window: Window,
    },
    GlobalAvgPool {
        x: usize,
        y: usize,
    },
    Linear {
        x: usize,
        y: usize,
        weight: Range<usize>,
        bias: Option<Range<usize>>,
    },
}

impl Step {
    /// The value it writes.
    pub fn output(&self) -> usize {
        match *self {
            Self::Conv { y, .. }
            | Self::Norm { y, .. }
            | Self::Relu { y, .. }
            | Self::Add { y, .. }
            | Self::MaxPool { y, .. }
            | Self::AvgPool { y, .. }
            | Self::GlobalAvgPool { y, .. }
            | Self::Linear { y, .. } => y,
        }
    }

    /// Where a normalisation's numbers lie.
    ///
    /// # Panics
    /// If it is none.
    pub fn norm_spans(&self) -> NormSpans<'_> {
        match self {
            Self::Norm { gamma, beta, mean, variance, .. } => {
                NormSpans { gamma, beta, mean, variance }
            }
            _ => unreachable!("asked of normalisations only"),
        }
    }

    /// The values it reads.
    pub fn inputs(&self) -> impl Iterator<Item = usize> {
        let (first, second) = match *self {
            Self::Norm { x, residual, .. } => (x, residual),
            Self::Add { a, b, .. } => (a, Some(b)),
            Self::Conv { x, .. }
            | Self::Relu { x, .. }
            | Self::MaxPool { x, .. }
            | Self::AvgPool { x, .. }
            | Self::GlobalAvgPool { x, .. }
            | Self::Linear { x, .. } => (x, None),
        };
        std::iter::once(first).chain(second)
    }

    fn has_parameters(&self) -> bool {
        matches!(self, Self::Conv { .. } | Self::Norm { .. } | Self::Linear { .. })
    }

    fn n_moments(&self) -> usize {
        match self {
            Self::Norm { mean, variance, .. } => mean.len() + variance.len(),
            _ => 0,
        }
    }

    /// The values that its gradient or tangent reads again.
    fn kept(&self) -> impl Iterator<Item = usize> {
        let (input, output) = match *self {
            Self::Conv { x, .. } | Self::Linear { x, .. } => (Some(x), None),
            // Elsewhere what ReLU read is told from x.
            Self::Norm { x, y, relu, residual, .. } => {
                (Some(x), residual.filter(|_| relu).map(|_| y))
            }
            Self::Relu { y, .. } => (None, Some(y)),
            Self::Add { .. }
            | Self::MaxPool { .. }
            | Self::AvgPool { .. }
            | Self::GlobalAvgPool { .. } => (None, None),
        };
        input.into_iter().chain(output)
    }
}

/// The steps of a network, in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub values: Vec<Value>,
    /// The value that is the result; no step reads it.
    pub output: usize,
    /// Numbers in mean and variance of all normalisations.
    pub n_moments: usize,
}

/// What is known about an activation before it has a size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    /// The layer whose output it is.
    pub layer: usize,
    /// The last step that reads it: behind it the forward pass is done with it.
    pub last_step: usize,
    /// Whether gradient or tangent read it again.
    pub kept: bool,
    /// Whether it depends on a parameter.
    pub has_parameters: bool,
    /// The normalisation that makes it, where nothing is added and a convolution is its
    /// only reader: what that convolution can do itself.
    pub passing: Option<usize>,
}

impl Plan {
    /// Plans the layers, all of which reach `output`.
    pub fn new(layers: &[Layer], output: usize) -> Self {
        let fused = Fusion::find(layers, output);
        let mut steps = Vec::new();
        let mut value_of = vec![0; layers.len()];
        let mut value_layers = vec![0];
        for (node, layer) in layers.iter().enumerate().skip(1) {
            if fused.into_next[node] {
                continue;
            }
            if let Layer::Flatten { x } = *layer {
                value_of[node] = value_of[x];
                continue;
            }
            let y = value_layers.len();
            value_layers.push(node);
            value_of[node] = y;
            steps.push(fused.step(layers, node, y, &value_of));
        }

        let mut values: Vec<_> = value_layers
            .into_iter()
            .map(|layer| Value {
                layer,
                last_step: 0,
                kept: false,
                has_parameters: false,
                passing: None,
            })
            .collect();
        for (index, step) in steps.iter().enumerate() {
            let mut has_parameters = step.has_parameters();
            for input in step.inputs() {
                values[input].last_step = index;
                has_parameters |= values[input].has_parameters;
            }
            values[step.output()].has_parameters = has_parameters;
            step.kept().for_each(|value| values[value].kept = true);
        }
        let output = value_of[output];
        for (index, step) in steps.iter().enumerate() {
            if let Step::Norm { y, residual: None, .. } = *step {
                let mut readers = steps.iter().filter(|step| step.inputs().any(|v| v == y));
                let is_passing =
                    matches!((readers.next(), readers.next()), (Some(Step::Conv { .. }), None));
                values[y].passing = (is_passing && y != output).then_some(index);
            }
        }
        let n_moments = steps.iter().map(Step::n_moments).sum();
        Self { steps, values, output, n_moments }
    }

    /// The values that no step behind this one reads.
    pub fn read_last_by(&self, step: usize) -> impl Iterator<Item = usize> {
        let is_last = move |&v: &usize| v != self.output && self.values[v].last_step == step;
        (0..self.values.len()).filter(is_last)
    }

    /// For each batch normalisation the spans of mean and variance and the rows it averages over.
    pub fn normalisations(
        &self,
        batch: usize,
        shapes: &[Shape],
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>, usize)> {
        self.steps.iter().filter_map(move |step| match step {
            Step::Norm { x, mean, variance, .. } => {
                let rows = batch * shapes[*x].len() / mean.len();
                Some((mean.clone(), variance.clone(), rows))
            }
            _ => None,
        })
    }

    /// Refuses a batch whose variance is not defined.
    pub fn check_rows(&self, batch: usize, shapes: &[Shape]) -> Result<()> {
        if self.normalisations(batch, shapes).any(|(_, _, rows)| rows < 2) {
            bail!("batch_norm: the batch must hold at least 2 values a channel, got 1");
        }
        Ok(())
    }

    /// The sizes of the values for one sample, from those of the layers.
    pub fn value_shapes(&self, layer_shapes: &[Shape]) -> Vec<Shape> {
        self.values.iter().map(|value| layer_shapes[value.layer]).collect()
    }
}

/// Which layers vanish in the one behind them: batch norm, then addition, then ReLU.
struct Fusion {
    /// The layer is computed as part of its only reader.
    into_next: Vec<bool>,
}

impl Fusion {
    fn find(layers: &[Layer], output: usize) -> Self {
        let mut readers = vec![0; layers.len()];
        readers[output] += 1;
        layers.iter().flat_map(Layer::inputs).for_each(|input| readers[input] += 1);

        let mut into_next = vec![false; layers.len()];
        let is_norm = |node: usize| matches!(layers[node], Layer::BatchNorm { .. });
        for layer in layers {
            let vanishing = match *layer {
                // Of two normalisations the later one: the other is computed by then.
                Layer::Add { a, b } => [a.max(b), a.min(b)]
                    .into_iter()
                    .find(|&node| is_norm(node) && readers[node] == 1),
                Layer::Relu { x } if readers[x] == 1 => match layers[x] {
                    Layer::BatchNorm { .. } => Some(x),
                    Layer::Add { a, b } => (into_next[a] || into_next[b]).then_some(x),
                    _ => None,
                },
                _ => None,
            };
            if let Some(node) = vanishing {
                into_next[node] = true;
            }
        }
        Self { into_next }
    }

    /// The step that computes `node` and what vanished in it.
    fn step(&self, layers: &[Layer], node: usize, y: usize, value_of: &[usize]) -> Step {
        let mut inner = node;
        let relu = match layers[node] {
            Layer::Relu { x } if self.into_next[x] => {
                inner = x;
                true
            }
            _ => false,
        };
        let mut residual = None;
        if let Layer::Add { a, b } = layers[inner] {
            // A vanishing layer has one reader, so this is the addition it vanishes in.
            if self.into_next[a] {
                (inner, residual) = (a, Some(value_of[b]));
            } else if self.into_next[b] {
                (inner, residual) = (b, Some(value_of[a]));
            }
        }
        match layers[inner] {
            Layer::BatchNorm { x, ref gamma, ref beta, ref running_mean, ref running_variance } => {
                Step::Norm {
                    x: value_of[x],
                    y,
                    residual,
                    relu,
                    gamma: gamma.clone(),
                    beta: beta.clone(),
                    mean: running_mean.clone(),
                    variance: running_variance.clone(),
                }
            }
            Layer::Conv { x, window, out_channels, ref weight } => {
                Step::Conv { x: value_of[x], y, window, out_channels, weight: weight.clone() }
            }
            Layer::Relu { x } => Step::Relu { x: value_of[x], y },
            Layer::Add { a, b } => Step::Add { a: value_of[a], b: value_of[b], y },
            Layer::MaxPool { x, window } => Step::MaxPool { x: value_of[x], y, window },
            Layer::AvgPool { x, window } => Step::AvgPool { x: value_of[x], y, window },
            Layer::GlobalAvgPool { x } => Step::GlobalAvgPool { x: value_of[x], y },
            Layer::Linear { x, ref weight, ref bias, .. } => {
                Step::Linear { x: value_of[x], y, weight: weight.clone(), bias: bias.clone() }
            }
            Layer::Input | Layer::Flatten { .. } => unreachable!("these need no step"),
        }
    }
}

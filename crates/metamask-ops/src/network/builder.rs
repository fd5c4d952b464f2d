//! Describing a network: layers by name, joined by handles.
//!
//! Knows layers, names and widths; how they run is the business of the plan.

use std::ops::Range;

use candle_core::{Error, Result, bail};

use super::{Network, shape::Shape};
use crate::{ParameterEntry, ParameterKind, Precision};

/// The output of a layer inside a [`NetworkBuilder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(pub(super) usize);

/// A square convolution without bias: a batch normalisation follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Channels of the result.
    pub out_channels: usize,
    /// Height and width of the window, at least 1.
    pub kernel: usize,
    /// Step between windows, at least 1.
    pub stride: usize,
    /// Rows and columns of zeros on each side, less than the kernel.
    pub padding: usize,
}

/// The window of a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Height and width of the window, at least 1.
    pub kernel: usize,
    /// Step between windows, at least 1.
    pub stride: usize,
    /// Rows and columns on each side, at most half the kernel: minus infinity
    /// for a maximum, zeros (which count) for an average.
    pub padding: usize,
}

/// Height and width of a window, its step and the padding around the image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub height: usize,
    pub width: usize,
    pub stride: usize,
    pub padding: usize,
}

impl From<Pool> for Window {
    fn from(pool: Pool) -> Self {
        let Pool { kernel, stride, padding } = pool;
        Self { height: kernel, width: kernel, stride, padding }
    }
}

/// What a node computes; spans point into the flat parameters.
#[derive(Clone, Debug)]
pub(super) enum Layer {
    Input,
    Conv {
        x: usize,
        window: Window,
        out_channels: usize,
        weight: Range<usize>,
    },
    BatchNorm {
        x: usize,
        gamma: Range<usize>,
        beta: Range<usize>,
        running_mean: Range<usize>,
        running_variance: Range<usize>,
    },
    Relu {
        x: usize,
    },
    Add {
        a: usize,
        b: usize,
    },
    MaxPool {
        x: usize,
        window: Window,
    },
    AvgPool {
        x: usize,
        window: Window,
    },
    GlobalAvgPool {
        x: usize,
    },
    Flatten {
        x: usize,
    },
    Linear {
        x: usize,
        out_features: usize,
        weight: Range<usize>,
        bias: Option<Range<usize>>,
    },
}

impl Layer {
    /// The nodes it reads.
    pub fn inputs(&self) -> impl Iterator<Item = usize> {
        let (first, second) = match *self {
            Self::Input => (None, None),
            Self::Add { a, b } => (Some(a), Some(b)),
            Self::Conv { x, .. }
            | Self::BatchNorm { x, .. }
            | Self::Relu { x }
            | Self::MaxPool { x, .. }
            | Self::AvgPool { x, .. }
            | Self::GlobalAvgPool { x }
            | Self::Flatten { x }
            | Self::Linear { x, .. } => (Some(x), None),
        };
        first.into_iter().chain(second)
    }
}

/// Builds a [`Network`] layer by layer.
///
/// Every method adds a layer and returns the handle of its output. Mistakes
/// (widths that do not fit, a name used twice …) are kept and reported by
/// [`Self::finish`], so that a description reads without `?` on each line.
#[derive(Debug)]
pub struct NetworkBuilder {
    layers: Vec<Layer>,
    /// Of each layer's output; sizes are unknown until the input's is given.
    shapes: Vec<Shape>,
    parameters: Vec<ParameterEntry>,
    running: Vec<ParameterEntry>,
    precision: Precision,
    error: Option<Error>,
}

impl NetworkBuilder {
    pub(super) fn new(input: Shape) -> Self {
        let error = (input.channels() == Some(0))
            .then(|| Error::Msg("network: the input must have channels, got 0".into()));
        Self {
            layers: vec![Layer::Input],
            shapes: vec![input],
            parameters: Vec::new(),
            running: Vec::new(),
            precision: Precision::default(),
            error,
        }
    }

    /// Chooses how exactly the convolutions of the whole network are computed;
    /// [`Precision::Exact`] if nobody chooses.
    pub fn precision(&mut self, precision: Precision) -> &mut Self {
        self.precision = precision;
        self
    }

    /// The network's input.
    pub fn input(&self) -> Node {
        Node(0)
    }

    /// Convolution; adds the parameter `<name>.weight`, `[kernel, kernel, in, out]`.
    ///
    /// ```text
    /// y[b, i, j, o] = Σ_{u, v, c} w[u, v, c, o] · x[b, i·stride + u − padding, j·stride + v − padding, c]
    /// ```
    /// `[batch, h, w, in]` → `[batch, h', w', out]`, h' = ⌊(h + 2·padding − kernel) / stride⌋ + 1.
    pub fn conv2d(&mut self, name: &str, x: Node, conv: Conv2d) -> Node {
        let Conv2d { out_channels, kernel, stride, padding } = conv;
        let window = Window { height: kernel, width: kernel, stride, padding };
        self.conv2d_window(name, x, out_channels, window)
    }

    pub(crate) fn conv2d_window(
        &mut self,
        name: &str,
        x: Node,
        out_channels: usize,
        window: Window,
    ) -> Node {
        let in_channels = self.channels(x);
        if out_channels == 0 {
            self.fail(format!("conv2d `{name}`: out_channels must be at least 1, got 0"));
        }
        let shape = [window.height, window.width, in_channels, out_channels];
        let weight = self.parameter(name, "weight", &shape, ParameterKind::Convolution);
        self.push(Layer::Conv { x: x.0, window, out_channels, weight })
    }

    /// Batch normalisation over all axes but the last, ε = 1e-5.
    ///
    /// ```text
    /// y = γ · (x − μ) / √(σ² + ε) + β
    /// ```
    /// μ, σ² are the batch's (biased) or the running ones, as [`crate::BatchStats`]
    /// says. Adds `<name>.weight` (γ), `<name>.bias` (β), and the running
    /// statistics `<name>.running_mean`, `<name>.running_var`.
    pub fn batch_norm(&mut self, name: &str, x: Node) -> Node {
        let shape = [self.channels(x)];
        let gamma = self.parameter(name, "weight", &shape, ParameterKind::NormScale);
        let beta = self.parameter(name, "bias", &shape, ParameterKind::NormShift);
        let running = &mut self.running;
        let running_mean =
            append(running, name, "running_mean", &shape, ParameterKind::RunningMean);
        let running_variance =
            append(running, name, "running_var", &shape, ParameterKind::RunningVariance);
        self.push(Layer::BatchNorm { x: x.0, gamma, beta, running_mean, running_variance })
    }

    /// max(x, 0); its derivative at 0 is 0.
    pub fn relu(&mut self, x: Node) -> Node {
        self.push(Layer::Relu { x: x.0 })
    }

    /// a + b, of one shape.
    pub fn add(&mut self, a: Node, b: Node) -> Node {
        self.push(Layer::Add { a: a.0, b: b.0 })
    }

    /// Maximum over windows; the gradient goes to the first maximum, as PyTorch's.
    pub fn max_pool2d(&mut self, x: Node, pool: Pool) -> Node {
        self.push(Layer::MaxPool { x: x.0, window: pool.into() })
    }

    /// Average over windows, padding included (PyTorch's `count_include_pad=True`).
    pub fn avg_pool2d(&mut self, x: Node, pool: Pool) -> Node {
        self.push(Layer::AvgPool { x: x.0, window: pool.into() })
    }

    /// Average over height and width: `[batch, h, w, c]` → `[batch, c]`.
    pub fn global_avg_pool(&mut self, x: Node) -> Node {
        self.push(Layer::GlobalAvgPool { x: x.0 })
    }

    /// `[batch, h, w, c]` → `[batch, h·w·c]`, without moving a number.
    ///
    /// The order is NHWC: a linear layer's weights after it are ordered so too.
    /// A linear layer after it needs the width, hence [`Network::builder_for_size`].
    pub fn flatten(&mut self, x: Node) -> Node {
        self.push(Layer::Flatten { x: x.0 })
    }

    /// y = x Wᵀ (+ b) on `[batch, in]`; adds `<name>.weight`, `[out, in]`, and
    /// with `bias` also `<name>.bias`, `[out]`.
    pub fn linear(&mut self, name: &str, x: Node, out_features: usize, bias: bool) -> Node {
        let in_features = self.channels(x);
        if out_features == 0 {
            self.fail(format!("linear `{name}`: out_features must be at least 1, got 0"));
        }
        let shape = [out_features, in_features];
        let weight = self.parameter(name, "weight", &shape, ParameterKind::Linear);
        let bias = bias.then(|| self.parameter(name, "bias", &[out_features], ParameterKind::Bias));
        self.push(Layer::Linear { x: x.0, out_features, weight, bias })
    }

    /// Checks the description and plans the network whose result is `output`.
    ///
    /// # Errors
    /// The first mistake made while describing: shapes that do not fit, a name
    /// used twice, a node of another builder, a layer that does not reach the output.
    pub fn finish(self, output: Node) -> Result<Network> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if output.0 == 0 || output.0 >= self.layers.len() {
            bail!("network: the output must be a layer of this builder, got node {}", output.0);
        }
        for entries in [&self.parameters, &self.running] {
            let mut names: Vec<_> = entries.iter().map(|entry| &entry.name).collect();
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                bail!("network: layer names must be unique, got `{}` twice", pair[0]);
            }
        }
        let mut used = vec![false; self.layers.len()];
        used[output.0] = true;
        for (node, layer) in self.layers.iter().enumerate().rev() {
            if !used[node] && node != 0 {
                bail!(
                    "network: every layer must reach the output, layer {node} ({layer:?}) does not"
                );
            }
            layer.inputs().for_each(|input| used[input] = true);
        }
        if !used[0] {
            bail!("network: the output must depend on the input");
        }
        let network = Network::plan(
            self.layers,
            self.shapes[0],
            output.0,
            self.parameters,
            self.running,
            self.precision,
        );
        if network.inner.plan.steps.is_empty() {
            bail!("network: the output must be computed, got the input itself");
        }
        Ok(network)
    }

    fn push(&mut self, layer: Layer) -> Node {
        let node = self.layers.len();
        let shape = if let Some(stranger) = layer.inputs().find(|&input| input >= node) {
            Err(Error::Msg(format!("network: nodes must come from this builder, got {stranger}")))
        } else {
            layer.infer(&self.shapes)
        };
        self.shapes.push(shape.unwrap_or_else(|error| {
            self.error.get_or_insert(error);
            Shape::Unknown
        }));
        self.layers.push(layer);
        Node(node)
    }

    /// Width of a node's last axis; 1 where a mistake has made it unknown.
    fn channels(&mut self, x: Node) -> usize {
        match self.shapes.get(x.0).copied() {
            Some(Shape::Unknown) | None => 1,
            Some(shape) => shape.channels().unwrap_or_else(|| {
                self.fail(
                    "network: the width of a flattened image must be known, \
                     use `Network::builder_for_size`"
                        .into(),
                );
                1
            }),
        }
    }

    fn fail(&mut self, message: String) {
        self.error.get_or_insert(Error::Msg(message));
    }

    fn parameter(
        &mut self,
        layer: &str,
        name: &str,
        shape: &[usize],
        kind: ParameterKind,
    ) -> Range<usize> {
        append(&mut self.parameters, layer, name, shape, kind)
    }
}

/// Adds an entry behind the last one and returns its span.
fn append(
    entries: &mut Vec<ParameterEntry>,
    layer: &str,
    name: &str,
    shape: &[usize],
    kind: ParameterKind,
) -> Range<usize> {
    let start = entries.last().map_or(0, |last| last.span.end);
    let span = start..start + shape.iter().product::<usize>();
    entries.push(ParameterEntry {
        name: format!("{layer}.{name}"),
        shape: shape.to_vec(),
        span: span.clone(),
        kind,
    });
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONV: Conv2d = Conv2d { out_channels: 4, kernel: 3, stride: 2, padding: 1 };

    fn residual_block() -> Result<Network> {
        let mut b = Network::builder(3);
        let x = b.conv2d("conv1", b.input(), CONV);
        let x = b.batch_norm("bn1", x);
        let x = b.relu(x);
        let y = b.conv2d("conv2", x, Conv2d { stride: 1, ..CONV });
        let y = b.batch_norm("bn2", y);
        let y = b.add(y, x);
        let y = b.global_avg_pool(y);
        let y = b.linear("fc", y, 5, true);
        b.finish(y)
    }

    #[test]
    fn parameters_are_laid_out_back_to_back_in_order_of_the_layers() -> Result<()> {
        let network = residual_block()?;
        let names: Vec<_> = network.parameters().iter().map(|entry| &*entry.name).collect();
        assert_eq!(
            names,
            [
                "conv1.weight",
                "bn1.weight",
                "bn1.bias",
                "conv2.weight",
                "bn2.weight",
                "bn2.bias",
                "fc.weight",
                "fc.bias"
            ]
        );
        assert_eq!(network.parameters()[0].shape, [3, 3, 3, 4]);
        assert_eq!(network.parameters()[6].shape, [5, 4]);
        let mut end = 0;
        for entry in network.parameters() {
            assert_eq!(entry.span.start, end);
            assert_eq!(entry.span.len(), entry.shape.iter().product::<usize>());
            end = entry.span.end;
        }
        assert_eq!(network.parameter_count(), 108 + 8 + 144 + 8 + 25);
        let names: Vec<_> = network.running_statistics().iter().map(|entry| &*entry.name).collect();
        assert_eq!(
            names,
            ["bn1.running_mean", "bn1.running_var", "bn2.running_mean", "bn2.running_var"]
        );
        assert_eq!(network.running_count(), 16);
        Ok(())
    }

    #[test]
    fn shapes_and_multiply_adds_follow_the_input() -> Result<()> {
        let network = residual_block()?;
        assert_eq!(network.output_shape(&[7, 9, 8, 3])?, [7, 5]);
        assert_eq!(network.output_width(), Some(5));
        // conv1: 5 x 4 pixels of 108; conv2: the same of 144; fc: 20.
        assert_eq!(network.multiply_adds(&[2, 9, 8, 3])?, 2 * (20 * 108 + 20 * 144 + 20));
        Ok(())
    }

    #[test]
    fn only_vectors_of_known_size_have_an_output_width() -> Result<()> {
        let width = |mut b: NetworkBuilder, flatten: bool| {
            let x = b.conv2d("conv", b.input(), CONV);
            let x = if flatten { b.flatten(x) } else { x };
            Ok::<_, Error>(b.finish(x)?.output_width())
        };
        assert_eq!(width(Network::builder(3), false)?, None);
        assert_eq!(width(Network::builder(3), true)?, None);
        assert_eq!(width(Network::builder_for_size(8, 6, 3), true)?, Some(4 * 3 * 4));
        Ok(())
    }

    #[test]
    fn a_linear_layer_follows_a_flattening_of_known_size() -> Result<()> {
        let mut b = Network::builder_for_size(4, 4, 2);
        let x = b.max_pool2d(b.input(), Pool { kernel: 2, stride: 2, padding: 0 });
        let x = b.flatten(x);
        let x = b.linear("fc", x, 3, false);
        let network = b.finish(x)?;
        assert_eq!(network.parameters()[0].shape, [3, 8]);
        assert_eq!(network.output_shape(&[5, 4, 4, 2])?, [5, 3]);
        Ok(())
    }

    /// Expects that describing fails with a message that holds `expected`.
    fn check_error(describe: impl Fn(&mut NetworkBuilder) -> Node, expected: &str) {
        let mut builder = Network::builder(3);
        let output = describe(&mut builder);
        let message = builder.finish(output).expect_err(expected).to_string();
        assert!(message.contains(expected), "expected `{expected}` in `{message}`");
    }

    #[test]
    fn mistakes_are_reported_by_finish() {
        check_error(|b| b.linear("fc", b.input(), 2, true), "must be vectors");
        check_error(|b| b.conv2d("c", b.input(), Conv2d { padding: 3, ..CONV }), "padding");
        check_error(|b| b.conv2d("c", b.input(), Conv2d { stride: 0, ..CONV }), "stride");
        check_error(|b| b.conv2d("c", b.input(), Conv2d { out_channels: 0, ..CONV }), "got 0");
        check_error(|b| b.relu(Node(7)), "this builder");
        check_error(|b| b.input(), "must be a layer");
        let unequal = |b: &mut NetworkBuilder| {
            let y = b.conv2d("c", b.input(), CONV);
            b.add(y, b.input())
        };
        check_error(unequal, "both shapes");
        let twice = |b: &mut NetworkBuilder| {
            let y = b.batch_norm("bn", b.input());
            b.batch_norm("bn", y)
        };
        check_error(twice, "twice");
        let dead_end = |b: &mut NetworkBuilder| {
            b.batch_norm("unused", b.input());
            b.relu(b.input())
        };
        check_error(dead_end, "must reach the output");
        let unknown_width = |b: &mut NetworkBuilder| {
            let y = b.flatten(b.input());
            b.linear("fc", y, 2, true)
        };
        check_error(unknown_width, "builder_for_size");
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() -> Result<()> {
        let network = residual_block()?;
        for input in [&[1, 8, 8, 4][..], &[0, 8, 8, 3], &[8, 3], &[1, 2, 3]] {
            assert!(network.output_shape(input).is_err(), "{input:?}");
        }
        Ok(())
    }
}

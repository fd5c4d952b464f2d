//! Projection heads: linear layers with batch normalisation and ReLU between.

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use metamask_ops::{BatchStats, Differentiable, ParameterEntry, ParameterGroup, ParameterKind};
use metamask_random::Key;
use serde::{Deserialize, Serialize};

use crate::batch_norm::{Running, batch_norm};
use crate::{initial_parameters, initial_running_statistics};

/// Widths of a head, checked by [`Mlp::new`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Width of what comes in, at least 1.
    pub input: usize,
    /// Width of each hidden layer (linear with bias, batch normalisation, ReLU).
    pub hidden: Vec<usize>,
    /// Width of what goes out, at least 1.
    pub output: usize,
    /// Whether a batch normalisation (scaled and shifted) follows the last layer.
    pub final_norm: bool,
}

impl MlpConfig {
    /// MetaMask's redundancy-reduction head: 2048, 2048, 2048 with a final norm.
    pub fn redundancy_head(feature_dim: usize) -> Self {
        Self { input: feature_dim, hidden: vec![2048, 2048], output: 2048, final_norm: true }
    }

    /// MetaMask's contrastive head: 2048, 256 with a final norm.
    pub fn contrastive_head(feature_dim: usize) -> Self {
        Self { input: feature_dim, hidden: vec![2048], output: 256, final_norm: true }
    }
}

/// A projection head: features in, embeddings out.
///
/// ```text
/// (Linear → BatchNorm → ReLU) for each hidden width → Linear (→ BatchNorm)
/// ```
/// Named as PyTorch names an `nn.Sequential` of these layers, ReLUs counted:
/// `<prefix>.0.weight`, `<prefix>.0.bias`, `<prefix>.1.weight`, …,
/// `<prefix>.1.running_mean`. Parameters are passed in, one tensor each, so the
/// same head runs at other weights and, on duals, along a direction.
#[derive(Debug)]
pub struct Mlp {
    layers: Vec<Layer>,
    parameters: Vec<ParameterGroup>,
    running_statistics: Vec<ParameterGroup>,
}

/// A layer; where its parameters (weight, then bias) begin among the head's,
/// and its running statistics (mean, then variance) among those.
#[derive(Clone, Copy, Debug)]
enum Layer {
    Linear { parameters: usize },
    BatchNorm { parameters: usize, running: usize },
    Relu,
}

impl Mlp {
    /// A head with PyTorch's default initial values ([`initial_parameters`]).
    ///
    /// # Errors
    /// If a width is 0.
    pub fn new(
        prefix: &str,
        config: &MlpConfig,
        key: Key,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let widths = [&[config.input], &config.hidden[..], &[config.output]].concat();
        if widths.contains(&0) {
            bail!("mlp `{prefix}`: widths must be at least 1, got {widths:?}");
        }
        let mut layers = Vec::new();
        let mut parameters = Vec::new();
        let mut running = Vec::new();
        for (idx, pair) in widths.windows(2).enumerate() {
            let (n_in, n_out) = (pair[0], pair[1]);
            let is_hidden = idx < config.hidden.len();

            let name = format!("{prefix}.{}", layers.len());
            layers.push(Layer::Linear { parameters: parameters.len() });
            append(&mut parameters, &name, "weight", &[n_out, n_in], ParameterKind::Linear);
            append(&mut parameters, &name, "bias", &[n_out], ParameterKind::Bias);

            if is_hidden || config.final_norm {
                let name = format!("{prefix}.{}", layers.len());
                layers.push(Layer::BatchNorm {
                    parameters: parameters.len(),
                    running: running.len(),
                });
                append(&mut parameters, &name, "weight", &[n_out], ParameterKind::NormScale);
                append(&mut parameters, &name, "bias", &[n_out], ParameterKind::NormShift);
                append(&mut running, &name, "running_mean", &[n_out], ParameterKind::RunningMean);
                append(
                    &mut running,
                    &name,
                    "running_var",
                    &[n_out],
                    ParameterKind::RunningVariance,
                );
            }
            if is_hidden {
                layers.push(Layer::Relu);
            }
        }
        let values = initial_parameters(&parameters, key, dtype, device)?;
        let parameters = groups(parameters, &values)?;
        let values = initial_running_statistics(&running, dtype, device)?;
        let running_statistics = groups(running, &values)?;
        Ok(Self { layers, parameters, running_statistics })
    }

    /// The trained parameters, a group for each.
    pub fn parameters(&self) -> &[ParameterGroup] {
        &self.parameters
    }

    /// The running statistics, a group for each.
    pub fn running_statistics(&self) -> &[ParameterGroup] {
        &self.running_statistics
    }

    /// Embeddings `[batch, output]` of `h` `[batch, input]` under the parameters
    /// `theta`, one for each group of [`Self::parameters`].
    ///
    /// # Errors
    /// If a shape or dtype does not fit, or statistics are asked of a batch of one.
    pub fn forward<T: Differentiable>(&self, h: &T, theta: &[T], stats: BatchStats) -> Result<T> {
        if theta.len() != self.parameters.len() {
            let (expected, got) = (self.parameters.len(), theta.len());
            bail!("mlp: each parameter must be given, expected {expected} tensors, got {got}");
        }
        let mut x = h.clone();
        for layer in &self.layers {
            x = match *layer {
                Layer::Linear { parameters } => {
                    let (weight, bias) = (&theta[parameters], &theta[parameters + 1]);
                    x.matmul(&weight.t()?)?.add(bias)?
                }
                Layer::BatchNorm { parameters, running } => {
                    let (gamma, beta) = (&theta[parameters], &theta[parameters + 1]);
                    let running = Running {
                        mean: &self.running_statistics[running].var,
                        variance: &self.running_statistics[running + 1].var,
                    };
                    batch_norm(&x, gamma, beta, running, stats)?
                }
                Layer::Relu => x.relu()?,
            };
        }
        Ok(x)
    }
}

fn append(
    entries: &mut Vec<ParameterEntry>,
    layer: &str,
    name: &str,
    shape: &[usize],
    kind: ParameterKind,
) {
    let start = entries.last().map_or(0, |entry| entry.span.end);
    let span = start..start + shape.iter().product::<usize>();
    let name = format!("{layer}.{name}");
    entries.push(ParameterEntry { name, shape: shape.to_vec(), span, kind });
}

/// A variable for each entry, with its share of the flat `values`.
fn groups(entries: Vec<ParameterEntry>, values: &Tensor) -> Result<Vec<ParameterGroup>> {
    let group = |ParameterEntry { name, shape, span, kind }| {
        let values = values.narrow(0, span.start, span.len())?.reshape(shape)?;
        Ok(ParameterGroup::single(name, kind, Var::from_tensor(&values.copy()?)?))
    };
    entries.into_iter().map(group).collect()
}

//! The fully connected network, `fc`.

use candle_core::{DType, Device, Result, bail};
use metamask_ops::Network;
use metamask_random::Key;
use serde::{Deserialize, Serialize};

use crate::graph::{GraphEncoder, encoder_by_graph};

/// Settings of a [`FullyConnected`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FullyConnectedConfig {
    /// Height and width of the images, at least 1. Default 32.
    pub image_size: usize,
    /// Widths of the layers, at least one, each at least 1. Default 1024, 1024, 512.
    pub widths: Vec<usize>,
}

impl Default for FullyConnectedConfig {
    fn default() -> Self {
        Self { image_size: 32, widths: vec![1024, 1024, 512] }
    }
}

fn network(config: &FullyConnectedConfig) -> Result<Network> {
    let FullyConnectedConfig { image_size, widths } = config;
    if *image_size == 0 {
        bail!("fc: image_size must be at least 1, got 0");
    }
    if widths.is_empty() || widths.contains(&0) {
        bail!("fc: widths must be one or more, each at least 1, got {widths:?}");
    }
    let mut b = Network::builder_for_size(*image_size, *image_size, 3);
    let mut x = b.flatten(b.input());
    for (idx, &width) in widths.iter().enumerate() {
        let (linear, norm) = (format!("features.{}", 3 * idx), format!("features.{}", 3 * idx + 1));
        // No bias: the normalisation takes it away again.
        x = b.linear(&linear, x, width, false);
        x = b.batch_norm(&norm, x);
        x = b.relu(x);
    }
    b.finish(x)
}

/// Three linear layers on the pixels: images of one size in, features
/// `[batch, 512]` out.
///
/// ```text
/// flatten → (Linear, no bias → BatchNorm → ReLU) x 3,   widths 1024, 1024, 512
/// ```
/// Pixels are flattened as they lie, row by row with their colours together
/// (NHWC): a PyTorch twin takes `images.permute(0, 2, 3, 1).flatten(1)`. Named as
/// one whose `features` is an `nn.Sequential` of the layers after the
/// flattening, ReLUs counted: `features.0.weight` (linear), `features.1.weight`,
/// `features.1.bias`, `features.1.running_mean` (normalisation), `features.3.weight`, …
///
/// # Source
/// Ours: the papers of this family name such a network, and do not specify it.
#[derive(Debug)]
pub struct FullyConnected(GraphEncoder);

impl FullyConnected {
    /// A network with PyTorch's default initial values
    /// ([`initial_parameters`](crate::initial_parameters)).
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn new(
        config: &FullyConnectedConfig,
        key: Key,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self(GraphEncoder::new(network(config)?, key, dtype, device)?))
    }
}

encoder_by_graph!(FullyConnected);

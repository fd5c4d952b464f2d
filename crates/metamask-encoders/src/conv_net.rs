//! The small convolutional network, `conv`.

use candle_core::{DType, Device, Result, bail};
use metamask_ops::{Conv2d, Network, Precision};
use metamask_random::Key;
use serde::{Deserialize, Serialize};

use crate::graph::{GraphEncoder, encoder_by_graph};

/// Settings of a [`ConvNet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConvNetConfig {
    /// Channels of the first layer, at least 1; the last has eight times as many. Default 64.
    pub width: usize,
    /// How exactly its convolutions are computed; not part of what the network is.
    #[serde(skip)]
    pub precision: Precision,
}

impl Default for ConvNetConfig {
    fn default() -> Self {
        Self { width: 64, precision: Precision::default() }
    }
}

/// Strides of the four convolutions: 32 pixels become 4 before the average.
const STRIDES: [usize; 4] = [1, 2, 2, 2];

fn network(config: &ConvNetConfig) -> Result<Network> {
    if config.width == 0 {
        bail!("conv: width must be at least 1, got 0");
    }
    let mut b = Network::builder(3);
    b.precision(config.precision);
    let mut x = b.input();
    for (idx, stride) in STRIDES.into_iter().enumerate() {
        let out_channels = config.width << idx; // 64, 128, 256, 512
        let (conv, norm) = (format!("features.{}", 3 * idx), format!("features.{}", 3 * idx + 1));
        x = b.conv2d(&conv, x, Conv2d { out_channels, kernel: 3, stride, padding: 1 });
        x = b.batch_norm(&norm, x);
        x = b.relu(x);
    }
    let features = b.global_avg_pool(x);
    b.finish(features)
}

/// Four convolutions: images of any size in (28, 32 and 64 pixels are meant),
/// globally averaged features `[batch, 8 · width]` out.
///
/// ```text
/// (Conv 3x3, padding 1, no bias → BatchNorm → ReLU) x 4 → global average
/// channels 64, 128, 256, 512 at width 64;  strides 1, 2, 2, 2
/// ```
/// Named as a PyTorch module whose `features` is an `nn.Sequential` of these
/// layers, ReLUs counted: `features.0.weight` (convolution), `features.1.weight`,
/// `features.1.bias`, `features.1.running_mean` (normalisation), `features.3.weight`, …
///
/// # Source
/// Ours: the papers of this family name such a network, and do not specify it.
#[derive(Debug)]
pub struct ConvNet(GraphEncoder);

impl ConvNet {
    /// A network with PyTorch's default initial values
    /// ([`initial_parameters`](crate::initial_parameters)).
    ///
    /// # Errors
    /// If the width is 0.
    pub fn new(config: &ConvNetConfig, key: Key, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self(GraphEncoder::new(network(config)?, key, dtype, device)?))
    }
}

encoder_by_graph!(ConvNet);

//! Residual networks (He et al. 2016, arXiv:1512.03385, table 1), without the
//! classifier, with stems for small images.

use candle_core::{DType, Device, Result, bail};
use metamask_ops::{Conv2d, Network, NetworkBuilder, Node, Pool, Precision};
use metamask_random::Key;
use serde::{Deserialize, Serialize};

use crate::graph::{GraphEncoder, encoder_by_graph};

/// Settings of a [`ResNet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResNetConfig {
    /// Layers as the paper counts them: 18, 34, 50, 101 or 152. Default 18.
    pub depth: usize,
    /// What comes before the first stage. Default [`Stem::Cifar`].
    pub stem: Stem,
    /// Channels of the stem and the first stage, at least 1; the paper's is 64,
    /// the default.
    pub width: usize,
    /// Whether a ReLU follows the stem's batch normalisation, as in the paper.
    /// MetaMask's released code loses it. Default true.
    pub stem_relu: bool,
    /// How exactly the convolutions are computed. Default [`Precision::Exact`].
    /// Not a part of the description: the same weights serve every precision.
    #[serde(skip)]
    pub precision: Precision,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            depth: 18,
            stem: Stem::Cifar,
            width: 64,
            stem_relu: true,
            precision: Precision::Exact,
        }
    }
}

/// What comes before a ResNet's first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stem {
    /// 3x3 convolution, stride 1: images of about 32 pixels.
    Cifar,
    /// The same, then 3x3 maximum pooling, stride 2: 64 pixels.
    CifarWithPool,
    /// 7x7 convolution, stride 2, then 3x3 maximum pooling, stride 2: 224 pixels.
    #[serde(rename = "imagenet")]
    ImageNet,
}

/// The paper's two kinds of residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// 3x3, 3x3.
    Basic,
    /// 1x1, 3x3, 1x1 to four times the channels.
    Bottleneck,
}

/// Describes the network: the paper's table 1.
fn network(config: &ResNetConfig) -> Result<Network> {
    let (block, n_blocks) = match config.depth {
        18 => (Block::Basic, [2, 2, 2, 2]),
        34 => (Block::Basic, [3, 4, 6, 3]),
        50 => (Block::Bottleneck, [3, 4, 6, 3]),
        101 => (Block::Bottleneck, [3, 4, 23, 3]),
        152 => (Block::Bottleneck, [3, 8, 36, 3]),
        other => bail!("resnet: depth must be 18, 34, 50, 101 or 152, got {other}"),
    };
    if config.width == 0 {
        bail!("resnet: width must be at least 1, got 0");
    }

    let mut b = Network::builder(3);
    b.precision(config.precision);
    let mut x = stem(&mut b, config);
    let mut n_in = config.width;
    for (stage, n_blocks) in n_blocks.into_iter().enumerate() {
        let channels = config.width << stage; // 64, 128, 256, 512
        for idx in 0..n_blocks {
            let stride = if stage > 0 && idx == 0 { 2 } else { 1 };
            let name = format!("layer{}.{idx}", stage + 1);
            x = residual_block(&mut b, &name, x, block, n_in, channels, stride);
            n_in = block.out_channels(channels);
        }
    }
    let features = b.global_avg_pool(x);
    b.finish(features)
}

fn stem(b: &mut NetworkBuilder, config: &ResNetConfig) -> Node {
    let (kernel, stride) = match config.stem {
        Stem::Cifar | Stem::CifarWithPool => (3, 1),
        Stem::ImageNet => (7, 2),
    };
    let input = b.input();
    let mut x = conv_norm(b, "conv1", "bn1", input, config.width, kernel, stride);
    if config.stem_relu {
        x = b.relu(x);
    }
    match config.stem {
        Stem::Cifar => x,
        Stem::CifarWithPool | Stem::ImageNet => {
            b.max_pool2d(x, Pool { kernel: 3, stride: 2, padding: 1 })
        }
    }
}

/// relu(F(x) + shortcut(x)).
fn residual_block(
    b: &mut NetworkBuilder,
    name: &str,
    x: Node,
    block: Block,
    n_in: usize,
    channels: usize,
    stride: usize,
) -> Node {
    let n_out = block.out_channels(channels);
    let layers: &[(usize, usize, usize)] = match block {
        Block::Basic => &[(3, channels, stride), (3, channels, 1)],
        // The stride sits on the 3x3, as in torchvision; the paper has it on the first 1x1.
        Block::Bottleneck => &[(1, channels, 1), (3, channels, stride), (1, n_out, 1)],
    };
    let mut residual = x;
    for (idx, &(kernel, channels, stride)) in layers.iter().enumerate() {
        if idx > 0 {
            residual = b.relu(residual);
        }
        let (conv, norm) = (format!("{name}.conv{}", idx + 1), format!("{name}.bn{}", idx + 1));
        residual = conv_norm(b, &conv, &norm, residual, channels, kernel, stride);
    }
    let shortcut = if stride == 1 && n_in == n_out {
        x
    } else {
        let (conv, norm) = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
        conv_norm(b, &conv, &norm, x, n_out, 1, stride)
    };
    let sum = b.add(residual, shortcut);
    b.relu(sum)
}

/// A convolution that keeps the size (up to its stride), then batch normalisation.
fn conv_norm(
    b: &mut NetworkBuilder,
    conv: &str,
    norm: &str,
    x: Node,
    out_channels: usize,
    kernel: usize,
    stride: usize,
) -> Node {
    let x = b.conv2d(conv, x, Conv2d { out_channels, kernel, stride, padding: kernel / 2 });
    b.batch_norm(norm, x)
}

impl Block {
    fn out_channels(self, channels: usize) -> usize {
        match self {
            Self::Basic => channels,
            Self::Bottleneck => 4 * channels,
        }
    }
}

/// A residual network: images in, globally averaged features out.
///
/// Parameters and running statistics bear torchvision's names
/// (`layer2.0.downsample.0.weight` …) and lie in one flat variable each.
/// As a [`Module`](candle_core::Module) it takes NHWC images and normalises by the running
/// statistics.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// use metamask_encoders::{BatchStats, ResNet, ResNetConfig};
/// use metamask_random::{Key, Purpose};
///
/// let config = ResNetConfig { width: 4, ..Default::default() };
/// let key = Key::new(0, Purpose::Initialisation);
/// let encoder = ResNet::new(&config, key, DType::F32, &Device::Cpu)?;
///
/// let images = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let features = encoder.forward_nchw(&images, BatchStats::BatchAndUpdate)?;
/// assert_eq!(features.dims(), [2, 32]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ResNet(GraphEncoder);

impl ResNet {
    /// A network with PyTorch's default initial values
    /// ([`initial_parameters`](crate::initial_parameters)).
    ///
    /// torchvision's own ResNet draws its convolutions otherwise (Kaiming
    /// normal, fan out); MetaMask's code and this take the defaults.
    ///
    /// # Errors
    /// If a setting is out of its range.
    pub fn new(config: &ResNetConfig, key: Key, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self(GraphEncoder::new(network(config)?, key, dtype, device)?))
    }
}

encoder_by_graph!(ResNet);

#[cfg(test)]
mod tests {
    use metamask_ops::ParameterGroup;
    use metamask_random::Purpose;

    use super::*;
    use crate::Encoder;

    fn resnet(config: &ResNetConfig) -> Result<ResNet> {
        ResNet::new(config, Key::new(0, Purpose::Initialisation), DType::F32, &Device::Cpu)
    }

    fn names(groups: &[ParameterGroup]) -> Vec<String> {
        groups.iter().flat_map(|g| &g.entries).map(|entry| entry.name.clone()).collect()
    }

    #[test]
    fn parameter_counts_are_the_known_ones() -> Result<()> {
        // torchvision's counts less the classifier's (512 or 2048 features to
        // 1000 classes); the CIFAR stem has 3·3·3·64 weights, not 7·7·3·64.
        let cifar_saves = (49 - 9) * 3 * 64;
        for (depth, torchvision) in [
            (18, 11_689_512 - 513_000),
            (34, 21_797_672 - 513_000),
            (50, 25_557_032 - 2_049_000),
            (101, 44_549_160 - 2_049_000),
            (152, 60_192_808 - 2_049_000),
        ] {
            for (stem, count) in [
                (Stem::ImageNet, torchvision),
                (Stem::Cifar, torchvision - cifar_saves),
                (Stem::CifarWithPool, torchvision - cifar_saves),
            ] {
                let network = network(&ResNetConfig { depth, stem, ..Default::default() })?;
                assert_eq!(network.parameter_count(), count, "{depth} {stem:?}");
                let dim = if depth < 50 { 512 } else { 2048 };
                assert_eq!(network.output_width(), Some(dim));
            }
        }
        let network = network(&ResNetConfig::default())?;
        assert_eq!(network.parameter_count(), 11_168_832);
        Ok(())
    }

    #[test]
    fn resnet18_has_torchvision_s_names_in_its_order() -> Result<()> {
        // (block, whether it has a downsample), as in torchvision's `state_dict`.
        let mut expected = vec!["conv1".to_owned(), "bn1".to_owned()];
        for stage in 1..=4 {
            for block in 0..2 {
                let mut layers = vec!["conv1", "bn1", "conv2", "bn2"];
                if stage > 1 && block == 0 {
                    layers.extend(["downsample.0", "downsample.1"]);
                }
                expected.extend(layers.iter().map(|layer| format!("layer{stage}.{block}.{layer}")));
            }
        }
        let is_norm = |layer: &str| layer.contains("bn") || layer.ends_with("downsample.1");
        let mut parameters = Vec::new();
        let mut running = Vec::new();
        for layer in &expected {
            parameters.push(format!("{layer}.weight"));
            if is_norm(layer) {
                parameters.push(format!("{layer}.bias"));
                running.push(format!("{layer}.running_mean"));
                running.push(format!("{layer}.running_var"));
            }
        }
        let encoder = resnet(&ResNetConfig { width: 1, ..Default::default() })?;
        assert_eq!(names(encoder.parameters()), parameters);
        assert_eq!(names(encoder.running_statistics()), running);
        assert_eq!((parameters.len(), running.len()), (60, 40));
        Ok(())
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for config in [
            ResNetConfig { depth: 20, ..Default::default() },
            ResNetConfig { width: 0, ..Default::default() },
        ] {
            assert!(resnet(&config).is_err(), "{config:?}");
        }
    }
}

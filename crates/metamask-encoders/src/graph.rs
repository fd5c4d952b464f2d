//! An encoder that is a static graph of layers.
//!
//! The backbones of this crate are graphs; one of your own is as few lines, and
//! has gradient and exact tangent without a word about either.

use std::sync::Arc;

use candle_core::{DType, Device, Module, Result, Tensor, Var, bail};
use metamask_ops::{BatchStats, Linearized, Network, ParameterGroup, Watcher};
use metamask_random::Key;

use crate::{Encoder, initial_parameters, initial_running_statistics};

/// A [`Network`] with its parameters, as an [`Encoder`].
///
/// Parameters and running statistics lie in one flat variable each. As a
/// [`Module`] it takes NHWC images and normalises by the running statistics.
///
/// ```
/// # fn main() -> candle_core::Result<()> {
/// use candle_core::{DType, Device, Tensor};
/// use metamask_encoders::{BatchStats, Encoder, GraphEncoder};
/// use metamask_ops::{Conv2d, Network};
/// use metamask_random::{Key, Purpose};
///
/// let mut b = Network::builder(3);
/// let x = b.conv2d("conv", b.input(), Conv2d { out_channels: 8, kernel: 3, stride: 2, padding: 1 });
/// let x = b.batch_norm("bn", x);
/// let x = b.relu(x);
/// let features = b.global_avg_pool(x);
/// let key = Key::new(0, Purpose::Initialisation);
/// let encoder = GraphEncoder::new(b.finish(features)?, key, DType::F32, &Device::Cpu)?;
///
/// assert_eq!(encoder.feature_dim(), 8);
/// let images = Tensor::zeros((2, 3, 9, 9), DType::F32, &Device::Cpu)?;
/// assert_eq!(encoder.forward_nchw(&images, BatchStats::Running)?.dims(), [2, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GraphEncoder {
    network: Network,
    feature_dim: usize,
    parameters: Vec<ParameterGroup>,
    running_statistics: Vec<ParameterGroup>,
}

impl GraphEncoder {
    /// The network with PyTorch's default initial values ([`initial_parameters`]).
    ///
    /// # Errors
    /// If its result is not vectors of a width that is known without an input.
    pub fn new(network: Network, key: Key, dtype: DType, device: &Device) -> Result<Self> {
        let Some(feature_dim) = network.output_width() else {
            bail!("encoder: the network's result must be vectors of a known width");
        };
        let entries = network.parameters().to_vec();
        let var = Var::from_tensor(&initial_parameters(&entries, key, dtype, device)?)?;
        let parameters = vec![ParameterGroup { var, entries }];

        let entries = network.running_statistics().to_vec();
        let var = Var::from_tensor(&initial_running_statistics(&entries, dtype, device)?)?;
        let running_statistics = vec![ParameterGroup { var, entries }];
        Ok(Self { network, feature_dim, parameters, running_statistics })
    }

    /// Features `[batch, feature_dim]` of images in Candle's usual layout,
    /// `[batch, channels, height, width]`, under the encoder's own parameters.
    ///
    /// # Errors
    /// If a shape or dtype does not fit.
    pub fn forward_nchw(&self, images: &Tensor, stats: BatchStats) -> Result<Tensor> {
        let views = images.permute((0, 2, 3, 1))?.contiguous()?;
        Encoder::forward(self, &views, &[self.parameters[0].tensor().clone()], stats)
    }

    /// Multiplications (each with an addition) of one forward pass over views of
    /// the shape `[batch, height, width, channels]`.
    ///
    /// # Errors
    /// If the shape does not fit.
    pub fn multiply_adds(&self, views: &[usize]) -> Result<u64> {
        self.network.multiply_adds(views)
    }

    /// The graph, such as for watching it.
    pub fn network(&self) -> &Network {
        &self.network
    }

    fn flat<'a>(&self, theta: &'a [Tensor]) -> Result<&'a Tensor> {
        match theta {
            [flat] => Ok(flat),
            _ => bail!("encoder: parameters are one flat tensor, got {} tensors", theta.len()),
        }
    }
}

impl Encoder for GraphEncoder {
    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn parameters(&self) -> &[ParameterGroup] {
        &self.parameters
    }

    fn running_statistics(&self) -> &[ParameterGroup] {
        &self.running_statistics
    }

    fn forward(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Tensor> {
        self.network.forward(views, self.flat(theta)?, &self.running_statistics[0].var, stats)
    }

    fn linearize(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Linearized> {
        self.network.linearize(views, self.flat(theta)?, &self.running_statistics[0].var, stats)
    }

    fn watch(&self, watcher: Option<Arc<dyn Watcher>>) {
        self.network.set_watcher(watcher);
    }

    fn release_buffers(&self) {
        self.network.release_buffers();
    }
}

impl Module for GraphEncoder {
    /// Features of NHWC images by the running statistics; joined to autograd.
    fn forward(&self, views: &Tensor) -> Result<Tensor> {
        let theta = [self.parameters[0].tensor().clone()];
        Encoder::forward(self, views, &theta, BatchStats::Running)
    }
}

/// Gives a newtype around a [`GraphEncoder`] all that the graph can do.
macro_rules! encoder_by_graph {
    ($encoder:ident) => {
        impl $encoder {
            /// Features `[batch, feature_dim]` of images in Candle's usual layout,
            /// `[batch, 3, height, width]`, under the encoder's own parameters.
            ///
            /// # Errors
            /// If a shape or dtype does not fit.
            pub fn forward_nchw(
                &self,
                images: &candle_core::Tensor,
                stats: metamask_ops::BatchStats,
            ) -> candle_core::Result<candle_core::Tensor> {
                self.0.forward_nchw(images, stats)
            }

            /// The graph, such as for watching it.
            pub fn network(&self) -> &metamask_ops::Network {
                self.0.network()
            }

            /// Multiplications (each with an addition) of one forward pass over views of
            /// the shape `[batch, height, width, 3]`.
            ///
            /// # Errors
            /// If the shape does not fit.
            pub fn multiply_adds(&self, views: &[usize]) -> candle_core::Result<u64> {
                self.0.multiply_adds(views)
            }
        }

        impl crate::Encoder for $encoder {
            fn feature_dim(&self) -> usize {
                self.0.feature_dim()
            }

            fn parameters(&self) -> &[metamask_ops::ParameterGroup] {
                self.0.parameters()
            }

            fn running_statistics(&self) -> &[metamask_ops::ParameterGroup] {
                self.0.running_statistics()
            }

            fn forward(
                &self,
                views: &candle_core::Tensor,
                theta: &[candle_core::Tensor],
                stats: metamask_ops::BatchStats,
            ) -> candle_core::Result<candle_core::Tensor> {
                crate::Encoder::forward(&self.0, views, theta, stats)
            }

            fn linearize(
                &self,
                views: &candle_core::Tensor,
                theta: &[candle_core::Tensor],
                stats: metamask_ops::BatchStats,
            ) -> candle_core::Result<metamask_ops::Linearized> {
                self.0.linearize(views, theta, stats)
            }

            fn watch(&self, watcher: Option<std::sync::Arc<dyn metamask_ops::Watcher>>) {
                self.0.watch(watcher);
            }

            fn release_buffers(&self) {
                self.0.release_buffers();
            }
        }

        impl candle_core::Module for $encoder {
            /// Features of NHWC images by the running statistics; joined to autograd.
            fn forward(
                &self,
                views: &candle_core::Tensor,
            ) -> candle_core::Result<candle_core::Tensor> {
                candle_core::Module::forward(&self.0, views)
            }
        }
    };
}
pub(crate) use encoder_by_graph;

//! Views to features to embeddings: backbones and projection heads.
//!
//! Images come in NHWC. Parameters are passed in, not looked up: a pass at the
//! virtual step's weights is the same call with other tensors.
//!
//! Backbones: [`ResNet`], [`ConvNet`], [`FullyConnected`], by configuration
//! [`EncoderConfig`]. One of your own is an [`Encoder`]: as a graph of layers a
//! [`GraphEncoder`], with an exact tangent; as anything else your own
//! implementation, with [`FiniteDifferenceTangent`] where it brings no tangent.

#![forbid(unsafe_code)]

mod batch_norm;
mod config;
mod conv_net;
mod finite_difference;
mod fully_connected;
mod graph;
mod initialisation;
mod mlp;
mod resnet;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
pub use config::{Architecture, EncoderConfig};
pub use conv_net::{ConvNet, ConvNetConfig};
pub use finite_difference::FiniteDifferenceTangent;
pub use fully_connected::{FullyConnected, FullyConnectedConfig};
pub use graph::GraphEncoder;
pub use initialisation::{initial_parameters, initial_running_statistics};
pub use metamask_ops::BatchStats;
use metamask_ops::{Linearized, ParameterGroup, Watcher};
pub use mlp::{Mlp, MlpConfig};
pub use resnet::{ResNet, ResNetConfig, Stem};

/// A backbone: views in, features out.
///
/// Everything else asks of an encoder only what is here, so one of your own
/// plugs in by implementing it.
pub trait Encoder: Send + Sync {
    /// D, the width of the features.
    fn feature_dim(&self) -> usize;

    /// The trained parameters.
    fn parameters(&self) -> &[ParameterGroup];

    /// The running statistics of its batch normalisations; empty if it has none.
    fn running_statistics(&self) -> &[ParameterGroup];

    /// Features `[batch, D]` of `views` `[batch, height, width, channels]` under
    /// the parameters `theta`, one tensor for each group of [`Self::parameters`].
    ///
    /// Must go by `theta` alone, which need not be the encoder's own variables,
    /// and must move running statistics only under
    /// [`BatchStats::BatchAndUpdate`].
    ///
    /// # Errors
    /// If a shape or dtype does not fit.
    fn forward(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Tensor>;

    /// The same with the derivative along any direction in theta.
    ///
    /// # Errors
    /// As [`Self::forward`]; and always, for an encoder that brings no tangent.
    fn linearize(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Linearized> {
        let _ = (views, theta, stats);
        bail!(
            "linearize: this encoder brings no tangent; wrap it in `FiniteDifferenceTangent`, \
             or take a hypergradient that needs none (finite-difference or first-order)"
        )
    }

    /// Lets `watcher` see the steps of the encoder's passes, or nobody. An encoder of
    /// one's own that runs no [`metamask_ops::Network`] has nothing to show.
    fn watch(&self, watcher: Option<Arc<dyn Watcher>>) {
        let _ = watcher;
    }

    /// Frees the buffers that wait for the next pass, such as before an evaluation. An
    /// encoder of one's own that runs no [`metamask_ops::Network`] has none.
    fn release_buffers(&self) {}

    /// The number of trained numbers.
    fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|group| group.var.elem_count()).sum()
    }
}

impl<E: Encoder + ?Sized> Encoder for Box<E> {
    fn feature_dim(&self) -> usize {
        (**self).feature_dim()
    }

    fn parameters(&self) -> &[ParameterGroup] {
        (**self).parameters()
    }

    fn running_statistics(&self) -> &[ParameterGroup] {
        (**self).running_statistics()
    }

    fn forward(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Tensor> {
        (**self).forward(views, theta, stats)
    }

    fn linearize(&self, views: &Tensor, theta: &[Tensor], stats: BatchStats) -> Result<Linearized> {
        (**self).linearize(views, theta, stats)
    }

    fn watch(&self, watcher: Option<Arc<dyn Watcher>>) {
        (**self).watch(watcher);
    }

    fn release_buffers(&self) {
        (**self).release_buffers();
    }

    fn parameter_count(&self) -> usize {
        (**self).parameter_count()
    }
}

//! Tensor operations that Candle lacks or does slowly, each with its gradient
//! and its tangent (forward-mode derivative).
//!
//! Knows nothing of methods or files. [`Network`] runs a whole static
//! graph of layers as one Candle operation on buffers it reuses; [`conv2d`] and
//! its like are single layers of the same engine; [`Differentiable`] lets small
//! expressions (heads, losses) be written once and evaluated on plain tensors
//! or on [`Dual`]s.

#[cfg(feature = "cuda")]
mod cuda;
mod differentiable;
mod kernel;
mod kernels;
mod layers;
mod linearized;
mod matrix;
mod memory;
mod network;
mod normalize;
mod parameters;
mod peak;
mod precision;
mod products;
mod softmax_regression;
mod top_k;

#[cfg(feature = "cuda")]
pub use cuda::{PixelPrograms, Window, cuda_device};
pub use differentiable::{Differentiable, Dual};
pub use kernel::{Kernel, keep_candle_on_one_thread, set_threads, threads};
pub use layers::{
    avg_pool2d, avg_pool2d_tangent, batch_norm, batch_norm_tangent, conv2d, conv2d_tangent,
    global_avg_pool, global_avg_pool_tangent, linear, linear_tangent, max_pool2d,
    max_pool2d_tangent,
};
pub use linearized::Linearized;
pub use memory::{
    Allocator, free_gpu_memory, give_back_freed_memory, keep_freed_memory, peak_gpu_memory,
};
pub use network::{Conv2d, Network, NetworkBuilder, Node, Phase, Pool, StepView, Watcher};
pub use normalize::{l2_normalize, log_sum_exp, standardize};
pub use parameters::{ParameterEntry, ParameterGroup, ParameterKind};
pub use peak::{copy, multiply_adds};
pub use precision::Precision;
pub use products::visit_products;
pub use softmax_regression::{LossAndGradient, softmax_regression};
pub use top_k::{MOST_OF_TOP_K, top_k};

/// Which statistics batch normalisation uses, and whether it updates the
/// running ones. Passes of the meta step take `BatchOnly`: they must leave no
/// trace in what evaluation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchStats {
    /// Normalise by the batch; move the running statistics towards it.
    BatchAndUpdate,
    /// Normalise by the batch; leave the running statistics alone.
    BatchOnly,
    /// Normalise by the running statistics (evaluation).
    Running,
}

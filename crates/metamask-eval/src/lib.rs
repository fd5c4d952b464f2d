//! Features in, numbers about them out: kNN, linear probe, dimension diagnostics.
//!
//! Knows nothing of encoders, images or training: evaluation sees features and
//! labels only, so it cannot leak into what is trained. Every result is a pure
//! function of its arguments, bit for bit, whatever the number of threads.

mod accuracy;
mod dimensions;
mod knn;
mod linear_probe;
mod protocol;

pub use accuracy::{MeanStd, accuracy_percent};
pub use dimensions::{
    DimensionSpread, dead_dimensions, dimension_std, effective_rank, embedding_spread,
};
pub use knn::{Knn, knn_predict};
pub use linear_probe::{LinearClassifier, LinearProbe};
pub use protocol::Protocol;

use candle_core::{DType, Device, Result, Tensor, bail};

/// Features as the CPU tensor `[n, dim]` that the evaluations work on.
fn checked_features(operation: &str, features: &Tensor) -> Result<Tensor> {
    let (n, dim) = features.dims2()?;
    if n == 0 || dim == 0 {
        bail!("{operation}: features must not be empty, got shape [{n}, {dim}]");
    }
    let features = match features.dtype() {
        DType::F32 | DType::F64 => features.detach(),
        _ => features.detach().to_dtype(DType::F32)?,
    };
    // x − x is 0 for every finite x and NaN for the others.
    let nothing = features.sub(&features)?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if nothing != 0.0 {
        bail!("{operation}: features must be finite, got NaN or infinity (did training diverge?)");
    }
    features.to_device(&Device::Cpu)?.contiguous()
}

/// Checks that there is one label a row and that all are below `n_classes`.
fn check_labels(operation: &str, labels: &[u32], rows: usize, n_classes: usize) -> Result<()> {
    if labels.len() != rows {
        bail!("{operation}: each feature needs one label, expected {rows}, got {}", labels.len());
    }
    if let Some(label) = labels.iter().find(|&&label| label as usize >= n_classes) {
        bail!("{operation}: labels must be below the number of classes {n_classes}, got {label}");
    }
    Ok(())
}

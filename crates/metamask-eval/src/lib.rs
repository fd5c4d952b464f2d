//! Features in, numbers about them out: kNN, linear probe, dimension diagnostics.
//!
//! Knows nothing of encoders, images or training: evaluation sees features and
//! labels only, so it cannot leak into what is trained. Every result is a pure
//! function of its arguments, bit for bit, whatever the number of threads.

#![forbid(unsafe_code)]

mod accuracy;
mod alpha_req;
mod auc;
mod bins;
mod class_distances;
mod class_information;
mod dimensions;
mod eigenvalues;
mod gradient_profile;
mod holm;
mod joint_variance;
mod knn;
mod label_subset;
mod leave_one_out;
mod linear_probe;
mod mask_controls;
mod microscope;
mod neighbour_embedding;
mod paired;
mod participation_ratio;
mod principal_components;
mod protocol;
mod random_masks;
mod rank_correlation;
mod rank_me;
mod redundancy;
mod relevance;
mod risk_bounds;
mod spectrum;
mod variance;
mod whitening;

pub use accuracy::{MeanStd, accuracy_percent};
pub use alpha_req::{ALPHA_REQ_RANKS, PowerLaw, alpha_req};
pub use auc::auc;
pub use bins::{equal_arcs, equal_count_bins};
pub use class_distances::class_distances;
pub use class_information::{class_information, information_bins};
pub use dimensions::{
    DimensionSpread, dead_dimensions, dimension_std, effective_rank, embedding_spread,
};
pub use gradient_profile::{
    Alignment, GradientProfile, closed_half, gradient_profile, mean_profile,
};
pub use holm::holm;
pub use joint_variance::{JointVarianceShare, joint_variance_share};
pub use knn::{Knn, knn_predict, nearest};
pub use label_subset::label_subset;
pub use leave_one_out::{LeaveOneOut, leave_one_out};
pub use linear_probe::{LinearClassifier, LinearProbe};
pub use mask_controls::{
    ControlSubject, Decodability, MaskControls, MaskOrder, OrderedMask, Rescaling, control_looks,
    mask_controls,
};
pub use microscope::{
    Agreement, DimensionReport, DimensionRow, NuisanceFactor, Sharing, Subject, Usage,
    inspect_dimensions,
};
pub use neighbour_embedding::{PERPLEXITY, neighbour_embedding};
pub use paired::{PairedDifference, student_t_quantile};
pub use participation_ratio::participation_ratio;
pub use principal_components::principal_components;
pub use protocol::Protocol;
pub use random_masks::{MaskDraw, RandomMasks, random_masks};
pub use rank_correlation::{RankCorrelation, spearman, spearman_test};
pub use rank_me::rank_me;
pub use redundancy::{Redundancy, redundancy};
pub use relevance::variance_shares;
pub use risk_bounds::{Inequalities, RiskBounds, risk_bounds, scored_deviations};
pub use spectrum::covariance_spectrum;
pub use variance::{conditional_variance, variance_share, variance_share_by_chance};

use candle_core::{DType, Device, Result, Tensor, bail};

/// Features as the CPU tensor `[n, dim]` that the evaluations work on.
fn checked_features(operation: &str, features: &Tensor) -> Result<Tensor> {
    finite_features(operation, features)?.to_device(&Device::Cpu)
}

/// The same where they are.
fn finite_features(operation: &str, features: &Tensor) -> Result<Tensor> {
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
    features.contiguous()
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

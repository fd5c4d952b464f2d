//! Optimisers and schedules; the dimension mask and its hypergradient.
//!
//! Works on tensors, numbers and closures: nothing here knows of encoders,
//! objectives, layouts or files. The algorithm that composes these pieces with
//! the rest is `metamask-train`'s.

mod fused;
mod mask;
mod schedule;
mod sgd;

pub use mask::{DimensionMask, MaskForm};
pub use schedule::Schedule;
pub use sgd::Sgd;

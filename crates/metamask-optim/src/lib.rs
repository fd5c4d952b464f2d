//! Optimisers and schedules; the dimension mask and its hypergradient.
//!
//! Works on tensors, numbers and closures: nothing here knows of encoders,
//! objectives, layouts or files. The algorithm that composes these pieces with
//! the rest is `metamask-train`'s.

mod fused;
mod hypergradient;
mod mask;
mod schedule;
mod sgd;

pub use hypergradient::{
    FINITE_DIFFERENCE_RADIUS, HeadGradient, HeadLoss, Hypergradient, MetaGradient, MetaLoss, Point,
    ThetaGradient, VirtualStep, encoder_gradient, exact_second_order,
    finite_difference_second_order, head_gradient, meta_gradient,
};
pub use mask::{DimensionMask, MaskForm};
pub use schedule::Schedule;
pub use sgd::Sgd;

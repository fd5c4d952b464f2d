//! Optimisers and schedules; the dimension mask and its hypergradient.
//!
//! [`Sgd`], [`Lars`], [`Adam`] and [`AdamW`] move parameter groups in place, in
//! one pass over the numbers; [`Optimizer`] is any of them, by configuration,
//! with its state for a checkpoint. [`ScheduleConfig`] gives the learning rate.
//!
//! Works on tensors, numbers and closures: nothing here knows of encoders,
//! objectives, layouts or files. The algorithm that composes these pieces with
//! the rest is `metamask-train`'s.

#![forbid(unsafe_code)]

mod adam;
mod adamw;
mod fused;
mod hypergradient;
mod lars;
mod mask;
mod optimizer;
mod schedule;
mod sgd;
mod state;

pub use adam::{Adam, AdamConfig};
pub use adamw::AdamW;
pub use hypergradient::{
    Activations, FINITE_DIFFERENCE_RADIUS, HeadGradient, HeadLoss, Hypergradient, MetaGradient,
    MetaLoss, Point, ThetaGradient, VirtualStep, encoder_gradient, exact_second_order,
    finite_difference_second_order, head_gradient, meta_gradient, mixed_product,
};
pub use lars::{Lars, LarsClipping, LarsConfig};
pub use mask::{DimensionMask, MaskForm, MaskShape};
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
pub use schedule::{Progress, Schedule, ScheduleConfig, Stepping, linear_scaling};
pub use sgd::Sgd;
pub use state::OptimizerState;

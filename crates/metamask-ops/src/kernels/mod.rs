//! The CPU kernels: plain slices in, plain slices out.
//!
//! Images are NHWC, convolution weights `[kernel_h, kernel_w, in, out]`. Every
//! kernel is written once, over the vector trait [`simd::Simd`], and compiled
//! for each instruction set; f64 always runs the portable vectors. Knows
//! nothing of Candle's tensors, of graphs or of autograd.
//!
//! Results do not depend on the number of threads: work is cut at places that
//! the shape alone determines, and partial sums are added in a fixed order.
#![allow(unsafe_code)]

mod batch_norm;
mod conv2d;
mod elementwise;
mod linear;
mod lines;
mod peak;
mod pool;
mod product;
mod shared;
mod simd;
mod softmax_regression;
mod source;
#[cfg(test)]
mod testing;
mod workspace;

pub(crate) use batch_norm::{
    BatchNorm, Normalisation, Relu, Statistics, batch_norm_backward, batch_norm_forward,
    batch_norm_tangent, moments,
};
pub(crate) use conv2d::{
    ConvShape, conv2d_backward_data, conv2d_backward_weight, conv2d_forward,
    conv2d_forward_normalised, conv2d_forward_with_moments,
};
pub(crate) use elementwise::{add, add_assign, relu, relu_backward};
pub(crate) use linear::{LinearShape, linear_backward, linear_forward};
pub(crate) use lines::Lines;
pub(crate) use peak::multiply_adds;
pub(crate) use pool::{
    PoolShape, avg_pool2d_backward, avg_pool2d_forward, global_avg_pool_backward,
    global_avg_pool_forward, max_pool2d_backward, max_pool2d_forward, max_pool2d_tangent,
};
pub(crate) use product::visit_products;
pub(crate) use simd::Real;
pub(crate) use softmax_regression::{RegressionSums, SoftmaxRegression};
pub(crate) use source::{Scaling, Source};
pub(crate) use workspace::Workspace;

//! Images -> two augmented views.
//!
//! A [`Pipeline`] is a checked list of [`Transform`]s with torchvision's names
//! and meaning. Making a view has two steps that can be used apart:
//!
//! 1. the *draw*: (seed, epoch, sample, view) -> [`ViewParams`], the list of
//!    deterministic [`Operation`]s that this view gets ([`Pipeline::draw`]);
//! 2. the *application*: (bytes, [`ViewParams`]) -> pixels ([`apply_with`]).
//!
//! [`two_views`] does both for a batch. A view is a pure function of the bytes
//! and the key: it depends neither on the number of threads nor on the batch it
//! is asked for in, and a resumed run draws what it would have drawn.
//!
//! | [`Transform`] | torchvision |
//! |---|---|
//! | `RandomResizedCrop` | `RandomResizedCrop`, bilinear, antialias as PIL has it |
//! | `HorizontalFlip` | `RandomHorizontalFlip` |
//! | `ColorJitter` | `RandomApply([ColorJitter], p)` |
//! | `Grayscale` | `RandomGrayscale`, three channels |
//! | `GaussianBlur` | `RandomApply([GaussianBlur], p)` |
//! | `Solarize` | `RandomSolarize` |
//! | `Resize`, `CenterCrop` | `Resize` of the shorter side, `CenterCrop` |
//! | `Normalize` | `ToTensor` then `Normalize`; without it `ToTensor` alone |
//!
//! # Departures from torchvision
//! - torchvision's PIL path rounds to 8 bits after every transform (blending
//!   truncates); here pixels stay `f32` from the first operation to the last.
//!   One transform differs by at most 2/255; fixtures pin each of them.
//! - PIL cuts the hue to 8 bits, twice, so its hue shift errs by up to 12/255 in
//!   saturated colours; ours equals torchvision's float tensor path.
//! - `CenterCrop` of more than the image is an error, not a black frame.
//! - Random numbers are metamask-random's, not PyTorch's: the distributions
//!   are torchvision's, the draws are not.
//!
//! Pixels are `[height, width, channel]`, RGB. Labels do not reach this crate.
//!
//! # Platforms
//! The draws use `libm`; the pixels use IEEE additions, multiplications,
//! divisions and comparisons only, with no fused multiply-add and sums in a
//! fixed order. Both are the same on every platform with IEEE `f32`, GPUs included
//! (feature `cuda`).

#![forbid(unsafe_code)]

mod apply;
mod batch;
mod blur;
mod color;
mod draw;
#[cfg(feature = "cuda")]
mod gpu;
mod pipeline;
mod presets;
mod resample;
mod transform;

pub use apply::apply_with;
pub use batch::{Image, ImageBatch, evaluation_views, to_tensor, two_views, views};
pub use draw::{AugmentationKey, Operation, ViewParams};
#[cfg(feature = "cuda")]
pub use gpu::two_view_programs;
pub use pipeline::{Pipeline, TwoViews};
pub use presets::{IMAGENET_MEAN, IMAGENET_STD, barlow_twins, byol, evaluation, simclr};
pub use transform::Transform;

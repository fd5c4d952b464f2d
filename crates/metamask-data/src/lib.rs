//! Dataset files -> verified samples -> batches of bytes.
//!
//! [`load`] turns a [`DatasetSpec`] into a [`Dataset`]: 32×32 RGB bytes, labels,
//! and for generated scenes the factors each image was made of. Evaluation sees
//! [`Labelled`]; pre-training sees [`Unlabelled`], which holds images alone.
//!
//! Files are untrusted: sizes are bounded before anything is allocated, counts
//! come from the file's length, and every failure is a [`DataError`] that names
//! the file, what was found and what was expected. Augmentation and tensors
//! belong to other crates.

mod batches;
mod cifar;
mod dataset;
mod digest;
mod error;
mod file;
mod garments;
mod grey;
mod idx;
mod load;
mod preview;
mod scene;
mod spec;
mod split;

pub use batches::{Batches, epoch_order};
pub use dataset::{
    Dataset, Factor, FactorGroup, FactorKind, Factors, Images, Labelled, Unlabelled,
};
pub use error::{DataError, Fault};
pub use grey::GreyImages;
pub use load::{LoadOptions, load};
pub use preview::{Tile, contact_sheet, save_png};
pub use scene::{ConfoundedImages, ConfoundedShapes, Difficulty, Scene, SceneSpec, scene_factors};
pub use spec::DatasetSpec;
pub use split::Split;

//! Dataset files -> verified samples -> batches of bytes.
//!
//! [`load`] turns a [`DatasetSpec`] into a [`Dataset`]: RGB bytes of one size,
//! labels, and for generated scenes the factors each image was made of.
//! Evaluation sees [`Labelled`]; pre-training sees [`Unlabelled`], which holds
//! images alone and comes from [`Dataset::pretraining`].
//!
//! A data set that lies in files is described by a [`Manifest`] and looked for
//! in [`Places`]. Its first load decodes the files in parallel into one file of
//! our cache; later ones map that.
//!
//! Files are untrusted: sizes are bounded before anything is allocated, counts
//! come from the file's length, panics of foreign parsers are caught, and every
//! failure is a [`DataError`] that names the file, what was found and what was
//! expected. Augmentation and tensors belong to other crates.

mod archive;
mod batches;
#[cfg(feature = "candle")]
mod candle;
mod cifar;
mod dataset;
mod decode;
mod digest;
mod error;
mod file;
mod folder;
mod garments;
mod grey;
mod guard;
#[cfg(feature = "hub")]
pub mod hub;
mod hub_parquet;
mod idx;
mod idx_set;
mod images;
mod load;
mod manifest;
mod neighbour_sheet;
mod page_header;
mod picture;
mod pins;
mod pixel_file;
mod places;
mod preview;
mod report;
mod scene;
mod source;
mod spec;
mod split;
mod spread;
mod status;
mod stl;
mod tiny_imagenet;
mod weights;

pub use batches::{Batches, epoch_order};
pub use dataset::{Dataset, Factor, FactorGroup, FactorKind, Factors, Labelled, Unlabelled};
pub use error::{DataError, Fault};
pub use folder::{BadImages, FolderSizes, folder_sizes};
pub use grey::GreyImages;
pub use guard::panic_is_guarded;
pub use images::Images;
pub use load::{LoadOptions, load};
pub use manifest::{Counts, Download, HubFile, HubRepository, KnownFile, Layout, Manifest};
pub use neighbour_sheet::{Captioned, Frame, neighbour_sheet};
pub use picture::{Picture, read_picture};
pub use places::Places;
pub use preview::{Tile, captioned_sheet, contact_sheet, png_bytes};
pub use report::{Event, Reporter, Unit};
pub use scene::{
    ConfoundedImages, ConfoundedShapes, Difficulty, Ground, Scene, SceneSpec, scene_factors,
};
pub use source::Origin;
pub use spec::DatasetSpec;
pub use split::Split;
pub use status::{Status, Verified, status, verify};
pub use weights::HubWeights;

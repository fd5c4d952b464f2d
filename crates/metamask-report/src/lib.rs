//! Run logs to figures: pictures that need nothing but a browser.
//!
//! Takes numbers and the text of a log and returns the text of an SVG; files,
//! checkpoints and printing belong to others.

mod dimensions_figure;
mod heat_map;
mod mask_figure;
mod mask_range;
mod mask_summary;
mod palette;
mod svg;

pub use dimensions_figure::{DimensionsFigure, Fit, Relevance, Spectrum, dimensions_figure};
pub use mask_figure::{MaskFigure, mask_figure};
pub use mask_range::{MaskRange, mask_ranges};
pub use mask_summary::MaskSummary;

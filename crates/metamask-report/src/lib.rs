//! Run logs to figures and pages that need nothing but a browser.
//!
//! Takes numbers and the text of a log and returns the text of an SVG or an HTML file;
//! files, checkpoints and printing belong to others.

#![forbid(unsafe_code)]

mod bounds_figure;
mod columns_figure;
mod confusion_figure;
mod contribution_figure;
mod controls_report;
mod curves_figure;
mod dimensions_figure;
mod drawing;
mod duration;
mod events;
mod gradients_figure;
mod grid_report;
mod heat_map;
mod intervals_figure;
mod log;
mod mask_course_figure;
mod mask_figure;
mod mask_range;
mod mask_summary;
mod page;
mod palette;
mod points_figure;
mod random_masks_figure;
mod run_report;
mod svg;
mod variance_figure;
mod verdicts;

pub use bounds_figure::{BoundsFigure, BoundsPoint, bounds_figure};
pub use columns_figure::{ColumnsFigure, GridRow, columns_figure};
pub use confusion_figure::{ConfusionFigure, confusion_figure};
pub use contribution_figure::{ContributionFigure, Contributions, contribution_figure};
pub use controls_report::{ControlsReport, ReadOff};
pub use curves_figure::{CurvePanel, CurvesFigure, curves_figure};
pub use dimensions_figure::{DimensionsFigure, Fit, Relevance, Spectrum, dimensions_figure};
pub use drawing::Drawing;
pub use duration::duration;
pub use events::tensorboard_events;
pub use gradients_figure::{GradientRelevance, GradientsFigure, gradients_figure};
pub use grid_report::{
    GAINS, GridColumn, GridLine, GridPart, GridReport, GridRuns, MASK_GAINS, grid_page,
};
pub use intervals_figure::{IntervalMark, IntervalRow, IntervalsFigure, intervals_figure};
pub use log::{Log, Logged};
pub use mask_course_figure::{MaskCourseFigure, mask_course_figure};
pub use mask_figure::{MaskFigure, mask_figure};
pub use mask_range::{MaskRange, mask_ranges};
pub use mask_summary::MaskSummary;
pub use page::{Block, Page, Picture, Section, Table, Verdict, html_page};
pub use points_figure::{PointsFigure, points_figure};
pub use random_masks_figure::{RandomMasksFigure, random_masks_figure};
pub use run_report::{Accuracies, Comparison, MaskReport, Points, RunReport, report_page};
pub use variance_figure::{VarianceFigure, variance_figure};
pub use verdicts::verdicts;

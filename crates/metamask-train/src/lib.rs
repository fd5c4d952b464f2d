//! Composition: configuration, algorithm, checkpoints, run log, evaluation.
//!
//! [`algorithm`] is the method; read it first. [`pretrain()`] puts data, files and
//! an [`Observer`] around it. Printing and arguments belong to the command line.

#![forbid(unsafe_code)]

pub mod advice;
pub mod agreement;
pub mod algorithm;
pub mod checkpoint;
pub mod compare;
pub mod config;
pub mod cost;
pub mod dump;
mod durable;
pub mod embed;
pub mod embeddings;
mod epoch_sums;
pub mod evaluate;
pub mod export;
mod failure;
pub mod fine_tune;
pub mod finite;
pub mod forecast;
pub mod gradient_report;
pub mod gradients;
pub mod grid;
pub mod guard;
pub mod init;
mod learner;
mod lookahead;
pub mod losses;
pub mod machine;
pub mod moment;
mod named;
pub mod neighbours;
mod nuisance;
pub mod observer;
pub mod presets;
pub mod pretrain;
mod raw_pixels;
pub mod run_folder;
mod run_log;
mod training_images;
mod unlabelled;
pub mod untrusted;
pub mod views;

pub use config::Config;
pub use durable::{expect_new, write_new};
pub use embeddings::{WithMask, embeddings_of};
pub use epoch_sums::EpochSums;
pub use evaluate::{Evaluated, Measure, Results, evaluate, features_of};
pub use failure::{Code, Failure, one_line, shown};
pub use fine_tune::FineTune;
pub use learner::{Learner, Theta};
pub use moment::Moment;
pub use nuisance::nuisance_factors;
pub use observer::Observer;
pub use pretrain::{Interrupted, Outcome, RunOptions, load_data, pretrain, restore};
pub use run_folder::RunFolder;
pub use run_log::RunLog;
pub use unlabelled::DimensionUse;

//! Composition: config, algorithm, checkpoint, run log.

pub mod checkpoint;
pub mod config;
mod durable;
mod failure;
pub mod run_folder;
mod run_log;

pub use config::Config;
pub use failure::{Code, Failure, one_line, shown};
pub use run_folder::RunFolder;
pub use run_log::RunLog;

//! A grid: a table of runs that is declared in a file, planned, run, resumed and
//! added up.
//!
//! [`mod@file`] is what a grid says, [`mod@jobs`] what it comes to: one run each, with a
//! name that depends on its settings alone. [`run`] runs them, each in a process
//! of its own, [`record`] is what is kept of a finished one, [`table`] adds records up, and
//! [`plan`] measures beforehand what it will cost. Nothing here keeps a list of
//! what has been done: a job is finished if its record or its results are there, so a
//! grid that was killed at any instant goes on where it was.

pub mod file;
pub mod fixture;
pub mod jobs;
pub mod mask_controls;
pub mod page;
pub mod plan;
pub mod record;
pub mod run;
pub mod table;
pub mod text_table;

pub use file::GridFile;
pub use jobs::{Arm, Job, Selection, jobs};
pub use record::Record;
pub use table::Table;

#[cfg(test)]
mod tests;

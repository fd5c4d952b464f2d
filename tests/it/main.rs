//! End-to-end tests: the command line as a user has it, a black box.
//!
//! They start the binary that METAMASK_BIN names (`cargo xtask test` sets it)
//! and look at exit codes, at what is printed and at the run folder.

#[path = "../injuries.rs"]
#[allow(dead_code)]
mod injuries;

mod bad_input;
mod data;
mod doctor;
mod embed;
mod errors;
mod export;
mod faults;
mod fine_tune;
mod forecast;
mod gradients;
mod grid;
mod help;
mod hypergradient;
mod inspect;
mod microscope;
mod pretrain;
mod report;
mod resume;
mod selftest;
mod splits;
mod support;
mod traced;
mod transfer;
mod unlabelled;

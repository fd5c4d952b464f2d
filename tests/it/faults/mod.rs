//! Faults on purpose: killed, refused, cut short, at every call of the system that a run
//! makes in its folder. Whatever happens, what was saved is whole, the run says one line,
//! and repeated with `--resume` it ends with the same bits.
//!
//! A sample is tried by default. METAMASK_FAULTS=full tries all, and `cargo xtask faults`
//! writes what came of it to docs/results/reliability.md.

mod checkpoints;
mod disk;
mod folders;
mod processes;
mod readers;
mod soak;
mod syscalls;

use std::fs;

use crate::injuries::tries_all;

use crate::support::{Finished, Metamask, Results};

/// Two epochs of two steps on 32 images, a quarter of a second: with L_drr and a mask.
const MICRO: &str = r#"
[data]
dataset = "garments"
train_images = 48
validation_images = 16

[augmentation]
size = 8

[encoder]
architecture = "conv"
width = 2

[contrastive_head]
hidden = [8]
output = 8

[redundancy_head]
hidden = [8]
output = 8

[objective]
redundancy_weight = 0.01

[training]
epochs = 2
batch_size = 16

[log]
every_steps = 1
"#;

/// `pretrain` of [`MICRO`] into a folder.
pub(crate) fn micro_run(metamask: &Metamask, out: &str) -> Vec<String> {
    let config = metamask.path("micro.toml");
    if !config.exists() {
        fs::write(&config, MICRO).expect("the test's folder can be written to");
    }
    ["pretrain", "--config", "micro.toml", "--threads", "1", "--out", out]
        .map(String::from)
        .to_vec()
}

/// The run that nothing happened to.
fn whole_run(metamask: &Metamask) -> Results {
    metamask.succeed(&micro_run(metamask, "whole"));
    Results::of(&metamask.path("whole"))
}

/// One line with a code of ours, a status to go with it, and no word of a panic; or success.
fn is_told(finished: &Finished) -> bool {
    let n_errors = finished.stderr.lines().filter(|line| line.starts_with("error[")).count();
    let is_quiet =
        !finished.stderr.contains("panicked") && !finished.stderr.contains("RUST_BACKTRACE");
    let fits = match finished.code {
        Some(0) => n_errors == 0,
        Some(code) => n_errors == 1 && [65, 66, 70, 73, 74].contains(&code),
        None => false,
    };
    fits && is_quiet
}

/// Whether the run, resumed, ends as if nothing had happened.
fn ends_the_same(metamask: &Metamask, out: &str, whole: &Results) -> Result<(), String> {
    let mut arguments = micro_run(metamask, out);
    arguments.push("--resume".into());
    let finished = metamask.run(&arguments);
    if finished.code != Some(0) {
        return Err(format!("resumed, it ended with {:?}: {}", finished.code, finished.stderr));
    }
    let found = Results::of(&metamask.path(out));
    let differences = whole.differences(&found);
    if differences.is_empty() { Ok(()) } else { Err(format!("differs in {differences:?}")) }
}

/// Every n-th of a list, so that about `most` are left; all of them when everything is tried.
fn sample<T>(list: Vec<T>, most: usize) -> Vec<T> {
    let every = if tries_all() { 1 } else { list.len().div_ceil(most).max(1) };
    list.into_iter().step_by(every).collect()
}

//! A long run takes no more memory and no more open files than a short one.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::injuries::{tried, tries_all};

use super::micro_run;
use crate::support::{Metamask, skip};

/// Steps of an epoch of 2,000 images at batch 4.
const STEPS_PER_EPOCH: usize = 500;
/// What the allocator may come to hold more after a tenth of the run.
const SLACK_KIB: u64 = 2048;

/// Memory in KiB, and open files.
fn look(pid: u32) -> Option<(u64, usize)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kib, fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
}

#[test]
fn memory_and_open_files_of_a_long_run_are_those_of_a_short_one() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let n_epochs: usize = if tries_all() { 400 } else { 6 };
    let mut arguments = micro_run(&metamask, "run");
    for set in [
        "data.train_images=2016".to_owned(),
        "training.batch_size=4".to_owned(),
        "log.every_steps=0".to_owned(),
        format!("training.epochs={n_epochs}"),
        format!("checkpoint.every_epochs={}", n_epochs.div_ceil(20)),
    ] {
        arguments.extend(["--set".to_owned(), set]);
    }
    let mut command = metamask.command(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut looks = Vec::new();
    let epochs = || {
        let log = fs::read_to_string(metamask.path("run/metrics.jsonl")).unwrap_or_default();
        log.lines().filter(|line| line.contains("\"kind\":\"epoch\"")).count()
    };
    while child.try_wait().expect("a child").is_none() {
        let done = epochs();
        // The first tenth fills buffers; evaluation, in the end, is another matter.
        if done > n_epochs / 10 && done < n_epochs {
            looks.extend(look(child.id()));
        }
        thread::sleep(Duration::from_millis(if tries_all() { 500 } else { 20 }));
    }
    assert!(child.wait().expect("a child").success());
    let [(first_kib, first_files), .., (last_kib, last_files)] = looks[..] else {
        return skip(
            "the system does not tell a process's memory, or the run was too short to see",
        );
    };
    let most_files = looks.iter().map(|look| look.1).max().unwrap_or(0);
    // A save has a file or two open while it writes.
    assert!(
        last_files <= first_files + 2 && most_files <= first_files + 4,
        "{first_files} to {most_files} files"
    );
    assert!(last_kib < first_kib + SLACK_KIB, "{first_kib} to {last_kib} KiB");
    let steps = n_epochs * STEPS_PER_EPOCH;
    tried(
        &format!(
            "steps of one run: memory {:.1} MiB after a tenth, {:.1} MiB at the end, {last_files} open files",
            first_kib as f64 / 1024.0,
            last_kib as f64 / 1024.0
        ),
        steps,
        steps,
    );
}

//! What the program asks of the system, as strace sees it: a checkpoint is on
//! the disk before its name says so, and nothing goes over a network.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Finished, Metamask, skip};

/// A tiny run under strace: the calls it made of these, or `None` without strace.
fn traced(metamask: &Metamask, calls: &str) -> Option<String> {
    let mut probe = Command::new("strace");
    probe.args(["-f", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        skip("strace is not there or not permitted");
        return None;
    }
    let trace = format!("trace={calls}");
    let strace = ["-f", "-y", "-s", "4096", "-o", "log", "-e", &trace];
    let arguments = metamask.tiny_run("run");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = metamask.under("strace", &strace, &arguments).output().expect("strace starts");
    let finished = Finished::from(output);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    Some(fs::read_to_string(metamask.path("log")).expect("strace wrote its log"))
}

/// A sync of a path, or a rename from one to another.
enum Call<'a> {
    Sync(&'a str),
    Rename(&'a str, &'a str),
}

/// The calls of `812 fsync(5</x/model.safetensors>) = 0` and the like. One that
/// another thread interrupts ends in `<unfinished ...>` and counts.
fn syncs_and_renames(log: &str) -> Vec<Call<'_>> {
    let mut calls = Vec::new();
    for line in log.lines().filter(|line| line.contains(" = 0") || line.contains("<unfinished")) {
        let Some((name, rest)) = line.split_once('(') else { continue };
        if name.contains("sync") {
            calls.extend(rest.split(['<', '>']).nth(1).map(Call::Sync));
        } else {
            let mut quoted = rest.split('"').skip(1).step_by(2);
            calls.extend(quoted.next().zip(quoted.next()).map(|(from, to)| Call::Rename(from, to)));
        }
    }
    calls
}

#[test]
fn a_checkpoint_is_synced_before_it_is_renamed_and_its_folder_after() {
    let Some(metamask) = Metamask::find() else { return };
    let calls = "fsync,fdatasync,rename,renameat,renameat2";
    let Some(log) = traced(&metamask, calls) else { return };
    let calls = syncs_and_renames(&log);

    let mut synced = BTreeSet::new();
    let mut n_checkpoints = 0;
    for (i, call) in calls.iter().enumerate() {
        let (from, to) = match call {
            Call::Sync(path) => {
                synced.insert(*path);
                continue;
            }
            Call::Rename(from, to) => (from, to),
        };
        if !to.rsplit('/').next().is_some_and(|name| name.starts_with("step-")) {
            continue;
        }
        n_checkpoints += 1;
        let partial = from.rsplit('/').next().expect("a name");
        let tensors = ["/model.safetensors", "/optim.safetensors", "/mask.safetensors"];
        for file in tensors.iter().chain(&["/state.json", "/MANIFEST.json", ""]) {
            let path = format!("/{partial}{file}");
            let is_synced = synced.iter().any(|known| known.ends_with(&path));
            assert!(is_synced, "`{path}` is not synced before it is renamed:\n{log}");
        }
        let is_parent =
            |call: &Call<'_>| matches!(call, Call::Sync(path) if path.ends_with("/checkpoints"));
        let parent_follows = calls[i..].iter().any(is_parent);
        assert!(parent_follows, "the parent is not synced after the rename:\n{log}");
    }
    assert!(n_checkpoints >= 4, "one for each epoch, got {n_checkpoints}:\n{log}");
}

#[test]
fn a_run_opens_no_connection() {
    let Some(metamask) = Metamask::find() else { return };
    let Some(log) = traced(&metamask, "%network") else { return };
    let calls: Vec<&str> = log.lines().filter(|line| line.contains('(')).collect();
    assert!(calls.is_empty(), "{calls:#?}");
}

//! A checkpoint is on the disk before its name says so.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Finished, Metamask, skip};

fn strace_works() -> bool {
    let status = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// What strace saw: a call and the path or descriptor's path it was about.
fn calls(log: &str) -> Vec<(&str, Vec<&str>)> {
    let mut calls = Vec::new();
    for line in log.lines() {
        // `812 fsync(5</tmp/x/model.safetensors>) = 0`
        let Some((_, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let Some((name, rest)) = call.split_once('(') else { continue };
        if !rest.contains(" = 0") {
            continue;
        }
        let paths = match name {
            "fsync" | "fdatasync" => rest.split(['<', '>']).skip(1).step_by(2).take(1).collect(),
            _ => rest.split('"').skip(1).step_by(2).collect(),
        };
        calls.push((name, paths));
    }
    calls
}

#[test]
fn a_checkpoint_is_synced_before_it_is_renamed_and_its_folder_after() {
    let Some(metamask) = Metamask::find() else { return };
    if !strace_works() {
        return skip("strace is not there or not permitted");
    }
    let arguments = metamask.tiny_run("run");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let strace = [
        "-f",
        "-y",
        "-s",
        "4096",
        "-e",
        "trace=fsync,fdatasync,rename,renameat,renameat2",
        "-o",
        "log",
    ];
    let finished = metamask.under("strace", &strace, &arguments).output().expect("strace starts");
    assert_eq!(Finished::from(finished).code, Some(0));

    let log = fs::read_to_string(metamask.path("log")).expect("strace wrote its log");
    let calls = calls(&log);
    let mut last_sync: BTreeMap<String, usize> = BTreeMap::new();
    let mut n_checkpoints = 0;
    for (i, (name, paths)) in calls.iter().enumerate() {
        if name.contains("sync") {
            last_sync.insert(paths[0].to_owned(), i);
            continue;
        }
        let [from, to] = paths[..] else { panic!("{name} of {paths:?}") };
        if !to.rsplit('/').next().is_some_and(|last| last.starts_with("step-")) {
            continue;
        }
        n_checkpoints += 1;
        let from_name = from.rsplit('/').next().expect("a name");
        for file in ["model.safetensors", "MANIFEST.json"] {
            let synced =
                last_sync.keys().any(|path| path.ends_with(&format!("{from_name}/{file}")));
            assert!(synced, "{file} is not synced before {from} is renamed:\n{log}");
        }
        let folder_synced = last_sync.keys().any(|path| path.ends_with(from_name));
        assert!(folder_synced, "{from} is not synced before it is renamed:\n{log}");
        let parent_synced = calls[i..].iter().any(|(name, paths)| {
            name.contains("sync")
                && paths.first().is_some_and(|path| path.ends_with("/checkpoints"))
        });
        assert!(parent_synced, "the parent is not synced after the rename:\n{log}");
    }
    assert!(n_checkpoints >= 4, "one for each epoch, got {n_checkpoints}:\n{log}");
}

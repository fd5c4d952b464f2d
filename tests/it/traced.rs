//! What the program asks of the system, as strace sees it: a checkpoint is on
//! the disk before its name says so, and nothing goes over a network, least of all
//! offline.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use crate::data::server::{COMMIT, Mode, Server};
use crate::support::{Finished, Metamask, skip};

/// A tiny run under strace: the calls it made of these, or `None` without strace.
fn traced(metamask: &Metamask, calls: &str) -> Option<String> {
    let arguments = metamask.tiny_run("run");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (finished, log) = under_strace(metamask, calls, &arguments, &[])?;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    Some(log)
}

/// A command under strace, in this environment: how it ended and the calls it made.
fn under_strace(
    metamask: &Metamask,
    calls: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Option<(Finished, String)> {
    let mut probe = Command::new("strace");
    probe.args(["-f", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        skip("strace is not there or not permitted");
        return None;
    }
    let trace = format!("trace={calls}");
    let strace = ["-f", "-y", "-s", "4096", "-o", "log", "-e", &trace];
    let mut command = metamask.under("strace", &strace, arguments);
    command.env_remove("HF_HUB_OFFLINE").envs(environment.iter().copied());
    let finished = Finished::from(command.output().expect("strace starts"));
    Some((finished, fs::read_to_string(metamask.path("log")).expect("strace wrote its log")))
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

/// The calls of a log, without the lines about signals and ends.
fn calls(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains('(')).collect()
}

#[test]
fn a_run_opens_no_connection() {
    let Some(metamask) = Metamask::find() else { return };
    let Some(log) = traced(&metamask, "%network") else { return };
    assert!(calls(&log).is_empty(), "{log}");
}

#[test]
fn offline_opens_no_socket_whatever_is_asked_for() {
    let Some(metamask) = Metamask::find() else { return };
    // Somebody would answer, and a token is there to be sent.
    let server = Server::new(Mode::Good, &[]);
    let url = server.url();
    let environment = [("HF_ENDPOINT", &*url), ("HF_TOKEN", "hf_CANARY"), ("HF_HOME", "hf")];
    let check = |arguments: &[&str], status: i32| -> Option<()> {
        let (finished, log) = under_strace(&metamask, "%network", arguments, &environment)?;
        let what = format!("{arguments:?}: {}", finished.stderr);
        assert_eq!(finished.code, Some(status), "{what}");
        assert!(calls(&log).is_empty(), "{what}{log}");
        assert!(!finished.stderr.contains("CANARY"), "{what}");
        Some(())
    };
    let hub = format!("hub:a/b@{COMMIT}");
    let tiny = metamask.tiny_run("run");
    let tiny: Vec<&str> = tiny.iter().map(String::as_str).collect();
    let run = [&tiny[..], &["--offline"]].concat();
    let preview = ["data", "preview", "garments", "--offline", "--out", "views.png"];
    for (arguments, status) in [
        (&["data", "list", "--offline"][..], 0),
        (&["data", "verify", "garments", "--offline"], 0),
        (&preview, 0),
        (&["data", "stats", "garments", "--offline"], 0),
        (&run, 0),
        (&["evaluate", "run", "--offline", "--protocol", "knn"], 0),
        // What is not here is missing, and nobody is asked for it.
        (&["data", "verify", "cifar10", "--offline"], 66),
        (&["data", "preview", "cifar10", "--offline", "--out", "none.png"], 66),
        (&["data", "stats", "cifar10", "--offline"], 66),
        (&["data", "fetch", "cifar10", "--offline"], 2),
        (&["pretrain", "--offline", "--set", "data.dataset=cifar10"], 66),
        (&["pretrain", "--offline", "--init", &hub], 66),
        (&["evaluate", "run", "--offline", "--data", "cifar10"], 66),
    ] {
        if check(arguments, status).is_none() {
            return;
        }
    }
    // The trace does see a socket where there is one.
    let fetch = ["data", "fetch", "cifar10", "--from", "hub"];
    let Some((finished, log)) = under_strace(&metamask, "%network", &fetch, &environment) else {
        return;
    };
    assert_eq!(finished.code, Some(69), "{}", finished.stderr);
    assert!(log.contains("connect("), "{log}");
}

//! At every system call that a run makes in its folder: SIGKILL, and the errors that a
//! system gives there. strace injects them.

use std::fs;
use std::process::{Command, Stdio};

use crate::injuries::tried;

use super::{ends_the_same, is_told, micro_run, sample, whole_run};
use crate::support::{Finished, Metamask, Results, read, skip};

/// The run's folder; its staging folder and partial files have this in their paths, too.
const OUT: &str = "the-run";
const CALLS: [&str; 13] = [
    "openat",
    "write",
    "fsync",
    "rename",
    "mkdir",
    "unlinkat",
    "unlink",
    "rmdir",
    "read",
    "getdents64",
    "statx",
    "flock",
    "ftruncate",
];

fn has_strace() -> bool {
    let mut probe = Command::new("strace");
    probe.args(["-f", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let has = probe.status().is_ok_and(|status| status.success());
    if !has {
        skip("strace is not there or not permitted");
    }
    has
}

/// The micro run under strace with a fault. The fault counts calls of the main thread.
fn under_strace(metamask: &Metamask, log: &str, options: &[&str]) -> Finished {
    let before = [&["-f", "-y", "-o", log], options].concat();
    let arguments = micro_run(metamask, OUT);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Finished::from(metamask.under("strace", &before, &arguments).output().expect("strace starts"))
}

/// Each call in the run's folder: its name, and the how-many-th of that name it is on the
/// main thread.
fn calls_in_the_folder(metamask: &Metamask) -> Vec<(&'static str, usize)> {
    let trace = format!("trace={}", CALLS.join(","));
    let finished = under_strace(metamask, "log", &["-e", &trace]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    fs::remove_dir_all(metamask.path(OUT)).expect("removed");
    let log = fs::read_to_string(metamask.path("log")).expect("strace wrote its log");
    let main = log.split_whitespace().next().expect("the log is not empty");
    let mut counts = CALLS.map(|name| (name, 0));
    let mut found = Vec::new();
    for line in log.lines().filter(|line| line.starts_with(main) && !line.contains("resumed>")) {
        let rest = line[main.len()..].trim_start();
        let Some((name, rest)) = rest.split_once('(') else { continue };
        let Some((name, count)) = counts.iter_mut().find(|(known, _)| *known == name) else {
            continue;
        };
        *count += 1;
        if rest.contains(OUT) {
            found.push((*name, *count));
        }
    }
    assert!(found.len() > 100, "two checkpoints and a trial make more than {} calls", found.len());
    found
}

/// What has to be gone before the next try.
fn clear(metamask: &Metamask) {
    for entry in fs::read_dir(metamask.folder()).expect("the test's folder") {
        let entry = entry.expect("an entry");
        if entry.file_name().to_string_lossy().contains(OUT) {
            fs::remove_dir_all(entry.path()).expect("removed");
        }
    }
}

/// Tries one fault; what is wrong with how it was met, if anything.
fn attempt(
    metamask: &Metamask,
    whole: &Results,
    (call, n): (&str, usize),
    fault: &str,
) -> Result<Finished, String> {
    clear(metamask);
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{fault}:when={n}"));
    let finished = under_strace(metamask, "log", &["-e", &trace, "-e", &inject]);
    let of = |what: String| format!("{call} {n}, {fault}: {what}");
    let log = fs::read_to_string(metamask.path("log")).expect("strace wrote its log");
    let fired = match fault {
        "signal=SIGKILL" => log.contains("+++ killed by SIGKILL +++"),
        _ => log.contains("(INJECTED)") || log.contains("(DELAYED)"),
    };
    if !fired {
        return Err(of("the fault did not come".to_owned()));
    }
    match ends_the_same(metamask, OUT, whole) {
        Err(what) if fault == LOST_BYTE && what == "differs in [\"metrics.jsonl\"]" => {
            // Nobody reads the log again when it is written; what is in checkpoints is verified.
            let length = |run: &str| read(&metamask.path(run).join("metrics.jsonl")).len();
            match length(OUT) + 1 == length("whole") {
                true => Ok(finished),
                false => Err(of("metrics.jsonl lost more than a byte".to_owned())),
            }
        }
        Err(what) => Err(of(what)),
        Ok(()) => Ok(finished),
    }
}

#[test]
fn killed_at_any_call_a_run_goes_on_as_if_nothing_had_happened() {
    let Some(metamask) = Metamask::in_memory() else { return };
    if !has_strace() {
        return;
    }
    let whole = whole_run(&metamask);
    let calls = sample(calls_in_the_folder(&metamask), 16);
    let n = calls.len();
    let failed: Vec<String> = calls
        .into_iter()
        .filter_map(|call| attempt(&metamask, &whole, call, "signal=SIGKILL").err())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    tried("SIGKILL at every system call of a run in its folder (strace)", n, n - failed.len());
}

/// The system says that it wrote a byte, and wrote none.
const LOST_BYTE: &str = "retval=1";

/// The errors of a full or broken disk, at the calls that can give them.
const FAULTS: [(&str, &str, &[&str]); 7] = [
    ("ENOSPC", "error=ENOSPC", &["openat", "mkdir", "write", "rename", "fsync"]),
    ("EDQUOT", "error=EDQUOT", &["openat", "mkdir", "write", "rename"]),
    (
        "EIO",
        "error=EIO",
        &[
            "openat",
            "write",
            "fsync",
            "rename",
            "read",
            "getdents64",
            "unlinkat",
            "flock",
            "ftruncate",
        ],
    ),
    ("EINTR", "error=EINTR", &["openat", "write", "fsync", "read"]),
    ("a write that writes nothing", "retval=0", &["write"]),
    ("a write that loses a byte and does not say so", LOST_BYTE, &["write"]),
    ("an fsync that takes 50 ms", "delay_enter=50000", &["fsync"]),
];

#[test]
fn an_error_at_any_call_is_told_in_one_line_and_nothing_is_lost() {
    let Some(metamask) = Metamask::in_memory() else { return };
    if !has_strace() {
        return;
    }
    let whole = whole_run(&metamask);
    let all = calls_in_the_folder(&metamask);
    let mut failed = Vec::new();
    let mut counts = Vec::new();
    for (name, fault, where_) in FAULTS {
        let calls = all.iter().copied().filter(|(call, _)| where_.contains(call)).collect();
        let calls = sample(calls, 3);
        let n = calls.len();
        let before = failed.len();
        for (call, n) in calls {
            match attempt(&metamask, &whole, (call, n), fault) {
                Err(what) => failed.push(what),
                Ok(finished) if !is_told(&finished) => failed.push(format!(
                    "{call} {n}, {fault}: status {:?}, {}",
                    finished.code, finished.stderr
                )),
                Ok(_) => (),
            }
        }
        counts.push((
            format!("{name} at every {} in the run's folder", where_.join(", ")),
            n,
            n + before - failed.len(),
        ));
    }
    assert!(failed.is_empty(), "{failed:#?}");
    counts.iter().for_each(|(what, n, survived)| tried(what, *n, *survived));
}

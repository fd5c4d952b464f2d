//! Folders that are not what a run would like.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::injuries::tried;

use super::{is_told, micro_run, whole_run};
use crate::bad_input::assert_refused;
use crate::support::{Finished, Metamask, Results, skip};

#[test]
fn a_folder_without_write_access_is_refused_before_training() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let arguments = micro_run(&metamask, "ours/run");
    fs::create_dir(metamask.path("ours")).expect("made");
    let read_only = fs::Permissions::from_mode(0o555);
    fs::set_permissions(metamask.path("ours"), read_only).expect("set");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(metamask.folder(), open.clone()).expect("set");
    // Root may write anywhere; then somebody else has to try.
    let is_root = fs::write(metamask.path("ours/probe"), "").is_ok();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let finished = match is_root {
        false => metamask.run(&arguments),
        true => {
            fs::remove_file(metamask.path("ours/probe")).expect("removed");
            let other = ["--reuid=65534", "--regid=65534", "--clear-groups"];
            let mut probe = Command::new("setpriv");
            probe.args(other).args(["test", "-x"]).arg(metamask.binary());
            if !probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
                return skip("nobody but root can start the program here");
            }
            Finished::from(metamask.under("setpriv", &other, &arguments).output().expect("starts"))
        }
    };
    fs::set_permissions(metamask.path("ours"), open).expect("set");
    assert_refused(
        &finished,
        73,
        "OUT-DIR",
        &["ours/run", "permission denied (needs write access)"],
    );
    tried("a folder without write access: refused before training", 1, 1);
}

#[test]
fn a_folder_that_vanishes_in_the_run_is_an_error_and_no_panic() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let mut n_gone = 0;
    for i in 0..3 {
        let out = format!("run-{i}");
        let mut arguments = micro_run(&metamask, &out);
        arguments.extend(["--set", "training.epochs=100000"].map(String::from));
        let child = metamask.command(&arguments).spawn().expect("it starts");
        let run = metamask.path(&out);
        let start = Instant::now();
        let patience = Duration::from_secs(60);
        while fs::read_dir(run.join("checkpoints")).map_or(0, Iterator::count) < 2 {
            assert!(start.elapsed() < patience, "no checkpoint");
            thread::sleep(Duration::from_millis(2));
        }
        // What is written meanwhile may make a removal fail; then it is tried again.
        while fs::remove_dir_all(&run).is_err() && run.exists() {}
        let finished = Finished::from(child.wait_with_output().expect("it ends"));
        assert!(
            is_told(&finished) && matches!(finished.code, Some(65 | 74)),
            "{:?} {}",
            finished.code,
            finished.stderr
        );
        n_gone += 1;
    }
    tried("a folder that is removed in the middle of a run: one line, no panic", 3, n_gone);
}

#[test]
fn a_run_may_have_any_name_that_a_folder_can_have() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let whole = whole_run(&metamask);
    let names: [OsString; 9] = [
        "with space".into(),
        "two\nlines".into(),
        "Größe-шум-形".into(),
        "n".repeat(255).into(),
        "-dash".into(),
        "$HOME;`ls`".into(),
        "\u{1b}[31mred".into(),
        OsString::from_vec(vec![0xff, 0xfe, b'x']),
        ".hidden".into(),
    ];
    let n = names.len();
    for name in &names {
        let mut arguments: Vec<OsString> =
            micro_run(&metamask, "x").into_iter().map(Into::into).collect();
        arguments.truncate(arguments.len() - 2);
        let mut out = OsString::from("--out=");
        out.push(name);
        arguments.push(out);
        let finished = metamask.succeed(&arguments);
        assert!(
            !finished.stdout.contains('\u{1b}') && !finished.stderr.contains('\u{1b}'),
            "escaped"
        );
        whole.assert_equal(&Results::of(&metamask.folder().join(name)), &format!("{name:?}"));
    }
    symlink("with space", metamask.path("link")).expect("linked");
    let mut arguments = micro_run(&metamask, "link");
    assert_refused(&metamask.run(&arguments), 73, "OUT-DIR", &["link", "exists already"]);
    arguments.push("--resume".into());
    metamask.succeed(&arguments);
    tried(
        "odd names: blanks, newline, control characters, 255 bytes, no UTF-8, a link",
        n + 1,
        n + 1,
    );
}

#[test]
fn files_have_the_modes_that_the_user_s_mask_gives() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let mut n_files = 0;
    for (mask, file_mode, folder_mode) in [("022", 0o644, 0o755), ("077", 0o600, 0o700)] {
        let arguments = micro_run(&metamask, mask);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let script = format!("umask {mask}; exec \"$0\" \"$@\"");
        let output =
            metamask.under("sh", &["-c", &script], &arguments).output().expect("sh starts");
        let finished = Finished::from(output);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let mut open = vec![metamask.path(mask)];
        while let Some(path) = open.pop() {
            let mode = path.metadata().expect("there").permissions().mode() & 0o777;
            let expected = if path.is_dir() { folder_mode } else { file_mode };
            assert_eq!(mode, expected, "{} has mode {mode:o}", path.display());
            n_files += 1;
            if path.is_dir() {
                open.extend(
                    fs::read_dir(&path).expect("a folder").map(|e| e.expect("an entry").path()),
                );
            }
        }
    }
    tried("modes of files and folders under umask 022 and 077", n_files, n_files);
}

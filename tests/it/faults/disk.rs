//! Disks that are full, and files that may not grow.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::injuries::tried;

use super::{ends_the_same, is_told, micro_run, sample, whole_run};
use crate::support::{Finished, Metamask, skip};

/// A disk of its own in memory, of `kib` KiB; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, kib: usize) -> Option<Self> {
        fs::create_dir_all(at).expect("the test's folder can be written to");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "metamask-test"]).arg(at);
        let status = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

#[test]
fn on_a_disk_of_any_size_a_run_ends_or_is_refused_and_what_it_saved_is_whole() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let whole = whole_run(&metamask);
    let strace = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok();
    // From nothing to twice of what the run needs.
    let sizes = sample((1..=64).map(|i| 5 * i).collect(), 5);
    let (n, mut n_full, mut n_refused) = (sizes.len(), 0, 0);
    for kib in sizes {
        let disk = metamask.path("disk");
        // The free space is looked at before a run begins. With that look refused, the run
        // meets the end of the disk wherever it is.
        for looks in [true, false] {
            let Some(_mounted) = Disk::mount(&disk, kib) else {
                return skip("a tmpfs cannot be mounted (needs root)");
            };
            let arguments = micro_run(&metamask, "disk/run");
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = match looks {
                true => metamask.command(&arguments),
                false if strace => {
                    let before = [
                        "-f",
                        "-o",
                        "/dev/null",
                        "-e",
                        "trace=statfs",
                        "-e",
                        "inject=statfs:error=ENOSYS",
                    ];
                    metamask.under("strace", &before, &arguments)
                }
                false => continue,
            };
            let finished = Finished::from(command.output().expect("it starts"));
            assert!(is_told(&finished), "{kib} KiB: {:?}, {}", finished.code, finished.stderr);
            if looks {
                // Refused at once or not at all: never in the middle.
                let refused = finished.code == Some(74) && !disk.join("run").exists();
                assert!(finished.code == Some(0) || refused, "{kib} KiB: {}", finished.stderr);
                n_refused += usize::from(refused);
                if refused {
                    assert!(finished.stderr.contains("needs about"), "{}", finished.stderr);
                }
            }
            n_full += usize::from(!looks && finished.code != Some(0));
            let larger = metamask.path("larger");
            let _ = fs::remove_dir_all(&larger);
            match disk.join("run").exists() {
                true => copy(&disk.join("run"), &larger),
                false => continue,
            }
            ends_the_same(&metamask, "larger", &whole).unwrap_or_else(|e| panic!("{kib} KiB: {e}"));
        }
    }
    assert!(n_refused > 0 && (n_full > 0 || !strace), "{n_refused} refused, {n_full} ran full");
    tried(
        "disks (tmpfs) of 64 sizes from 5 to 320 KiB: refused with the figures, or finished",
        n,
        n,
    );
    tried("disks (tmpfs) of 64 sizes, the look at the free space refused: full in the run", n, n);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_like_others() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let whole = whole_run(&metamask);
    let limits = sample((0..=40).collect(), 5);
    let (n, mut n_hit) = (limits.len(), 0);
    for kib in limits {
        let _ = fs::remove_dir_all(metamask.path("run"));
        let mut arguments = micro_run(&metamask, "run");
        arguments.push("--offline".into());
        let script = format!("ulimit -f {kib}; exec \"$0\" \"$@\"");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = metamask.under("bash", &["-c", &script], &arguments).output();
        let finished = Finished::from(output.expect("bash starts"));
        assert!(is_told(&finished), "{kib} KiB: {:?}, {}", finished.code, finished.stderr);
        n_hit += usize::from(finished.code != Some(0));
        ends_the_same(&metamask, "run", &whole).unwrap_or_else(|e| panic!("{kib} KiB: {e}"));
    }
    assert!(n_hit > 1, "the limits were hit {n_hit} times");
    tried("`ulimit -f` of 0 to 40 KiB", n, n);
}

//! Who reads a run while it saves sees whole files only.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::injuries::{tried, tries_all};

use super::micro_run;
use crate::support::{Metamask, sorted_names};

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks at the newest checkpoint; `None` if it went while it was looked at.
fn look(run: &Path) -> Option<Result<(), String>> {
    let newest = sorted_names(&run.join("checkpoints"));
    let newest = newest.iter().rfind(|name| name.starts_with("step-"))?;
    let folder = run.join("checkpoints").join(newest);
    let manifest = fs::read(folder.join("MANIFEST.json")).ok()?;
    let checked = || -> Result<(), String> {
        let manifest: serde_json::Value =
            serde_json::from_slice(&manifest).map_err(|error| format!("manifest: {error}"))?;
        for (name, record) in manifest["files"].as_object().ok_or("no files")? {
            let bytes = fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
            if record["sha256"] != hex(&bytes) {
                return Err(format!("{newest}/{name} is torn"));
            }
        }
        Ok(())
    };
    match checked() {
        Err(_) if !folder.join("MANIFEST.json").exists() => None,
        found => Some(found),
    }
}

/// Whole lines of JSON, but for the last, which may be on its way.
fn log_is_whole(run: &Path) -> bool {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
}

#[test]
fn a_reader_sees_no_torn_file_while_a_run_saves() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let n_saves = if tries_all() { 500 } else { 50 };
    let mut arguments = micro_run(&metamask, "run");
    arguments.extend(["--set".into(), format!("training.epochs={n_saves}")]);
    let mut child = metamask.command(&arguments).spawn().expect("it starts");
    let run = metamask.path("run");
    let (mut n_looks, mut n_own) = (0, 0);
    while child.try_wait().expect("a child").is_none() {
        if !run.join("checkpoints").exists() {
            continue;
        }
        if let Some(found) = look(&run) {
            found.unwrap();
            n_looks += 1;
        }
        assert!(log_is_whole(&run));
        // The program's own reader, now and then.
        if n_looks % 20 == 10 {
            let finished = metamask.run(&["inspect", "mask", "run", "--json"]);
            assert!(
                matches!(finished.code, Some(0 | 66)),
                "{:?} {}",
                finished.code,
                finished.stderr
            );
            n_own += 1;
        }
    }
    assert!(child.wait().expect("a child").success());
    assert!(n_looks > n_saves / 10 && n_own > 0, "only {n_looks} looks, {n_own} by ourselves");
    tried(
        &format!("looks of a reader during {n_saves} saves: no torn file"),
        n_looks + n_own,
        n_looks + n_own,
    );
}

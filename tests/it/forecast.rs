//! What a run will take is said before, and is what it then takes; what cannot be is
//! refused at the start, with the figures.

use std::fs;
use std::path::Path;

use crate::support::{Metamask, read, skip};

/// How far a forecast may be off.
const TOLERANCE: f64 = 0.2;

/// The number before a unit that begins `word` in the line of `what`.
fn megabytes(table: &str, what: &str, after: &str) -> f64 {
    let line = table.lines().find(|line| line.starts_with(what)).expect(what);
    let rest = line.split_once(after).unwrap_or_else(|| panic!("no `{after}` in `{line}`")).1;
    let mut words = rest.split_whitespace();
    let number: f64 = words.next().and_then(|word| word.parse().ok()).expect("a number");
    match words.next().expect("a unit").trim_end_matches([',', ';', ')']) {
        "kB" => number / 1e3,
        "MB" => number,
        "GB" => number * 1e3,
        unit => panic!("unit {unit} in `{line}`"),
    }
}

fn size_of(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            if path.is_dir() { size_of(&path) } else { path.metadata().expect("a file").len() }
        })
        .sum()
}

#[track_caller]
fn assert_close(what: &str, said: f64, took: f64) {
    let ratio = said / took;
    assert!((ratio - 1.0).abs() <= TOLERANCE, "{what}: said {said:.2} MB, took {took:.2} MB");
}

#[test]
fn a_dry_run_says_what_memory_and_disk_the_run_then_takes() {
    let Some(metamask) = Metamask::find() else { return };
    for set in [
        &["objective.redundancy_weight=0"][..],
        &[
            "meta.virtual_step=lookahead",
            "encoder.width=16",
            "augmentation.size=32",
            "training.epochs=2",
        ],
        &[
            "mask.mode=off",
            "contrastive_head.hidden=[2048]",
            "training.epochs=1",
            "log.every_steps=0",
        ],
    ] {
        let more: Vec<String> =
            set.iter().flat_map(|set| ["--set".into(), (*set).into()]).collect();
        let arguments = [metamask.tiny_run("run"), more].concat();
        let dry = [&arguments[..], &["--dry-run".to_owned()]].concat();
        let table = metamask.succeed(&dry).stdout;
        assert!(!metamask.path("run").exists(), "a dry run writes nothing");
        for word in ["steps", "time", "FLOPs", "memory", "disk"] {
            assert!(table.lines().any(|line| line.starts_with(word)), "{word} in\n{table}");
        }

        metamask.succeed(&arguments);
        let timings = String::from_utf8(read(&metamask.path("run/timings.jsonl"))).expect("text");
        let last: serde_json::Value =
            serde_json::from_str(timings.lines().last().expect("a line")).expect("JSON");
        match last["peak_memory_bytes"].as_f64() {
            Some(peak) => {
                assert_close("memory", megabytes(&table, "memory", "memory "), peak / 1e6)
            }
            None => skip("the system does not tell a process's memory"),
        }
        let took = size_of(&metamask.path("run")) as f64 / 1e6;
        assert_close("disk", megabytes(&table, "disk", "disk "), took);
        fs::remove_dir_all(metamask.path("run")).expect("removed");
    }
}

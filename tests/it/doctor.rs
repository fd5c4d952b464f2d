//! `metamask doctor`: a configuration, a run, a step that failed.

use std::fs;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, TINY};

/// A warm-up at rate 0, then a rate at which everything overflows.
const DIVERGES: [&str; 6] = [
    "--set",
    "optimizer.learning_rate=3e30",
    "--set",
    "optimizer.schedule=warmup-cosine",
    "--set",
    "optimizer.warmup_epochs=1",
];

#[test]
fn a_configuration_is_explained_before_it_is_run() {
    let Some(metamask) = Metamask::find() else { return };
    fs::write(metamask.path("tiny.toml"), TINY).expect("written");
    let sets = ["--set", "encoder.stem=imagenet", "--set", "objective.temperature=0.001"];
    let arguments = [&["doctor", "tiny.toml"], &sets[..]].concat();
    let text = metamask.succeed(&arguments).stdout;
    for (word, topic) in [
        ("ok", "data"),
        ("warning", "stem"),
        ("warning", "temperature"),
        ("warning", "negatives"),
        ("ok", "precision"),
        ("ok", "memory"),
        ("ok", "disk"),
    ] {
        let has = |line: &str| line.starts_with(word) && line.contains(topic);
        assert!(text.lines().any(has), "{word} {topic} in\n{text}");
    }
    assert!(text.contains("--set encoder.stem=cifar"), "it says what to do:\n{text}");
    assert!(!metamask.path("runs").exists(), "it writes nothing");

    let json = metamask.succeed(&[&arguments[..], &["--json"]].concat()).stdout;
    let findings: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let stem = findings.as_array().expect("findings").iter().find(|f| f["topic"] == "stem");
    assert_eq!(stem.expect("a stem")["level"], "warning");
}

#[test]
fn what_cannot_be_run_ends_with_the_status_that_the_run_would_have() {
    let Some(metamask) = Metamask::find() else { return };
    fs::write(metamask.path("tiny.toml"), TINY).expect("written");
    let sets = ["--set", "data.dataset=cifar10", "--data-dir", "gone", "--offline"];
    let finished = metamask.run(&[&["doctor", "tiny.toml"], &sets[..]].concat());
    assert_eq!(finished.code, Some(66), "{}", finished.stderr);
    assert!(finished.stdout.contains("error    data         [MISSING]"), "{}", finished.stdout);
    assert_refused(&metamask.run(&["doctor", "quikstart"]), 2, "USAGE", &["`quickstart`"]);
    fs::create_dir(metamask.path("empty")).expect("made");
    let words = ["empty", "neither a run nor the dump"];
    assert_refused(&metamask.run(&["doctor", "empty"]), 66, "MISSING", &words);
}

#[test]
fn a_run_s_checkpoints_are_verified() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("run"));
    let text = metamask.succeed(&["doctor", "run"]).stdout;
    assert!(text.contains("step 24, run/checkpoints/step-0000024"), "{text}");

    let newest = metamask.path("run/checkpoints/step-0000024/model.safetensors");
    let mut bytes = fs::read(&newest).expect("there");
    bytes[1000] ^= 1;
    fs::write(&newest, bytes).expect("written");
    let text = metamask.succeed(&["doctor", "run"]).stdout;
    assert!(text.contains("warning  checkpoint   run/checkpoints/step-0000024"), "{text}");
    assert!(text.contains("step 18"), "{text}");
}

#[test]
fn a_lost_number_is_found_in_its_step_and_the_step_can_be_taken_again() {
    let Some(metamask) = Metamask::find() else { return };
    let mut arguments = metamask.tiny_run("run");
    arguments.extend(DIVERGES.map(String::from));
    arguments.push("--dump-on-error".into());
    let finished = metamask.run(&arguments);
    let words = ["step 7: ", " values that are not finite, expected none"];
    assert_refused(&finished, 70, "NOT-FINITE", &words);
    let kept = "  kept: step 6; the step, in run/dumps/step-0000007\n";
    assert!(finished.stderr.contains(kept), "{}", finished.stderr);

    let text = metamask.succeed(&["doctor", "run/dumps/step-0000007"]).stdout;
    let said = finished.stderr.lines().find_map(|line| line.strip_prefix("error[NOT-FINITE]: "));
    let said = said.expect("one line");
    assert!(text.contains(&format!("the run said   {said}")), "{text}");
    let lost = said.strip_prefix("step 7: ").expect("the step");
    assert!(text.contains(&format!("first lost     {lost}")), "the replay agrees:\n{text}");

    let json = metamask.succeed(&["doctor", "run/dumps/step-0000007", "--json"]).stdout;
    let object: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(object["replay"], lost);

    // The last sound step can be gone on from, under settings that were not lost.
    let mut resumed = arguments;
    resumed.push("--resume".into());
    assert_refused(&metamask.run(&resumed), 70, "NOT-FINITE", &words);
}

//! A run from start to end: repeatable, whatever the number of threads.

use std::fs;

use crate::support::{Finished, Metamask, Results, metrics};

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_others() {
    let Some(metamask) = Metamask::find() else { return };
    let run = |out: &str, seed: &str| {
        let mut arguments = metamask.tiny_run(out);
        arguments.extend(["--seed", seed].map(String::from));
        metamask.succeed(&arguments);
        Results::of(&metamask.path(out))
    };
    let first = run("first", "7");
    first.assert_equal(&run("second", "7"), "seed 7 twice");
    let changed = run("other", "8");
    assert!(first.differences(&changed).contains(&"metrics.jsonl"), "seed 8 changes the run");
}

#[test]
fn one_two_and_four_threads_give_the_same_bits() {
    let Some(metamask) = Metamask::find() else { return };
    let run = |threads: &str| {
        let mut arguments = metamask.tiny_run(threads);
        arguments.extend(["--threads", threads].map(String::from));
        metamask.succeed(&arguments);
        Results::of(&metamask.path(threads))
    };
    let one = run("1");
    one.assert_equal(&run("2"), "1 and 2 threads");
    one.assert_equal(&run("4"), "1 and 4 threads");
}

/// Runs beside each other share a machine as they are told to: on one thread a run is on a
/// core for no longer than it lasts, whatever the pools of the libraries below.
#[test]
fn on_one_thread_a_run_takes_one_core() {
    let Some(metamask) = Metamask::find() else { return };
    let mut arguments = metamask.tiny_run("run");
    arguments.extend(["--threads", "1", "--set", "training.epochs=8"].map(String::from));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // User and system time of all threads, and the time of the day that passed.
    let script = "TIMEFORMAT='took %U %S %R'; time \"$0\" \"$@\"";
    let output = metamask.under("bash", &["-c", script], &arguments).output().expect("bash starts");
    let finished = Finished::from(output);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let took = finished.stderr.lines().last().and_then(|line| line.strip_prefix("took "));
    let took: Vec<f64> = took.expect("the time").split(' ').map(|s| s.parse().unwrap()).collect();
    let [user, system, wall] = took[..] else { panic!("{took:?}") };
    // What is above one core is the starting of the pool.
    assert!(user + system < 1.1 * wall + 0.1, "{user} + {system} s on cores in {wall} s");
}

#[test]
fn a_run_leaves_what_the_documents_promise() {
    let Some(metamask) = Metamask::find() else { return };
    let finished = metamask.succeed(&metamask.tiny_run("run"));
    for word in ["kNN", "linear", "pixels", "untrained", "mask"] {
        assert!(finished.stdout.contains(word), "no `{word}` in\n{}", finished.stdout);
    }
    let run = metamask.path("run");
    for name in ["config.toml", "metrics.jsonl", "timings.jsonl", "checkpoints"] {
        assert!(run.join(name).exists(), "{name}");
    }
    let lines = metrics(&run);
    for kind in ["step", "epoch", "evaluation"] {
        assert!(lines.iter().any(|line| line["kind"] == kind), "no line of kind {kind}");
    }
    let steps: Vec<u64> = lines.iter().filter_map(|line| line["step"].as_u64()).collect();
    assert!(steps.is_sorted(), "steps go on: {steps:?}");

    // The stored configuration is the whole of it: it makes the same run.
    fs::copy(run.join("config.toml"), metamask.path("stored.toml")).expect("copied");
    metamask.succeed(&["pretrain", "--config", "stored.toml", "--out", "again"]);
    Results::of(&run).assert_equal(&Results::of(&metamask.path("again")), "from its config.toml");
}

#[test]
fn a_run_is_never_overwritten() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("run"));
    let before = Results::of(&metamask.path("run"));

    let refused = metamask.run(&metamask.tiny_run("run"));
    assert_eq!(refused.code, Some(73), "{}", refused.stderr);
    assert!(refused.stderr.contains("error[OUT-DIR]: run: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("--resume"), "it says what to do: {}", refused.stderr);
    before.assert_equal(&Results::of(&metamask.path("run")), "after the refusal");
}

#[test]
fn evaluate_prints_the_numbers_of_the_run_again() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("run"));
    let before = Results::of(&metamask.path("run"));
    let text = metamask.succeed(&["evaluate", "run"]).stdout;
    assert!(text.contains("kNN"), "{text}");

    let json = metamask.succeed(&["evaluate", "run", "--json"]).stdout;
    let object: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
    assert!(object.is_object(), "{object}");
    before.assert_equal(&Results::of(&metamask.path("run")), "evaluating changes nothing");
}

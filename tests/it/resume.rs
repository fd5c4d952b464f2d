//! Killed at any instant and resumed, a run ends as if nothing had happened.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use metamask_random::{Key, Purpose};

use crate::injuries::{tried, tries_all};

use crate::faults::micro_run;
use crate::support::{Metamask, Results, sorted_names};

/// Kills, of which as many as a quarter must come after a checkpoint, so that a resumed
/// run starts from one. A run may end before its kill where the machine's load changes;
/// then others are tried.
const N_KILLS: u32 = 40;
const N_KILLS_IN_FULL: u32 = 300;

fn resumed(mut arguments: Vec<String>) -> Vec<String> {
    arguments.push("--resume".into());
    arguments
}

#[test]
fn killed_at_random_instants_and_resumed_a_run_ends_with_the_same_bits() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let n_kills = if tries_all() { N_KILLS_IN_FULL } else { N_KILLS };
    // A run as it is, and those whose state is all that there can be: a queue of
    // neighbours, a step that a lookahead still has to judge, moments of Adam; a target.
    let kinds = [
        &[][..],
        &[
            "objective.method=nnclr",
            "queue.size=40",
            "meta.virtual_step=lookahead",
            "mask.rule=adam",
            "mask.learning_rate=0.1",
        ],
        &["objective.method=byol", "optimizer.rule=lars"],
    ];
    let run = |kind: usize, out: &str| {
        let mut arguments = micro_run(&metamask, out);
        let sets = kinds[kind].iter().chain(&["training.epochs=8"]);
        arguments.extend(sets.flat_map(|set| ["--set".into(), (*set).into()]));
        arguments
    };
    let start = Instant::now();
    let whole = [0, 1, 2].map(|kind| {
        let out = format!("whole-{kind}");
        metamask.succeed(&run(kind, &out));
        Results::of(&metamask.path(&out))
    });
    let duration = start.elapsed() / 3;

    let (mut n_fired, mut n_in_training) = (0, 0);
    for i in 0..10 * n_kills {
        if n_fired >= n_kills && n_in_training >= n_kills / 4 {
            break;
        }
        let out = format!("killed-{i}");
        let kind = i as usize % kinds.len();
        let arguments = resumed(run(kind, &out));
        // A second kill hits the resumed run, one time in two.
        let mut instants = Key::new(17, Purpose::Test).sample(i).stream();
        for _ in 0..1 + instants.below(2) {
            let wait = duration.mul_f64(instants.uniform_f64());
            let mut child = metamask.command(&arguments).spawn().expect("it starts");
            thread::sleep(wait);
            n_fired += u32::from(child.try_wait().expect("a child").is_none());
            child.kill().expect("SIGKILL is sent, or the child has ended");
            child.wait().expect("a child");
        }
        let checkpoints = metamask.path(&out).join("checkpoints");
        let saved = checkpoints.exists()
            && sorted_names(&checkpoints).iter().any(|name| name.starts_with("step-"));
        n_in_training += u32::from(saved);

        metamask.succeed(&arguments);
        whole[kind].assert_equal(&Results::of(&metamask.path(&out)), &format!("kill {i}"));
        fs::remove_dir_all(metamask.path(&out)).expect("removed");
    }
    assert!(n_fired >= n_kills, "only {n_fired} kills hit a running program");
    assert!(n_in_training >= n_kills / 4, "only {n_in_training} kills came after a checkpoint");
    let n = n_fired as usize;
    tried("SIGKILL at random instants, up to two a run, three methods", n, n);
}

#[test]
fn a_signal_lets_the_run_save_its_step_and_end_with_the_signal_s_status() {
    let Some(metamask) = Metamask::find() else { return };
    // Epochs of many steps: the signal comes in the middle of one.
    let run = |out: &str| {
        let mut arguments = metamask.tiny_run(out);
        arguments.extend(["--set", "training.batch_size=4"].map(String::from));
        arguments
    };
    metamask.succeed(&run("whole"));
    let whole = Results::of(&metamask.path("whole"));
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("USR2", 140)] {
        let mut child = metamask.command(&run(signal)).spawn().expect("it starts");
        let metrics = metamask.path(signal).join("metrics.jsonl");
        let start = Instant::now();
        while !fs::metadata(&metrics).is_ok_and(|file| file.len() > 0)
            && start.elapsed() < Duration::from_secs(60)
        {
            thread::sleep(Duration::from_millis(2));
        }
        let sent = std::process::Command::new("kill")
            .args([&format!("-{signal}"), &child.id().to_string()])
            .status();
        assert!(sent.expect("`kill` is there").success());
        assert_eq!(child.wait().expect("a child").code(), Some(status), "{signal}");
        assert!(!sorted_names(&metamask.path(signal).join("checkpoints")).is_empty(), "{signal}");
        metamask.succeed(&resumed(run(signal)));
        whole.assert_equal(&Results::of(&metamask.path(signal)), signal);
    }
}

#[test]
fn a_finished_run_resumes_to_itself() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("run"));
    let before = Results::of(&metamask.path("run"));
    let finished = metamask.succeed(&resumed(metamask.tiny_run("run")));
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(said.contains("already finished"), "{said}");
    before.assert_equal(&Results::of(&metamask.path("run")), "after resuming a finished run");
}

#[test]
fn resuming_with_another_configuration_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("run"));
    let mut arguments = resumed(metamask.tiny_run("run"));
    arguments.extend(["--set", "training.epochs=5"].map(String::from));
    let refused = metamask.run(&arguments);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("`training.epochs`"), "{}", refused.stderr);
}

#[test]
fn a_damaged_last_checkpoint_is_noticed_and_the_one_before_is_used() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("run"));
    let before = Results::of(&metamask.path("run"));
    let checkpoints = metamask.path("run").join("checkpoints");
    let names = sorted_names(&checkpoints);
    assert!(names.len() >= 2, "two are kept: {names:?}");
    let last = checkpoints.join(names.last().expect("there is one"));
    let weights = last.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("the model is model.safetensors");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).expect("written");

    metamask.succeed(&resumed(metamask.tiny_run("run")));
    before.assert_equal(
        &Results::of(&metamask.path("run")),
        "one bit flipped in the last checkpoint",
    );
}

#[test]
fn two_processes_cannot_share_a_run() {
    let Some(metamask) = Metamask::find() else { return };
    let mut arguments = resumed(metamask.tiny_run("run"));
    // Long enough to be still there when the second one starts.
    arguments.extend(["--set", "training.epochs=400"].map(String::from));
    let mut first = metamask.command(&arguments).spawn().expect("it starts");
    let config = metamask.path("run").join("config.toml");
    let start = Instant::now();
    while !config.exists() && start.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(10));
    }
    let second = metamask.run(&arguments);
    let was_running = first.try_wait().expect("a child").is_none();
    first.kill().expect("it can be killed");
    first.wait().expect("a child");

    assert!(was_running, "the first run ended too soon for this test");
    assert_eq!(second.code, Some(75), "{}", second.stderr);
    assert!(second.stderr.contains("error[LOCKED]: run: "), "{}", second.stderr);
}

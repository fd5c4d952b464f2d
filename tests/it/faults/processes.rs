//! What else happens to a process: signals at any instant, a pause, a wrong clock, too
//! little memory, others that want the same folder.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use metamask_random::{Key, Purpose, Stream};

use crate::injuries::{tried, tries_all};

use super::{ends_the_same, is_told, micro_run, sample, whole_run};
use crate::support::{Finished, Metamask, Results, skip, sorted_names};

/// A step of the small run and a save take milliseconds; this is for a busy machine.
const SOON: Duration = Duration::from_secs(5);

fn send(signal: &str, child: &Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
    assert!(sent.expect("`kill` is there").success());
}

/// [`micro_run`], eight epochs of it, and how long it takes.
fn longer_run(metamask: &Metamask) -> (impl Fn(&str) -> Vec<String>, Results, Duration) {
    let run = |out: &str| {
        let mut arguments = micro_run(metamask, out);
        arguments.extend(["--set", "training.epochs=8", "--resume"].map(String::from));
        arguments
    };
    let start = Instant::now();
    metamask.succeed(&run("whole"));
    (run, Results::of(&metamask.path("whole")), start.elapsed())
}

/// Starts a run and waits for an instant of it.
fn at_an_instant(
    metamask: &Metamask,
    run: &[String],
    of: Duration,
    instants: &mut Stream,
) -> Child {
    let child = metamask.command(run).spawn().expect("it starts");
    thread::sleep(of.mul_f64(instants.uniform_f64()));
    child
}

fn finish(child: Child) -> Finished {
    Finished::from(child.wait_with_output().expect("a child"))
}

#[test]
fn a_signal_at_any_instant_saves_the_step_and_a_second_one_ends_at_once() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let (run, whole, duration) = longer_run(&metamask);
    let n_wanted = if tries_all() { 50 } else { 2 };
    for (kind, (signal, status)) in
        [("INT", 130), ("TERM", 143), ("HUP", 129), ("USR2", 140)].into_iter().enumerate()
    {
        for twice in [false, true] {
            let mut instants = Key::new(19, Purpose::Test).sample(kind as u32).stream();
            let mut n = 0;
            // Some come before the program listens, or when it has ended.
            for _ in 0..20 * n_wanted {
                if n == n_wanted {
                    break;
                }
                let child = at_an_instant(&metamask, &run("run"), duration, &mut instants);
                let sent = Instant::now();
                send(signal, &child);
                if twice {
                    thread::sleep(Duration::from_millis(instants.below(3).into()));
                    send(signal, &child);
                }
                let finished = finish(child);
                assert!(sent.elapsed() < SOON, "{signal}: gone after {:?}", sent.elapsed());
                assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
                match finished.code {
                    Some(code) if code == status => n += 1,
                    Some(0) | None => {}
                    code => panic!("{signal}: {code:?}, {}", finished.stderr),
                }
                metamask.succeed(&run("run"));
                whole.assert_equal(&Results::of(&metamask.path("run")), signal);
                fs::remove_dir_all(metamask.path("run")).expect("removed");
            }
            let what = if twice { "twice within 3 ms" } else { "once" };
            tried(&format!("SIG{signal} {what} at random instants"), n_wanted, n);
        }
    }
}

#[test]
fn resumed_ten_times_and_on_other_numbers_of_threads_a_run_ends_the_same() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let (run, whole, duration) = longer_run(&metamask);
    let rounds = if tries_all() { 10 } else { 1 };
    for round in 0..rounds {
        let mut instants = Key::new(23, Purpose::Test).sample(round).stream();
        let out = format!("run-{round}");
        for threads in [1, 2, 4, 1, 3, 2, 1, 4, 2, 1] {
            let mut arguments = run(&out);
            arguments.extend(["--threads".to_owned(), threads.to_string()]);
            let mut child = at_an_instant(&metamask, &arguments, duration / 3, &mut instants);
            child.kill().expect("SIGKILL is sent, or the child has ended");
            child.wait().expect("a child");
        }
        metamask.succeed(&run(&out));
        whole.assert_equal(&Results::of(&metamask.path(&out)), &out);
    }
    let n = rounds as usize;
    tried("ten kills of one run, resumed each time on another number of threads", n, n);
}

#[test]
fn a_run_that_is_stopped_for_a_while_goes_on_the_same() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let (run, whole, duration) = longer_run(&metamask);
    let mut instants = Key::new(29, Purpose::Test).sample(0).stream();
    let (n, pause) = if tries_all() { (5, Duration::from_secs(30)) } else { (2, duration) };
    for i in 0..n {
        let out = format!("run-{i}");
        let child = at_an_instant(&metamask, &run(&out), duration, &mut instants);
        send("STOP", &child);
        thread::sleep(pause);
        send("CONT", &child);
        let finished = finish(child);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        whole.assert_equal(&Results::of(&metamask.path(&out)), &out);
    }
    tried("SIGSTOP, and SIGCONT half a minute later", n, n);
}

#[test]
fn whatever_the_clock_says_a_run_ends_the_same() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let whole = whole_run(&metamask);
    let is_there =
        |out: std::io::Result<std::process::Output>| out.is_ok_and(|o| o.status.success());
    if !is_there(Command::new("faketime").args(["-f", "+0", "true"]).output()) {
        return skip("there is no faketime");
    }
    // Ten years ago, in ten years, a thousand times too fast, standing still.
    let clocks = ["-3650d", "+3650d", "+0 x1000", "2026-01-01 00:00:00"];
    for clock in clocks {
        let _ = fs::remove_dir_all(metamask.path("run"));
        let arguments = micro_run(&metamask, "run");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = metamask.under("faketime", &["-f", clock], &arguments).output();
        let finished = Finished::from(output.expect("faketime starts"));
        assert_eq!(finished.code, Some(0), "{clock}: {}", finished.stderr);
        whole.assert_equal(&Results::of(&metamask.path("run")), clock);
        let log = fs::read_to_string(metamask.path("run/timings.jsonl")).unwrap_or_default();
        assert!(!log.contains(":-"), "{clock}: a duration is negative\n{log}");
    }
    let n = clocks.len();
    tried("clocks ten years off, a thousand times too fast, or standing still (faketime)", n, n);
}

#[test]
fn where_memory_ends_a_run_says_so_and_what_it_saved_is_whole() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let whole = whole_run(&metamask);
    let limits = sample((1..=48).map(|i| 8 * i).collect(), 16);
    let (mut n, mut n_said) = (0, 0);
    for mib in limits {
        let _ = fs::remove_dir_all(metamask.path("run"));
        let script = format!("ulimit -v $(({mib} * 1024)); exec \"$0\" \"$@\"");
        let arguments = micro_run(&metamask, "run");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = metamask.under("bash", &["-c", &script], &arguments).output();
        let finished = Finished::from(output.expect("bash starts"));
        // Where not even the program fits, bash or the loader say so, or the kernel without a
        // word. An abort of ours has one.
        let starts = match finished.code {
            Some(code) => ![126, 127].contains(&code),
            None => !finished.stderr.is_empty(),
        };
        if !starts {
            continue;
        }
        assert!(is_told(&finished), "{mib} MiB: {:?}, {}", finished.code, finished.stderr);
        n += 1;
        n_said += usize::from(finished.stderr.contains("error[MEMORY]: could not allocate"));
        ends_the_same(&metamask, "run", &whole).unwrap_or_else(|e| panic!("{mib} MiB: {e}"));
    }
    assert!(n_said > 0 && n_said < n, "{n_said} of {n} limits were met");
    tried("`ulimit -v` from where the program starts to 384 MiB", n, n);
}

#[test]
fn of_four_that_start_at_once_in_one_folder_one_runs() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let whole = whole_run(&metamask);
    let rounds = if tries_all() { 100 } else { 5 };
    for round in 0..rounds {
        let out = format!("run-{round}");
        let mut arguments = micro_run(&metamask, &out);
        // One that comes when the winner has ended already finds a finished run.
        arguments.push("--resume".into());
        let start =
            || metamask.command(&arguments).stdin(Stdio::null()).spawn().expect("it starts");
        let finished = [(); 4].map(|()| start()).map(finish);
        let with = |code| finished.iter().filter(|one| one.code == Some(code)).count();
        let stderr: Vec<&str> = finished.iter().map(|one| one.stderr.as_str()).collect();
        assert!(with(0) >= 1 && with(0) + with(75) == 4, "{stderr:#?}");
        let trained = finished.iter().filter(|one| !one.stderr.contains("already finished"));
        assert_eq!(trained.filter(|one| one.code == Some(0)).count(), 1, "{finished:#?}");
        whole.assert_equal(&Results::of(&metamask.path(&out)), &out);
        assert!(!sorted_names(&metamask.path(&out)).iter().any(|name| name.contains("partial")));
    }
    tried("four that start at once in one folder: one runs, the others leave it", rounds, rounds);
}

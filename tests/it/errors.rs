//! Every error code once, as a user meets it: its exact text and exit status.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use sha2::{Digest, Sha256};

use crate::faults::micro_run;
use crate::support::{Finished, Metamask, sorted_names};

/// The codes that only a fault of this program or of the machine's numbers gives; unit
/// tests of the command line hold their texts.
const ELSEWHERE: [&str; 2] = ["INTERNAL", "PROMISE"];

fn sha256(path: &Path) -> String {
    let bytes = fs::read(path).expect("a file");
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The codes of docs/errors.md with their statuses.
fn documented() -> BTreeMap<String, i32> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let page = fs::read_to_string(page).expect("docs/errors.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (code, rest) = row.split_once("` | ").expect("a code");
        let status = rest.split_once(" |").expect("a status").0;
        (code.to_owned(), status.parse().expect("a number"))
    })
    .collect()
}

/// What stands on stderr from the error on.
fn told(finished: &Finished) -> &str {
    let at = finished.stderr.find("error[").unwrap_or_else(|| panic!("{}", finished.stderr));
    &finished.stderr[at..]
}

struct Told {
    documented: BTreeMap<String, i32>,
    seen: Vec<String>,
}

impl Told {
    #[track_caller]
    fn check(&mut self, code: &str, finished: &Finished, text: &str) {
        assert_eq!(told(finished), format!("error[{code}]: {text}\n"));
        self.check_status(code, finished);
    }

    #[track_caller]
    fn check_status(&mut self, code: &str, finished: &Finished) {
        assert_eq!(finished.code, Some(self.documented[code]), "{}", finished.stderr);
        for trace in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            assert!(!finished.stderr.contains(trace), "{}", finished.stderr);
        }
        self.seen.push(code.to_owned());
    }
}

#[test]
fn every_code_has_its_text_and_its_status() {
    let Some(metamask) = Metamask::in_memory() else { return };
    let mut told = Told { documented: documented(), seen: Vec::new() };
    let with = |out: &str, more: &[&str]| {
        let mut arguments = micro_run(&metamask, out);
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        arguments
    };
    let run = |arguments: &[String]| metamask.run(arguments);

    let text = "unknown preset `quikstart`, nearest is `quickstart`\n  help: `metamask presets` lists them";
    told.check("USAGE", &metamask.run(&["pretrain", "--preset", "quikstart"]), text);
    let text = "`training.epochs`: must be within 1 to 1000000, got 0";
    told.check("CONFIG", &run(&with("x", &["--set", "training.epochs=0"])), text);
    let text = "`cuda:7`: this build computes on the CPU only, expected `cpu`";
    told.check("DEVICE", &run(&with("x", &["--device", "cuda:7"])), text);
    told.check(
        "MISSING",
        &metamask.run(&["evaluate", "gone"]),
        "gone: is not there, expected the folder of a run",
    );
    fs::create_dir(metamask.path("data")).expect("made");
    for split in ["train", "t10k"] {
        for kind in ["images-idx3", "labels-idx1"] {
            let page = "<!DOCTYPE html><title>404</title>";
            fs::write(metamask.path(&format!("data/{split}-{kind}-ubyte")), page).expect("written");
        }
    }
    let data = ["--set", "data.dataset=mnist", "--data-dir", "data"];
    let text = "`data/t10k-images-idx3-ubyte`: found an HTML page, expected an IDX file of images";
    told.check("DATA", &run(&with("x", &data)), text);
    assert!(!metamask.path("x").exists(), "what is refused leaves nothing");

    metamask.succeed(&with("run", &[]));
    let text = "run: exists already; runs are never overwritten\n  \
                help: continue it with --resume, or choose another folder with --out";
    told.check("OUT-DIR", &run(&with("run", &[])), text);
    checkpoints(&metamask, &mut told);

    fs::write(metamask.path("bad.safetensors"), "bad").expect("written");
    let text = "bad.safetensors: is shorter than 8 bytes";
    told.check("CKPT-HEADER", &run(&with("x", &["--init", "bad.safetensors"])), text);

    let diverges = [
        "--set",
        "optimizer.learning_rate=3e30",
        "--set",
        "optimizer.schedule=warmup-cosine",
        "--set",
        "optimizer.warmup_epochs=1",
    ];
    let text = "step 3: the hypergradient's direct part has 16 of 16 values that are not finite, \
                expected none\n  kept: step 2\n  help: lower `optimizer.learning_rate` or \
                `mask.learning_rate`; `--resume --dump-on-error` comes to the same step and keeps \
                it for `metamask doctor`";
    told.check("NOT-FINITE", &run(&with("diverges", &diverges)), text);
    collapsed(&metamask, &mut told);
    in_use(&metamask, &mut told);
    files(&metamask, &mut told);

    let mut fetch = metamask.command(&["data", "fetch", "mnist"]);
    fetch.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", "http://127.0.0.1:9");
    let finished = Finished::from(fetch.output().expect("it starts"));
    // Who refuses a connection, and in which words, is the system's.
    assert!(self::told(&finished).starts_with("error[DOWNLOAD]: https://"), "{}", finished.stderr);
    let help = "  help: fetch again later, or get the files another way and give their folder with \
                --data-dir";
    let lines: Vec<&str> = self::told(&finished).lines().skip(1).collect();
    assert_eq!(lines, [help], "{}", finished.stderr);
    told.check_status("DOWNLOAD", &finished);

    let is_missing =
        |code: &&String| !told.seen.contains(code) && !ELSEWHERE.contains(&code.as_str());
    let missing: Vec<&String> = told.documented.keys().filter(is_missing).collect();
    assert!(missing.is_empty(), "no test for {missing:?}");
}

/// What may be wrong with checkpoints; `run` is a finished run.
fn checkpoints(metamask: &Metamask, told: &mut Told) {
    let newest = metamask.path("run/checkpoints/step-0000004");
    let change = |name: &str, change: &dyn Fn(String) -> String| {
        let path = newest.join(name);
        let text = fs::read_to_string(&path).expect("text");
        fs::write(&path, change(text.clone())).expect("written");
        text
    };
    let manifest = change("MANIFEST.json", &|text| text.replace("\"format\": 2", "\"format\": 9"));
    let text = "run/checkpoints/step-0000004/MANIFEST.json: format 9, this program reads 1 to 2\n  \
                help: update metamask";
    told.check("CKPT-VERSION", &metamask.run(&["inspect", "mask", "run"]), text);
    fs::write(newest.join("MANIFEST.json"), manifest).expect("written");

    let config = metamask.path("run/config.toml");
    let (before, text) = (sha256(&config), fs::read_to_string(&config).expect("text"));
    fs::write(&config, text.replace("momentum = 0.9\n", "momentum = 0.8\n")).expect("written");
    let changed = format!(
        "run/checkpoints/step-0000004/MANIFEST.json: is of another configuration (SHA-256 \
         {before}), expected {}\n  help: the run's config.toml was changed after the run began: \
         put it back, or start another run",
        sha256(&config)
    );
    told.check("CKPT-SHAPE", &metamask.run(&["inspect", "mask", "run"]), &changed);
    fs::write(&config, text).expect("written");

    fs::remove_dir_all(metamask.path("run/checkpoints/step-0000002")).expect("removed");
    let mask = newest.join("mask.safetensors");
    let (was, bytes) = (sha256(&mask), fs::read(&mask).expect("a file"));
    let mut flipped = bytes.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    fs::write(&mask, flipped).expect("written");
    let text = format!(
        "run/checkpoints/step-0000004/mask.safetensors: has SHA-256 {}, expected {was}\n  help: no \
         other checkpoint is left; start a new run",
        sha256(&mask)
    );
    told.check("CKPT-HASH", &metamask.run(&["inspect", "mask", "run"]), &text);

    fs::remove_dir_all(metamask.path("run/checkpoints")).expect("removed");
    let missing = metamask.run(&["inspect", "mask", "run"]);
    told.check("CKPT-MISSING", &missing, "run: has no checkpoint yet");
}

/// BYOL whose target is the network itself, under a weight decay that leaves nothing of it.
fn collapsed(metamask: &Metamask, told: &mut Told) {
    let mut arguments = metamask.tiny_run("collapses");
    for set in [
        "objective.method=byol",
        "objective.redundancy_weight=0",
        "mask.mode=off",
        "target.momentum=0",
        "contrastive_head.final_norm=false",
        "optimizer.learning_rate=0.2",
        "optimizer.weight_decay=1",
        "optimizer.momentum=0",
        "training.epochs=20",
        "guard.on_collapse=stop",
    ] {
        arguments.extend(["--set".to_owned(), set.to_owned()]);
    }
    let finished = metamask.run(&arguments);
    let text = self::told(&finished);
    // The step and the spread are numbers of the machine class.
    assert!(text.starts_with("error[COLLAPSED]: step "), "{text}");
    assert!(
        text.contains(": the embeddings have collapsed to a point: their spread is "),
        "{text}"
    );
    let help = "  help: lower `optimizer.learning_rate` or `mask.learning_rate`, lower the weight decay, \
                raise `target.momentum` (BYOL), or raise `objective.redundancy_weight`\n";
    assert!(text.ends_with(help), "{text}");
    told.check_status("COLLAPSED", &finished);
}

fn in_use(metamask: &Metamask, told: &mut Told) {
    let mut arguments = micro_run(metamask, "busy");
    arguments.extend(["--set", "training.epochs=100000"].map(String::from));
    let mut holder = metamask.command(&arguments);
    let mut holder = holder.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let lock = metamask.path("busy/run.lock");
    while !fs::read_to_string(&lock).is_ok_and(|pid| pid.ends_with('\n')) {
        assert!(holder.try_wait().expect("a child").is_none(), "it runs");
    }
    let text = format!(
        "busy: is in use by pid {}\n  help: wait until it ends, or choose another folder with --out",
        holder.id()
    );
    let finished = metamask.run(&arguments);
    holder.kill().expect("killed");
    holder.wait().expect("a child");
    told.check("LOCKED", &finished, &text);
}

/// Disks that are full, files that may not grow, and memory that ends.
fn files(metamask: &Metamask, told: &mut Told) {
    let arguments = micro_run(metamask, "limited");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let script = "ulimit -f 8; exec \"$0\" \"$@\"";
    let output = metamask.under("bash", &["-c", script], &arguments).output().expect("bash starts");
    let finished = Finished::from(output);
    let begin = "error[IO]: ";
    let end = ": File too large (os error 27)\n  help: see `ulimit -f`, then repeat the command with --resume\n";
    let text = self::told(&finished);
    assert!(text.starts_with(begin) && text.ends_with(end), "{text}");
    told.check_status("IO", &finished);

    let mut arguments = micro_run(metamask, "large");
    arguments.extend(["--set", "encoder.width=512", "--offline"].map(String::from));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let script = "ulimit -v 400000; exec \"$0\" \"$@\"";
    let output = metamask.under("bash", &["-c", script], &arguments).output().expect("bash starts");
    let finished = Finished::from(output);
    let text = self::told(&finished);
    let end = " MiB), the system has no more\n  kept: what was saved\n  help: take a smaller \
               batch, or --set meta.activations=recompute; `metamask doctor` says beforehand what a \
               run needs\n";
    assert!(
        text.starts_with("error[MEMORY]: could not allocate ") && text.ends_with(end),
        "{text}"
    );
    told.check_status("MEMORY", &finished);

    if Path::new("/dev/full").exists() {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("it can be opened");
        let output = metamask.command(&["presets"]).stdout(full).output().expect("it starts");
        let text = "stdout: failed to write: No space left on device (os error 28)\n  help: free some \
                    space, then repeat the command with --resume";
        told.check("DISK-FULL", &Finished::from(output), text);
    } else {
        told.seen.push("DISK-FULL".to_owned());
    }
}

#[test]
fn whoever_closes_stdout_has_seen_enough() {
    let Some(metamask) = Metamask::in_memory() else { return };
    metamask.succeed(&micro_run(&metamask, "run"));
    let again: Vec<String> = micro_run(&metamask, "other");
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    for arguments in [
        &again[..],
        &["presets"],
        &["presets", "quickstart"],
        &["evaluate", "run"],
        &["inspect", "mask", "run"],
        &["data", "list"],
        &["doctor", "micro.toml"],
        &["pretrain", "--print-config"],
        &["--help"],
        &["--version"],
    ] {
        // `exit` without reading: the pipe has no reader when the program writes.
        let script = "\"$0\" \"$@\" | exit 0; exit ${PIPESTATUS[0]}";
        let output = metamask.under("bash", &["-c", script], arguments).output();
        let finished = Finished::from(output.expect("bash starts"));
        assert_eq!(finished.code, Some(0), "{arguments:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{arguments:?}: {}", finished.stderr);
        let script = "exec \"$0\" \"$@\" >&-";
        let output = metamask.under("bash", &["-c", script], &["presets"]).output();
        assert!(!Finished::from(output.expect("bash starts")).stderr.contains("panicked"));
    }
    assert!(sorted_names(&metamask.path("other")).contains(&"results.json".to_owned()));
}

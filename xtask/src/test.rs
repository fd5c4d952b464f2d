//! `cargo xtask test`: every test of the workspace, with the command line built
//! for those that start it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::thread;

use anyhow::Context;

use crate::arguments::Arguments;
use crate::shell;

pub(crate) const HELP: &str = "\
Usage: cargo xtask test [--full]

Builds the command line in release mode, runs the crates' examples, then every
test of the workspace with METAMASK_BIN pointing at the command line. Needs
nothing but Rust: a test that lacks a tool prints `skipped: <test>: <reason>`,
and the lines are repeated at the end.

Options:
  --full  install what tests want (strace, faketime, chromium, a font, Fashion-MNIST;
          by apt-get, as root) and skip nothing: with METAMASK_FULL=1 a skip is a
          failure. Tests that hold us against Python's libraries run where
          METAMASK_PYTHON names an interpreter with xtask/peers/requirements.txt,
          in either way

Example:
  cargo xtask test --full
";

/// How a test says that it could not run; see `skip` in `tests/it/support`.
const SKIPPED: &str = "skipped: ";

/// What tests want, and the Debian package that brings it.
struct Tool {
    wanted: Wanted,
    package: &'static str,
}

enum Wanted {
    Program { name: &'static str, version_flag: &'static str },
    Folder(&'static str),
}

const TOOLS: [Tool; 5] = [
    Tool {
        wanted: Wanted::Program { name: "strace", version_flag: "--version" },
        package: "strace",
    },
    Tool {
        wanted: Wanted::Program { name: "faketime", version_flag: "--version" },
        package: "faketime",
    },
    Tool {
        wanted: Wanted::Program { name: "chromium", version_flag: "--version" },
        package: "chromium",
    },
    Tool {
        wanted: Wanted::Folder("/usr/share/fonts/truetype/dejavu"),
        package: "fonts-dejavu-core",
    },
    Tool {
        wanted: Wanted::Folder("/usr/share/datasets/fashion-mnist"),
        package: "dataset-fashion-mnist",
    },
];

impl Tool {
    fn is_there(&self) -> bool {
        match self.wanted {
            Wanted::Program { name, version_flag } => shell::has(name, version_flag),
            Wanted::Folder(path) => Path::new(path).is_dir(),
        }
    }
}

pub(crate) fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    let full = arguments.flag("--full");
    arguments.finish()?;
    run_tests(full)
}

/// # Errors
/// If a test fails, or, when `full`, was skipped.
pub(crate) fn run_tests(full: bool) -> anyhow::Result<()> {
    if full {
        install_tools()?;
    }
    let mut build = shell::cargo();
    build.args(["build", "--locked", "--release", "--workspace", "--bins", "--examples"]);
    shell::run(&mut build)?;
    let release = shell::target_dir()?.join("release");
    run_examples(&release)?;

    let mut tests = shell::cargo();
    tests
        .args(["test", "--locked", "--release", "--workspace", "--no-fail-fast"])
        .env("METAMASK_BIN", release.join("metamask"))
        .env_remove("METAMASK_FULL");
    if full {
        tests.env("METAMASK_FULL", "1");
    }
    let mut child = tests.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stderr = child.stderr.take().context("cargo test has no stderr")?;
    let stdout = child.stdout.take().context("cargo test has no stdout")?;
    let skipped = thread::spawn(move || copy_and_keep(stderr, std::io::stderr(), SKIPPED));
    let results = copy_and_keep(stdout, std::io::stdout(), "test result: ");
    let skipped = skipped.join().expect("the thread only copies lines");
    let status = child.wait()?;

    let total = Total::of(&results);
    println!();
    for line in &skipped {
        println!("{line}");
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, skipped.len());
    anyhow::ensure!(status.success(), "cargo test ended with {status}");
    anyhow::ensure!(total.passed > 0, "cargo test ran nothing");
    anyhow::ensure!(total.ignored == 0, "{} tests are ignored", total.ignored);
    anyhow::ensure!(!full || skipped.is_empty(), "--full, but {} tests skipped", skipped.len());
    Ok(())
}

/// Runs every example of the workspace, silent unless it fails.
fn run_examples(release: &Path) -> anyhow::Result<()> {
    let metadata = shell::metadata(&["--no-deps"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata: no packages")?;
    let targets = packages.iter().filter_map(|package| package["targets"].as_array()).flatten();
    let mut n_examples = 0;
    for example in targets.filter(|target| target["kind"][0] == "example") {
        let name = example["name"].as_str().context("cargo metadata: an example has no name")?;
        let output = shell::command(release.join("examples").join(name))
            .output()
            .with_context(|| format!("failed to start the example `{name}`"))?;
        anyhow::ensure!(
            output.status.success(),
            "example `{name}` ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        n_examples += 1;
    }
    eprintln!("{n_examples} examples ran");
    Ok(())
}

fn install_tools() -> anyhow::Result<()> {
    let missing: Vec<&Tool> = TOOLS.iter().filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let asked = packages.join(" ");
    let install = || {
        let mut apt = shell::command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["install", "--yes", "--no-install-recommends"]).args(&packages);
        shell::run(&mut apt)
    };
    // A fresh image has no package lists yet; one that has them saves the update.
    install()
        .or_else(|_| {
            shell::run(shell::command("apt-get").arg("update"))?;
            install()
        })
        .with_context(|| format!("failed to install {asked}; install it and run again"))
}

/// Copies `from` to `to` line by line and returns the lines that start with `prefix`.
fn copy_and_keep(from: impl Read, mut to: impl Write, prefix: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // A closed terminal must not stop the tests.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        let text = String::from_utf8_lossy(&line);
        if text.starts_with(prefix) {
            kept.push(text.trim_end().to_owned());
        }
        line.clear();
    }
    kept
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Total {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Total {
    /// Adds up libtest's lines: `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    fn of(lines: &[String]) -> Self {
        let mut total = Self::default();
        for line in lines {
            for part in line.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let count = words.next().and_then(|word| word.parse::<u64>().ok());
                match (count, words.next()) {
                    (Some(n), Some("passed")) => total.passed += n,
                    (Some(n), Some("failed")) => total.failed += n,
                    (Some(n), Some("ignored")) => total.ignored += n,
                    _ => {}
                }
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::{SKIPPED, Total, copy_and_keep};

    #[test]
    fn totals_add_up_over_test_binaries() {
        let lines = [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.61s",
            "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.00s",
        ];
        let total = Total::of(&lines.map(String::from));
        assert_eq!(total, Total { passed: 13, failed: 2, ignored: 1 });
    }

    #[test]
    fn skips_are_kept_and_everything_is_passed_on() {
        let text = "running\nskipped: a: no strace\nnot skipped: b\nskipped: c: d";
        let mut copied = Vec::new();
        let kept = copy_and_keep(text.as_bytes(), &mut copied, SKIPPED);
        assert_eq!(kept, ["skipped: a: no strace", "skipped: c: d"]);
        assert_eq!(copied, text.as_bytes());
    }
}

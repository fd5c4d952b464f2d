//! `cargo xtask ci`: the gate, cheapest checks first.

use std::time::Instant;

use crate::arguments::Arguments;
use crate::{reproduce_table, shell, test, tidy};

pub(crate) const HELP: &str = "\
Usage: cargo xtask ci

Everything that must hold before a change lands, cheapest first: rustfmt, the
invariants (`tidy`), clippy and rustdoc without a warning, the command line without
its default features, `test --full`, the committed table against its records and the
smoke table (`reproduce-table`).
Stops at the first that fails. `.ci/run` calls this.

Example:
  cargo xtask ci
";

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    arguments.finish()?;
    step("fmt", || shell::run(shell::cargo().args(["fmt", "--all", "--check"])))?;
    step("tidy", tidy::check)?;
    step("clippy", || {
        let mut clippy = shell::cargo();
        clippy.args(["clippy", "--locked", "--release", "--workspace", "--all-targets"]);
        shell::run(clippy.args(["--quiet", "--", "--deny", "warnings"]))
    })?;
    step("doc", || {
        let mut doc = shell::cargo();
        // Release, as everywhere: the dependencies are then compiled once.
        doc.args(["doc", "--locked", "--release", "--workspace", "--no-deps", "--quiet"]);
        shell::run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    step("without default features", || {
        // Local files only: no hub. It must build; what it does is tested with the hub.
        let mut check = shell::cargo();
        check.args(["check", "--locked", "--release", "--package", "metamask-cli"]);
        shell::run(check.args(["--no-default-features", "--quiet"]))
    })?;
    step("test", || test::run_tests(true))?;
    step("table", reproduce_table::gate)
}

fn step(name: &str, check: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    eprintln!("== {name}");
    let start = Instant::now();
    check().map_err(|error| error.context(format!("{name} failed")))?;
    eprintln!("== {name}: ok, {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

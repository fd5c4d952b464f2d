//! Running other programs, from the root of the repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

/// The root of the repository: the parent of this package.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository's root")
}

/// A command that starts in the root, with nothing to read on stdin.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// The cargo that started us, or the first on the path.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command, its output going where ours goes.
///
/// # Errors
/// If it cannot be started or does not end with 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("$ {}", spelled(command));
    let status =
        command.status().with_context(|| format!("failed to start `{}`", spelled(command)))?;
    anyhow::ensure!(status.success(), "`{}` ended with {status}", spelled(command));
    Ok(())
}

/// Runs a command and returns its stdout.
///
/// # Errors
/// If it cannot be started, does not end with 0 or prints no UTF-8.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("failed to start `{}`", spelled(command)))?;
    anyhow::ensure!(output.status.success(), "`{}` ended with {}", spelled(command), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// True when `program --version` (or whatever `flag` is) can be run.
pub(crate) fn has(program: &str, flag: &str) -> bool {
    let quiet = command(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let metadata = metadata(&["--no-deps"])?;
    let path = metadata["target_directory"].as_str().context("cargo metadata: no target folder")?;
    Ok(path.into())
}

/// `cargo metadata` with further arguments.
pub(crate) fn metadata(arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    let mut cargo = cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1"]).args(arguments);
    Ok(serde_json::from_str(&output(&mut cargo)?)?)
}

/// The files git tracks, or would with the next `git add`, relative to the root.
pub(crate) fn repository_files() -> anyhow::Result<Vec<String>> {
    let mut git = command("git");
    // A checkout that another user owns, as in a container, is read all the same.
    git.args([
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listed = output(&mut git)?;
    let mut files: Vec<String> = listed
        .split('\0')
        .filter(|path| !path.is_empty() && root().join(path).is_file())
        .map(String::from)
        .collect();
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

fn spelled(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

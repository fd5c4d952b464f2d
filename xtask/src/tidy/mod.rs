//! `cargo xtask tidy`: the invariants of ARCHITECTURE.md, checked.
//!
//! Reads text and `cargo metadata`, compiles nothing, takes a second or two.
//! What a lint can say is said by clippy (`clippy.toml`, `[workspace.lints]`).

mod code;
mod documents;
mod examples;
mod files;
mod layers;
mod licences;
mod sources;

use crate::arguments::Arguments;
use crate::shell;
use code::Code;

pub(crate) const HELP: &str = "\
Usage: cargo xtask tidy

Checks the sentences that begin **Architecture invariant:** in ARCHITECTURE.md,
and that the documents point at things that exist. Prints one line for each
breach: `path:line: [check] what is wrong`.

Checks:
  layers     crates depend downwards only, siblings not on each other
  sources    files, network, environment, clock, stdout, randomness, hash order
             and `unsafe` only in the crates that may
  files      no file over 700 lines, no path of somebody's machine, no unfinished
             work, every fixture has its script
  examples   every library crate has an example, every module says what it is
  documents  links lead somewhere, docs/paper-to-code.md names symbols that exist,
             ARCHITECTURE.md stays short and names a check for each invariant
  licences   every dependency's licence and source is in deny.toml

Example:
  cargo xtask tidy
";

/// A check: its name, as ARCHITECTURE.md refers to it, and what it does.
struct Check {
    name: &'static str,
    run: fn(&Repository) -> anyhow::Result<Vec<Breach>>,
}

const CHECKS: [Check; 6] = [
    Check { name: "layers", run: layers::check },
    Check { name: "sources", run: sources::check },
    Check { name: "files", run: files::check },
    Check { name: "examples", run: examples::check },
    Check { name: "documents", run: documents::check },
    Check { name: "licences", run: licences::check },
];

/// One place where an invariant does not hold.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    path: String,
    /// From 1; 0 where no line is meant.
    line: usize,
    what: String,
}

impl Breach {
    fn new(path: impl Into<String>, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into() }
    }
}

/// The text files of the repository.
struct Repository {
    files: Vec<File>,
}

struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

impl Repository {
    fn read() -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for path in shell::repository_files()? {
            // What is not UTF-8 is data, and none of our business here.
            if let Ok(text) = String::from_utf8(std::fs::read(shell::root().join(&path))?) {
                files.push(File { path, text });
            }
        }
        Ok(Self { files })
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }

    fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// The names of the folders in `crates/`.
    fn crates(&self) -> Vec<&str> {
        let manifests = self
            .files
            .iter()
            .filter_map(|file| file.path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"));
        manifests.filter(|name| !name.contains('/')).collect()
    }
}

impl File {
    /// The crate whose `src` this file is in.
    fn crate_name(&self) -> Option<&str> {
        if self.path.starts_with("xtask/src/") {
            return Some("xtask");
        }
        let (name, rest) = self.path.strip_prefix("crates/")?.split_once('/')?;
        rest.starts_with("src/").then_some(name)
    }

    fn code(&self) -> Code {
        Code::new(&self.text)
    }
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    arguments.finish()?;
    check()
}

/// # Errors
/// If an invariant does not hold; the places are printed.
pub(crate) fn check() -> anyhow::Result<()> {
    let repository = Repository::read()?;
    let mut n_breaches = 0;
    for check in &CHECKS {
        for Breach { path, line, what } in (check.run)(&repository)? {
            n_breaches += 1;
            let place = if line == 0 { path } else { format!("{path}:{line}") };
            println!("{place}: [{}] {what}", check.name);
        }
    }
    anyhow::ensure!(n_breaches == 0, "{n_breaches} breaches");
    eprintln!("tidy: {} checks, {} files", CHECKS.len(), repository.files.len());
    Ok(())
}

#[cfg(test)]
fn repository(files: &[(&str, &str)]) -> Repository {
    let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
    Repository { files: files.iter().map(file).collect() }
}

#[cfg(test)]
mod tests {
    use super::{CHECKS, HELP};

    #[test]
    fn the_help_text_lists_every_check() {
        for check in &CHECKS {
            assert!(HELP.contains(&format!("\n  {} ", check.name)), "{}", check.name);
        }
    }
}

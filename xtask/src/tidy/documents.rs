//! Documents point at things that exist.

use super::{Breach, CHECKS, File, Repository};
use crate::shell;

const ARCHITECTURE: &str = "ARCHITECTURE.md";
const ARCHITECTURE_MAX_LINES: usize = 200;
const INVARIANT: &str = "**Architecture invariant:**";
const PAPER_TO_CODE: &str = "docs/paper-to-code.md";
const CRATES: &str = "crates/README.md";

pub(super) fn check(repository: &Repository) -> anyhow::Result<Vec<Breach>> {
    let mut breaches = architecture(repository);
    breaches.extend(paper_to_code(repository));
    breaches.extend(crate_lines(repository));
    for file in repository.files.iter().filter(|file| file.path.ends_with(".md")) {
        breaches.extend(dead_links(file, |path| shell::root().join(path).exists()));
    }
    Ok(breaches)
}

/// Each invariant ends with `[tidy: name]` (or `[clippy]`, `[tests: name]`).
fn architecture(repository: &Repository) -> Vec<Breach> {
    let Some(text) = repository.text(ARCHITECTURE) else {
        return vec![Breach::new(ARCHITECTURE, 0, "missing")];
    };
    let mut breaches = Vec::new();
    if text.lines().count() > ARCHITECTURE_MAX_LINES {
        let what = format!("a map stays below {ARCHITECTURE_MAX_LINES} lines");
        breaches.push(Breach::new(ARCHITECTURE, 0, what));
    }
    let mut named = Vec::new();
    for (at, _) in text.match_indices(INVARIANT) {
        let line = text[..at].matches('\n').count() + 1;
        let rest = &text[at + INVARIANT.len()..];
        let sentence = rest.split("\n\n").next().unwrap_or_default();
        let sentence = sentence.split(INVARIANT).next().unwrap_or_default();
        let name = between(sentence, "[tidy: ", "]");
        let elsewhere = sentence.contains("[clippy]") || sentence.contains("[tests: ");
        match name {
            Some(name) if CHECKS.iter().any(|check| check.name == name) => named.push(name),
            Some(name) => {
                breaches.push(Breach::new(ARCHITECTURE, line, format!("no check `{name}`")));
            }
            None if elsewhere => {}
            None => {
                let what = "an invariant names its check: `[tidy: …]`, `[clippy]`, `[tests: …]`";
                breaches.push(Breach::new(ARCHITECTURE, line, what));
            }
        }
    }
    for check in CHECKS.iter().filter(|check| !named.contains(&check.name)) {
        let what = format!("no invariant refers to the check `{}`", check.name);
        breaches.push(Breach::new(ARCHITECTURE, 0, what));
    }
    breaches
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.split_once(open)?.1.split_once(close).map(|(inner, _)| inner)
}

/// Table rows end with a cell `` `file` `` and have before it the symbols that
/// the file defines: `| paper | ``Type::member``, ``function`` | ``crates/…`` |`.
fn paper_to_code(repository: &Repository) -> Vec<Breach> {
    let Some(text) = repository.text(PAPER_TO_CODE) else {
        return vec![Breach::new(PAPER_TO_CODE, 0, "missing")];
    };
    let mut breaches = Vec::new();
    let mut n_symbols = 0;
    for (i, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let [.., symbols, path] = cells[..] else { continue };
        let Some(path) = between(path, "`", "`") else { continue };
        let Some(file) = repository.files.iter().find(|file| file.path == path) else {
            breaches.push(Breach::new(PAPER_TO_CODE, i + 1, format!("no file `{path}`")));
            continue;
        };
        let code = file.code();
        for symbol in symbols.split('`').skip(1).step_by(2) {
            n_symbols += 1;
            if let Some(part) = symbol.split("::").find(|part| !code.defines(part)) {
                let what = format!("`{path}` does not define `{part}`");
                breaches.push(Breach::new(PAPER_TO_CODE, i + 1, what));
            }
        }
    }
    if n_symbols == 0 {
        breaches.push(Breach::new(PAPER_TO_CODE, 0, "names no symbol at all"));
    }
    breaches
}

fn crate_lines(repository: &Repository) -> Vec<Breach> {
    let lines = repository.text(CRATES).unwrap_or_default();
    let missing = |name: &&str| !lines.contains(&format!("`{name}`"));
    let breach = |name| Breach::new(CRATES, 0, format!("has no line for `{name}`"));
    repository.crates().into_iter().filter(missing).map(breach).collect()
}

/// Relative links whose target is not there.
fn dead_links(file: &File, exists: impl Fn(&str) -> bool) -> Vec<Breach> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut breaches = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        for link in line.split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !exists(&joined(folder, target)) {
                breaches.push(Breach::new(&file.path, i + 1, format!("dead link `{target}`")));
            }
        }
    }
    breaches
}

/// `folder/target` without `.` and `..`.
fn joined(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::repository;
    use super::{ARCHITECTURE, PAPER_TO_CODE, architecture, dead_links, joined, paper_to_code};

    #[test]
    fn symbols_that_the_file_does_not_define_are_found() {
        let table = "\
| paper | symbol | file |
|---|---|---|
| loss | `nt_xent` | `crates/a/src/lib.rs` |
| mask | `Mask::values`, `gone` | `crates/a/src/lib.rs` |
| gone | `nt_xent` | `crates/a/src/gone.rs` |
";
        let code = "pub fn nt_xent() {}\nstruct Mask;\nimpl Mask { pub fn values() {} }";
        let repository = repository(&[(PAPER_TO_CODE, table), ("crates/a/src/lib.rs", code)]);
        let whats: Vec<String> = paper_to_code(&repository).into_iter().map(|b| b.what).collect();
        assert_eq!(whats.len(), 2, "{whats:?}");
        assert!(whats[0].contains("`gone`") && whats[1].contains("gone.rs"), "{whats:?}");
    }

    #[test]
    fn an_invariant_names_a_check_that_exists() {
        let text = "**Architecture invariant:** a. [tidy: layers]\n\n\
                    **Architecture invariant:** b.\n\n\
                    **Architecture invariant:** c. [tidy: gone]\n";
        let breaches = architecture(&repository(&[(ARCHITECTURE, text)]));
        let lines: Vec<usize> = breaches.iter().map(|b| b.line).filter(|&line| line > 0).collect();
        assert_eq!(lines, [3, 5]);
    }

    #[test]
    fn dead_links_are_found_and_addresses_left_alone() {
        let text =
            "[a](method.md#x) [b](../README.md) [c](https://example.org/x) [d](gone.md) [e](#x)";
        let repository = repository(&[("docs/a.md", text)]);
        let there = ["docs/method.md", "README.md"];
        let breaches = dead_links(&repository.files[0], |path| there.contains(&path));
        assert_eq!(breaches.len(), 1, "{breaches:?}");
        assert_eq!(joined("docs/design", "../../a/./b.md"), "a/b.md");
    }
}

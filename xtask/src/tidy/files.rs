//! Files as a whole: length, leftovers, fixtures.

use std::collections::BTreeSet;

use super::{Breach, File, Repository};
use crate::shell;

/// Beyond this a file is seldom one thing.
const MAX_LINES: usize = 700;

/// Homes and mount points that mean something on one machine only. In halves,
/// so that this file does not hold them.
const MACHINE_PATHS: [(&str, &str); 6] =
    [("/wo", "rk/"), ("/op", "t/"), ("/ro", "ot/"), ("/ho", "me/"), ("/Us", "ers/"), ("/mn", "t/")];

const UNFINISHED: [&str; 5] = ["todo!", "dbg!", "unimplemented!", "#[ignore]", "#[ignore ="];

pub(super) fn check(repository: &Repository) -> anyhow::Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for file in &repository.files {
        breaches.extend(too_long(file));
        breaches.extend(machine_paths(file));
        breaches.extend(unfinished(file));
    }
    breaches.extend(fixtures_without_script(&shell::repository_files()?, repository));
    Ok(breaches)
}

fn too_long(file: &File) -> Option<Breach> {
    let n_lines = file.text.lines().count();
    let is_code = [".rs", ".py", ".cu", ".md"].iter().any(|end| file.path.ends_with(end));
    (is_code && n_lines > MAX_LINES)
        .then(|| Breach::new(&file.path, 0, format!("{n_lines} lines, at most {MAX_LINES}")))
}

fn machine_paths(file: &File) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        for (first, second) in MACHINE_PATHS {
            let path = format!("{first}{second}");
            let is_root = |at: usize| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|c| !c.is_alphanumeric() && !"./_-~}$*".contains(c))
            };
            if line.match_indices(&path).any(|(at, _)| is_root(at)) {
                let what = format!("`{path}…` is a path of somebody's machine");
                breaches.push(Breach::new(&file.path, i + 1, what));
            }
        }
    }
    breaches
}

fn unfinished(file: &File) -> Vec<Breach> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    // Tests count here, so the whole text is searched; this file names the words.
    let is_here = file.path == "xtask/src/tidy/files.rs";
    let lines = file.text.lines().enumerate().filter(|_| !is_here);
    lines
        .filter_map(|(i, line)| {
            let word = UNFINISHED.iter().find(|word| line.contains(*word))?;
            Some(Breach::new(&file.path, i + 1, format!("`{word}` may not land")))
        })
        .collect()
}

/// A folder of fixtures that no script in `xtask/golden` names cannot be made again.
fn fixtures_without_script(paths: &[String], repository: &Repository) -> Vec<Breach> {
    let scripts: Vec<&File> =
        repository.files.iter().filter(|file| file.path.starts_with("xtask/golden/")).collect();
    let tensors = paths.iter().filter(|path| path.ends_with(".safetensors"));
    let folders = tensors.filter_map(|path| Some(path.split_once("/tests/fixtures/")?.0));
    let folders: BTreeSet<String> = folders.map(|name| format!("{name}/tests/fixtures")).collect();
    let unnamed = |folder: &String| !scripts.iter().any(|script| script.text.contains(folder));
    let breach = |folder| Breach::new(folder, 0, "no script in xtask/golden names this folder");
    folders.into_iter().filter(unnamed).map(breach).collect()
}

#[cfg(test)]
mod tests {
    use super::super::repository;
    use super::{MAX_LINES, fixtures_without_script, machine_paths, too_long, unfinished};

    #[test]
    fn a_path_of_a_machine_is_found_and_a_relative_one_is_not() {
        let home = format!("see {}{}me/x", "/ho", "me/");
        let text = format!("{home}\ncrates{}{}\n~{0}{1}", "/wo", "rk/");
        let repository = repository(&[("README.md", &text)]);
        let lines: Vec<usize> =
            machine_paths(&repository.files[0]).iter().map(|b| b.line).collect();
        assert_eq!(lines, [1]);
    }

    #[test]
    fn long_files_and_unfinished_work_are_found() {
        let long = "\n".repeat(MAX_LINES + 1);
        let repository =
            repository(&[("a.rs", &long), ("b.rs", "fn f() { todo!() }"), ("c.json", &long)]);
        let [a, b, c] = &repository.files[..] else { unreachable!("three files") };
        assert!(too_long(a).is_some() && too_long(b).is_none() && too_long(c).is_none());
        assert_eq!(unfinished(b).len(), 1);
    }

    #[test]
    fn fixtures_need_a_script_that_names_their_folder() {
        let script = "\"\"\"References, for crates/metamask-a/tests/fixtures.\"\"\"";
        let repository = repository(&[("xtask/golden/a.py", script)]);
        let paths = ["a", "b"].map(|x| format!("crates/metamask-{x}/tests/fixtures/x.safetensors"));
        let breaches = fixtures_without_script(&paths, &repository);
        let folders: Vec<&str> = breaches.iter().map(|breach| breach.path.as_str()).collect();
        assert_eq!(folders, ["crates/metamask-b/tests/fixtures"]);
    }
}

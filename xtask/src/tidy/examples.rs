//! Every crate can be taken alone, and every file says what it is.

use super::{Breach, Repository};

pub(super) fn check(repository: &Repository) -> anyhow::Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for name in repository.crates() {
        let folder = format!("crates/{name}");
        let example = format!("{folder}/examples/");
        let is_library = repository.text(&format!("{folder}/src/lib.rs")).is_some();
        if is_library && !repository.rust().any(|file| file.path.starts_with(&example)) {
            breaches.push(Breach::new(example, 0, "a library crate shows how to use it alone"));
        }
    }
    for file in repository.rust() {
        if !file.text.starts_with("//!") {
            breaches.push(Breach::new(&file.path, 1, "begin with `//!`: what this file is"));
        }
    }
    Ok(breaches)
}

#[cfg(test)]
mod tests {
    use super::super::repository;
    use super::check;

    #[test]
    fn a_library_without_example_and_a_file_without_words_are_found() {
        let repository = repository(&[
            ("crates/metamask-a/Cargo.toml", ""),
            ("crates/metamask-a/src/lib.rs", "//! Words."),
            ("crates/metamask-b/Cargo.toml", ""),
            ("crates/metamask-b/src/lib.rs", "fn f() {}"),
            ("crates/metamask-b/examples/alone.rs", "//! Alone."),
            ("crates/metamask-c/Cargo.toml", ""),
            ("crates/metamask-c/src/main.rs", "//! A binary's help shows examples."),
        ]);
        let paths: Vec<String> = check(&repository).unwrap().into_iter().map(|b| b.path).collect();
        assert_eq!(paths, ["crates/metamask-a/examples/", "crates/metamask-b/src/lib.rs"]);
    }
}

//! The program explains itself, and the documents call what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::Metamask;

/// The words in the `Commands:` block of a help text.
fn commands(help: &str) -> Vec<String> {
    let block = help.lines().skip_while(|line| line.trim() != "Commands:").skip(1);
    let entries = block.take_while(|line| !line.trim().is_empty());
    // Descriptions that go on in a second line are indented further.
    let entries = entries.filter(|line| !line.starts_with("     "));
    let names = entries.filter_map(|line| line.split_whitespace().next().map(String::from));
    names.filter(|name| name != "help").collect()
}

/// Every command with its subcommands, as the words after the program's name.
fn all_commands(metamask: &Metamask) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let mut arguments: Vec<String> = path.clone();
        arguments.push("--help".into());
        let help = metamask.succeed(&arguments).stdout;
        for name in commands(&help) {
            let mut deeper = path.clone();
            deeper.push(name);
            open.push(deeper.clone());
            found.push(deeper);
        }
    }
    found
}

#[test]
fn every_command_shows_an_example() {
    let Some(metamask) = Metamask::find() else { return };
    let commands = all_commands(&metamask);
    for name in [
        "pretrain", "evaluate", "inspect", "embed", "export", "presets", "data", "bench", "doctor",
        "grid", "selftest",
    ] {
        assert!(commands.iter().any(|path| path == &[name]), "{name} in {commands:?}");
    }
    for path in &commands {
        let mut arguments = path.clone();
        arguments.push("--help".into());
        let help = metamask.succeed(&arguments).stdout;
        let call = format!("metamask {}", path.join(" "));
        let examples = help.split_once("Example").map_or("", |(_, rest)| rest);
        assert!(examples.contains(&call), "`{call} --help` shows no call of it:\n{help}");
    }
}

/// The first words behind each `metamask` (or `cargo run … --`) of a document's
/// console blocks.
fn called(document: &str) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    let mut inside = false;
    for line in document.lines() {
        if line.starts_with("```") {
            inside = !inside;
            continue;
        }
        let line = line.trim_start().trim_start_matches("$ ");
        let arguments = line
            .strip_prefix("metamask ")
            .or_else(|| line.strip_prefix("target/release/metamask "))
            .or_else(|| line.strip_prefix("cargo run --release -- "));
        if let Some(word) =
            arguments.filter(|_| inside).and_then(|rest| rest.split_whitespace().next())
        {
            calls.insert(word.to_owned());
        }
    }
    calls
}

#[test]
fn the_commands_in_the_documents_exist() {
    let Some(metamask) = Metamask::find() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let known = all_commands(&metamask);
    for name in ["README.md", "CONTRIBUTING.md", "docs/method.md", "docs/grid.md"] {
        let text = fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        for word in called(&text) {
            assert!(
                word.starts_with('-') || known.iter().any(|path| path[0] == word),
                "{name} calls `metamask {word}`, which there is not: {known:?}"
            );
        }
    }
}

#[test]
fn presets_are_listed_and_shown() {
    let Some(metamask) = Metamask::find() else { return };
    let list = metamask.succeed(&["presets"]).stdout;
    for word in ["quickstart", "cifar10", "byol", "authors", "DATA-METHOD"] {
        assert!(list.contains(word), "{word} in\n{list}");
    }
    for name in ["quickstart", "cifar10-simclr-metamask-authors", "stl10-nnclr-tuned"] {
        let preset = metamask.succeed(&["presets", name]).stdout;
        assert!(preset.contains("[optimizer]"), "{preset}");
    }
}

#[test]
fn data_sets_are_listed_and_a_preview_is_a_picture() {
    let Some(metamask) = Metamask::find() else { return };
    let list = metamask.succeed(&["data", "list"]).stdout;
    for name in ["garments", "shapes", "fashion-mnist", "cifar10"] {
        assert!(list.contains(name), "{name} in\n{list}");
    }
    metamask.succeed(&["data", "preview", "garments", "--out", "views.png"]);
    let bytes = fs::read(metamask.path("views.png")).expect("written");
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "a PNG");
}

#[test]
fn the_version_is_printed() {
    let Some(metamask) = Metamask::find() else { return };
    assert!(metamask.succeed(&["--version"]).stdout.starts_with("metamask "));
}

//! A run's encoder as files for others.

use std::fs;

use crate::bad_input::assert_refused;
use crate::data::server::{COMMIT, Mode, Server};
use crate::support::{Finished, Metamask, read, sorted_names};

#[test]
fn an_encoder_is_exported_once_with_its_mask_and_a_card() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    let export = |more: &[&str]| metamask.run(&[&["export", "a"], more].concat());

    let torchvision = ["--to", "torchvision", "--out", "e.safetensors"];
    let finished = export(&torchvision);
    assert_eq!(finished.code, Some(0), "stderr:\n{}", finished.stderr);
    assert_eq!(finished.stdout, "e.safetensors\ne.mask.safetensors\ne.md\n");
    let card = fs::read_to_string(metamask.path("e.md")).expect("written");
    for part in [
        "# ResNet-18 of width 4, SimCLR + L_drr + MetaMask",
        "epoch 4 of 4, 24 steps, batches of 16",
        "| trained encoder, with mask |",
        "kNN: k = 20",
        "- `augmentation.size` is 16, by default 32",
        "model.load_state_dict(load_file(\"e.safetensors\"))",
        "load_file(\"e.mask.safetensors\")[\"mask\"]",
    ] {
        assert!(card.contains(part), "{part} in\n{card}");
    }
    let before = sorted_names(metamask.folder());
    let bytes = read(&metamask.path("e.safetensors"));
    assert_refused(&export(&torchvision), 73, "OUT-DIR", &["e.safetensors", "exists already"]);
    assert_eq!(sorted_names(metamask.folder()), before);

    let folded = export(&["--to", "torchvision", "--mask", "folded", "--out", "f.safetensors"]);
    assert_eq!(folded.stdout, "f.safetensors\nf.md\n", "{}", folded.stderr);
    let again = export(&["--to", "torchvision", "--out", "g.safetensors"]);
    assert_eq!(again.code, Some(0));
    assert_eq!(read(&metamask.path("g.safetensors")), bytes, "the same run, the same bytes");

    let timm = export(&["--to", "timm", "--out", "t.safetensors"]);
    assert_refused(&timm, 2, "USAGE", &["width 64", "this one has 4"]);
    let gone = metamask.run(&["export", "gone", "--to", "timm", "--out", "t.safetensors"]);
    assert_refused(&gone, 66, "MISSING", &["gone"]);
}

#[test]
fn a_run_starts_from_an_exported_encoder_and_knows_its_hash() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    for (mask, out) in [("apart", "e.safetensors"), ("folded", "f.safetensors")] {
        metamask.succeed(&["export", "a", "--to", "torchvision", "--mask", mask, "--out", out]);
    }
    let start = |out: &str, more: &[&str]| {
        let mut arguments = metamask.tiny_run(out);
        arguments.extend(["--set", "training.epochs=1"].map(String::from));
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        metamask.run(&arguments)
    };
    let folded = start("b", &["--init", "f.safetensors"]);
    assert_refused(&folded, 65, "CKPT-SHAPE", &["f.safetensors", "fc.weight", "fc.bias"]);
    assert!(folded.stderr.contains("--init-allow fc.bias --init-allow fc.weight"));
    assert!(!metamask.path("b").exists());

    let begun = start("b", &["--init", "f.safetensors", "--init-allow", "fc.bias", "fc.weight"]);
    assert_eq!(begun.code, Some(0), "{}", begun.stderr);
    for line in ["conv1.weight", "loaded [4, 3, 3, 3]", "not in the encoder, left out"] {
        assert!(begun.stderr.contains(line), "{line} in\n{}", begun.stderr);
    }
    // It is held against the weights it started from, and against a random start.
    for row in ["untrained encoder, random start ", "weights it started from (f.safetensors) "] {
        assert!(begun.stdout.contains(row), "{row} in\n{}", begun.stdout);
    }
    let other = start("c", &["--init", "e.safetensors"]);
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    // The same weights, whichever file they came from, and not those of a random start.
    let model = |run: &str| {
        read(&metamask.path(&format!("{run}/checkpoints/step-0000006/model.safetensors")))
    };
    let random = start("d", &[]);
    assert_eq!(random.code, Some(0), "{}", random.stderr);
    assert!(model("b") == model("c") && model("b") != model("d"));

    // The run is killed before its first checkpoint, and the file is another one then.
    fs::remove_dir_all(metamask.path("c/checkpoints")).expect("removed");
    fs::remove_file(metamask.path("c/results.json")).expect("removed");
    fs::copy(metamask.path("f.safetensors"), metamask.path("e.safetensors")).expect("copied");
    let resumed = metamask.run(&["pretrain", "--out", "c", "--resume"]);
    assert_refused(&resumed, 65, "CKPT-HASH", &["e.safetensors", "SHA-256"]);
    // A checkpoint needs the file no more.
    fs::remove_file(metamask.path("f.safetensors")).expect("removed");
    let resumed = metamask.run(&["pretrain", "--out", "b", "--resume"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    // Nor does an evaluation, which then says what it cannot.
    let evaluated = metamask.succeed(&["evaluate", "b", "--protocol", "knn"]);
    assert!(evaluated.stderr.contains("no row for the weights it started from"));
    assert!(!evaluated.stdout.contains("weights it started from"), "{}", evaluated.stdout);
}

#[test]
fn a_run_starts_from_the_hub_at_a_pinned_commit() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    let exported = ["export", "a", "--to", "torchvision", "--out", "model.safetensors"];
    metamask.succeed(&exported);
    let file = ("model.safetensors".to_owned(), read(&metamask.path("model.safetensors")));
    let server = Server::new(Mode::Good, &[file]);
    let hub = format!("hub:org/net@{COMMIT}");
    let start = |out: &str, init: &str, more: &[&str]| {
        let mut arguments = metamask.tiny_run(out);
        let short = ["--set", "training.epochs=1", "--init", init];
        arguments.extend(short.iter().chain(more).map(|&word| word.to_owned()));
        let mut command = metamask.command(&arguments);
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", server.url());
        command.env("HF_TOKEN", "hf_CANARY").env("HF_HOME", metamask.path("hf"));
        let finished = Finished::from(command.output().expect("it starts"));
        assert!(!finished.stderr.contains("CANARY"), "{}", finished.stderr);
        finished
    };
    let offline = start("b", &hub, &["--offline"]);
    assert_refused(&offline, 66, "MISSING", &["org/net", "offline"]);
    assert!(server.seen().is_empty() && !metamask.path("b").exists());
    for wrong in ["hub:org/net@main", "hub:net", "hub:../net@0123"] {
        assert_refused(&start("b", wrong, &[]), 2, "CONFIG", &["hub:ORG/NAME@COMMIT"]);
    }
    let begun = start("b", &hub, &[]);
    assert_eq!(begun.code, Some(0), "{}", begun.stderr);
    for words in ["unpinned", "conv1.weight", "loaded [4, 3, 3, 3]"] {
        assert!(begun.stderr.contains(words), "{words} in\n{}", begun.stderr);
    }
    assert!(begun.stdout.contains(&format!("weights it started from ({hub})")), "{}", begun.stdout);
    let asked = server.seen();
    assert!(asked.iter().all(|seen| seen.path.starts_with("/org/net/resolve/")), "{asked:?}");

    // Fetched once: the same weights, offline, as from the file itself.
    let again = start("c", &hub, &["--offline"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(!again.stderr.contains("unpinned") && server.seen().is_empty());
    let from_file = start("d", "model.safetensors", &[]);
    assert_eq!(from_file.code, Some(0), "{}", from_file.stderr);
    let model = |run: &str| {
        read(&metamask.path(&format!("{run}/checkpoints/step-0000006/model.safetensors")))
    };
    assert!(model("b") == model("c") && model("b") == model("d"));
}

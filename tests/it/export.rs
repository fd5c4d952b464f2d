//! A run's encoder as files for others.

use std::fs;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, read, sorted_names};

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
}

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

//! What pre-training may see: neither a label nor a test image.

use std::{fs, path::Path};

use crate::support::{Metamask, metrics, read, sorted_names};

const MANIFEST: &str = r#"
name = "small"
title = "small"
licence = "none"
source = "this test"
side = 8
classes = ["a", "b", "c"]
[images]
train = 96
test = 24
[layout]
format = "cifar"
folder = "small-bin"
train = ["train.bin"]
test = ["test.bin"]
label_bytes = 1
"#;

/// A label, then 3 · 8 · 8 bytes that are the image's own.
fn record(image: usize, label: usize) -> Vec<u8> {
    let pixels = (0..192usize).map(|at| (at * at * (image + 1) + 37 * image) as u8);
    [label as u8].into_iter().chain(pixels).collect()
}

/// The same training images whatever the labels and the test images.
fn write(folder: &Path, label: impl Fn(usize) -> usize, first_test: usize) {
    fs::create_dir_all(folder).expect("made");
    let train: Vec<u8> = (0..96).flat_map(|i| record(i, label(i))).collect();
    let test: Vec<u8> = (first_test..first_test + 24).flat_map(|i| record(i, label(i))).collect();
    fs::write(folder.join("train.bin"), train).expect("written");
    fs::write(folder.join("test.bin"), test).expect("written");
}

#[test]
fn other_labels_and_other_test_images_leave_what_is_trained_bit_for_bit() {
    let Some(metamask) = Metamask::find() else { return };
    fs::write(metamask.path("small.toml"), MANIFEST).expect("written");
    write(&metamask.path("data-a"), |i| i % 3, 1000);
    write(&metamask.path("data-b"), |i| i / 7 % 3, 2000);
    let trained = |name: &str| {
        let mut arguments = metamask.tiny_run(name);
        let data = format!("data-{name}");
        arguments.extend(["--data-dir", &data].map(String::from));
        for set in ["data.dataset=manifest:small.toml", "data.train_images=0"] {
            arguments.extend(["--set", set].map(String::from));
        }
        arguments.extend(["--set", "data.validation_images=0"].map(String::from));
        metamask.succeed(&arguments);
        let run = metamask.path(name);
        let checkpoints = run.join("checkpoints");
        let last = checkpoints.join(sorted_names(&checkpoints).last().expect("a checkpoint"));
        let tensors = sorted_names(&last).into_iter().filter(|name| name.ends_with(".safetensors"));
        let tensors: Vec<Vec<u8>> = tensors.map(|name| read(&last.join(name))).collect();
        assert!(tensors.len() > 2, "encoder, heads and mask");
        let (judged, steps): (Vec<_>, Vec<_>) =
            metrics(&run).into_iter().partition(|line| line["kind"] == "evaluation");
        (tensors, steps, judged)
    };
    let (a, b) = (trained("a"), trained("b"));
    assert!(a.0 == b.0, "the weights, the optimiser and the mask");
    assert_eq!(a.1, b.1, "every step's and epoch's numbers");
    assert_ne!(a.2, b.2, "evaluation looks at labels and test images");
}

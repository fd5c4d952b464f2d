//! The folds of STL-10, the one file of it that is text; the others are bytes of a known
//! number, few here.
#![no_main]

mod data_file;

use libfuzzer_sys::fuzz_target;

const MANIFEST: &[u8] = br#"
name = "small"
title = "STL-10 of 2x2 pixels"
licence = "none"
source = "this target"
side = 2
classes = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
[images]
train = 3
test = 1
[layout]
format = "stl"
folder = "small"
"#;

fuzz_target!(|bytes: &[u8]| data_file::check(bytes, "manifest:{}/small.toml", "fold_indices.txt", &[
        ("small.toml", MANIFEST),
        ("train_X.bin", &[0; 36]),
        ("train_y.bin", &[1, 2, 10]),
        ("test_X.bin", &[0; 12]),
        ("test_y.bin", &[1]),
    ], false));

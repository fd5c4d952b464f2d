//! The zip of Tiny-ImageNet, as it is published.
#![no_main]

mod data_file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| data_file::check(bytes, "tiny-imagenet", "tiny-imagenet-200.zip", &[], true));

//! A PNG file of a folder.
#![no_main]

mod data_file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| data_file::check(bytes, "folder:{}", "a.png", &[], false));

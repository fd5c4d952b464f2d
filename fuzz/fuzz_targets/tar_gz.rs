//! An archive of CIFAR-10, as it is published.
#![no_main]

mod data_file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| data_file::check(bytes, "cifar10", "cifar-10-binary.tar.gz", &[], true));

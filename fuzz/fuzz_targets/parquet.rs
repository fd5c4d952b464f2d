//! A parquet file of CIFAR-10, as the hub keeps it.
#![no_main]

mod data_file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    data_file::let_guarded_panics_pass();
    data_file::check(bytes, "cifar10", "train-00000-of-00001.parquet", &[
        ("test-00000-of-00001.parquet", include_bytes!("../corpus/parquet/snappy")),
    ], false);
});

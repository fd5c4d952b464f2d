//! A binary batch of CIFAR-10.
#![no_main]

mod data_file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| data_file::check(bytes, "cifar10", "data_batch_2.bin", &[
        ("data_batch_1.bin", &[0; 3073]),
        ("data_batch_3.bin", &[0; 3073]),
        ("data_batch_4.bin", &[0; 3073]),
        ("data_batch_5.bin", &[0; 3073]),
        ("test_batch.bin", &[0; 3073]),
    ], false));

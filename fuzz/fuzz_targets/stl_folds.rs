//! The folds of STL-10, the one file of it that is text; the others are bytes of a known number.
#![no_main]

mod data_file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| data_file::check(bytes, "stl10", "fold_indices.txt", &[
        ("train_X.bin", &[0; 3 * 3 * 96 * 96]),
        ("train_y.bin", &[1, 2, 10]),
        ("test_X.bin", &[0; 3 * 96 * 96]),
        ("test_y.bin", &[1]),
    ], false));

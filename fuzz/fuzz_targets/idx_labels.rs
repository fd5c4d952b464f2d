//! An IDX file of labels, of MNIST.
#![no_main]

mod data_file;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| data_file::check(
    bytes,
    "mnist",
    "train-labels-idx1-ubyte",
    &[
        ("train-images-idx3-ubyte", include_bytes!("../corpus/idx/train")),
        ("t10k-images-idx3-ubyte", include_bytes!("../corpus/idx/test")),
        ("t10k-labels-idx1-ubyte", include_bytes!("../corpus/idx_labels/test")),
    ],
    false
));

//! A file of weights: its header, and its tensors against those of a model.
#![no_main]

use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use libfuzzer_sys::fuzz_target;
use metamask_train::{
    checkpoint::NamedTensors,
    untrusted::{tensor_names, tensors},
};

static LIKE: LazyLock<NamedTensors> = LazyLock::new(|| {
    let tensor = |n: usize| Tensor::zeros(n, DType::F32, &Device::Cpu).expect("a tensor");
    [("a".to_owned(), tensor(2)), ("b".to_owned(), tensor(3))].into()
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(found) = tensors(bytes, &LIKE) {
        assert_eq!(found.len(), LIKE.len());
        let names = tensor_names(bytes).expect("its header was read a moment ago");
        assert_eq!(names.len(), LIKE.len());
    }
    let _ = tensor_names(bytes);
});

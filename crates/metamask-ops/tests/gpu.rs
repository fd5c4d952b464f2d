//! That a GPU is there where one is expected: the other tests pass without.
#![cfg(feature = "cuda")]

#[test]
fn there_is_a_gpu_where_one_is_expected() {
    let found = metamask_ops::cuda_device(0);
    if std::env::var_os("METAMASK_GPU_EXPECTED").is_some() {
        assert!(found.expect("a GPU is expected").is_cuda());
    } else if let Err(error) = found {
        let error = error.to_string();
        assert!(error.contains("no GPU can be used: libcuda.so.1"), "{error}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    assert!(metamask_ops::cuda_device(1000).is_err());
}

//! A run's `results.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metamask_train::untrusted::results;

fuzz_target!(|bytes: &[u8]| {
    let _ = results(bytes);
});

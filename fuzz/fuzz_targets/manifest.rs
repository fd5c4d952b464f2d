//! A checkpoint's `MANIFEST.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metamask_train::untrusted::manifest_step;

fuzz_target!(|bytes: &[u8]| {
    let _ = manifest_step(bytes);
});

//! A `metrics.jsonl` that a resumed run cuts back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metamask_train::untrusted::log_up_to;

fuzz_target!(|bytes: &[u8]| {
    let kept = log_up_to(bytes, 100);
    assert!(kept.len() <= bytes.len());
    assert_eq!(log_up_to(&kept, 100), kept, "what is kept is kept again");
});

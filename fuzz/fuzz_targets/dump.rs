//! The `dump.json` of a step that failed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metamask_train::untrusted::dump_record;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = dump_record(bytes) {
        assert!(record.step > 0);
    }
});

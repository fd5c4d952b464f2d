//! A configuration, and what is printed of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metamask_train::Config;

fuzz_target!(|text: &str| {
    if let Ok(config) = Config::read(text, "config.toml", &[]) {
        let again = Config::read(&config.to_annotated_toml(), "again", &[]).expect("our own text");
        assert!(again == config, "what is printed is what was read");
    }
});

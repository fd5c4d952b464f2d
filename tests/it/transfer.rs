//! A trained encoder on another data set.

use crate::bad_input::assert_refused;
use crate::support::{Metamask, read};

#[test]
fn a_run_is_evaluated_on_another_data_set_and_says_so() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    let log = read(&metamask.path("a/metrics.jsonl"));
    let other = metamask.run(&["evaluate", "a", "--data", "shapes", "--protocol", "knn", "--json"]);
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    let results: serde_json::Value = serde_json::from_str(&other.stdout).expect("JSON");
    let split = results["split"].as_str().expect("text");
    for words in ["shapes", "training images", "trained on garments"] {
        assert!(split.contains(words), "{split}");
    }
    // Another bank and other test images: not the numbers of the run itself.
    let own = metamask.run(&["evaluate", "a", "--protocol", "knn", "--json"]);
    let own: serde_json::Value = serde_json::from_str(&own.stdout).expect("JSON");
    assert_ne!(own["rows"], results["rows"]);
    assert!(!own["split"].as_str().expect("text").contains("transfer"));
    assert_eq!(log, read(&metamask.path("a/metrics.jsonl")), "the run is left alone");

    let unknown = metamask.run(&["evaluate", "a", "--data", "shape"]);
    assert_refused(&unknown, 2, "CONFIG", &["shape"]);
}

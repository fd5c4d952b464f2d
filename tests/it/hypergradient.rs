//! The forms of the meta step on a run's own state.

use serde_json::Value;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, Results};

#[test]
fn every_form_of_the_meta_step_is_held_against_exact() {
    let Some(metamask) = Metamask::find() else { return };
    let mut run = metamask.tiny_run("run");
    // At its default rate the mask of so small a run leaps to 0 and 1, where no gradient is left.
    let settings = ["--set", "training.epochs=1", "--set", "mask.learning_rate=0.01"];
    run.extend(settings.map(String::from));
    metamask.succeed(&run);
    let before = Results::of(&metamask.path("run"));
    let inspect = ["inspect", "hypergradient", "run", "--repeats", "1", "--threads", "1"];
    let json = metamask.succeed(&[&inspect[..], &["--json"]].concat()).stdout;
    let object: Value = serde_json::from_str(&json).expect("one JSON object");
    let forms = object["forms"].as_array().expect("a list");
    assert_eq!(forms.len(), 12, "three virtual steps, three hypergradients, exact twice");
    for form in forms {
        let number = |key: &str| form[key].as_f64().unwrap_or_else(|| panic!("{key}: {form}"));
        assert!(number("cosine").abs() < 1.0 + 1e-9, "{form}");
        assert!(number("duration_s") > 0.0 && number("second_order_share") >= 0.0, "{form}");
        match form["hypergradient"].as_str() {
            // Computed again or kept: the same bits.
            Some("exact") => assert_eq!(number("relative_error"), 0.0, "{form}"),
            Some("first-order") => assert_eq!(number("second_order_share"), 0.0, "{form}"),
            _ => assert!(number("relative_error") > 0.0, "{form}"),
        }
    }
    before.assert_equal(&Results::of(&metamask.path("run")), "inspecting changes nothing");
}

#[test]
fn a_run_without_a_mask_has_no_hypergradient() {
    let Some(metamask) = Metamask::find() else { return };
    let mut run = metamask.tiny_run("run");
    run.extend(["--set", "mask.mode=off", "--set", "training.epochs=1"].map(String::from));
    metamask.succeed(&run);
    let refused = metamask.run(&["inspect", "hypergradient", "run"]);
    assert_refused(&refused, 2, "USAGE", &["run", "mask.mode", "off"]);
    let refused = metamask.run(&["inspect", "hypergradient", "nowhere"]);
    assert_refused(&refused, 66, "MISSING", &["nowhere"]);
}

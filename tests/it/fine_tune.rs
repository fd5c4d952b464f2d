//! Fine-tuning with all and with few labels.

use serde_json::Value;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, Results, read};

#[test]
fn shares_of_the_labels_are_tuned_on_and_said() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    let (log, before) = (read(&metamask.path("a/metrics.jsonl")), Results::of(&metamask.path("a")));
    let tune = |more: &[&str]| {
        let all = ["evaluate", "a", "--protocol", "fine-tune", "--epochs", "3"];
        metamask.run(&[&all, more].concat())
    };
    let both = tune(&["--labels", "1,0.2", "--json", "--threads", "1"]);
    assert_eq!(both.code, Some(0), "{}", both.stderr);
    let results: Value = serde_json::from_str(&both.stdout).expect("JSON");
    let rows = results["rows"].as_array().expect("rows");
    let names: Vec<&str> =
        rows.iter().map(|row| row["representation"].as_str().expect("text")).collect();
    let trained = ["trained encoder, with mask", "trained encoder, without mask"];
    assert_eq!(names, [&["untrained encoder"], &trained[..]].concat());
    for row in rows {
        let tuned = row["fine_tuned"].as_array().expect("numbers");
        // 96 training images of ten classes: a fifth is two of each.
        let images: Vec<u64> =
            tuned.iter().map(|tuned| tuned["images"].as_u64().expect("a count")).collect();
        assert_eq!(images, [96, 20]);
        for tuned in tuned {
            let percent = tuned["accuracy_percent"].as_f64().expect("a number");
            assert!((0.0..=100.0).contains(&percent));
        }
        assert!(row["knn_percent"].is_null());
    }
    let protocols = results["protocols"].as_array().expect("lines");
    assert_eq!(protocols.len(), 2);
    for words in ["20 % of labels: 20 of 96 training images", "3 epochs of batch 8", "seed 0"] {
        assert!(protocols[1].as_str().expect("text").contains(words), "{protocols:?}");
    }
    assert!(results["split"].as_str().expect("text").contains("64 validation images"));

    // Whatever the number of threads, and again; another seed draws other images.
    for threads in ["2", "4"] {
        let again = tune(&["--labels", "1,0.2", "--json", "--threads", threads]);
        assert_eq!(again.stdout, both.stdout, "{threads} threads");
    }
    let other = tune(&["--labels", "0.2", "--json", "--seed", "7"]);
    let other: Value = serde_json::from_str(&other.stdout).expect("JSON");
    assert_ne!(other["rows"][1]["fine_tuned"][0], results["rows"][1]["fine_tuned"][1]);

    let table = tune(&["--protocol", "knn", "--labels", "0.1"]);
    assert!(table.stdout.contains("     kNN  tuned 10 %\n"), "{}", table.stdout);
    assert!(table.stderr.contains("fine-tuning trained encoder, with mask: 100 % of"));
    assert_eq!(log, read(&metamask.path("a/metrics.jsonl")), "the run is left alone");
    before.assert_equal(&Results::of(&metamask.path("a")), "the run is left alone");

    let transfer = tune(&["--data", "shapes", "--labels", "0.01"]);
    assert_eq!(transfer.code, Some(0), "{}", transfer.stderr);
    for words in ["70 of 7000 training images", "transfer: encoder and mask trained on garments"] {
        assert!(transfer.stdout.contains(words), "{}", transfer.stdout);
    }
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    let run = |more: &[&str]| metamask.run(&[&["evaluate", "a"], more].concat());
    let tune = |more: &[&str]| run(&[&["--protocol", "fine-tune"], more].concat());
    assert_refused(&run(&["--labels", "0.1"]), 2, "USAGE", &["--labels", "--protocol fine-tune"]);
    assert_refused(&tune(&["--labels", "0"]), 2, "USAGE", &["share of labels", "got 0"]);
    assert_refused(&tune(&["--labels", "10"]), 2, "USAGE", &["share of labels", "got 10"]);
    assert_refused(&tune(&["--batch-size", "97"]), 2, "USAGE", &["from 2 to the 96"]);
    assert_refused(&tune(&["--epochs", "0"]), 2, "USAGE", &["epochs"]);
    let lost = tune(&["--learning-rate", "1e30", "--epochs", "2"]);
    assert_refused(&lost, 70, "NOT-FINITE", &["fine-tuning untrained encoder", "epoch"]);
}

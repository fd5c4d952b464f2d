//! Looking at the dimensions of a run, and at what the theorem promises for it.

use std::fs;

use serde_json::Value;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, json, number};

#[test]
fn dimensions_are_measured_listed_and_drawn_once() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a<b>"));
    let inspect = ["inspect", "dimensions", "a<b>"];
    let found = json(&metamask, &[&inspect[..], &["--json", "--out", "a.svg"]].concat());

    // ResNet-18 of width 4 has 32 features; 64 validation images.
    assert_eq!((&found["epoch"], &found["images"]), (&4.into(), &64.into()));
    assert_eq!(found["knn_images"], serde_json::json!([96, 64]));
    let dimensions = found["dimensions"].as_array().expect("a list");
    assert_eq!((dimensions.len(), &found["agreement_with"]), (32, &"mask".into()));
    let mask = json(&metamask, &["inspect", "mask", "a<b>", "--json"]);
    let values = || dimensions.iter().map(|row| number(row, "mask"));
    assert_eq!(values().fold(f64::INFINITY, f64::min), number(&mask, "min"));
    assert_eq!(values().fold(0.0, f64::max), number(&mask, "max"));
    for usage in [&found["usage"], &found["masked_usage"]] {
        let (ratio, rank) = (number(usage, "participation_ratio"), number(usage, "effective_rank"));
        assert!(1.0 <= ratio && ratio <= rank && rank <= 32.0, "{usage}");
        assert_eq!(usage["spectrum"].as_array().expect("a list").len(), 32);
    }
    // Medium scenes: 16 factors and 5 of a distractor, in two groups.
    let factors = found["factors"].as_array().expect("a list");
    let n = |sharing: &str| factors.iter().filter(|f| f["sharing"] == sharing).count();
    assert_eq!((n("shared-by-views"), n("differs-between-views")), (12, 9));
    for row in dimensions {
        let share = |name: &str| {
            let share = number(row, name);
            assert!((0.0..=1.0).contains(&share), "{name} of {row}");
            share
        };
        // Together factors explain at least what one of them does.
        let hue = number(&row["factor_shares"], "background_hue");
        assert!(share("shared_nuisance_share") >= hue - 1e-9 && share("class_share") >= 0.0);
        share("differing_nuisance_share");
    }
    let agreements = found["agreements"].as_array().expect("a list");
    assert_eq!(agreements.len(), 8);
    for agreement in agreements {
        assert!((-1.0..=1.0).contains(&number(agreement, "rho")), "{agreement}");
        assert!((1e-4..=1.0).contains(&number(agreement, "p_value")), "{agreement}");
    }

    let picture = fs::read_to_string(metamask.path("a.svg")).expect("written");
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"), "{picture}");
    assert!(picture.contains("a&lt;b&gt;") && !picture.contains("a<b>"), "the name is text");
    assert_eq!(picture.matches("<circle").count(), 3 * 32, "a dot for each dimension");
    let again = metamask.run(&[&inspect[..], &["--out", "a.svg"]].concat());
    assert_refused(&again, 73, "OUT-DIR", &["a.svg", "exists"]);
    assert_eq!(fs::read_to_string(metamask.path("a.svg")).expect("still there"), picture);

    let threads = |n| metamask.succeed(&[&inspect[..], &["--json", "--threads", n]].concat());
    assert_eq!(threads("1").stdout, threads("3").stdout);
    let table = metamask.succeed(&inspect).stdout;
    for word in ["effective rank", "alpha-ReQ", "mask value", "32 dimensions"] {
        assert!(table.contains(word), "{word} in\n{table}");
    }
}

#[test]
fn a_mask_is_held_against_other_orders_where_that_is_asked_for() {
    let Some(metamask) = Metamask::find() else { return };
    let run = |name: &str, more: &[&str]| {
        let mut arguments = metamask.tiny_run(name);
        arguments.extend(more.iter().map(|&word| word.to_owned()));
        let table = metamask.succeed(&arguments).stdout;
        let results = fs::read_to_string(metamask.path(name).join("results.json"));
        let results = results.expect("a finished run has results");
        (table, serde_json::from_str::<Value>(&results).expect("JSON"))
    };
    let asked = ["--set", "evaluation.mask_controls=3", "--threads"];
    let (table, found) = run("one", &[&asked[..], &["1"]].concat());
    assert_eq!(found, run("three", &[&asked[..], &["3"]].concat()).1, "whatever the threads");
    let controls = &found["mask_controls"];
    let orders: Vec<&str> = controls["orders"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|order| order[0].as_str().expect("a word"))
        .collect();
    assert_eq!(orders, ["learned", "reversed", "oracle", "variance", "view-agreement"]);
    // The learned order is the run's own number, no order the one beside it.
    let [own, unmasked] = [2, 3].map(|row: usize| &found["rows"][row]["knn_percent"]);
    assert_eq!(&controls["orders"][0][1]["soft_knn_percent"], own);
    assert_eq!(&controls["knn_percent"], unmasked);
    assert_eq!(controls["random"].as_array().expect("a list").len(), 3);
    assert_eq!(controls["decodability"].as_array().expect("a list").len(), 1 + 21);
    for line in ["learned, reversed", "at random, 3 draws", "background_hue (shared)", "rho "] {
        assert!(table.contains(line), "{line} in\n{table}");
    }
    let (table, found) = run("plain", &[]);
    assert!(found.get("mask_controls").is_none() && !table.contains("at random"), "{table}");
}

#[test]
fn a_run_without_a_mask_has_dimensions_and_bounds() {
    let Some(metamask) = Metamask::find() else { return };
    let mut off = metamask.tiny_run("off");
    let set = ["mask.mode=off", "training.epochs=1", "data.dataset=garments-plain"];
    off.extend(set.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
    metamask.succeed(&off);
    let dimensions =
        json(&metamask, &["inspect", "dimensions", "off", "--json", "--out", "off.svg"]);
    assert_eq!(dimensions["agreement_with"], "std");
    assert!(dimensions["masked_usage"].is_null() && dimensions["dimensions"][0]["mask"].is_null());
    assert_eq!(dimensions["factors"], serde_json::json!([]));
    let picture = fs::read_to_string(metamask.path("off.svg")).expect("written");
    assert_eq!(picture.matches("<circle").count(), 32, "one panel: no factors are known");

    let bounds = json(&metamask, &["inspect", "bounds", "off", "--json"]);
    assert!(bounds["masked"].is_null() && bounds["unmasked"].is_object(), "{bounds}");
    assert_refused(&metamask.run(&["inspect", "bounds", "gone"]), 66, "MISSING", &["gone"]);
    assert_refused(&metamask.run(&["inspect", "dimensions", "gone"]), 66, "MISSING", &["gone"]);
}

#[test]
fn the_theorem_s_sides_are_made_of_the_terms_that_are_printed() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("run"));
    let found = json(&metamask, &["inspect", "bounds", "run", "--json"]);
    assert_eq!(found["batch"], 16);
    for measured in [&found["masked"], &found["unmasked"]] {
        let term = |name| number(measured, name);
        assert_eq!((&measured["negatives"], &measured["classes"]), (&30.into(), &10.into()));
        assert_eq!(measured["samples"], 64);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b} in {measured}");
        let tau = term("temperature");
        let (loss, variance) = (term("contrastive_loss"), term("variance"));
        let middle = term("cross_entropy") + 3f64.ln();
        let printed = &measured["as_printed"];
        close(number(printed, "middle"), middle);
        close(number(printed, "upper"), loss + variance.sqrt());
        let lower = loss - variance.sqrt() - 0.5 * term("deviation_sum");
        close(number(printed, "lower"), lower);
        // On the unit sphere the variance is tau times that of u.
        let scaled = &measured["at_temperature"];
        close(number(scaled, "upper"), loss + (tau * variance).sqrt() / tau);
        assert_eq!(scaled["upper_holds"], true, "{measured}");
        assert!(term("nt_xent") > loss);
    }
    let table = metamask.succeed(&["inspect", "bounds", "run"]).stdout;
    for word in ["theorem 5.1", "masked", "L_contrast", "gap", "vacuous"] {
        assert!(table.contains(word), "{word} in\n{table}");
    }
}

#[test]
fn the_theorem_is_followed_over_every_checkpoint_that_is_kept() {
    let Some(metamask) = Metamask::find() else { return };
    let run = |name: &str, set: &str| {
        let mut run = metamask.tiny_run(name);
        run.extend(["--set", set].map(String::from));
        metamask.succeed(&run);
    };
    run("a<b>", "checkpoint.keep=10");
    let over = ["inspect", "bounds", "a<b>", "--over-epochs"];
    let found = json(&metamask, &[&over[..], &["--json"]].concat());
    let checkpoints = found["checkpoints"].as_array().expect("a list");
    let of = |name: &str| checkpoints.iter().map(|at| number(at, name)).collect::<Vec<f64>>();
    // Four epochs of six steps.
    assert_eq!(of("step"), [6.0, 12.0, 18.0, 24.0]);
    assert_eq!((of("epoch"), of("epochs")), (vec![1.0, 2.0, 3.0, 4.0], vec![1.0, 2.0, 3.0, 4.0]));
    // The newest is what the command says of one; training has changed something before.
    let newest = json(&metamask, &["inspect", "bounds", "a<b>", "--json"]);
    for mask in ["masked", "unmasked"] {
        assert_eq!(checkpoints[3][mask], newest[mask]);
        assert_ne!(checkpoints[0][mask], newest[mask]);
    }

    let table = metamask.succeed(&over).stdout;
    assert_eq!(table.lines().filter(|line| line.trim_start().starts_with("4 ")).count(), 2);
    assert!(table.contains("no mask") && !table.contains("kept      "), "all are kept: {table}");
    if !std::path::Path::new("/usr/share/fonts").is_dir() {
        return crate::support::skip("no font is installed");
    }
    let draw = [&over[..], &["--out", "figures", "--threads", "1"]].concat();
    metamask.succeed(&draw);
    let file =
        |end: &str| fs::read(metamask.path(&format!("figures/bounds.{end}"))).expect("there");
    assert!(file("png").starts_with(b"\x89PNG"));
    let picture = String::from_utf8(file("svg")).expect("UTF-8");
    assert!(picture.contains("a&lt;b&gt;") && !picture.contains("a<b>"), "the name is text");
    let csv = String::from_utf8(file("csv")).expect("UTF-8");
    assert_eq!(csv.lines().count(), 1 + 4 * 2 * 2, "checkpoints, masks, forms");
    let upper = number(&newest["masked"]["at_temperature"], "upper");
    let row = csv.lines().find(|line| line.starts_with("24,4,with,")).expect("the newest");
    assert!(row.contains("at-temperature") && row.contains(&format!(",{upper},")), "{row}");
    assert_refused(&metamask.run(&draw), 73, "OUT-DIR", &["bounds.svg", "exists"]);

    run("one", "training.epochs=1");
    let one = metamask.run(&["inspect", "bounds", "one", "--over-epochs"]);
    assert_refused(&one, 66, "CKPT-MISSING", &["one: keeps one checkpoint, of step 6"]);
    assert!(one.stderr.contains("help: set `checkpoint.keep` (how many)"), "{}", one.stderr);
    run("two", "training.epochs=3");
    let two = metamask.succeed(&["inspect", "bounds", "two", "--over-epochs"]).stdout;
    assert!(two.contains("kept      2 checkpoints of 3 epochs"), "{two}");
}

//! The losses' gradient by each dimension of a run's representation.

use std::fs;

use serde_json::Value;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, Results, json, number};

#[test]
fn gradients_are_measured_listed_and_drawn_once() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a<b>"));
    let before = Results::of(&metamask.path("a<b>"));
    let inspect = ["inspect", "gradients", "a<b>", "--batches", "3"];
    let found = json(&metamask, &[&inspect[..], &["--json", "--out", "figures"]].concat());
    before.assert_equal(&Results::of(&metamask.path("a<b>")), "inspecting changes nothing");

    // ResNet-18 of width 4 has 32 features; its last convolution makes them.
    let dimensions = found["dimensions"].as_array().expect("a list");
    assert_eq!(
        (dimensions.len(), &found["batches"], &found["orders"]),
        (32, &3.into(), &10.into())
    );
    assert_eq!(found["last_layer"]["name"], "layer4.1.conv2.weight");
    for loss in ["base", "redundancy"] {
        for mask in ["learned", "none"] {
            let profile = &found[loss][mask];
            let of_rows = |what: &dyn Fn(f64, &Value) -> f64| -> f64 {
                dimensions.iter().map(|row| what(number(&row[loss], mask), row)).sum()
            };
            // The profile is one of the listed numbers: norm, closed half, weighted mean.
            let squares = of_rows(&|g, _| g * g);
            assert!(
                (number(profile, "norm").powi(2) / squares - 1.0).abs() < 1e-9,
                "{loss} {mask}"
            );
            let class = of_rows(&|g, row| g * g * number(row, "class_share")) / squares;
            let alignment = &profile["alignments"][0];
            assert_eq!(alignment["measure"], "class_share");
            assert!((number(alignment, "weighted_mean") - class).abs() < 1e-9, "{alignment}");
            assert!((1e-4..=1.0).contains(&number(alignment, "p_value")), "{alignment}");
            assert!(number(alignment, "upper_half_norm") <= number(profile, "norm"));
            let effective = number(profile, "effective_dimensions");
            assert!((1.0..=32.0).contains(&effective), "{profile}");
            let measures = profile["alignments"].as_array().expect("a list").len();
            assert_eq!(measures, 4, "class, both groups of nuisance, standard deviation");
        }
        assert!(found[loss]["shuffled"]["alignments"][0].get("p_value").is_none());
    }
    // What this run's mask shuts altogether gets nothing before it, and something behind it.
    assert!(number(&found["base"]["behind"], "norm") > number(&found["base"]["learned"], "norm"));

    let file = |name: &str| fs::read(metamask.path("figures").join(name)).expect("written");
    let picture = String::from_utf8(file("gradients.svg")).expect("UTF-8");
    assert!(picture.contains("a&lt;b&gt;") && !picture.contains("a<b>"), "the name is text");
    assert_eq!(picture.matches("<circle").count(), 4 * 2 * 32, "a dot for each, twice a panel");
    assert!(file("gradients.png").starts_with(b"\x89PNG\r\n\x1a\n"), "a PNG");
    let rows = String::from_utf8(file("gradients.csv")).expect("UTF-8");
    assert_eq!(rows.lines().count(), 1 + 32);
    let cells: Vec<&str> = rows.lines().nth(1).expect("a row").split(',').collect();
    assert_eq!((cells.len(), cells.iter().filter(|cell| cell.is_empty()).count()), (14, 0));
    let again = metamask.run(&[&inspect[..], &["--out", "figures"]].concat());
    assert_refused(&again, 73, "OUT-DIR", &["gradients.svg", "exists"]);
    assert_eq!(file("gradients.svg"), picture.as_bytes());

    let threads = |n| metamask.succeed(&[&inspect[..], &["--json", "--threads", n]].concat());
    assert_eq!(threads("1").stdout, threads("3").stdout);
    let table = metamask.succeed(&inspect).stdout;
    for word in ["B, the loss of SimCLR", "L_drr", "mask off", "behind", "closed half", "rho"] {
        assert!(table.contains(word), "{word} in\n{table}");
    }
}

#[test]
fn without_mask_and_factors_there_is_one_column() {
    let Some(metamask) = Metamask::find() else { return };
    let mut off = metamask.tiny_run("off");
    let set = [
        "mask.mode=off",
        "training.epochs=1",
        "data.dataset=garments-plain",
        "objective.method=barlow-twins",
        "objective.redundancy_weight=0",
    ];
    off.extend(set.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
    metamask.succeed(&off);
    let inspect = ["inspect", "gradients", "off", "--batches", "2"];
    let found = json(&metamask, &[&inspect[..], &["--json", "--out", "."]].concat());
    assert!(found["base"]["none"].is_object() && found["orders"] == 0, "{found}");
    for absent in ["learned", "behind", "shuffled"] {
        assert!(found["base"].get(absent).is_none(), "{absent}");
    }
    assert!(found.get("redundancy").is_none() && found["dimensions"][0].get("mask").is_none());
    let alignments = found["base"]["none"]["alignments"].as_array().expect("a list");
    assert_eq!(alignments.len(), 2, "photographs have a class and no factors, and a spread");
    let picture = fs::read_to_string(metamask.path("gradients.svg")).expect("written");
    assert_eq!(picture.matches("<circle").count(), 2 * 32);
    let table = metamask.succeed(&inspect).stdout;
    assert!(table.contains("B, the loss of Barlow Twins") && !table.contains("learned"), "{table}");
}

#[test]
fn a_run_without_a_checkpoint_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    let refused = metamask.run(&["inspect", "gradients", "gone"]);
    assert_refused(&refused, 66, "MISSING", &["gone"]);
    let mut run = metamask.tiny_run("run");
    run.extend(["--set", "training.epochs=1"].map(String::from));
    metamask.succeed(&run);
    fs::remove_dir_all(metamask.path("run/checkpoints")).expect("removed");
    let refused = metamask.run(&["inspect", "gradients", "run", "--out", "figures"]);
    assert_refused(&refused, 66, "CKPT-MISSING", &["run", "no checkpoint"]);
    assert!(!metamask.path("figures").exists());
    let refused = metamask.run(&["inspect", "gradients", "run", "--batches", "0"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

//! Looking into a run: the mask as numbers and as a picture.

use std::fs;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, metrics};

#[test]
fn the_mask_of_a_run_is_summed_up_and_drawn_once() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a<b>"));
    let inspect = |more: &[&str]| metamask.run(&[&["inspect", "mask", "a<b>"], more].concat());

    let json = inspect(&["--json", "--out", "mask.svg"]);
    assert_eq!(json.code, Some(0), "stderr:\n{}", json.stderr);
    let mask: serde_json::Value = serde_json::from_str(&json.stdout).expect("one JSON object");
    // ResNet-18 of width 4 has 32 features; the log says how far they came.
    assert_eq!((&mask["dimensions"], &mask["epoch"]), (&32.into(), &4.into()));
    let epochs = metrics(&metamask.path("a<b>"));
    let last = epochs.iter().rfind(|line| line["kind"] == "epoch").expect("an epoch");
    assert_eq!((&mask["min"], &mask["max"]), (&last["mask_min"], &last["mask_max"]));
    let order = ["min", "lower_quartile", "median", "upper_quartile", "max"];
    assert!(order.map(|name| mask[name].as_f64().expect("a number")).is_sorted(), "{mask}");

    let picture = fs::read_to_string(metamask.path("mask.svg")).expect("written");
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"), "{picture}");
    assert!(picture.contains("a&lt;b&gt;") && !picture.contains("a<b>"), "the name is text");
    assert_eq!(picture.matches("<rect x=").count(), 32, "a bar for each dimension");

    assert_refused(&inspect(&["--out", "mask.svg"]), 73, "OUT-DIR", &["mask.svg", "exists"]);
    assert_eq!(fs::read_to_string(metamask.path("mask.svg")).expect("still there"), picture);
    assert_refused(&inspect(&["--out", "no/a.svg"]), 73, "OUT-DIR", &["a.svg"]);
    let table = inspect(&[]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    assert!(table.stdout.contains("median") && table.stdout.contains("above 0.9"), "{table:?}");
}

#[test]
fn what_has_no_mask_is_refused() {
    let Some(metamask) = Metamask::find() else { return };
    assert_refused(&metamask.run(&["inspect", "mask", "gone"]), 66, "MISSING", &["gone"]);

    let mut off = metamask.tiny_run("off");
    off.extend(["--set", "mask.mode=off", "--set", "training.epochs=1"].map(String::from));
    metamask.succeed(&off);
    let finished = metamask.run(&["inspect", "mask", "off"]);
    assert_refused(&finished, 2, "USAGE", &["off", "mask.mode"]);

    fs::remove_dir_all(metamask.path("off/checkpoints")).expect("removed");
    let config = metamask.path("off/config.toml");
    let text =
        fs::read_to_string(&config).expect("there").replace("mode = \"off\"", "mode = \"on\"");
    fs::write(&config, text).expect("written");
    let finished = metamask.run(&["inspect", "mask", "off"]);
    assert_refused(&finished, 66, "CKPT-MISSING", &["off"]);
}

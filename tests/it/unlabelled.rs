//! Images without labels: what a run on them is judged by.

use std::fs;

use serde_json::Value;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, read};

/// A folder `mine` of 24 pictures without classes.
fn mine(metamask: &Metamask) {
    fs::create_dir(metamask.path("mine")).expect("made");
    for i in 0..24 {
        let (out, seed) = (format!("mine/{i}.png"), format!("run.seed={i}"));
        let data = if i % 2 == 0 { "garments" } else { "shapes" };
        metamask.succeed(&["data", "preview", data, "--set", &seed, "--out", &out]);
    }
}

#[test]
fn it_is_judged_by_its_dimensions_and_neighbours() {
    let Some(metamask) = Metamask::find() else { return };
    mine(&metamask);
    let mut arguments = metamask.tiny_run("a");
    let settings = [
        "data.dataset=folder:mine",
        "data.train_images=0",
        "data.validation_images=0",
        "training.batch_size=8",
    ];
    arguments.extend(settings.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
    let table = metamask.succeed(&arguments).stdout;
    for words in
        ["use of the dimensions", "effective rank", "RankMe", "alpha-ReQ", "inspect neighbours a"]
    {
        assert!(table.contains(words), "{words} in\n{table}");
    }
    let evaluated = metamask.succeed(&["evaluate", "a", "--json"]).stdout;
    let results: Value = serde_json::from_str(&evaluated).expect("JSON");
    let rows = results["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3, "untrained, with mask, without");
    for row in rows {
        let used = &row["dimensions"];
        let number = |name: &str| used[name].as_f64().unwrap_or_else(|| panic!("{name}: {row}"));
        // 24 images with their mean taken off span 23 directions.
        assert!((1.0..=23.0).contains(&number("effective_rank")), "{row}");
        assert!((1.0..=24.0).contains(&number("rank_me")), "{row}");
        assert!(number("alpha_req").is_finite());
        assert!(row["knn_percent"].is_null() && row["linear_percent"].is_null());
    }
    let asked = metamask.run(&["evaluate", "a", "--protocol", "knn"]);
    assert_refused(&asked, 2, "USAGE", &["no labels"]);
    // Elsewhere there are labels.
    let transfer =
        metamask.succeed(&["evaluate", "a", "--data", "garments-plain", "--protocol", "knn"]);
    assert!(transfer.stdout.contains("trained encoder, with mask"), "{}", transfer.stdout);

    let sheet = |out: &str, more: &[&str]| {
        metamask.run(&[&["inspect", "neighbours", "a", "--out", out], more].concat())
    };
    let done = sheet("n.png", &["--threads", "1"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("12 images of folder:mine and the 10 nearest of 24 to each"));
    assert!(read(&metamask.path("n.png")).starts_with(b"\x89PNG"));
    assert_refused(&sheet("n.png", &[]), 73, "OUT-DIR", &["n.png", "exists already"]);
    assert_eq!(sheet("m.png", &["--threads", "2"]).code, Some(0));
    assert!(
        read(&metamask.path("n.png")) == read(&metamask.path("m.png")),
        "threads do not matter"
    );
    let labelled = sheet("l.png", &["--data", "garments-plain", "--queries", "3"]);
    assert_eq!(labelled.code, Some(0), "{}", labelled.stderr);
    assert!(labelled.stdout.contains("of 30 neighbours are of the query's class"));
}

//! The page of a run, in text, in a browser, and its logs for other programs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::bad_input::assert_refused;
use crate::support::{Metamask, metrics, read, skip};

/// A tiny run with its page.
fn reported(metamask: &Metamask, name: &str) -> String {
    metamask.succeed(&metamask.tiny_run(name));
    metamask.succeed(&["report", name]);
    String::from_utf8(read(&metamask.path(name).join("report.html"))).expect("HTML is UTF-8")
}

#[test]
fn a_page_says_all_and_needs_nothing_else() {
    let Some(metamask) = Metamask::find() else { return };
    // A name is only a name.
    let name = "a <b> & c";
    let page = reported(&metamask, name);
    assert!(page.contains("<h1>a &lt;b&gt; &amp; c</h1>") && !page.contains("<b>"));
    for title in [
        "Summary",
        "Training",
        "Time and memory",
        "Mask",
        "Dimensions",
        "Bounds",
        "Images as points",
        "Neighbours",
        "Confusion",
        "Views",
        "Where it comes from",
    ] {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }
    for words in ["untrained encoder", "Protocol: kNN", "epoch 4", "width = 4", "t-SNE"] {
        assert!(page.contains(words), "{words}");
    }
    for word in ["<script", "http:", "https:", "src=\"//", "@import", "url("] {
        assert!(!page.contains(word), "{word} in the page");
    }
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    assert_refused(&metamask.run(&["report", name]), 73, "OUT-DIR", &["exists already"]);

    // The same bytes with another number of threads.
    metamask.succeed(&["report", name, "--out", "again.html", "--threads", "1"]);
    assert!(read(&metamask.path("again.html")) == page.as_bytes(), "the page is repeatable");
}

#[test]
fn a_mask_stands_among_its_controls_where_the_run_has_them() {
    let Some(metamask) = Metamask::find() else { return };
    let mut run = metamask.tiny_run("a");
    run.extend(["--set", "evaluation.mask_controls=4"].map(String::from));
    metamask.succeed(&run);
    let said = metamask.succeed(&["report", "a", "--logs-only"]).stdout;
    let page = String::from_utf8(read(&metamask.path("a/report.html"))).expect("UTF-8");
    assert!(page.contains("<h2>Mask controls</h2>") && page.contains("When to distrust it"));

    // Every number is one of the run's results, and the sentence is made of them.
    let results = read(&metamask.path("a/results.json"));
    let results: serde_json::Value = serde_json::from_slice(&results).expect("JSON");
    let controls = &results["mask_controls"];
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let soft = |mask: &serde_json::Value| number(&mask["soft_knn_percent"]);
    let none = number(&controls["knn_percent"]);
    for order in controls["orders"].as_array().expect("a list") {
        let cell = format!("<td>{:.1}</td>", soft(&order[1]));
        assert!(page.contains(&cell), "{cell} of {order}");
    }
    let random: Vec<f64> =
        controls["random"].as_array().expect("a list").iter().map(soft).collect();
    let mean = random.iter().sum::<f64>() / 4.0;
    let learned = soft(&controls["orders"][0][1]);
    let as_good = random.iter().filter(|&&draw| draw >= learned).count();
    let signed = |points: f64| format!("{points:+.1}").replace("-0.0", "+0.0");
    let sentence = format!(
        "worth {} points of kNN over the same values in random orders, {as_good} of 4 of which do \
         as well; over no mask at all it is {}.",
        signed(learned - mean),
        signed(learned - none)
    );
    assert!(page.contains(&sentence) && said.contains(&sentence), "{sentence} in\n{said}");
    let n_factors = controls["decodability"].as_array().expect("a list").len();
    assert_eq!(page.matches(", guess ").count(), n_factors, "a line for each factor");

    assert!(!reported(&metamask, "plain").contains("Mask controls"));
}

#[test]
fn runs_stand_side_by_side_and_what_is_not_there_is_said() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    let mut plain = metamask.tiny_run("b");
    plain.extend(["--set", "mask.mode=off"].map(String::from));
    metamask.succeed(&plain);
    let asked = metamask.run(&["report", "a", "b"]);
    assert_refused(&asked, 2, "USAGE", &["several runs have no folder in common"]);
    let said = metamask.succeed(&["report", "a", "b", "--out", "both.html", "--logs-only"]).stdout;
    for words in
        ["a\nSimCLR + L_drr + MetaMask", "b\nSimCLR + L_drr on", "points over the untrained"]
    {
        assert!(said.contains(words), "{words} in\n{said}");
    }
    let page = String::from_utf8(read(&metamask.path("both.html"))).expect("UTF-8");
    assert!(page.contains("<h2>Side by side</h2>") && page.contains("<h2>b: Training</h2>"));
    assert!(page.contains("<h2>a: Mask</h2>") && !page.contains("<h2>b: Mask</h2>"));

    // A run whose checkpoints are gone, and one that has only begun.
    fs::remove_dir_all(metamask.path("a/checkpoints")).expect("removed");
    let said = metamask.succeed(&["report", "a"]).stdout;
    for what in ["images", "mask"] {
        let missing = format!("missing   {what}: a: has no checkpoint yet");
        assert!(said.contains(&missing), "{missing} in\n{said}");
    }
    fs::create_dir(metamask.path("c")).expect("made");
    fs::copy(metamask.path("a/config.toml"), metamask.path("c/config.toml")).expect("copied");
    let said = metamask.succeed(&["report", "c"]).stdout;
    assert!(
        said.contains("Not finished: 0 of 4") && said.contains("missing   accuracies"),
        "{said}"
    );
    assert_refused(&metamask.run(&["report", "nowhere"]), 66, "MISSING", &["nowhere"]);
}

#[test]
fn logs_are_numbers_for_other_programs() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&metamask.tiny_run("a"));
    let more = ["--logs-only", "--tensorboard", "events", "--csv", "numbers.csv"];
    metamask.succeed(&[&["report", "a"][..], &more].concat());

    let lines = metrics(&metamask.path("a"));
    let steps: Vec<&serde_json::Value> =
        lines.iter().filter(|line| line["kind"] == "step").collect();
    let csv = String::from_utf8(read(&metamask.path("numbers.csv"))).expect("UTF-8");
    assert!(csv.starts_with("run,kind,step,name,value\n"));
    for line in &steps {
        let (step, loss) = (&line["step"], line["loss"].as_f64().expect("a number"));
        assert!(csv.contains(&format!("\na,step,{step},loss,{loss}\n")), "{step}");
    }

    let Some(python) = std::env::var_os("METAMASK_PYTHON") else {
        eprintln!("left to METAMASK_PYTHON: TensorBoard's own reader");
        return;
    };
    let script = "\
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
tags = events.Tags()['scalars']
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags}))";
    let mut reader = Command::new(python);
    reader.args(["-c", script]).arg(metamask.path("events/a"));
    let output = reader.output().expect("METAMASK_PYTHON can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let losses = found["step/loss"].as_array().expect("a scalar");
    assert_eq!(losses.len(), steps.len());
    for (found, line) in losses.iter().zip(&steps) {
        assert_eq!(found[0].as_f64(), line["step"].as_f64());
        let (found, loss) = (found[1].as_f64().expect("a value"), line["loss"].as_f64());
        assert!((found - loss.expect("a loss")).abs() < 1e-6 * found.abs());
    }
    assert!(found["epoch/learning_rate"].as_array().is_some_and(|values| values.len() == 4));
}

/// What Chromium's console says about a page, and the picture that it makes of it.
pub(crate) fn shown(page: &Path, size: &str, more: &[&str]) -> Option<(String, Vec<u8>)> {
    let picture = page.with_extension("png");
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    // A request to anywhere fails, and the console says so.
    chromium.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]);
    chromium.args(more).arg(format!("--window-size={size}"));
    chromium.arg(format!("--user-data-dir={}", page.with_extension("profile").display()));
    chromium.arg(format!("--screenshot={}", picture.display()));
    chromium.arg(format!("file://{}", page.display()));
    let output = match chromium.output() {
        Ok(output) => output,
        Err(error) => {
            skip(&format!("chromium: {error}"));
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(output.status.success(), "{said}");
    Some((console.join("\n"), read(&picture)))
}

#[test]
fn a_browser_shows_it_without_a_word() {
    let Some(metamask) = Metamask::find() else { return };
    let page = reported(&metamask, "a");
    let path = metamask.path("a/report.html");
    let started = Instant::now();
    let Some((console, light)) = shown(&path, "1200,6000", &[]) else { return };
    eprintln!("{} bytes, shown in {:.1} s", page.len(), started.elapsed().as_secs_f64());
    assert_eq!(console, "");
    let (console, dark) =
        shown(&path, "1200,6000", &["--blink-settings=preferredColorScheme=0"]).expect("as before");
    assert_eq!(console, "");
    assert!(light.starts_with(b"\x89PNG") && light != dark, "dark paper is another picture");
    let (console, _) = shown(&path, "390,844", &[]).expect("as before");
    assert_eq!(console, "");

    // Would the console say anything? A style sheet that the policy does not name, a request.
    let other =
        page.replace("<style>", "<style>b{}").replace("<main>", "<img src=\"http://a.b/\"><main>");
    let path = metamask.path("other.html");
    fs::write(&path, other).expect("written");
    let (console, _) = shown(&path, "1200,6000", &[]).expect("as before");
    assert!(console.contains("style-src") && console.contains("img-src"), "{console}");
}

#[test]
fn figures_are_drawn_of_a_run_with_every_number_beside_them() {
    let Some(metamask) = Metamask::find() else { return };
    if !Path::new("/usr/share/fonts").is_dir() {
        return skip("no font is installed");
    }
    metamask.succeed(&metamask.tiny_run("a"));
    let lines = |figure: &str| {
        let file = |end: &str| read(&metamask.path(&format!("figures/figure-{figure}.{end}")));
        assert!(file("svg").starts_with(b"<svg") && file("png").starts_with(b"\x89PNG"));
        String::from_utf8(file("csv")).expect("UTF-8").lines().count()
    };
    let draw = |more: &[&str]| {
        metamask.run(&[&["figure"], more, &["--out", "figures", "--threads", "1"]].concat())
    };
    assert_eq!(draw(&["1a", "a", "a"]).code, Some(0));
    // A line for each class and dimension of each run, and one of names.
    assert_eq!(lines("1a"), 1 + 2 * 10 * 32);
    let said = draw(&["2", "a", "--draws", "3"]);
    assert!(said.stdout.contains("the same on the other half"), "{} {}", said.stdout, said.stderr);
    assert_eq!(lines("2"), 2 + 9 * 3);
    assert!(draw(&["5", "a"]).stdout.contains("with the mask: "));
    assert_eq!(lines("5"), 1 + 16);
    assert_refused(&draw(&["5", "a"]), 73, "OUT-DIR", &["exists already"]);
    assert_refused(&draw(&["2", "a", "a"]), 2, "USAGE", &["2 runs, expected at most 1"]);
}

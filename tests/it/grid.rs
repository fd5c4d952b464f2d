//! A grid: planned, run, killed, resumed, added up; what fails is told and tried again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use metamask_random::{Key, Purpose};
use serde_json::Value;

use crate::bad_input::assert_refused;
use crate::report::shown;
use crate::support::{Metamask, read, sorted_names};

/// Two arms, two seeds, the base at equal compute: six jobs of half a second.
const SMALL: &str = r#"
name = "small"
title = "Two <arms>"
protocol = "knn"
seeds = [0, 1]
set = [
    "data.train_images=320",
    "data.validation_images=128",
    "augmentation.size=16",
    "encoder.width=4",
    "contrastive_head.hidden=[32]",
    "contrastive_head.output=16",
    "redundancy_head.hidden=[32]",
    "redundancy_head.output=32",
    "training.epochs=3",
    "training.batch_size=16",
    "optimizer.warmup_epochs=1",
]
[[column]]
name = "garments"
title = "Garments"
[[row]]
name = "simclr"
title = "SimCLR"
preset = "{column}-simclr-tuned"
[[row]]
name = "simclr-metamask"
title = "SimCLR + MetaMask"
preset = "{column}-simclr-metamask-tuned"
base = "simclr"
"#;

fn with_grid(text: &str) -> Option<Metamask> {
    let metamask = Metamask::find()?;
    fs::write(metamask.path("small.toml"), text).expect("written");
    Some(metamask)
}

/// The records in a folder, without what a clock says.
#[track_caller]
fn records(folder: &Path) -> BTreeMap<String, Value> {
    let record = |name: String| {
        let mut record: Value =
            serde_json::from_slice(&read(&folder.join(&name))).expect("a record is JSON");
        record.as_object_mut().expect("an object").remove("cost").expect("what it took");
        (name, record)
    };
    sorted_names(folder).into_iter().map(record).collect()
}

/// Lines in the logs of a grid's jobs.
fn logged_lines(grid: &Path) -> usize {
    let Ok(jobs) = fs::read_dir(grid.join("jobs")) else { return 0 };
    let log = |job: fs::DirEntry| fs::read(job.path().join("metrics.jsonl")).unwrap_or_default();
    let lines = |log: Vec<u8>| log.iter().filter(|&&byte| byte == b'\n').count();
    jobs.filter_map(Result::ok).map(|job| lines(log(job))).sum()
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.expect("`kill` is there").success());
}

/// The table without the columns that a clock fills.
fn table(metamask: &Metamask, records: &str) -> Vec<Vec<String>> {
    let out = format!("tables-{}", records.replace('/', "-"));
    metamask.succeed(&["grid", "table", "small.toml", "--records", records, "--out", &out]);
    let csv = String::from_utf8(read(&metamask.path(&out).join("table.csv"))).expect("UTF-8");
    let header: Vec<&str> = csv.lines().next().expect("a header").split(',').collect();
    let timed = ["training_s", "peak_mib"].map(|name| {
        header.iter().position(|column| *column == name).expect("a column of the table")
    });
    let fields = |line: &str| -> Vec<String> {
        let fields = line.splitn(header.len() - 1, ',').enumerate();
        fields.filter(|(i, _)| !timed.contains(i)).map(|(_, field)| field.to_owned()).collect()
    };
    csv.lines().map(fields).collect()
}

/// The grid's page has the table's numbers, and everything that belongs to them.
fn page(metamask: &Metamask, records: &str, rows: &[Vec<String>]) {
    let report = ["grid", "report", "small.toml", "--records", records, "--out", "grid.html"];
    let said = metamask.succeed(&report).stdout;
    let path = metamask.path("grid.html");
    let page = String::from_utf8(read(&path)).expect("UTF-8");
    assert!(page.contains("<h1>Two &lt;arms&gt;</h1>") && !page.contains("<arms>"));
    let column = |name: &str| rows[0].iter().position(|column| *column == name).expect("a column");
    for row in &rows[1..] {
        let mean: f64 = row[column("mean_percent")].parse().expect("a number");
        assert!(page.contains(&format!(">{mean:.1} ± ")), "{mean} of {row:?}");
    }
    // The masked row is compared with its base twice, and each number leads to its runs.
    let masked = rows.last().expect("a row");
    for (over, kind) in [
        ("over_base", "<circle class=\"mark kind0\""),
        ("over_equal_compute", "<rect class=\"mark kind1\""),
    ] {
        let mean: f64 = masked[column(over)].parse().expect("a number");
        assert!(page.contains(&format!(">{mean:+.1} [")), "{over} {mean}");
        assert!(page.contains(kind), "{kind}");
    }
    for line in 0..3 {
        assert!(page.contains(&format!("<h3 id=\"r0-0-{line}\">")), "line {line}");
        assert!(page.contains(&format!("<a href=\"#r0-0-{line}\">")), "line {line}");
    }
    for record in sorted_names(&metamask.path(records)) {
        assert!(page.contains(&record), "{record}");
    }
    for words in ["seed 0", "seed 1", "base loss B", "training.epochs = 3", "protocol: raw pixels"]
    {
        assert!(page.contains(words), "{words}");
    }
    for word in ["<script", "http:", "https:", "src=\"//", "@import", "url("] {
        assert!(!page.contains(word), "{word} in the page");
    }
    assert!(said.contains("compared with their base") && said.contains("grid.html"), "{said}");
    assert_refused(&metamask.run(&report), 73, "OUT-DIR", &["grid.html", "exists already"]);
    let asked = metamask.run(&["report", "small.toml"]);
    assert_refused(&asked, 2, "USAGE", &["small.toml: is a file, expected a run's folder"]);
    assert!(asked.stderr.contains("help: of a grid: metamask grid report"), "{}", asked.stderr);
    let again = [&report[..6], &["again.html"]].concat();
    metamask.succeed(&again);
    assert!(read(&metamask.path("again.html")) == page.as_bytes(), "the page is repeatable");
    for size in ["1200,4000", "390,844"] {
        let Some((console, _)) = shown(&path, size, &[]) else { return };
        assert_eq!(console, "");
    }
}

#[test]
fn killed_and_resumed_a_grid_ends_with_the_same_table() {
    let Some(metamask) = with_grid(SMALL) else { return };
    let whole = metamask.succeed(&["grid", "run", "small.toml", "-j", "2", "--runs", "whole"]);
    assert!(whole.stdout.contains("finished 6 of 6 jobs"), "{}", whole.stdout);
    let expected = records(&metamask.path("whole/records"));
    assert_eq!(expected.len(), 6);

    // Killed outright, its jobs notice and save; asked to stop, it waits for them. Threads and
    // jobs beside each other change nothing. When is told by what is done, not by a clock: other
    // programs may be slowing the machine.
    let arguments = ["grid", "run", "small.toml", "--runs", "killed", "--threads", "1"];
    let mut n_hit = 0;
    let mut instants = Key::new(23, Purpose::Test).stream();
    let n_lines = logged_lines(&metamask.path("whole"));
    for round in 0..5 {
        let share = (f64::from(round) + instants.uniform_f64()) / 6.0;
        let mut child = metamask.command(&arguments).spawn().expect("it starts");
        let mut is_running = || child.try_wait().expect("a child").is_none();
        while is_running()
            && (logged_lines(&metamask.path("killed")) as f64) < share * n_lines as f64
        {
            thread::sleep(Duration::from_millis(1));
        }
        if is_running() {
            n_hit += 1;
            signal(if round % 2 == 0 { "KILL" } else { "TERM" }, child.id());
        }
        child.wait().expect("a child");
    }
    assert!(n_hit >= 2, "only {n_hit} signals hit a running grid");
    let resumed = metamask.succeed(&arguments);
    assert!(resumed.stdout.contains("finished 6 of 6 jobs"), "{}", resumed.stdout);
    assert_eq!(records(&metamask.path("killed/records")), expected);
    assert_eq!(table(&metamask, "killed/records"), table(&metamask, "whole/records"));

    let again = metamask.succeed(&arguments);
    assert!(!again.stderr.contains("starts") && !again.stderr.contains("resumes"), "all skipped");
    let status = metamask.succeed(&["grid", "status", "small.toml", "--runs", "killed"]).stdout;
    assert!(status.contains("6 finished"), "{status}");

    // The picture has the table's numbers.
    let draw = ["grid", "figure", "small.toml", "--records", "whole/records", "--out", "drawn"];
    metamask.succeed(&draw);
    let rows = table(&metamask, "whole/records");
    let mean = rows[0].iter().position(|name| name == "mean_percent").expect("a column");
    let drawn = String::from_utf8(read(&metamask.path("drawn/small.csv"))).expect("UTF-8");
    assert_eq!(drawn.lines().count(), rows.len(), "{drawn}");
    for row in &rows[1..] {
        assert!(drawn.contains(&format!(",{},", row[mean])), "{row:?} in\n{drawn}");
    }
    assert_refused(&metamask.run(&draw), 73, "OUT-DIR", &["drawn/small.svg"]);
    page(&metamask, "whole/records", &rows);
    let one = [&draw[..5], &["--out", "one", "--rows", "simclr"]].concat();
    metamask.succeed(&one);
    let one = String::from_utf8(read(&metamask.path("one/small.csv"))).expect("UTF-8");
    assert!(one.lines().skip(1).all(|line| line.starts_with("SimCLR,")), "{one}");
    let gone = [&draw[..5], &["--out", "gone", "--rows", "simclt"]].concat();
    assert_refused(&metamask.run(&gone), 2, "USAGE", &["small.toml", "no row `simclt`"]);
}

#[test]
fn a_failed_job_is_reported_the_others_run_and_it_is_tried_again_on_request() {
    let Some(metamask) = with_grid(&SMALL.replace("seeds = [0, 1]", "seeds = [0]")) else { return };
    let arguments = ["grid", "run", "small.toml", "--runs", "grid"];
    // What is in a job's way: a file where its run would be.
    let status = metamask.succeed(&["grid", "status", "small.toml", "--json"]).stdout;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let id = status["jobs"][0]["id"].as_str().expect("a name").to_owned();
    let in_the_way = metamask.path("grid/jobs").join(&id);
    fs::create_dir_all(metamask.path("grid/jobs")).expect("made");
    fs::write(&in_the_way, "not a run").expect("written");

    let failed = metamask.run(&arguments);
    assert_eq!(failed.code, Some(70), "{}", failed.stderr);
    assert!(failed.stderr.contains("error[INTERNAL]: 1 jobs failed"), "{}", failed.stderr);
    assert!(failed.stderr.contains("--retry"), "what to do: {}", failed.stderr);
    assert!(failed.stdout.contains("finished 2 of 3 jobs; failed 1"), "{}", failed.stdout);
    assert!(
        failed.stdout.contains(&format!("failed   {id}, 1 times: error[")),
        "{}",
        failed.stdout
    );
    let status = metamask.succeed(&["grid", "status", "small.toml", "--runs", "grid"]).stdout;
    assert!(status.contains("1 failed, 2 finished"), "{status}");

    // Not by itself, even though nothing is in the way any more.
    fs::remove_file(&in_the_way).expect("removed");
    let again = metamask.run(&arguments);
    assert_eq!(again.code, Some(70), "{}", again.stderr);
    assert!(!again.stderr.contains("starts"), "{}", again.stderr);
    let retried = metamask.succeed(&[&arguments[..], &["--retry"]].concat());
    assert!(retried.stdout.contains("finished 3 of 3 jobs; failed 0"), "{}", retried.stdout);
}

#[test]
fn data_that_are_not_here_are_named_and_the_rest_runs() {
    let text = SMALL.replace("seeds = [0, 1]", "seeds = [0]\nequal_compute = false").replace(
        "[[row]]\nname = \"simclr\"\n",
        "[[column]]\nname = \"cifar10\"\ntitle = \"CIFAR-10\"\n[[row]]\nname = \"simclr\"\n",
    );
    let Some(metamask) = with_grid(&text) else { return };
    let finished = metamask.succeed(&["grid", "run", "small.toml", "--runs", "grid"]);
    assert!(finished.stdout.contains("finished 2 of 4 jobs"), "{}", finished.stdout);
    assert!(finished.stdout.contains("no data  cifar10: 2 jobs wait"), "{}", finished.stdout);
    let page = metamask.succeed(&["grid", "table", "small.toml"]);
    assert!(page.stdout.contains("| SimCLR | open | open |"), "no records there: {}", page.stdout);
    let records = ["--records", "grid/records"];
    let table = [&["grid", "table", "small.toml"][..], &records].concat();
    let page = metamask.succeed(&table).stdout;
    assert!(page.contains("**2 are reproduced**") && page.contains(", 2 open."), "{page}");

    // Planned on files of CIFAR-10's format, its cells are reproducible.
    let plan = [&["grid", "plan", "small.toml", "--save", "--json"][..], &records].concat();
    let plan: Value = serde_json::from_str(&metamask.succeed(&plan).stdout).expect("JSON");
    let lines = plan["lines"].as_array().expect("lines");
    assert_eq!(lines.len(), 4);
    for line in lines {
        // 192 images of the garments (320 less the cut) and of CIFAR-10, batch 16, 3 epochs.
        assert_eq!(line["steps"], 3 * (192 / 16), "{line}");
        assert!(line["total_s"].as_f64().expect("a time") > 0.0, "{line}");
        assert!(line["disk_bytes"].as_u64().expect("a size") > 1_000, "{line}");
        assert_eq!(line["data_is_here"], line["column"] == "garments", "{line}");
        assert_eq!(line["to_do"], i32::from(line["column"] == "cifar10"), "{line}");
    }
    let page = metamask.succeed(&table).stdout;
    assert!(page.contains("2 reproducible") && page.contains(", 0 open."), "{page}");
    assert!(page.contains(" | reproducible, 0 min a run |"), "{page}");
}

#[test]
fn a_table_is_held_against_its_records_and_nothing_is_overwritten_or_mixed() {
    let Some(metamask) = with_grid(&SMALL.replace("seeds = [0, 1]", "seeds = [0]")) else { return };
    metamask.succeed(&["grid", "run", "small.toml", "--records", "records", "-j", "2"]);
    let table = ["grid", "table", "small.toml", "--records", "records", "--out", "out"];
    let check = [&table[..], &["--check"]].concat();
    assert_refused(&metamask.run(&check), 66, "MISSING", &["table.md"]);
    metamask.succeed(&table);
    metamask.succeed(&check);
    let page = metamask.path("out/table.md");
    let text = String::from_utf8(read(&page)).expect("UTF-8");
    assert!(text.contains("](../records/garments-simclr-metamask-default-s0-"), "{text}");
    fs::write(&page, text.replace("SimCLR", "SimClr")).expect("written");
    assert_refused(&metamask.run(&check), 65, "DATA", &["table.md", "not what the records say"]);
    fs::write(&page, "somebody's own").expect("written");
    assert_refused(&metamask.run(&table), 73, "OUT-DIR", &["did not write"]);
    assert_eq!(read(&page), b"somebody's own");

    // One record by another protocol, by another version, of other settings.
    let name = sorted_names(&metamask.path("records")).remove(0);
    let path = metamask.path("records").join(name);
    let whole = String::from_utf8(read(&path)).expect("UTF-8");
    let table = ["grid", "table", "small.toml", "--records", "records"];
    for (from, to, expected) in [
        ("kNN: k = 20", "kNN: k = 5", "such numbers are not mixed"),
        ("+results.", "+results.9", "their numbers are not mixed"),
        ("\"optimizer.momentum\": \"0.9\"", "\"optimizer.momentum\": \"0.8\"", "was 0.8, is 0.9"),
    ] {
        assert!(whole.contains(from), "{from} in {whole}");
        fs::write(&path, whole.replace(from, to)).expect("written");
        assert_refused(&metamask.run(&table), 65, "DATA", &[expected]);
    }
    fs::write(&path, &whole).expect("written");
    metamask.succeed(&table);
    // A job of a finished record does not run again into the same folder.
    let version = whole.replace("+results.", "+results.9");
    fs::write(&path, version).expect("written");
    let run = ["grid", "run", "small.toml", "--records", "records", "-j", "2"];
    assert_refused(&metamask.run(&run), 65, "DATA", &["their numbers are not mixed"]);
}

#[test]
fn a_grid_that_cannot_be_says_where() {
    let Some(metamask) = with_grid(&SMALL.replace("base = ", "baes = ")) else { return };
    let run = |arguments: &[&str]| metamask.run(&[&["grid", "run"], arguments].concat());
    assert_refused(&run(&["small.toml"]), 2, "CONFIG", &["small.toml:", "`baes`"]);
    assert_refused(&run(&["gone.toml"]), 66, "MISSING", &["gone.toml"]);
    fs::write(metamask.path("small.toml"), SMALL).expect("written");
    assert_refused(&run(&["small.toml", "--rows", "simcrl"]), 2, "USAGE", &["`simcrl`"]);
    assert_refused(&run(&["small.toml", "--budget", "long"]), 2, "USAGE", &["`long`"]);
}

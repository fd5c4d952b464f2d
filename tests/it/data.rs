//! `metamask data` against a server on this machine: fetching, being killed,
//! verifying, offline.

#[path = "../../crates/metamask-data/tests/network/server.rs"]
#[allow(dead_code)]
pub(crate) mod server;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::injuries::tried;
use sha2::{Digest, Sha256};

use crate::bad_input::assert_refused;
use crate::support::{Finished, Metamask};
use server::{Mode, Server};

const TOKEN: &str = "hf_CANARYCANARYCANARY";

/// A set of 2×2 pixels in two files, with a manifest that points at the server.
struct Served {
    metamask: Metamask,
    server: Server,
    train: Vec<u8>,
}

impl Served {
    fn new(mode: Mode, n: usize) -> Option<Self> {
        let metamask = Metamask::find()?;
        let records = |n: usize| -> Vec<u8> {
            (0..n).flat_map(|i| [&[(i % 2) as u8][..], &[i as u8; 12]].concat()).collect()
        };
        let (train, test) = (records(n), records(10));
        let files = [("train.bin".to_owned(), train.clone()), ("test.bin".to_owned(), test)];
        // Stored, so that the archive is as long as the files.
        let archive = tar_gz(&files);
        let server = Server::new(mode, &[("small.tar.gz".to_owned(), archive.clone())]);
        let sum: String = Sha256::digest(&archive).iter().map(|b| format!("{b:02x}")).collect();
        let manifest = format!(
            r#"
name = "small"
title = "small"
licence = "none"
source = "this test"
side = 2
classes = ["a", "b"]
[images]
train = {n}
test = 10
[layout]
format = "cifar"
folder = "small-bin"
train = ["train.bin"]
test = ["test.bin"]
label_bytes = 1
[[download]]
url = "{}/small.tar.gz"
bytes = {}
sha256 = "{sum}"
"#,
            server.url(),
            archive.len()
        );
        fs::write(metamask.path("small.toml"), manifest).expect("written");
        Some(Self { metamask, server, train })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.metamask.command(arguments);
        command
            .env("METAMASK_CACHE", self.metamask.path("cache"))
            .env("HF_HOME", self.metamask.path("hf"))
            .env("HF_TOKEN", TOKEN)
            .env_remove("HF_HUB_OFFLINE")
            .env_remove("HF_HUB_CACHE");
        command
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let finished = Finished::from(self.command(arguments).output().expect("it starts"));
        for text in [&finished.stdout, &finished.stderr] {
            assert!(!text.contains("CANARY") && !text.contains("panicked"), "{text}");
        }
        finished
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> Finished {
        let finished = self.run(arguments);
        assert_eq!(finished.code, Some(0), "stderr:\n{}", finished.stderr);
        finished
    }

    fn fetched(&self) -> PathBuf {
        self.metamask.path("cache/sources/small/small.tar.gz")
    }
}

fn tar_gz(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let mut builder = tar::Builder::new(gzip);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, format!("small-bin/{name}"), &content[..]).expect("added");
    }
    builder.into_inner().expect("whole").finish().expect("whole")
}

#[test]
fn a_set_is_listed_fetched_verified_and_measured() {
    let Some(served) = Served::new(Mode::Good, 100) else { return };
    let listed = |served: &Served| -> serde_json::Value {
        let out = served.succeed(&["data", "list", "manifest:small.toml", "--json"]).stdout;
        let all: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        all["sets"][0].clone()
    };
    assert_eq!(listed(&served)["place"], "missing");
    let dry = served.succeed(&["data", "fetch", "manifest:small.toml", "--dry-run"]);
    assert!(
        dry.stdout.contains("will download") && dry.stdout.contains("small.tar.gz ("),
        "{}",
        dry.stdout
    );
    assert!(served.server.seen().is_empty() && !served.fetched().exists(), "it only said so");

    let fetched = served.succeed(&["data", "fetch", "manifest:small.toml"]);
    assert!(fetched.stderr.contains("will download"), "said before: {}", fetched.stderr);
    assert!(fetched.stdout.contains("fetched and verified"), "{}", fetched.stdout);
    let again = served.succeed(&["data", "fetch", "manifest:small.toml"]);
    assert!(again.stdout.contains("is here already (cache)"), "{}", again.stdout);
    assert_eq!(served.server.seen().len(), 1);
    assert_eq!(
        (&listed(&served)["place"], &listed(&served)["verified"]),
        (&"cache".into(), &false.into())
    );

    let verified = served.succeed(&["data", "verify", "manifest:small.toml"]).stdout;
    assert!(verified.contains("verified, 100 + 10 test + 0 unlabelled images"), "{verified}");
    assert_eq!(listed(&served)["verified"], true);
    let stats = served.succeed(&["data", "stats", "manifest:small.toml", "--json"]).stdout;
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    // Image i is flat with value i: the mean of 0 to 99 is 49.5.
    let mean = stats["mean"][1].as_f64().expect("a number");
    assert!((mean - 49.5 / 255.0).abs() < 1e-9, "{mean}");
    assert_eq!(stats["test_in_train"], 10);

    let mut bytes = fs::read(served.fetched()).expect("there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(served.fetched(), bytes).expect("written");
    let finished = served.run(&["data", "verify", "manifest:small.toml"]);
    assert_refused(&finished, 65, "DATA", &["small.tar.gz", "found sha256"]);
}

#[test]
fn killed_fifty_times_a_download_still_ends_with_the_right_file() {
    const SLICES: u32 = 20;
    let Some(served) = Served::new(Mode::Slow, 100_000) else { return };
    let mut n_killed = 0;
    for round in 0..50 {
        let mut child =
            served.command(&["data", "fetch", "manifest:small.toml"]).spawn().expect("it starts");
        // The server takes 10 ms for each of twenty pieces.
        std::thread::sleep(Duration::from_millis(5 + u64::from(round * 7 % SLICES) * 10));
        n_killed += u32::from(child.try_wait().expect("asked").is_none());
        child.kill().expect("killed or gone");
        child.wait().expect("gone");
        if served.fetched().exists() {
            // It got its name: whole. Once more from the start.
            let whole = fs::read(served.fetched()).expect("there").len();
            assert!(whole > served.train.len(), "{whole}");
            fs::remove_file(served.fetched()).expect("removed");
        }
    }
    assert!(n_killed >= 25, "only {n_killed} of 50 kills hit");
    served.succeed(&["data", "fetch", "manifest:small.toml"]);
    served.succeed(&["data", "verify", "manifest:small.toml"]);
    let n = n_killed as usize;
    tried("SIGKILL in one download, then the right file", n, n);
}

#[test]
fn a_download_that_fails_has_its_own_code_and_offline_asks_nobody() {
    let Some(served) = Served::new(Mode::Page, 100) else { return };
    let finished = served.run(&["data", "fetch", "manifest:small.toml"]);
    assert_refused(&finished, 69, "DOWNLOAD", &["small.tar.gz", "announced, expected"]);
    served.server.seen();
    let finished = served.run(&["data", "fetch", "manifest:small.toml", "--offline"]);
    assert_refused(&finished, 2, "USAGE", &["offline"]);
    let finished = served.run(&["data", "stats", "manifest:small.toml", "--offline"]);
    assert_refused(&finished, 66, "MISSING", &["small: nothing of it in"]);
    assert!(served.server.seen().is_empty());
}

#[test]
fn a_folder_of_images_is_measured_drawn_and_trained_on() {
    let Some(metamask) = Metamask::find() else { return };
    metamask.succeed(&["data", "preview", "garments", "--out", "views.png"]);
    for name in ["a", "b"] {
        let folder = metamask.path("mine").join(name);
        fs::create_dir_all(&folder).expect("made");
        for i in 0..12 {
            // The previews differ by their data, so their bytes do.
            let out = folder.join(format!("{i}.png"));
            let set = format!("run.seed={i}");
            let data = if name == "a" { "garments" } else { "shapes" };
            let arguments =
                ["data", "preview", data, "--set", &set, "--out", out.to_str().expect("UTF-8")];
            metamask.succeed(&arguments);
        }
    }
    let stats =
        metamask.succeed(&["data", "stats", "folder:mine", "--side", "32", "--offline"]).stdout;
    assert!(stats.contains("classes     2,") && stats.contains("suggested   --set"), "{stats}");
    fs::write(metamask.path("mine/a/broken.png"), "no picture").expect("written");
    let finished = metamask.run(&["data", "stats", "folder:mine"]);
    assert_refused(&finished, 65, "DATA", &["broken.png"]);
    let stats = metamask.succeed(&["data", "stats", "folder:mine", "--bad-images", "skip"]).stdout;
    assert!(stats.contains("1 damaged files are left out"), "{stats}");

    let finished = metamask.run(&["data", "preview", "folder:mine", "--out", "mine.png"]);
    assert_refused(&finished, 65, "DATA", &["broken.png"]);
    assert!(finished.stderr.contains("--set data.bad_images=skip"), "{}", finished.stderr);
    let skip = ["--set", "data.bad_images=skip"];
    metamask
        .succeed(&[&["data", "preview", "folder:mine", "--out", "mine.png"], &skip[..]].concat());

    // Classes or none, a few steps of training on them end in a run.
    let mut arguments = metamask.tiny_run("labelled");
    let settings = [
        "data.train_images=0",
        "data.validation_images=0",
        "training.batch_size=4",
        "training.epochs=1",
        "data.bad_images=skip",
    ];
    arguments.extend(settings.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
    let with = |out: &str, data: &str| {
        let mut all = arguments.clone();
        all[4] = out.to_owned();
        all.extend(["--set".to_owned(), format!("data.dataset={data}")]);
        metamask.succeed(&all).stdout
    };
    let table = with("labelled", "folder:mine");
    assert!(table.contains("trained encoder"), "{table}");
    let table = with("unlabelled", "folder:mine/b");
    assert!(table.contains("12 images without labels"), "{table}");

    let finished = metamask.run(&["data", "preview", "garments", "--out", "views.png"]);
    assert_refused(&finished, 73, "OUT-DIR", &["views.png"]);
}

//! Fetching, against a server on this machine that can be bad in every way.
#![cfg(feature = "hub")]

mod server;
mod tls;
mod weights;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metamask_data::hub::{self, Network, Secret};
use metamask_data::{DataError, Event, LoadOptions, Manifest, Places, Reporter, load, verify};
use server::{COMMIT, Mode, Server, hostile_path};
use sha2::{Digest, Sha256};

const TOKEN: &str = "hf_CANARYCANARYCANARY";
/// A retry waits 0.1 to 1.6 s; nothing here waits for the 30 s of a silent server.
const SLOWEST: Duration = Duration::from_secs(20);

/// Two files of records that a manifest with label bytes describes: 2×2 pixels.
fn files() -> Vec<(String, Vec<u8>)> {
    let records = |n: u8| (0..n).flat_map(|i| [&[i % 2][..], &[i; 12]].concat()).collect();
    vec![("train.bin".to_owned(), records(200)), ("test.bin".to_owned(), records(100))]
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

struct Setup {
    dir: tempfile::TempDir,
    server: Server,
    manifest: PathBuf,
}

const HEAD: &str = r#"
name = "small"
title = "small"
licence = "none"
source = "this test"
side = 2
classes = ["a", "b"]
[images]
train = 200
test = 100
[layout]
format = "cifar"
folder = "small-bin"
train = ["train.bin"]
test = ["test.bin"]
label_bytes = 1
"#;

impl Setup {
    /// A set whose archive the server has.
    fn page(mode: Mode) -> Self {
        let archive = tar_gz();
        let server = Server::new(mode, &[("small.tar.gz".to_owned(), archive.clone())]);
        let download = format!(
            "[[download]]\nurl = \"{}/pub/small.tar.gz\"\nbytes = {}\nsha256 = \"{}\"\n",
            server.url(),
            archive.len(),
            sha256(&archive)
        );
        Self::new(server, &download)
    }

    /// A set that the server has as parquet files, pinned or not.
    fn hub(mode: Mode, pinned: bool) -> Self {
        let files = ["train", "test"].map(|split| {
            let rows: Vec<(Vec<u8>, i64)> = (0..3).map(|i| (png(i), i64::from(i % 2))).collect();
            (format!("{split}.parquet"), parquet(&rows))
        });
        let server = Server::new(mode, &files);
        let mut text =
            "[[hub]]\nrepository = \"a/b\"\nimage = \"img\"\nlabel = \"label\"\n".to_owned();
        if pinned {
            text += &format!("commit = \"{COMMIT}\"\n");
        }
        text += "file = [\n";
        for (name, bytes) in &files {
            let split = name.split('.').next().unwrap();
            let pin = match pinned {
                true => format!(", bytes = {}, sha256 = \"{}\"", bytes.len(), sha256(bytes)),
                false => String::new(),
            };
            text += &format!("{{ split = \"{split}\", path = \"data/{name}\"{pin} }},\n");
        }
        Self::new(server, &format!("{text}]\n"))
    }

    fn new(server: Server, tail: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("small.toml");
        fs::write(&manifest, format!("{HEAD}{tail}")).unwrap();
        Self { dir, server, manifest }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn places(&self, report: Reporter) -> Places {
        let network = Network {
            endpoint: self.server.url(),
            token: Some(Secret::new(TOKEN).unwrap()),
            ..Network::default()
        };
        let cache_dir = Some(self.cache());
        Places { cache_dir, network: Some(network), report, ..Places::default() }
    }

    /// Fetches; the time it took is bounded, the token is in no error or event.
    fn fetch(&self) -> Result<(), DataError> {
        let events = Arc::new(Mutex::new(String::new()));
        let report = Reporter::new({
            let events = Arc::clone(&events);
            move |event: Event| events.lock().unwrap().push_str(&format!("{event:?}\n"))
        });
        let start = Instant::now();
        let places = self.places(report);
        let result = hub::fetch(&Manifest::read(&self.manifest).unwrap(), &places);
        assert!(start.elapsed() < SLOWEST, "{:?}", start.elapsed());
        let text = format!("{places:?} {result:?} {}", events.lock().unwrap());
        assert!(!text.contains("CANARY"), "{text}");
        assert!(!text.contains("SECRET"), "a signature: {text}");
        result
    }

    /// The files that were kept, apart from locks.
    fn kept(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut open = vec![self.cache()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.path().is_dir() {
                    true => open.push(entry.path()),
                    false => names.push(entry.file_name().into_string().unwrap()),
                }
            }
        }
        names.retain(|name| !name.ends_with(".lock"));
        names.sort_unstable();
        names
    }

    /// Everything outside the cache is as it was.
    #[track_caller]
    fn assert_nothing_outside(&self) {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        assert!(names == ["cache", "small.toml"] || names == ["small.toml"], "{names:?}");
        for path in [hostile_path(), "/metamask-hostile".into()] {
            assert!(!path.exists(), "{}", path.display());
        }
    }

    #[track_caller]
    fn assert_loads(&self) {
        let spec = format!("manifest:{}", self.manifest.display()).parse().unwrap();
        let places = Places { network: None, ..self.places(Reporter::default()) };
        let options = LoadOptions { places, ..LoadOptions::default() };
        assert_eq!(load(&spec, &options).unwrap().train.labels[1], 1);
        verify(&Manifest::read(&self.manifest).unwrap(), &options).unwrap();
    }

    #[track_caller]
    fn assert_refused(&self, words: &str) {
        let error = self.fetch().unwrap_err();
        assert_eq!(error.code, "DOWNLOAD", "{error}");
        assert!(error.message.contains(words), "{error}");
        assert!(!error.message.contains('\n'), "{error}");
        let kept = self.kept();
        assert!(
            kept.iter().all(|name| name.ends_with(".part") || name == "unpinned.toml"),
            "{kept:?}"
        );
        self.assert_nothing_outside();
    }
}

fn tar_gz() -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let mut builder = tar::Builder::new(gzip);
    for (name, content) in files() {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, format!("small-bin/{name}"), &content[..]).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn png(value: u8) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(2, 2, image::Rgb([value; 3]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[path = "../formats/write.rs"]
#[allow(dead_code)]
mod write;

fn parquet(rows: &[(Vec<u8>, i64)]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let codec = parquet::basic::Compression::SNAPPY;
    write::parquet(file.path(), "img", Some("label"), rows, codec);
    fs::read(file.path()).unwrap()
}

#[test]
fn a_good_server_is_asked_once_and_never_again() {
    let setup = Setup::page(Mode::Good);
    setup.fetch().unwrap();
    assert_eq!(setup.server.seen().len(), 1);
    setup.fetch().unwrap();
    assert!(setup.server.seen().is_empty(), "it is there already");
    setup.assert_loads();
    setup.assert_nothing_outside();
}

#[test]
fn slow_answers_redirects_and_passing_errors_are_borne() {
    for mode in [Mode::Slow, Mode::Redirect, Mode::ErrorsFirst(1), Mode::ErrorsFirst(3)] {
        let setup = Setup::page(mode);
        setup.fetch().unwrap();
        setup.assert_loads();
        setup.assert_nothing_outside();
    }
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let setup = Setup::page(Mode::Cut(1000));
    setup.fetch().unwrap();
    let ranges: Vec<Option<String>> =
        setup.server.seen().iter().map(|seen| seen.headers.get("range").cloned()).collect();
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[1].as_deref(), Some("bytes=1000-"));
    assert_eq!(ranges[2].as_deref(), Some("bytes=2000-"));
    assert_eq!(ranges.len(), tar_gz().len().div_ceil(1000));
    setup.assert_loads();
}

#[test]
fn a_server_that_never_gets_further_is_given_up_and_what_came_is_kept() {
    let setup = Setup::page(Mode::CutNoRange);
    let half = tar_gz().len() / 2;
    setup.assert_refused(&format!("got {half} bytes, expected {}", tar_gz().len()));
    assert_eq!(setup.kept(), ["small.tar.gz.part"]);
    setup.server.set(Mode::Good);
    setup.fetch().unwrap();
    let ranges = setup.server.seen();
    let expected = format!("bytes={half}-");
    assert_eq!(ranges.last().unwrap().headers.get("range"), Some(&expected));
    setup.assert_loads();
}

#[test]
fn what_is_not_the_file_is_never_used() {
    let n = tar_gz().len();
    for (mode, words) in [
        (Mode::Short, format!("{} bytes announced, expected {n}", n / 2)),
        (Mode::Long, format!("{} bytes announced, expected {n}", n + 5000)),
        (Mode::Flipped, "found digest".to_owned()),
        (Mode::Page, format!("27 bytes announced, expected {n}")),
        (Mode::Forbidden, "status 403".to_owned()),
        (Mode::ErrorsFirst(99), "status 500".to_owned()),
        (Mode::Endless, format!("more than the {n} bytes expected")),
        (Mode::Encoded, "an encoded answer".to_owned()),
        (Mode::EndlessHead, String::new()),
        (Mode::Loop, "more than 5 redirects".to_owned()),
        (Mode::Closes, String::new()),
        (Mode::To("file:///etc/passwd".into()), "redirect".to_owned()),
        (Mode::To("ftp://example.org/x".into()), "expected https".to_owned()),
        (Mode::To("//".into()), "redirect".to_owned()),
    ] {
        let setup = Setup::page(mode.clone());
        setup.assert_refused(&words);
        // And the same server, mended, gives the file.
        setup.server.set(Mode::Good);
        setup.fetch().unwrap_or_else(|error| panic!("{mode:?}: {error}"));
        setup.assert_loads();
    }
}

#[test]
fn a_resumed_part_that_was_wrong_is_fetched_anew() {
    for (mode, length) in [(Mode::Good, 500), (Mode::Good, 100_000), (Mode::EndlessRange, 500)] {
        let setup = Setup::page(mode.clone());
        let folder = setup.cache().join("sources/small");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("small.tar.gz.part"), vec![9; length]).unwrap();
        let fetched = setup.fetch();
        if mode == Mode::Good {
            fetched.unwrap();
            setup.assert_loads();
        } else {
            fetched.unwrap_err();
        }
    }
    let setup = Setup::page(Mode::WrongRange);
    let folder = setup.cache().join("sources/small");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("small.tar.gz.part"), &tar_gz()[..500]).unwrap();
    setup.assert_refused("another range");
}

#[test]
fn the_hub_is_read_at_the_pinned_commit_and_gets_the_token_on_this_machine() {
    for mode in [Mode::Good, Mode::Redirect, Mode::HostileNames, Mode::Cut(300)] {
        let setup = Setup::hub(mode.clone(), true);
        setup.fetch().unwrap_or_else(|error| panic!("{mode:?}: {error}"));
        let seen = setup.server.seen();
        let path = format!("/datasets/a/b/resolve/{COMMIT}/data/train.parquet");
        assert_eq!(seen[0].path, path, "no question but for the file");
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(seen[0].headers.get("authorization"), Some(&bearer));
        assert_eq!(setup.kept(), ["test.parquet", "train.parquet"]);
        setup.assert_loads();
        setup.assert_nothing_outside();
    }
}

#[test]
fn the_token_is_sent_to_no_other_host_and_never_in_the_open() {
    // Another port is another host.
    let other = Server::new(Mode::Good, &[("x".to_owned(), vec![0; 10])]);
    let setup = Setup::hub(Mode::To(format!("{}/x", other.url())), true);
    setup.fetch().unwrap_err();
    let seen = other.seen();
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("authorization")), "{seen:?}");
    setup.assert_nothing_outside();

    let setup = Setup::hub(Mode::To("http://example.org/x".into()), true);
    setup.assert_refused("redirect to `example.org`, expected https");

    // The set's own page never sees it, though it lies on the endpoint here.
    let setup = Setup::page(Mode::Good);
    setup.fetch().unwrap();
    assert!(setup.server.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));

    for endpoint in ["http://example.org", "https://user:hunter2@example.org", "ftp://x", "x"] {
        let mut places = setup.places(Reporter::default());
        places.network.as_mut().unwrap().endpoint = endpoint.to_owned();
        let setup = Setup::hub(Mode::Good, true);
        places.cache_dir = Some(setup.cache());
        let error = hub::fetch(&Manifest::read(&setup.manifest).unwrap(), &places).unwrap_err();
        assert!(error.message.contains("endpoint: expected"), "{error}");
        assert!(!error.message.contains("hunter2"), "{error}");
    }
}

#[test]
fn what_nobody_pinned_is_pinned_by_its_first_fetch() {
    for mode in [Mode::Good, Mode::Redirect] {
        let setup = Setup::hub(mode, false);
        setup.fetch().unwrap();
        let paths: Vec<String> = setup.server.seen().into_iter().map(|seen| seen.path).collect();
        assert_eq!(paths[0], "/api/datasets/a/b/revision/main");
        assert!(paths[1].contains(&format!("/resolve/{COMMIT}/")), "{paths:?}");
        let pins = fs::read_to_string(setup.cache().join("sources/small/unpinned.toml")).unwrap();
        assert!(pins.contains(COMMIT), "{pins}");
        setup.assert_loads();

        // Gone, and fetched again: it must be the same, whatever the hub has now.
        let file = setup.cache().join("sources/small/data/test.parquet");
        fs::remove_file(&file).unwrap();
        setup.server.set(Mode::Flipped);
        setup.fetch().unwrap_err();
        assert!(!file.exists());
        setup.server.set(Mode::Good);
        setup.fetch().unwrap();

        // Changed on the disk: found when it is decoded.
        let mut bytes = fs::read(&file).unwrap();
        bytes[100] ^= 1;
        fs::write(&file, bytes).unwrap();
        let options = LoadOptions {
            places: Places { network: None, ..setup.places(Reporter::default()) },
            ..LoadOptions::default()
        };
        let error = verify(&Manifest::read(&setup.manifest).unwrap(), &options).unwrap_err();
        assert_eq!(error.code, "DATA-HASH");
    }
}

#[test]
fn names_that_a_server_sends_never_name_a_file() {
    let setup = Setup::hub(Mode::HostileNames, false);
    setup.assert_refused("40 hexadecimal digits");
}

#[test]
fn eight_at_once_download_once() {
    let setup = Setup::page(Mode::Slow);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| setup.fetch().unwrap());
        }
    });
    assert_eq!(setup.server.seen().len(), 1);
    setup.assert_loads();
}

#[test]
fn the_hub_s_failure_leads_to_the_set_s_own_page() {
    let hub = Setup::hub(Mode::Forbidden, true);
    let page = Setup::page(Mode::Good);
    let tail = |setup: &Setup| fs::read_to_string(&setup.manifest).unwrap().replace(HEAD, "");
    let both = format!("{HEAD}{}{}", tail(&page), tail(&hub));
    fs::write(&hub.manifest, both).unwrap();
    hub.fetch().unwrap();
    assert_eq!(hub.kept(), ["small.tar.gz"]);
    assert_eq!(page.server.seen().len(), 1);
    hub.assert_loads();
}

#[test]
fn without_the_network_nothing_is_asked() {
    let setup = Setup::page(Mode::Good);
    let spec = format!("manifest:{}", setup.manifest.display()).parse().unwrap();
    let places = Places { network: None, ..setup.places(Reporter::default()) };
    let error =
        load(&spec, &LoadOptions { places: places.clone(), ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains(&setup.cache().display().to_string()), "{error}");
    assert!(hub::fetch(&Manifest::read(&setup.manifest).unwrap(), &places).is_err());
    assert!(setup.server.seen().is_empty());
    // And with it, a load fetches.
    let options = LoadOptions { places: setup.places(Reporter::default()), ..Default::default() };
    assert_eq!(load(&spec, &options).unwrap().train.len(), 200);
}

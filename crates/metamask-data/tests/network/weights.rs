//! Weights from the hub: `hub:ORG/NAME@COMMIT`.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use metamask_data::hub::{Network, Secret};
use metamask_data::{DataError, Event, HubWeights, Places, Reporter};

use crate::server::{COMMIT, Mode, Server, hostile_path};
use crate::{TOKEN, sha256};

struct Setup {
    dir: tempfile::TempDir,
    server: Server,
    file: Vec<u8>,
    notes: Arc<Mutex<String>>,
}

impl Setup {
    fn new(mode: Mode) -> Self {
        let file: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let server = Server::new(mode, &[("model.safetensors".to_owned(), file.clone())]);
        Self { dir: tempfile::tempdir().unwrap(), server, file, notes: Arc::default() }
    }

    fn places(&self) -> Places {
        let network = Network {
            endpoint: self.server.url(),
            token: Some(Secret::new(TOKEN).unwrap()),
            ..Network::default()
        };
        let notes = Arc::clone(&self.notes);
        let report = Reporter::new(move |event: Event| {
            notes.lock().unwrap().push_str(&format!("{event:?}\n"));
        });
        let cache_dir = Some(self.dir.path().join("cache"));
        Places { cache_dir, network: Some(network), report, ..Places::default() }
    }

    fn find(&self) -> Result<PathBuf, DataError> {
        let weights: HubWeights = format!("hub:a/b@{COMMIT}").parse().unwrap();
        let found = weights.find(&self.places());
        let text = format!("{found:?} {}", self.notes.lock().unwrap());
        assert!(!text.contains("CANARY") && !text.contains("SECRET"), "{text}");
        found
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("cache/weights/a/b").join(COMMIT)
    }
}

#[test]
fn weights_are_fetched_once_and_pinned_by_their_first_use() {
    for mode in [Mode::Good, Mode::Redirect, Mode::Cut(100_000), Mode::ErrorsFirst(2)] {
        let setup = Setup::new(mode.clone());
        let path = setup.find().unwrap_or_else(|error| panic!("{mode:?}: {error}"));
        assert_eq!(path, setup.folder().join("model.safetensors"));
        assert!(fs::read(&path).unwrap() == setup.file);
        let asked = format!("/a/b/resolve/{COMMIT}/model.safetensors");
        assert_eq!(setup.server.seen()[0].path, asked);
        let sum = sha256(&setup.file);
        let pins = fs::read_to_string(setup.folder().join("unpinned.toml")).unwrap();
        assert!(pins.contains(&sum), "{pins}");
        let notes = setup.notes.lock().unwrap().clone();
        assert!(notes.contains("unpinned") && notes.contains(&sum), "{notes}");

        setup.server.set(Mode::Closes);
        assert_eq!(setup.find().unwrap(), path);
        assert!(setup.server.seen().is_empty(), "it is here");
        let again = setup.notes.lock().unwrap().clone();
        assert_eq!(again.matches("unpinned").count(), 1, "said once: {again}");
    }
}

#[test]
fn what_changes_after_its_first_use_is_refused() {
    let setup = Setup::new(Mode::Good);
    let path = setup.find().unwrap();
    let mut bytes = setup.file.clone();
    bytes[5] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = setup.find().unwrap_err();
    assert_eq!(error.code, "DATA-HASH");
    // Gone, and the hub has others under the same commit.
    fs::remove_file(&path).unwrap();
    setup.server.set(Mode::Flipped);
    assert_eq!(setup.find().unwrap_err().code, "DOWNLOAD");
    assert!(!path.exists());
    setup.server.set(Mode::Good);
    setup.find().unwrap();
}

#[test]
fn a_bad_server_gives_no_weights_and_leaves_no_pin() {
    for mode in [
        Mode::Short,
        Mode::Long,
        Mode::Flipped,
        Mode::Page,
        Mode::Forbidden,
        Mode::Encoded,
        Mode::Endless,
        Mode::EndlessHead,
        Mode::Closes,
        Mode::Loop,
        Mode::HostileNames,
        Mode::Claims(1 << 40),
        Mode::Claims(513 << 20),
        Mode::To("http://example.org/x".into()),
    ] {
        let setup = Setup::new(mode.clone());
        let error = setup.find().map(|_| ()).expect_err(&format!("{mode:?}"));
        assert_eq!(error.code, "DOWNLOAD", "{mode:?}: {error}");
        assert!(!error.message.contains('\n'), "{error}");
        assert!(!setup.folder().join("model.safetensors").exists(), "{mode:?}");
        setup.server.set(Mode::Good);
        setup.find().unwrap_or_else(|error| panic!("after {mode:?}: {error}"));
        assert!(!hostile_path().exists());
    }
}

#[test]
fn offline_nobody_is_asked_and_many_at_once_fetch_once() {
    let setup = Setup::new(Mode::Slow);
    let weights: HubWeights = format!("hub:a/b@{COMMIT}").parse().unwrap();
    let offline = Places { network: None, ..setup.places() };
    let error = weights.find(&offline).unwrap_err();
    assert_eq!(error.code, "DATA-MISSING");
    assert!(error.message.contains("offline"), "{error}");
    assert!(setup.server.seen().is_empty());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| setup.find().unwrap());
        }
    });
    // One asked for length and digest, and the same one for the bytes.
    assert_eq!(setup.server.seen().len(), 2);
    assert!(fs::read(weights.find(&offline).unwrap()).unwrap() == setup.file);
}

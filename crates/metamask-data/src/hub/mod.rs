//! Fetching data sets: from the Hugging Face hub at pinned commits, or from
//! their own pages.
//!
//! What is fetched, under which name it is kept, how long it is and what its
//! digest is comes from the manifest. Servers give bytes: no path, name, length
//! or commit of theirs ever names a file of ours, and nothing is used before
//! its length and digest are right. The one question asked of the hub's API is
//! which commit a branch points at, for the repositories that nobody pinned.

mod fetcher;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::manifest::{HubRepository, Layout, Manifest, is_hex};
use crate::pins::Pins;
use crate::places::Places;
use crate::report::Reporter;
use crate::source::{Found, Origin, search};
use crate::weights::{self, HubWeights};
use fetcher::{Expected, Fetcher};

/// The hub's address unless `HF_ENDPOINT` names another.
pub const ENDPOINT: &str = "https://huggingface.co";

/// How the network may be used.
#[derive(Clone, Debug)]
pub struct Network {
    /// The hub's address: `https`, or `http` of this machine.
    pub endpoint: String,
    /// Sent to the endpoint alone, and never over plain `http`.
    pub token: Option<Secret>,
    /// Where to fetch from.
    pub from: From,
}

impl Default for Network {
    fn default() -> Self {
        Self { endpoint: ENDPOINT.to_owned(), token: None, from: From::Any }
    }
}

/// Where to fetch from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// The hub, and the set's own page if that fails; the other way round where only
    /// the page's files have published digests.
    #[default]
    Any,
    /// The hub alone.
    Hub,
    /// The set's own page alone.
    Original,
}

/// A token. It has no `Display`, and its `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a token, without the white space around it.
    ///
    /// # Errors
    /// If it holds what no header may.
    pub fn new(token: &str) -> Result<Self, DataError> {
        let token = token.trim();
        match token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            true => Err(DataError::request("token: expected visible ASCII characters".into())),
            false => Ok(Self(token.to_owned())),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A file to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its address.
    pub url: String,
    /// Its length, if that was published.
    pub bytes: Option<u64>,
    /// Whether its digest was published; otherwise that of the first fetch counts.
    pub is_pinned: bool,
    /// Where it will be kept.
    pub path: PathBuf,
}

/// A way to get a whole data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where its files come from: [`From::Hub`] or [`From::Original`].
    pub from: From,
    /// The files.
    pub files: Vec<Planned>,
}

/// What a fetch would download: the ways to get the set, the preferred one first.
///
/// # Errors
/// If there is no cache to keep files in, or nothing is known to fetch from.
pub fn plan(manifest: &Manifest, places: &Places) -> Result<Vec<Way>, DataError> {
    let network = places.network.clone().unwrap_or_default();
    let folder = places.sources(&manifest.name).ok_or_else(|| {
        DataError::request(format!("fetch {}: expected a cache to keep it in", manifest.name))
    })?;
    let from_hub = || {
        let files =
            manifest.hub.iter().flat_map(|hub| hub.file.iter().map(move |file| (hub, file)));
        let planned = files.map(|(hub, file)| Planned {
            url: resolve_url(&network.endpoint, &hub.repository, revision(hub), &file.path),
            bytes: file.bytes,
            is_pinned: hub.commit.is_some() && file.sha256.is_some(),
            path: folder.join(&file.path),
        });
        Way { from: From::Hub, files: planned.collect() }
    };
    let from_page = || {
        // Loose files are looked for in the folder that the layout names.
        let folder = match &manifest.layout {
            Layout::Idx { folder: below, .. } => folder.join(below),
            _ => folder.clone(),
        };
        let planned = manifest.download.iter().map(|download| Planned {
            url: download.url.clone(),
            bytes: Some(download.bytes),
            is_pinned: true,
            path: folder.join(download.file_name()),
        });
        Way { from: From::Original, files: planned.collect() }
    };
    let mut ways = match network.from {
        From::Any => vec![from_hub(), from_page()],
        From::Hub => vec![from_hub()],
        From::Original => vec![from_page()],
    };
    ways.retain(|way| !way.files.is_empty());
    // Published digests first; the order stays otherwise.
    ways.sort_by_key(|way| !way.files.iter().all(|file| file.is_pinned));
    match ways.is_empty() {
        true => Err(DataError::request(format!("fetch {}: no address is known", manifest.name))),
        false => Ok(ways),
    }
}

/// Fetches a data set into our cache; what is there already stays.
///
/// # Errors
/// If no way leads to verified files; every way that was tried is named.
pub fn fetch(manifest: &Manifest, places: &Places) -> Result<(), DataError> {
    fetch_found(manifest, places).map(|_| ())
}

pub(crate) fn fetch_found(
    manifest: &Manifest,
    places: &Places,
) -> Result<(Origin, Found), DataError> {
    let offline = || DataError::request(format!("fetch {}: offline", manifest.name));
    let network = places.network.as_ref().ok_or_else(offline)?;
    let mut failures: Vec<DataError> = Vec::new();
    for way in plan(manifest, places)? {
        let fetched = match way.from {
            From::Hub => fetch_hub(manifest, places, network),
            From::Original | From::Any => fetch_page(manifest, places, network, &way.files),
        };
        match fetched {
            Ok(()) => {
                // Only the cache: what the user named has been searched before.
                let cache = Places { data_dir: None, hub_cache_dir: None, ..places.clone() };
                let found = search(manifest, &cache)?.found;
                return found.ok_or_else(|| {
                    let message = format!("fetch {}: the files are not all there", manifest.name);
                    DataError::download(message)
                });
            }
            Err(error) if matches!(error.code, "DISK-FULL" | "IO") => return Err(error),
            Err(error) => {
                places.report.note(error.message.clone());
                failures.push(error);
            }
        }
    }
    let all: Vec<_> = failures.iter().map(|error| error.message.clone()).collect();
    let first = failures.swap_remove(0);
    let elsewhere = "fetch again later, or get the files another way and give their folder with \
                     --data-dir";
    let help = first.help.clone().or_else(|| Some(elsewhere.to_owned()));
    Err(DataError { message: all.join("; then "), help, ..first })
}

fn fetch_page(
    manifest: &Manifest,
    places: &Places,
    network: &Network,
    files: &[Planned],
) -> Result<(), DataError> {
    // The token is for the hub.
    let network = Network { token: None, ..network.clone() };
    let fetcher = Fetcher::new(&network, places.report.clone())?;
    for (planned, download) in files.iter().zip(&manifest.download) {
        let expected = Expected {
            bytes: download.bytes,
            sha256: download.sha256.clone(),
            md5: download.md5.clone(),
        };
        fetcher.file(&planned.url, &planned.path, &expected)?;
    }
    Ok(())
}

fn fetch_hub(manifest: &Manifest, places: &Places, network: &Network) -> Result<(), DataError> {
    let folder = places.sources(&manifest.name).expect("planned");
    fs::create_dir_all(&folder).map_err(|error| DataError::io(&folder, "write", &error))?;
    let fetcher = Fetcher::new(network, places.report.clone())?;
    let _lock = fetcher.lock(&folder.join("fetch.lock"))?;
    let mut pins = Pins::read(&folder)?;
    for hub in &manifest.hub {
        let commit = match (&hub.commit, pins.commit(&hub.repository)) {
            (Some(commit), _) => commit.clone(),
            (None, Some(commit)) => commit,
            (None, None) => {
                let commit = fetcher.commit(&hub.repository, revision(hub))?;
                pins.keep_commit(&hub.repository, &commit)?;
                commit
            }
        };
        for file in &hub.file {
            let url = resolve_url(&network.endpoint, &hub.repository, &commit, &file.path);
            let path = folder.join(&file.path);
            let known = pins.file(&file.path);
            let (bytes, sha256) = match (file.bytes, &file.sha256, known.clone()) {
                (Some(bytes), Some(sha256), _) => (bytes, sha256.clone()),
                (_, _, Some(known)) => known,
                (bytes, sha256, None) => {
                    // The length, and the digest where none was published.
                    let (told_bytes, told_sha256) = fetcher.announced(&url)?;
                    if bytes.is_some_and(|bytes| bytes != told_bytes) {
                        let message =
                            format!("{}: {told_bytes} bytes, expected {bytes:?}", file.path);
                        return Err(DataError::download(message));
                    }
                    let sha256 = match sha256 {
                        Some(sha256) => sha256.clone(),
                        None => told_sha256.ok_or_else(|| {
                            let message = format!("{}: the server names no digest", file.path);
                            DataError::download(message)
                        })?,
                    };
                    (told_bytes, sha256)
                }
            };
            let expected = Expected { bytes, sha256: Some(sha256.clone()), md5: None };
            fetcher.file(&url, &path, &expected)?;
            let is_published = file.bytes.is_some() && file.sha256.is_some();
            if !is_published && known.is_none() {
                // Only what arrived whole is a first use: a page that says no is none.
                pins.keep_file(&file.path, bytes, &sha256)?;
                if file.sha256.is_none() {
                    places.report.note(format!(
                        "{}: unpinned, nobody published its digest; from now on it is sha256 {sha256}",
                        file.path
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Fetches somebody's weights into their folder of our cache; what is there stays.
pub(crate) fn fetch_weights(
    weights: &HubWeights,
    network: &Network,
    folder: &Path,
    report: &Reporter,
) -> Result<(), DataError> {
    fs::create_dir_all(folder).map_err(|error| DataError::io(folder, "write", &error))?;
    let fetcher = Fetcher::new(network, report.clone())?;
    let _lock = fetcher.lock(&folder.join("fetch.lock"))?;
    let mut pins = Pins::read(folder)?;
    let endpoint = network.endpoint.trim_end_matches('/');
    let (repository, commit) = (weights.repository(), weights.commit());
    let url = format!("{endpoint}/{repository}/resolve/{commit}/{}", weights::FILE);
    let known = pins.file(weights::FILE);
    let (bytes, sha256) = match &known {
        Some(known) => known.clone(),
        None => {
            let (bytes, sha256) = fetcher.announced(&url)?;
            if bytes > weights::LIMIT {
                let limit = weights::LIMIT;
                let message = format!("{weights}: {bytes} bytes announced, at most {limit}");
                return Err(DataError::download(message));
            }
            let sha256 = sha256.ok_or_else(|| {
                DataError::download(format!("{weights}: the server names no digest"))
            })?;
            (bytes, sha256)
        }
    };
    let expected = Expected { bytes, sha256: Some(sha256.clone()), md5: None };
    fetcher.file(&url, &folder.join(weights::FILE), &expected)?;
    if known.is_none() {
        // Only what arrived whole is a first use: a page that says no is none.
        pins.keep_file(weights::FILE, bytes, &sha256)?;
        report.note(weights::unpinned(weights, &sha256));
    }
    Ok(())
}

fn revision(hub: &HubRepository) -> &str {
    hub.commit.as_deref().or(hub.branch.as_deref()).unwrap_or("main")
}

fn resolve_url(endpoint: &str, repository: &str, revision: &str, path: &str) -> String {
    // A branch such as refs/convert/parquet is one segment.
    let revision = match is_hex(revision, 40) {
        true => revision.to_owned(),
        false => revision.replace('/', "%2F"),
    };
    let endpoint = endpoint.trim_end_matches('/');
    format!("{endpoint}/datasets/{repository}/resolve/{revision}/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let network =
            Network { token: Some(Secret::new(" hf_CANARY \n").unwrap()), ..Network::default() };
        assert!(!format!("{network:?}").contains("CANARY"));
        for bad in ["", " ", "a b", "a\r\nb", "ä"] {
            assert!(Secret::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_plan_names_addresses_lengths_and_places_without_asking_anybody() {
        let places = Places { cache_dir: Some("/cache".into()), ..Places::default() };
        let ways = plan(&Manifest::embedded("cifar10"), &places).unwrap();
        let [hub, page] = &ways[..] else { unreachable!("two ways") };
        assert_eq!(
            hub.files[0].url,
            "https://huggingface.co/datasets/uoft-cs/cifar10/resolve/\
             0b2714987fa478483af9968de7c934580d0bb9a2/plain_text/train-00000-of-00001.parquet"
        );
        assert_eq!(
            (hub.files[1].bytes, page.files[0].bytes),
            (Some(23_940_850), Some(170_052_171))
        );
        assert!(page.files[0].path.ends_with("sources/cifar10/cifar-10-binary.tar.gz"));
        let ways = plan(&Manifest::embedded("mnist"), &places).unwrap();
        assert_eq!(ways[0].from, From::Original, "the hub's files have no published digest");
        assert!(ways[1].files[0].url.contains("/resolve/refs%2Fconvert%2Fparquet/mnist/"));
        assert!(plan(&Manifest::embedded("cifar10"), &Places::default()).is_err(), "no cache");
    }
}

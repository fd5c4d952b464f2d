//! Where the files of a data set are, and whether they are the published ones.
//!
//! Looked at in this order: the folder that the user names, a package of the
//! system, our own cache, the Hugging Face cache (only read, and only at paths
//! built from the manifest), the hub, the set's own page.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use md5::Md5;
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::error::DataError;
use crate::file::{self, list};
use crate::hub_parquet::Part;
use crate::manifest::{HubRepository, Layout, Manifest, is_hex};
use crate::pins::Pins;
use crate::pixel_file::SourceFile;
use crate::places::Places;
use crate::split::Split;

/// The original files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Original {
    Folder(PathBuf),
    Archive(PathBuf),
}

impl Original {
    /// A member's path, for messages.
    pub(crate) fn member(&self, folder: &str, name: &str) -> PathBuf {
        match self {
            Self::Folder(dir) => dir.join(name),
            Self::Archive(path) => path.join(folder).join(name),
        }
    }
}

/// What was found of a data set.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Original(Original),
    Parquet(Vec<Part>),
}

/// Where it was found, by its word in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The folder the user named.
    DataDir,
    /// A package of the system.
    Installed,
    /// Our own cache.
    Cache,
    /// The Hugging Face cache.
    HubCache,
}

impl Origin {
    /// Its word in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataDir => "data-dir",
            Self::Installed => "installed",
            Self::Cache => "cache",
            Self::HubCache => "hub-cache",
        }
    }
}

/// The outcome of a search.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    pub found: Option<(Origin, Found)>,
    /// Every folder that was looked at.
    pub looked: Vec<PathBuf>,
}

/// Looks for a data set on this machine.
pub(crate) fn search(manifest: &Manifest, places: &Places) -> Result<Search, DataError> {
    let mut looked = Vec::new();
    let mut folders = vec![(Origin::DataDir, places.data_dir.clone())];
    if let Layout::Idx { installed: Some(dir), .. } = &manifest.layout {
        folders.push((Origin::Installed, Some(dir.into())));
    }
    folders.push((Origin::Cache, places.sources(&manifest.name)));
    for (origin, dir) in folders {
        let Some(dir) = dir else { continue };
        if let Some(found) = in_folder(manifest, &dir, &mut looked) {
            return Ok(Search { found: Some((origin, found)), looked });
        }
        if origin == Origin::DataDir {
            refuse_pickles(manifest, &dir)?;
        }
    }
    let Some(dir) = &places.hub_cache_dir else { return Ok(Search { found: None, looked }) };
    looked.push(dir.clone());
    let parts = parts(manifest, |hub, path| {
        let commit = hub.commit.as_ref()?;
        let (owner, name) = hub.repository.split_once('/').expect("checked");
        let folder = format!("datasets--{owner}--{name}");
        let path = dir.join(folder).join("snapshots").join(commit).join(path);
        path.is_file().then_some(path)
    });
    let found = parts.map(|parts| (Origin::HubCache, Found::Parquet(parts)));
    Ok(Search { found, looked })
}

/// No file of the set is on this machine.
pub(crate) fn missing(manifest: &Manifest, looked: &[PathBuf]) -> DataError {
    let name = &manifest.name;
    let looked = match looked {
        [] => "no folder was given".to_owned(),
        looked => format!("nothing of it in {}", list(looked)),
    };
    let mut help = format!("`metamask data fetch {name}` fetches it");
    if let Layout::Idx { installed: Some(dir), .. } = &manifest.layout {
        let package = Path::new(dir).file_name().unwrap_or_default().to_string_lossy();
        help += &format!("; Debian and Ubuntu have it: `apt-get install dataset-{package}`");
    }
    if let [download, ..] = &manifest.download[..] {
        help += &format!("; or give its folder with --data-dir: {}", download.url);
    }
    let first = first_names(&manifest.layout).1.swap_remove(0);
    let archive = match (&manifest.layout, &manifest.download[..]) {
        (Layout::Idx { .. }, _) | (_, []) => String::new(),
        (_, [download, ..]) => format!(" or `{}`", download.file_name()),
    };
    let message = format!("{name}: {looked}, expected `{first}`{archive}");
    DataError::missing(message, Some(help))
}

/// The folder of the original files, and names any of which shows that they are there.
fn first_names(layout: &Layout) -> (&str, Vec<String>) {
    match layout {
        Layout::Cifar { folder, train, .. } => (folder, vec![train[0].clone()]),
        Layout::Stl { folder } => (folder, vec!["train_X.bin".to_owned()]),
        Layout::Idx { folder, train: [images, _], .. } => {
            (folder, vec![images.clone(), format!("{images}.gz")])
        }
        Layout::TinyImagenet { folder } => (folder, vec!["train".to_owned()]),
    }
}

fn in_folder(manifest: &Manifest, dir: &Path, looked: &mut Vec<PathBuf>) -> Option<Found> {
    let (folder, first) = first_names(&manifest.layout);
    // The archive itself may be named, too.
    if dir.is_file() {
        return Some(Found::Original(Original::Archive(dir.to_owned())));
    }
    let folders = [dir.to_owned(), dir.join(folder), dir.join(&manifest.name)];
    for folder in folders {
        let is_here = first.iter().any(|name| folder.join(name).exists());
        // A folder of images has `train`, too; Tiny-ImageNet's ends in `images`.
        let fits = match &manifest.layout {
            Layout::TinyImagenet { .. } => is_here && folder.join("val").is_dir(),
            _ => is_here,
        };
        looked.push(folder.clone());
        if fits {
            return Some(Found::Original(Original::Folder(folder)));
        }
    }
    if !matches!(manifest.layout, Layout::Idx { .. }) {
        for download in &manifest.download {
            let archive = dir.join(download.file_name());
            if archive.is_file() {
                return Some(Found::Original(Original::Archive(archive)));
            }
        }
    }
    let parts = parts(manifest, |_, path| {
        let base = path.rsplit('/').next().unwrap_or(path);
        [dir.join(path), dir.join(base)].into_iter().find(|path| path.is_file())
    });
    parts.map(Found::Parquet)
}

/// The parquet files of a set, if every file with labels is there and, where a
/// repository holds unlabelled images, all of them or none.
pub(crate) fn parts(
    manifest: &Manifest,
    path_of: impl Fn(&HubRepository, &str) -> Option<PathBuf>,
) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    for hub in &manifest.hub {
        let found: Option<Vec<Part>> = hub
            .file
            .iter()
            .map(|file| {
                Some(Part {
                    path: path_of(hub, &file.path)?,
                    split: file.split,
                    image: hub.image.clone(),
                    label: hub.label.clone(),
                })
            })
            .collect();
        match found {
            Some(found) => parts.extend(found),
            None if hub.label.is_none() => {}
            None => return None,
        }
    }
    let has = |split| parts.iter().any(|part| part.split == split);
    (has(Split::Train) && has(Split::Test)).then_some(parts)
}

/// Pickles can run code; they are not read at all.
fn refuse_pickles(manifest: &Manifest, dir: &Path) -> Result<(), DataError> {
    let Layout::Cifar { pickles, .. } = &manifest.layout else { return Ok(()) };
    let Some(pickle) = pickles.iter().map(|name| dir.join(name)).find(|path| path.exists()) else {
        return Ok(());
    };
    let name = &manifest.name;
    let found = format!("{name} as Python pickles, which can run code");
    let archive = manifest.download.first().map_or("binary archive", |one| one.file_name());
    let help = format!("pickles are not read: take {archive}, or `metamask data fetch {name}`");
    let error = DataError::kind(&pickle, &found, "its binary version");
    Err(DataError { help: Some(help), ..error })
}

/// A file beside what was published about it.
struct Published<'a> {
    bytes: Option<u64>,
    sha256: Option<&'a str>,
    md5: Option<&'a str>,
}

/// Compares the files with what was published; they are read once for it.
///
/// A file of the published length must have the published digest. In a folder
/// of the user's own, one of another length is another file: it is taken as it
/// is, and said to be. In a cache it is refused.
pub(crate) fn verify(
    manifest: &Manifest,
    places: &Places,
    origin: Origin,
    found: &Found,
) -> Result<(Vec<SourceFile>, Vec<String>), DataError> {
    let (mut sources, mut notes) = (Vec::new(), Vec::new());
    let fetched = places.sources(&manifest.name).filter(|_| origin == Origin::Cache);
    let pins = fetched.map(|folder| Pins::read(&folder)).transpose()?.unwrap_or_default();
    let mut check = |path: &Path, published: Option<Published<'_>>| -> Result<(), DataError> {
        let (bytes, sha256, md5) = digests(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match published {
            Some(known) if known.bytes.is_none_or(|expected| expected == bytes) => {
                for (found, expected) in [(&sha256, known.sha256), (&md5, known.md5)] {
                    if let Some(expected) = expected.filter(|expected| expected != found) {
                        return Err(DataError::hash(path, found, expected));
                    }
                }
                if known.sha256.is_none() && known.md5.is_none() {
                    notes.push(format!(
                        "`{name}` is unpinned: no digest was published, sha256 {sha256}"
                    ));
                }
            }
            Some(known) if matches!(origin, Origin::Cache | Origin::HubCache) => {
                let expected = known.bytes.unwrap_or_default();
                let error = DataError::content(path, format!("{bytes} bytes"), expected);
                let help = Some("remove the file; it will be fetched again".to_owned());
                return Err(DataError { help, ..error });
            }
            Some(known) => notes.push(format!(
                "`{name}` has {bytes} bytes, the published file {}: taken as it is",
                known.bytes.unwrap_or_default()
            )),
            None => {}
        }
        sources.push(SourceFile { name, sha256 });
        Ok(())
    };
    match found {
        Found::Original(Original::Archive(path)) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let known = manifest.download.iter().find(|one| one.file_name() == name);
            let known = known.or(match &manifest.download[..] {
                [one] => Some(one),
                _ => None,
            });
            check(
                path,
                known.map(|one| Published {
                    bytes: Some(one.bytes),
                    sha256: one.sha256.as_deref(),
                    md5: one.md5.as_deref(),
                }),
            )?;
        }
        Found::Original(Original::Folder(dir)) => {
            for name in original_names(manifest) {
                let path = dir.join(&name);
                if path.is_file() {
                    check(
                        &path,
                        manifest.known_file(&name).map(|one| Published {
                            bytes: Some(one.bytes),
                            sha256: one.sha256.as_deref(),
                            md5: one.md5.as_deref(),
                        }),
                    )?;
                }
            }
        }
        Found::Parquet(parts) => {
            for part in parts {
                let name = part.path.file_name();
                let mut files = manifest.hub.iter().flat_map(|hub| &hub.file);
                let known = files.find(|file| name == Path::new(&file.path).file_name());
                // The hub's cache calls a large file by its SHA-256.
                let blob = part.path.canonicalize().ok();
                let blob = blob.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
                let blob = blob.filter(|name| origin == Origin::HubCache && is_hex(name, 64));
                let kept = known.and_then(|one| pins.file(&one.path));
                let first_use = kept.as_ref().map(|(_, sha256)| &sha256[..]).or(blob.as_deref());
                let published = known.map(|one| Published {
                    bytes: one.bytes.or(kept.as_ref().map(|(bytes, _)| *bytes)),
                    sha256: one.sha256.as_deref().or(first_use),
                    md5: None,
                });
                check(&part.path, published)?;
            }
        }
    }
    Ok((sources, notes))
}

/// The names of the unpacked original files of a layout.
fn original_names(manifest: &Manifest) -> Vec<String> {
    match &manifest.layout {
        Layout::Cifar { train, test, .. } => train.iter().chain(test).cloned().collect(),
        Layout::Stl { .. } => manifest.file.iter().map(|file| file.name.clone()).collect(),
        // Gzip streams differ from packager to packager: the reader checks what
        // they unpack to. Tiny-ImageNet's files have no published digests.
        Layout::Idx { .. } | Layout::TinyImagenet { .. } => Vec::new(),
    }
}

/// Length, SHA-256 and MD5 of a file.
pub(crate) fn digests(path: &Path) -> Result<(u64, String, String), DataError> {
    let mut file: File = file::open(path, "a file of a data set")?;
    let (mut sha256, mut md5, mut bytes) = (Sha256::new(), Md5::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                // Two sums of one buffer, each on a core where there are two.
                rayon::join(|| sha256.update(&buffer[..n]), || md5.update(&buffer[..n]));
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(file::unreadable(path, &error)),
        }
    }
    Ok((bytes, hex(&sha256.finalize()), hex(&md5.finalize())))
}

/// What tells whether the files are those that were decoded before: their
/// paths, lengths and times of change.
pub(crate) fn stamp(found: &Found, manifest: &Manifest) -> Result<Vec<u8>, DataError> {
    let mut stamp = Vec::new();
    let mut add = |path: &Path| -> Result<(), DataError> {
        use std::os::unix::fs::MetadataExt;
        let failed = |error: io::Error| file::unreadable(path, &error);
        let metadata = path.metadata().map_err(failed)?;
        let whole = path.canonicalize().map_err(failed)?;
        stamp.extend(whole.as_os_str().as_encoded_bytes());
        for number in [metadata.len() as i64, metadata.mtime(), metadata.mtime_nsec()] {
            stamp.extend(number.to_le_bytes());
        }
        Ok(())
    };
    match found {
        Found::Original(Original::Archive(path)) => add(path)?,
        Found::Parquet(parts) => parts.iter().try_for_each(|part| add(&part.path))?,
        Found::Original(Original::Folder(dir)) => {
            let mut names = original_names(manifest);
            match &manifest.layout {
                Layout::Idx { train, test, .. } => names.extend(
                    train.iter().chain(test).flat_map(|name| [name.clone(), format!("{name}.gz")]),
                ),
                Layout::TinyImagenet { .. } => {
                    names.extend(["train", "val", "val/images"].map(String::from));
                }
                Layout::Stl { .. } => names.extend(
                    ["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin"]
                        .map(String::from),
                ),
                Layout::Cifar { .. } => {}
            }
            names.sort();
            names.dedup();
            for path in names.iter().map(|name| dir.join(name)).filter(|path| path.exists()) {
                add(&path)?;
            }
        }
    }
    Ok(stamp)
}

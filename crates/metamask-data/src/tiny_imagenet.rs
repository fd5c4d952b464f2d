//! Tiny-ImageNet-200 (IN-200): 64×64 JPEG files in a zip archive or a folder.
//!
//! ```text
//! train/<wnid>/images/<wnid>_<i>.JPEG        or  train/<wnid>/<name>.JPEG
//! val/images/val_<i>.JPEG + val/val_annotations.txt   or  val/<wnid>/[images/]<name>.JPEG
//! ```
//! A class is the place of its WordNet id among the sorted ids of `train`, as
//! torchvision's ImageFolder has it; `val` is the test set, the unlabelled
//! `test` is not used. Files are taken in the order of their names.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::archive::Zip;
use crate::decode::{Target, inside, put_pictures};
use crate::error::DataError;
use crate::file;
use crate::manifest::Manifest;
use crate::picture;
use crate::pixel_file::{Index, PixelFile};
use crate::source::Original;

const ANNOTATIONS: &str = "val/val_annotations.txt";
const TEXT_LIMIT: u64 = 16 << 20;
const MAX_FILES: usize = 2_000_000;

pub(crate) fn read(
    manifest: &Manifest,
    folder: &str,
    original: &Original,
    target: &Target,
) -> Result<PixelFile, DataError> {
    match original {
        Original::Folder(dir) => {
            let mut names = Vec::new();
            for part in ["train", "val"] {
                walk(dir, part, 3, &mut names)?;
            }
            let read = |name: &str, limit: u64| {
                let path = dir.join(name);
                let mut bytes = Vec::new();
                let file = file::open(&path, "a file of Tiny-ImageNet")?;
                let read = file.take(limit).read_to_end(&mut bytes);
                read.map(|_| bytes).map_err(|error| file::unreadable(&path, &error))
            };
            decode(manifest, dir, names, read, target)
        }
        Original::Archive(path) => {
            let mut zip = Zip::open(path)?;
            let root = format!("{folder}/");
            let names = zip.names.iter().filter_map(|name| name.strip_prefix(&root));
            let names = names.map(String::from).collect();
            let read = |name: &str, limit: u64| zip.read(path, &format!("{root}{name}"), limit);
            decode(manifest, &path.join(folder), names, read, target)
        }
    }
}

fn decode(
    manifest: &Manifest,
    shown: &Path,
    names: Vec<String>,
    mut read: impl FnMut(&str, u64) -> Result<Vec<u8>, DataError>,
    target: &Target,
) -> Result<PixelFile, DataError> {
    let mut classes: BTreeMap<String, u32> = BTreeMap::new();
    let (mut train, mut val) = (Vec::new(), Vec::new());
    let mut annotated = None;
    for name in names {
        let parts: Vec<&str> = name.split('/').collect();
        let is_picture = name
            .rsplit('.')
            .next()
            .is_some_and(|end| ["jpeg", "jpg", "png"].contains(&&end.to_ascii_lowercase()[..]));
        match parts[..] {
            _ if name == ANNOTATIONS => annotated = Some(name),
            ["train", class, _] | ["train", class, "images", _] if is_picture => {
                classes.entry(class.to_owned()).or_default();
                train.push((class.to_owned(), name));
            }
            ["val", "images", file] if is_picture => val.push((None, file.to_owned(), name)),
            ["val", class, _] | ["val", class, "images", _] if is_picture => {
                val.push((Some(class.to_owned()), String::new(), name));
            }
            _ => {}
        }
    }
    for (i, label) in classes.values_mut().enumerate() {
        *label = i as u32;
    }
    train.sort_unstable();
    val.sort_unstable();
    if train.is_empty() || val.is_empty() {
        let message = format!("`{}`: found no pictures in `train` and `val`", shown.display());
        return Err(DataError::missing(message, None));
    }
    let annotations = match annotated.filter(|_| val.iter().any(|(class, ..)| class.is_none())) {
        None => BTreeMap::new(),
        Some(name) => annotations(&inside(shown, &name), read(&name, TEXT_LIMIT)?)?,
    };
    let label_of = |class: Option<&String>, name: &str| {
        class.and_then(|class| classes.get(class)).copied().ok_or_else(|| {
            let class = class.map_or_else(|| "no class".into(), |class| format!("class `{class}`"));
            DataError::content(&inside(shown, name), class, "one that `train` has")
        })
    };
    let mut test_labels = Vec::with_capacity(val.len());
    for (class, file, name) in &val {
        test_labels.push(label_of(class.as_ref().or_else(|| annotations.get(file)), name)?);
    }
    let train_labels: Vec<u32> = train.iter().map(|(class, _)| classes[class]).collect();

    let side = manifest.side as usize;
    let decoding = target.begin(&manifest.name, Some(val.len() + train.len()), side)?;
    let names = val.iter().map(|(.., name)| name).chain(train.iter().map(|(_, name)| name));
    let pictures = names.map(|name| Ok((name.clone(), read(name, picture::FILE_LIMIT)?)));
    put_pictures(&decoding, 0, pictures, |(name, bytes): &(String, Vec<u8>)| {
        let wrong = |found, expected: String| {
            Err(DataError::content(&inside(shown, name), found, expected))
        };
        match picture::decode(bytes) {
            Err(found) => wrong(found, "a picture".into()),
            Ok(picture) if (picture.height, picture.width) != (side, side) => wrong(
                format!("a picture of {}x{}", picture.width, picture.height),
                format!("{side}x{side}"),
            ),
            Ok(picture) => Ok(picture),
        }
    })?;
    decoding.finish(Index {
        test: test_labels,
        train: train_labels,
        class_names: classes.into_keys().collect(),
        ..Index::default()
    })
}

/// `val_0.JPEG \t n03444034 \t x0 \t y0 \t x1 \t y1`: the first two columns.
fn annotations(path: &Path, text: Vec<u8>) -> Result<BTreeMap<String, String>, DataError> {
    let text = String::from_utf8_lossy(&text);
    let line = |(i, line): (usize, &str)| {
        let mut columns = line.split('\t');
        match (columns.next(), columns.next()) {
            (Some(file), Some(class)) => Ok((file.to_owned(), class.trim().to_owned())),
            _ => {
                let found = format!("line {} without a tab", i + 1);
                Err(DataError::content(path, found, "a file's name and its class"))
            }
        }
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}

/// The plain files below `root/part`, as `part/…`, at most `depth` folders down.
fn walk(root: &Path, part: &str, depth: usize, names: &mut Vec<String>) -> Result<(), DataError> {
    let dir = root.join(part);
    let failed = |error| file::unreadable(&dir, &error);
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let below = format!("{part}/{name}");
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() && depth > 0 {
            walk(root, &below, depth - 1, names)?;
        } else if kind.is_file() {
            names.push(below);
        }
        if names.len() > MAX_FILES {
            let dir: PathBuf = dir.clone();
            return Err(DataError::content(&dir, "more files", format!("at most {MAX_FILES}")));
        }
    }
    Ok(())
}

//! `folder:PATH`: anybody's own images.
//!
//! ```text
//! PATH/train/CLASS/…  PATH/test/CLASS/…     given splits (`val` or `valid` instead of `test`)
//! PATH/CLASS/…                              a fifth of the files, by hash of their bytes, is the test set
//! PATH/…                                    no classes: all images are unlabelled
//! PATH/unlabelled/…                         unlabelled images beside either of the first two
//! ```
//! JPEG, PNG and WebP files count, at any depth below their class, in bytewise
//! order of their paths; classes are numbered in bytewise order of their names.
//! Splitting by the bytes puts copies of one file on the same side.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::decode::{Decoding, Target};
use crate::digest::hex;
use crate::error::DataError;
use crate::file;
use crate::load::{LoadOptions, decoded_name};
use crate::picture;
use crate::pixel_file::{Index, PixelFile, SourceFile};
use crate::split::Split;
use crate::spread::spread;

/// What to do with a file that has a picture's name and is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadImages {
    /// Stop and name it.
    #[default]
    Fail,
    /// Leave it out, and say how many there were.
    Skip,
}

impl FromStr for BadImages {
    type Err = DataError;

    fn from_str(word: &str) -> Result<Self, DataError> {
        match word {
            "fail" => Ok(Self::Fail),
            "skip" => Ok(Self::Skip),
            _ => {
                let message = format!("bad images: expected `fail` or `skip`, got `{word}`");
                Err(DataError::request(message))
            }
        }
    }
}

const ENDINGS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
const MAX_FILES: usize = 4_000_000;
const MAX_DEPTH: usize = 16;
/// One file in so many is for the test where the folder has no splits.
const TEST_IN: u8 = 5;
/// Sides to choose from, and how large the decoded images may get by that choice.
const SIDES: [usize; 5] = [32, 64, 96, 128, 224];
const MAX_DECODED: usize = 4 << 30;
/// So many pictures are measured for the choice.
const MEASURED: usize = 1_000;

/// One picture's file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Below the folder, which is what is shown and sorted by.
    path: PathBuf,
    /// The class, an index into [`Listing::classes`].
    class: Option<u32>,
    bytes: u64,
    changed: (i64, i64),
}

/// What lies in a folder, sorted.
#[derive(Clone, Debug, Default)]
struct Listing {
    test: Vec<Entry>,
    unlabelled: Vec<Entry>,
    train: Vec<Entry>,
    classes: Vec<String>,
    /// Whether `test` is still to be drawn from `train`.
    split_by_hash: bool,
    notes: Vec<String>,
}

/// Decodes a folder of images, or maps what was decoded before.
pub(crate) fn load(root: &Path, options: &LoadOptions) -> Result<PixelFile, DataError> {
    let listing = list(root)?;
    let mut stamp = Sha256::new();
    stamp.update([options.bad_images as u8]);
    for entry in listing.entries() {
        stamp.update(entry.path.as_os_str().as_bytes());
        stamp.update([0]);
        for number in [entry.bytes as i64, entry.changed.0, entry.changed.1] {
            stamp.update(number.to_le_bytes());
        }
    }
    let places = &options.places;
    let whole = root.canonicalize().map_err(|error| file::unreadable(root, &error))?;
    let stamp = [whole.as_os_str().as_bytes(), &stamp.finalize()].concat();
    let name = decoded_name("folder", &stamp, options.side);
    let report = places.report.clone();
    let target =
        Target { folder: places.decoded(), name, side: options.side, report, ..Target::default() };
    if let Some(place) = target.place()
        && let Some(file) = PixelFile::open(&place)?
    {
        return Ok(file);
    }
    decode(root, listing, options.bad_images, target)
}

impl Listing {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.test.iter().chain(&self.unlabelled).chain(&self.train)
    }
}

fn list(root: &Path) -> Result<Listing, DataError> {
    let mut walk = Walk { root, entries: Vec::new(), passed_over: Vec::new() };
    walk.folder(Path::new(""), 0)?;
    let Walk { mut entries, passed_over, .. } = walk;
    entries
        .sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));

    let mut listing = Listing::default();
    if let [first, ..] = &passed_over[..] {
        let n = passed_over.len();
        let first = first.display();
        listing
            .notes
            .push(format!("{n} files are neither JPEG, PNG nor WebP by name, `{first}` the first"));
    }
    let top = |entry: &Entry| first_part(&entry.path);
    let has = |name: &str| entries.iter().any(|entry| top(entry).is_some_and(|part| part == name));
    let has_train = has("train");
    let test_name = ["test", "val", "valid", "validation"].into_iter().find(|name| has(name));

    // Each picture with its split and, below that, its class's name.
    let mut of_class: Vec<(Split, Option<String>, Entry)> = Vec::with_capacity(entries.len());
    let (mut n_loose, mut n_other) = (0, 0);
    for entry in entries {
        let split = match top(&entry).as_deref() {
            Some("unlabelled" | "unlabeled") => Split::Unlabelled,
            Some("train") if has_train => Split::Train,
            Some(name) if has_train && Some(name) == test_name => Split::Test,
            _ if has_train => {
                n_other += 1;
                continue;
            }
            _ => Split::Train,
        };
        let below = match split == Split::Unlabelled || has_train {
            true => entry.path.components().skip(1).collect(),
            false => entry.path.clone(),
        };
        let class = first_part(&below).filter(|_| split != Split::Unlabelled);
        of_class.push((split, class, entry));
    }
    let is_classified = |one: &&(Split, Option<String>, Entry)| one.1.is_some();
    let mut names: Vec<String> = of_class
        .iter()
        .filter(is_classified)
        .filter(|(split, ..)| *split == Split::Train)
        .filter_map(|(_, class, _)| class.clone())
        .collect();
    names.sort_unstable();
    names.dedup();
    let numbers: BTreeMap<&str, u32> =
        names.iter().enumerate().map(|(i, name)| (name.as_str(), i as u32)).collect();

    for (split, class, entry) in of_class {
        match (split, class) {
            (Split::Unlabelled, _) => listing.unlabelled.push(entry),
            (_, None) if numbers.is_empty() => listing.unlabelled.push(entry),
            (_, None) => n_loose += 1,
            (split, Some(class)) => {
                let Some(&number) = numbers.get(class.as_str()) else {
                    let class = class.escape_debug();
                    let found = format!("class `{class}` in `{}`", entry.path.display());
                    return Err(DataError::content(
                        root,
                        found,
                        "a class that the training images have",
                    ));
                };
                let entry = Entry { class: Some(number), ..entry };
                match split {
                    Split::Test => listing.test.push(entry),
                    _ => listing.train.push(entry),
                }
            }
        }
    }
    if n_loose > 0 {
        listing
            .notes
            .push(format!("{n_loose} pictures lie beside the classes' folders and are left out"));
    }
    if n_other > 0 {
        listing
            .notes
            .push(format!("{n_other} pictures lie outside the splits' folders and are left out"));
    }
    listing.train = spread_classes(listing.train);
    listing.test = spread_classes(listing.test);
    listing.split_by_hash = !listing.train.is_empty() && listing.test.is_empty();
    listing.classes = names;
    if listing.entries().next().is_none() {
        let message = format!("`{}`: found no JPEG, PNG or WebP files", root.display());
        return Err(DataError::missing(message, None));
    }
    Ok(listing)
}

/// The pictures, so ordered that any part has a share of every class.
fn spread_classes(entries: Vec<Entry>) -> Vec<Entry> {
    let classes: Vec<Option<u32>> = entries.iter().map(|entry| entry.class).collect();
    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    spread(&classes).into_iter().filter_map(|i| entries[i].take()).collect()
}

/// The first folder of a path that has a file below it.
fn first_part(path: &Path) -> Option<String> {
    let mut parts = path.components();
    let first = parts.next()?;
    parts.next()?;
    Some(first.as_os_str().to_string_lossy().into_owned())
}

struct Walk<'a> {
    root: &'a Path,
    entries: Vec<Entry>,
    passed_over: Vec<PathBuf>,
}

impl Walk<'_> {
    fn folder(&mut self, below: &Path, depth: usize) -> Result<(), DataError> {
        let dir = self.root.join(below);
        let failed = |error| file::unreadable(&dir, &error);
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            let path = below.join(&name);
            // Links are followed: it is the user's own folder.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            let ending = path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
            let is_picture = ending.is_some_and(|end| ENDINGS.contains(&&end[..]));
            if metadata.is_dir() {
                if depth == MAX_DEPTH {
                    let expected = format!("at most {MAX_DEPTH} folders inside each other");
                    return Err(DataError::content(&dir, "more folders", expected));
                }
                self.folder(&path, depth + 1)?;
            } else if metadata.is_file() && is_picture {
                let changed = (metadata.mtime(), metadata.mtime_nsec());
                self.entries.push(Entry { path, class: None, bytes: metadata.len(), changed });
            } else {
                self.passed_over.push(path);
            }
            if self.entries.len() + self.passed_over.len() > MAX_FILES {
                let expected = format!("at most {MAX_FILES}");
                return Err(DataError::content(self.root, "more files", expected));
            }
        }
        Ok(())
    }
}

fn read(root: &Path, entry: &Entry) -> Result<Vec<u8>, DataError> {
    let path = root.join(&entry.path);
    let mut bytes = Vec::new();
    let source = file::open(&path, "a picture")?.take(picture::FILE_LIMIT + 1);
    let read = { source }.read_to_end(&mut bytes);
    read.map_err(|error| file::unreadable(&path, &error))?;
    Ok(bytes)
}

/// The rows and columns of the pictures, in the order of their names, from
/// their heads; `None` for those that are none.
fn sizes(root: &Path, entries: &[&Entry]) -> Vec<Option<(usize, usize)>> {
    let size = |entry: &&Entry| picture::size(&read(root, entry).ok()?).ok();
    entries.par_iter().map(size).collect()
}

/// The side for a folder: the smallest of [`SIDES`] that no more than half of
/// the pictures exceed, as far as the decoded images stay within bounds.
fn choose_side(root: &Path, listing: &Listing) -> usize {
    let entries: Vec<&Entry> = listing.entries().collect();
    let step = entries.len().div_ceil(MEASURED).max(1);
    let some: Vec<&Entry> = entries.iter().step_by(step).copied().collect();
    let mut short: Vec<usize> =
        sizes(root, &some).into_iter().flatten().map(|(height, width)| height.min(width)).collect();
    short.sort_unstable();
    let median = short.get(short.len() / 2).copied().unwrap_or(SIDES[0]);
    suggested_side(median, entries.len())
}

fn suggested_side(median: usize, n: usize) -> usize {
    let fits = |side: &&usize| n.saturating_mul(*side * *side * 3) <= MAX_DECODED;
    let allowed: Vec<usize> = SIDES.iter().filter(fits).copied().collect();
    let wanted = allowed.iter().find(|side| **side >= median).or(allowed.last());
    wanted.copied().unwrap_or(SIDES[0])
}

fn decode(
    root: &Path,
    mut listing: Listing,
    bad_images: BadImages,
    target: Target,
) -> Result<PixelFile, DataError> {
    if listing.split_by_hash {
        split_by_hash(root, &mut listing)?;
    }
    let side = target.side.unwrap_or_else(|| choose_side(root, &listing));
    let mut notes = std::mem::take(&mut listing.notes);
    if target.side.is_none() {
        notes
            .push(format!("images are kept at {side}x{side}, chosen by the pictures' median size"));
    }
    let target = Target { side: Some(side), ..target };
    let n = listing.entries().count();
    let decoding = target.begin(&format!("`{}`", root.display()), Some(n), side)?;
    let mut run =
        Run { root, decoding, side, bad_images, at: 0, bad: Vec::new(), hash: Sha256::new() };
    let test = run.pictures(&listing.test)?;
    let unlabelled = run.pictures(&listing.unlabelled)?.len();
    let train = run.pictures(&listing.train)?;
    let Run { decoding, bad, hash, at, .. } = run;
    if at == 0 {
        return Err(DataError::content(root, format!("{n} files, all damaged"), "pictures"));
    }
    if let [first, ..] = &bad[..] {
        notes.push(format!("{} damaged files are left out, the first: {first}", bad.len()));
    }
    let labels = |labels: Vec<Option<u32>>| labels.into_iter().flatten().collect();
    let sources = vec![SourceFile { name: "all files".to_owned(), sha256: hex(&hash.finalize()) }];
    decoding.finish(Index {
        test: labels(test),
        train: labels(train),
        unlabelled,
        class_names: listing.classes,
        sources,
        notes,
        ..Index::default()
    })
}

fn split_by_hash(root: &Path, listing: &mut Listing) -> Result<(), DataError> {
    let all = std::mem::take(&mut listing.train);
    let first_byte = |entry: &Entry| Ok(Sha256::digest(read(root, entry)?)[0]);
    let bytes = all.par_iter().map(first_byte).collect::<Result<Vec<u8>, DataError>>()?;
    for (entry, byte) in all.into_iter().zip(bytes) {
        match byte % TEST_IN == 0 {
            true => listing.test.push(entry),
            false => listing.train.push(entry),
        }
    }
    if listing.test.is_empty() || listing.train.is_empty() {
        let message = format!(
            "`{}`: found too few pictures to hold back a fifth, expected `train` and `test` folders",
            root.display()
        );
        return Err(DataError::request(message));
    }
    listing.notes.push("a fifth of the files, by hash of their bytes, is the test set".to_owned());
    Ok(())
}

/// The SHA-256 of a file, and its picture at the folder's side or what was found instead.
type Decoded = ([u8; 32], Result<Vec<u8>, String>);

struct Run<'a> {
    root: &'a Path,
    decoding: Decoding,
    side: usize,
    bad_images: BadImages,
    at: usize,
    bad: Vec<String>,
    hash: Sha256,
}

impl Run<'_> {
    /// Decodes pictures in parallel, a few at a time, and puts them one behind
    /// the other; the classes of those that are good.
    fn pictures(&mut self, entries: &[Entry]) -> Result<Vec<Option<u32>>, DataError> {
        const AT_A_TIME: usize = 128;
        let mut labels = Vec::with_capacity(entries.len());
        for some in entries.chunks(AT_A_TIME) {
            let decode = |entry: &Entry| -> Result<Decoded, DataError> {
                let bytes = read(self.root, entry)?;
                let fit = |picture: picture::Picture| {
                    picture::fit(&picture.bytes, (picture.height, picture.width), self.side)
                };
                Ok((Sha256::digest(&bytes).into(), picture::decode(&bytes).map(fit)))
            };
            let decoded = some.par_iter().map(decode).collect::<Result<Vec<_>, DataError>>()?;
            for (entry, (sum, picture)) in some.iter().zip(decoded) {
                self.hash.update(entry.path.as_os_str().as_bytes());
                self.hash.update(sum);
                match (picture, self.bad_images) {
                    (Ok(picture), _) => {
                        self.decoding.put(self.at, &picture, (self.side, self.side))?;
                        self.at += 1;
                        labels.push(entry.class);
                    }
                    (Err(found), BadImages::Fail) => {
                        let path = self.root.join(&entry.path);
                        let error = DataError::content(&path, found, "a picture");
                        let help = "leave damaged files out: --set data.bad_images=skip (in `data stats`: --bad-images skip)".to_owned();
                        return Err(DataError { help: Some(help), ..error });
                    }
                    (Err(found), BadImages::Skip) => {
                        self.bad.push(format!("`{}` ({found})", entry.path.display()));
                    }
                }
            }
        }
        Ok(labels)
    }
}

/// What kind of pictures lie in a folder, before any is decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FolderSizes {
    /// Pictures by name.
    pub files: usize,
    /// Of those that were measured, how many are none.
    pub damaged: usize,
    /// The shortest, the median and the longest short side, in pixels.
    pub short_side: [usize; 3],
    /// The side that images get unless another is asked for.
    pub side: usize,
}

/// Measures the pictures of a folder by their heads.
///
/// # Errors
/// If the folder cannot be read or holds no pictures.
pub fn folder_sizes(root: &Path) -> Result<FolderSizes, DataError> {
    let listing = list(root)?;
    let entries: Vec<&Entry> = listing.entries().collect();
    let measured = sizes(root, &entries);
    let damaged = measured.iter().filter(|size| size.is_none()).count();
    let mut short: Vec<usize> = measured.into_iter().flatten().map(|(h, w)| h.min(w)).collect();
    short.sort_unstable();
    let at = |i: usize| short.get(i).copied().unwrap_or(0);
    let short_side = [at(0), at(short.len() / 2), at(short.len().saturating_sub(1))];
    let side = suggested_side(short_side[1], entries.len());
    Ok(FolderSizes { files: entries.len(), damaged, short_side, side })
}

//! CIFAR-10 and CIFAR-100 in their binary format (Krizhevsky 2009): files of records.
//!
//! ```text
//! CIFAR-10    label (0 to 9)                   1,024 red   1,024 green   1,024 blue   each row by row
//! CIFAR-100   coarse (0 to 19) fine (0 to 99)  the same
//! ```
//! The class is the last label byte. The files are read from the folder they
//! are unpacked in or from the `.tar.gz` as it is; how many images a file holds
//! follows from its length. A manifest may describe other sets of this layout.

use std::io::Read;
use std::path::Path;

use crate::archive::visit_tar_gz;
use crate::decode::{Target, inside};
use crate::error::DataError;
use crate::file::{open, recognise};
use crate::manifest::Manifest;
use crate::pixel_file::{Index, PixelFile};
use crate::source::Original;

/// No file of such a set may be larger; CIFAR-100's largest has 154 MB.
const FILE_LIMIT: u64 = 1 << 30;

/// What the manifest says of the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    pub folder: &'a str,
    pub train: &'a [String],
    pub test: &'a [String],
    /// Label bytes of a record; the last one is the class.
    pub label_bytes: usize,
}

/// Reads the training and test images of a set.
pub(crate) fn read(
    manifest: &Manifest,
    files: Files<'_>,
    original: &Original,
    target: &Target,
) -> Result<PixelFile, DataError> {
    let names: Vec<&str> = files.test.iter().chain(files.train).map(String::as_str).collect();
    let mut contents: Vec<Option<Vec<u8>>> = vec![None; names.len()];
    match original {
        Original::Folder(folder) => {
            for (content, name) in contents.iter_mut().zip(&names) {
                let path = folder.join(name);
                let file = open(&path, &format!("a binary file of {}", manifest.name))?;
                *content = Some(read_bounded(&path, file)?);
            }
        }
        Original::Archive(path) => {
            let wanted = |member: &str| {
                names.iter().position(|name| {
                    member.strip_prefix(files.folder).and_then(|rest| rest.strip_prefix('/'))
                        == Some(name)
                })
            };
            visit_tar_gz(
                path,
                |member| wanted(member).is_some(),
                |member| {
                    let at = wanted(member.name).expect("only those are visited");
                    contents[at] = Some(read_bounded(&inside(path, member.name), member.content)?);
                    Ok(contents.iter().any(Option::is_none))
                },
            )?;
        }
    }
    let side = manifest.side as usize;
    let record = files.label_bytes + 3 * side * side;
    let mut whole = Vec::with_capacity(names.len());
    for (content, name) in contents.into_iter().zip(&names) {
        let path = original.member(files.folder, name);
        let Some(content) = content else {
            let message = format!("`{}`: is not in the archive", path.display());
            return Err(DataError::missing(message, None));
        };
        check(manifest, &path, &content, record)?;
        whole.push((path, content));
    }

    let n: usize = whole.iter().map(|(_, content)| content.len() / record).sum();
    let decoding = target.begin(&manifest.name, Some(n), side)?;
    let (mut labels, mut first) = (Vec::with_capacity(n), 0);
    let mut n_test = 0;
    for (i, (path, content)) in whole.into_iter().enumerate() {
        for (at, record) in content.chunks_exact(record).enumerate() {
            let label = record[files.label_bytes - 1];
            if usize::from(label) >= manifest.classes.len() {
                let found = format!("label {label} at image {at}");
                let expected = format!("0 to {}", manifest.classes.len() - 1);
                return Err(DataError::content(&path, found, expected));
            }
            labels.push(u32::from(label));
        }
        let plane = side * side;
        decoding.put_records(first, &content, record, side, |record, rgb| {
            let (red, rest) = record[files.label_bytes..].split_at(plane);
            let (green, blue) = rest.split_at(plane);
            for (i, pixel) in rgb.chunks_exact_mut(3).enumerate() {
                pixel.copy_from_slice(&[red[i], green[i], blue[i]]);
            }
        })?;
        first = labels.len();
        if i + 1 == files.test.len() {
            n_test = first;
        }
    }
    let train = labels.split_off(n_test);
    decoding.finish(Index {
        test: labels,
        train,
        class_names: manifest.classes.clone(),
        ..Index::default()
    })
}

fn read_bounded(path: &Path, source: impl Read) -> Result<Vec<u8>, DataError> {
    let mut content = Vec::new();
    let read = source.take(FILE_LIMIT + 1).read_to_end(&mut content);
    read.map_err(|error| crate::archive::broken(path, &error))?;
    match content.len() as u64 > FILE_LIMIT {
        true => Err(DataError::content(path, "more bytes", format!("at most {FILE_LIMIT}"))),
        false => Ok(content),
    }
}

fn check(manifest: &Manifest, path: &Path, content: &[u8], record: usize) -> Result<(), DataError> {
    if !content.is_empty() && content.len().is_multiple_of(record) {
        return Ok(());
    }
    Err(match recognise(content) {
        Some(found) => DataError::kind(path, found, &format!("a binary file of {}", manifest.name)),
        None => {
            let found = format!("{} bytes", content.len());
            let expected = format!("a multiple of {record}, a record of {}", manifest.name);
            DataError::content(path, found, expected)
        }
    })
}
